"""What can be told of a run's judges before one is made: keys that are missing, what Modal can't reach, families."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from grpo_kit.config.judge import CLOUD, NEED_MODEL
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import Problem
from grpo_kit.judges.chat.provider import is_local, needs_key

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


def judge_problems(config: TrainConfig, on_modal: bool) -> Iterator[Problem]:
    """Those that this machine finds without asking."""
    for judge in [] if on_modal else config.cloud_judges:
        if needs_key(judge, config) and not any(os.environ.get(key, "").strip() for key in CLOUD[judge].keys):
            what = f"{CLOUD[judge].keys[0]} is not set, which judge={judge} needs"
            yield Problem(what, "Set it, or use judge=offline", "judge")
    unseen = "of this machine or network, which containers don't see"
    if on_modal and "reward_model" in config.rungs and Path(name := config.model_of("reward_model")).is_dir():
        yield Problem(f"judge_model={name} is {unseen}", "Push it to the Hugging Face hub and name it so", "judge")
    if on_modal and "openai" in config.rungs and (address := config.judge_base_url) and is_local(address):
        yield Problem(f"judge_base_url={address} is {unseen}", "Use an address that they can reach", "judge")


def unused_model(config: TrainConfig) -> Iterator[str]:
    if config.judge_model and not NEED_MODEL.intersection(config.rungs):
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
