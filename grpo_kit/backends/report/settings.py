"""A run's settings as others may read them: those that were asked for, the commands that make the run again, and texts
without what is private."""

import re
import shlex
from pathlib import Path
from typing import Any

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.tables import as_typed
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import HERE
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.runs.directory import RunDirectory

PRIVATE = {"notify", "run_id"}  # where other people's alarms go, and what only names the run
HOMES = re.compile(r"(?<![\w.~-])(?:(?:/home|/Users)/[^/\s'\"]+|/root(?=/|$))")
URL = re.compile(r"(https?://)(?:[^/@\s'\"]*@)?([^/?#\s'\"]+)[^\s'\",}\])]*")


def shareable(text: str) -> str:
    """The text with URLs cut to their host, since tokens may follow, and with paths from this folder or from ~ on."""
    for folder, name in ((Path.cwd(), ""), (Path.home(), "~/")):
        if len(folder.parts) > 1:  # in a container either may be /
            text = text.replace(f"{folder}/", name)
    return URL.sub(r"\1\2/…", HOMES.sub("~", text))


def asked_for(config: TrainConfig) -> dict[str, Any]:
    """The settings that have to be given for these: without defaults, recipes, and what follows from the others."""
    wanted, given = config.model_dump(exclude=PRIVATE), {}
    if config.model_name != TrainConfig.model_fields["model_name"].default:
        given["model_name"] = config.model_name
    for _ in range(2):  # what is given may change what follows from it
        made = TrainConfig(**given).model_dump()
        given |= {name: value for name, value in wanted.items() if made[name] != value}
    return given


def commands(run: RunDirectory, evaluation: Evaluation | None) -> list[str]:
    """The lines of a shell that train such a run again, evaluate it likewise and report it."""
    again, about, config = f"{run.id}-again", run.about, run.config
    data = about["data"]
    lines = [f"git checkout {about['git_commit']}"] if about.get("git_commit") else []
    lines.append(f"# {data['folder']}/train.jsonl: {data['samples']:,} samples, fingerprint {data['fingerprint']}")
    if own := [name for name in about["rewards"] if name not in {*config.judge, *config.reward_funcs}]:
        lines.append(f"# Rewards in Python go with kit.train(rewards=[…]) alone: {', '.join(own)}")
    where = [] if about.get("machine", HERE) == HERE else ["--backend", "modal"]
    lines.append(_command("train", asked_for(config), "--run-id", again, *where))
    if evaluation:
        lines.append(_command("eval", _asked_of(evaluation.results["config"], config), again))
    return [*lines, f"grpo-kit report {again}"]


def _asked_of(used: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The same of an evaluation, which takes from the run how a judge is asked, and what it leaves open."""
    usual = EvalConfig().model_dump()
    trained = config.model_dump() | {"judge": max(config.judge, key=lambda name: config.judge[name])}
    taken = {name: trained[name] for name in usual if usual[name] is None or name in JudgeConfig.model_fields}
    followed = usual | taken
    return {name: used[name] for name in usual if name in used and used[name] not in (usual[name], followed[name])}


def _command(verb: str, settings: dict[str, Any], *words: str) -> str:
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", as_typed(value))]
    return shlex.join(["grpo-kit", verb, *words, *flags])
