"""What can be told of a run's models before one is made: of the one that is trained, what it starts from, its files and
room for its thoughts; of those that judge, missing keys, what Modal can't reach, and families."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from grpo_kit.config.environment import engines
from grpo_kit.config.judge import CLOUD, NEED_MODEL
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import KitError, Problem
from grpo_kit.judges.chat.provider import is_local, needs_key
from grpo_kit.models.load import SMOLLM2, check_model, model_problem, thinks
from grpo_kit.models.shapes import SHIPPED
from grpo_kit.models.start import started

LONG_ENOUGH = 512  # tokens of a completion that is thought and answer
FAMILIES = {  # by how their models are called
    "Google's Gemma and Gemini": r"gemma|gemini",
    "Qwen": r"qwen|qwq",
    "Meta's Llama": r"(?<!o)llama",
    "OpenAI's GPT": r"gpt-(?:oss|\d)|chatgpt|(?:^|/)o\d\b",
    "Mistral": r"mistral|mixtral|ministral|magistral",
    "DeepSeek": r"deepseek",
    "Microsoft's Phi": r"\bphi-?\d",
    "Anthropic's Claude": r"claude",
    "IBM's Granite": r"granite",
    "SmolLM": r"smollm",
}


def thinking_problems(config: TrainConfig) -> Iterator[Problem]:
    if thinks(config) and config.max_completion_length < LONG_ENOUGH:
        what = f"The model thinks first, and max_completion_length={config.max_completion_length} may cut the thought, "
        yield Problem(f"{what}which leaves no answer and scores 0", f"Use max_completion_length={2 * LONG_ENOUGH}")


def model_problems(config: TrainConfig, runs_dir: Path, on_modal: bool) -> Iterator[Problem]:
    """Where what it starts from can't be taken apart, that alone: the rest would be about a folder that is no model. A
    folder of this machine is nothing that a container on Modal sees."""
    name = config.model_name
    try:
        if on_modal and Path(name).is_dir():
            return
        if not on_modal:
            started(config, runs_dir)
        check_model(name, config)
    except KitError as error:
        yield replace(error.problem, where="model")
        return
    if name == SMOLLM2 and not on_modal and (problem := model_problem(name)):
        yield replace(problem, where="model")
    elif not on_modal and name not in (*SHIPPED, SMOLLM2) and "/" not in name and not Path(name).is_dir():
        what = f"There is no folder {name}, and models on the hub are called owner/name"
        yield Problem(what, "Correct the folder, or set model_name to a model on the hub", "model")


def judge_problems(config: TrainConfig, on_modal: bool) -> Iterator[Problem]:
    """Those that this machine finds without asking."""
    for judge, setting in () if on_modal else engines(config).items():
        if needs_key(judge, config) and not any(os.environ.get(key, "").strip() for key in CLOUD[judge].keys):
            what = f"{CLOUD[judge].keys[0]} is not set, which {setting} needs"
            fix = "judge=offline" if judge in config.rungs else "simulated_user=rules"
            yield Problem(what, f"Set it, or use {fix}", "judge")
    unseen = "on this machine or network, and containers can't reach it"
    if on_modal and "reward_model" in config.rungs and Path(name := config.model_of("reward_model")).is_dir():
        yield Problem(f"judge_model={name} is {unseen}", "Push it to the hub and name it owner/name", "judge")
    if on_modal and "openai" in engines(config) and (address := config.judge_base_url) and is_local(address):
        yield Problem(f"judge_base_url={address} is {unseen}", "Use an address that they can reach", "judge")


def unused_model(config: TrainConfig) -> Iterator[str]:
    asked = {*config.rungs, *([] if config.simulated_user_model else [config.simulated_user])}
    if config.judge_model and not NEED_MODEL.intersection(asked):
        yield f"judge_model={config.judge_model} is not asked: judge={', '.join(config.judge)} has no model"


def of_one_family(config: TrainConfig, model_name: str) -> Iterator[str]:
    """A warning for each judge whose model is of the family of the model that is trained: it tends to prefer what it
    would have written."""
    for judge in sorted(NEED_MODEL.intersection(config.rungs)):
        for family in sorted(_families(model_name) & _families(config.model_of(judge))):
            yield (
                f"judge={judge} ({config.model_of(judge)}) and {model_name} are both of {family}: a model tends to "
                "prefer its own kind's wording. Evaluate with a second judge of another family"
            )


def _families(name: str) -> set[str]:
    """By its name, and of a folder by the name that its config.json has for the architecture."""
    names = [name]
    if (file := Path(name) / "config.json").is_file():
        names = [Path(name).name, str(json.loads(file.read_bytes()).get("model_type"))]
    return {family for family, pattern in FAMILIES.items() for each in names if re.search(pattern, each.lower())}
