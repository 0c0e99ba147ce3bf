"""Models that answer without torch, for the kit's own evaluation: their words follow from weights and prompt."""

import contextlib
import hashlib
import random
from pathlib import Path
from types import SimpleNamespace

WORDS = "which city would you like please thank sure table for two at the on monday book it is no yes room ?".split()


def made_up(seed: str, prompt: str) -> str:
    """Some words, of the prompt's and others, the same for the same seed."""
    draw = random.Random(seed)
    return " ".join(draw.choices([*WORDS, *prompt.split()[-8:]], k=draw.randint(3, 12)))


class Answer(str):
    is_cut = False


def generate(model, tokenizer, prompts, tools=(), *, seed: int = 0, **_) -> list[Answer]:
    weights = Path(model.folder, "adapter_model.safetensors").read_bytes() if model.folder else b""
    state = hashlib.sha256(weights + str(seed).encode()).hexdigest()
    return [Answer(made_up(f"{state} {number}", str(prompt))) for number, prompt in enumerate(prompts)]


# By module of the kit, what is there in place of its own.
REPLACED = {
    "grpo_kit.models.load": {
        "load_tokenizer": lambda name, *_: SimpleNamespace(chat_template=""),
        "load_model": lambda name, *_, **__: SimpleNamespace(folder=None),
        "torch_threads": lambda count: contextlib.nullcontext(),
        "device_can_bf16": lambda: False,
    },
    "grpo_kit.models.generate": {"generate": generate},
    "grpo_kit.models.prompts": {
        "fit_prompts": lambda prompts, *_: [
            SimpleNamespace(prompt=prompt, is_shortened=False, is_too_long=False) for prompt in prompts
        ],
    },
    "grpo_kit.models.checkpoints": {
        "adapted": lambda base, folder: SimpleNamespace(folder=folder, unload=lambda: base),
    },
}
