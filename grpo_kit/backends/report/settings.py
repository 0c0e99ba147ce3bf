"""A run's settings as others may read them: those that differ, the commands that make the run again, no secrets."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.tables import defaults_of, fields_of
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import HERE
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.runs.directory import RunDirectory

# Where other people's alarms go, and what only names the run.
PRIVATE = ("notify", "run_id")
HOMES = re.compile(r"(?<![\w.~-])(?:(?:/home|/Users)/[^/\s'\"]+|/root(?=/|$))")
URL = re.compile(r"(https?://)(?:[^/@\s'\"]*@)?([^/?#\s'\"]+)[^\s'\",}\])]*")


def shareable(value: Any) -> Any:
    """`value`, with what it holds, where texts name the host of a URL and no more, since tokens may follow, and paths
    begin at this folder or at ~."""
    if isinstance(value, dict):
        return {name: shareable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(each) for each in value]
    if not isinstance(value, str):
        return value
    for folder, name in ((Path.cwd(), ""), (Path.home(), "~/")):
        if len(folder.parts) > 1:  # in a container either may be /
            value = value.replace(f"{folder}/", name)
    return URL.sub(r"\1\2/…", HOMES.sub("~", value))


def settings_rows(config: TrainConfig) -> list[dict[str, Any]]:
    """A row for each setting: name, value, default and help as text, and whether it differs from the default."""
    changed = _asked_for(config)
    return [
        {
            "name": name,
            "value": as_typed(getattr(config, name)),
            "default": defaults_of(TrainConfig, name),
            "help": field.description,
            "differs": name in changed,
        }
        for name, field in fields_of(TrainConfig).items()
        if name not in PRIVATE
    ]


def commands(run: RunDirectory, evaluation: Evaluation | None) -> list[str]:
    """The lines of a shell that train such a run again, evaluate it likewise and report it."""
    again, about, config = f"{run.id}-again", run.about, run.config
    data = about["data"]
    lines = [f"git checkout {about['git_commit']}"] if about.get("git_commit") else []
    lines.append(f"# {data['folder']}/train.jsonl: {data['samples']:,} samples, fingerprint {data['fingerprint']}")
    if own := [name for name in about["rewards"] if name not in {*config.judge, *config.reward_funcs}]:
        lines.append(f"# Rewards in Python go with kit.train(rewards=[…]) alone: {', '.join(own)}")
    where = [] if about.get("machine", HERE) == HERE else ["--backend", "modal"]
    lines.append(_command("train", _asked_for(config), "--run-id", again, *where))
    if evaluation:
        lines.append(_command("eval", _asked_of_evaluation(evaluation.results["config"], config), again))
    return [*lines, f"grpo-kit report {again}"]


def as_typed(value: Any) -> str:
    """A setting's value as a flag takes it."""
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        are_weights = all(isinstance(each, float) for each in value.values())
        return ",".join(f"{name}={each}" for name, each in value.items()) if are_weights else json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _asked_for(config: TrainConfig) -> dict[str, Any]:
    """The settings that have to be given for these: without defaults, recipes, and what follows from the others."""
    wanted, given = config.model_dump(exclude=set(PRIVATE)), {}
    if config.model_name != TrainConfig.model_fields["model_name"].default:
        given["model_name"] = config.model_name
    for _ in range(2):  # what is given may change what follows from it
        made = TrainConfig(**given).model_dump()
        given |= {name: value for name, value in wanted.items() if made[name] != value}
    return given


def _asked_of_evaluation(used: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The same of an evaluation, which takes from the run how a judge is asked, and what it leaves open."""
    usual = EvalConfig().model_dump()
    taken = config.model_dump() | {"judge": max(config.judge, key=lambda name: config.judge[name])}
    taken = {name: taken[name] for name in usual if usual[name] is None or name in JudgeConfig.model_fields}
    return {
        name: used[name]
        for name in usual
        if name in used and used[name] not in (usual[name], taken.get(name, usual[name]))
    }


def _command(verb: str, settings: dict[str, Any], *words: str) -> str:
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", as_typed(value))]
    return shlex.join(["grpo-kit", verb, *words, *flags])
