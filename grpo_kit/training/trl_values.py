# pyright: basic, reportPrivateImportUsage=false
"""Values of TRL's fields that TRL hands on, and that are looked at only once the model is loaded, or later still.

Each is given here to the very thing that will use it in the run: the optimiser and its course, a model's sampling, the
loader of the data, torch's compiler and checkpointing, TRL's padding. What these refuse is said before a run begins.
"""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from transformers import GenerationConfig, Trainer, get_scheduler
from trl import GRPOConfig
from trl.trainer.utils import pad

from grpo_kit.errors import ConfigError
from grpo_kit.models.load import load_model
from grpo_kit.utils.text import did_you_mean

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "cache_implementation")


def check_values(arguments: GRPOConfig, given: dict[str, Any], with_vllm: bool, elsewhere: bool) -> None:
    """Tries the fields that were `given` beside the kit's settings. Raises ConfigError for one that can't be used.

    `with_vllm`: vLLM may sample, whose generation_kwargs are others. `elsewhere`: on another machine, which may have
    packages that this one lacks.
    """
    for attempt, names in _TRIES.items():
        asked = {name: value for name, value in given.items() if name.startswith(names) and value is not None}
        if with_vllm:
            asked.pop("generation_kwargs", None)
        try:
            if asked:
                attempt(arguments, asked)
        except Exception as error:  # many libraries are asked, each with errors of its own
            if elsewhere and isinstance(error, ImportError):
                continue
            told = ", ".join(f"{name}={value!r}" for name, value in asked.items())
            said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ConfigError(f"trl: {told} can't be used: {said}", "Correct it, or leave it out") from None


def _optimise(arguments: GRPOConfig, asked: dict[str, Any]) -> None:
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    except ValueError as error:
        if "pass a model" not in str(error):
            raise
        return  # it depends on the model's layers; its package and arguments are as they should
    optimizer = kind([torch.nn.Parameter(torch.zeros(2, 2))], **options)
    warmup, steps, more = int(arguments.warmup_steps), arguments.max_steps, arguments.lr_scheduler_kwargs
    get_scheduler(arguments.lr_scheduler_type, optimizer, warmup, steps, more)  # pyright: ignore[reportArgumentType]


def _sample(arguments: GRPOConfig, asked: dict[str, Any]) -> None:
    """Draws one token from the model that comes with the kit. transformers itself takes any name, and ignores it."""
    own, known = asked.get("generation_kwargs", {}), GenerationConfig().to_dict()
    for name in own.keys() - known.keys():
        raise ValueError(f"a GenerationConfig has no {name}.{did_you_mean(name, known)}")
    fields = {name: getattr(arguments, name) for name in SAMPLING} | own
    fields = {"do_sample": True, "disable_compile": True} | fields | {"max_new_tokens": 1}
    model: Any = load_model("tiny", bf16=False, to_gpu=False)
    with torch.random.fork_rng(devices=[]):
        model.generate(torch.ones(1, 2, dtype=torch.long), generation_config=GenerationConfig(**fields))


def _load(arguments: GRPOConfig, asked: dict[str, Any]) -> None:
    options: dict[str, Any] = {name.removeprefix("dataloader_"): value for name, value in asked.items()}
    DataLoader([0], **options)  # pyright: ignore[reportArgumentType]


def _compile(arguments: GRPOConfig, asked: dict[str, Any]) -> None:
    words = {"backend": arguments.torch_compile_backend or "inductor", "mode": arguments.torch_compile_mode}
    torch.compile(torch.nn.Identity(), **words)


def _checkpoint(arguments: GRPOConfig, asked: dict[str, Any]) -> None:
    options: Any = arguments.gradient_checkpointing_kwargs
    checkpoint(torch.nn.Identity(), torch.ones(1, requires_grad=True), **options)


def _pad(arguments: GRPOConfig, asked: dict[str, Any]) -> None:
    multiple: Any = arguments.pad_to_multiple_of
    pad([torch.zeros(2)], pad_to_multiple_of=multiple)


_TRIES = {
    _optimise: ("optim", "adam_", "lr_scheduler_kwargs"),
    _sample: (*SAMPLING, "generation_kwargs"),
    _load: ("dataloader_",),
    _compile: ("torch_compile",),
    _checkpoint: ("gradient_checkpointing_kwargs",),
    _pad: ("pad_to_multiple_of",),
}
