"""Families of models: one that judges its own kind tends to prefer what it would have written."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from grpo_kit.config.judge import NEED_MODEL
from grpo_kit.config.train import TrainConfig

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


def of_one_family(config: TrainConfig, model_name: str) -> Iterator[str]:
    """A warning for each judge whose model is of the family of the model that is trained."""
    for judge in sorted(NEED_MODEL & config.judge.keys()):
        for family in sorted(_families(model_name) & _families(config.model_of(judge))):
            yield (
                f"judge={judge} ({config.model_of(judge)}) and {model_name} are both of {family}: a model tends to "
                "prefer its own kind's wording. Set a second judge of another family beside it in the evaluation"
            )


def _families(name: str) -> set[str]:
    """By its name, and of a folder by the name that its config.json has for the architecture."""
    names = [name]
    if (file := Path(name) / "config.json").is_file():
        names = [Path(name).name, str(json.loads(file.read_bytes()).get("model_type"))]
    return {family for family, pattern in FAMILIES.items() for each in names if re.search(pattern, each.lower())}
