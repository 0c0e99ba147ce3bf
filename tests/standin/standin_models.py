"""Models that answer without torch, for the kit's own evaluation: a trained one says more of what was wanted."""

import contextlib
import hashlib
import random
from pathlib import Path
from types import SimpleNamespace

WORDS = "which city would you like please thank sure table for two at the on monday book it is no yes room ?".split()


def replace_in(load) -> None:
    """Replaces what needs torch in grpo_kit.models.load, and its adapters."""
    load.load_tokenizer = lambda name: SimpleNamespace(chat_template="")
    load.load_model = lambda name, *_, **__: SimpleNamespace(folder=None)
    load.torch_threads = lambda count: contextlib.nullcontext()
    load.device_can_bf16 = lambda: False
    load.fit_prompt = lambda prompt, *_: load.FittedPrompt(prompt, False, False)
    load.answer = _answer
    from grpo_kit.models import target

    target.adapted = lambda base, folder: SimpleNamespace(folder=folder, unload=lambda: base)


def _answer(model, tokenizer, prompts, *, seed: int = 0, **_) -> list[str]:
    weights = Path(model.folder, "adapter_model.safetensors").read_bytes() if model.folder else b""
    state = hashlib.sha256(weights + str(seed).encode()).hexdigest()
    return [made_up(f"{state} {number}", str(prompt)) for number, prompt in enumerate(prompts)]


def made_up(seed: str, prompt: str) -> str:
    """Some words, of the prompt's and others, the same for the same seed."""
    draw = random.Random(seed)
    return " ".join(draw.choices([*WORDS, *prompt.split()[-8:]], k=draw.randint(3, 12)))
