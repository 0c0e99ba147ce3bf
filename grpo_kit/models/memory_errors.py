"""Out of memory: recognised in torch's and Python's errors, and made a ConfigError while a model is loaded."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from grpo_kit.config.gpus import larger_gpu
from grpo_kit.errors import ConfigError


class Shortage(NamedTuple):
    """Memory that was asked for and not there."""

    asked: str  # "3.7 GiB", or "" where the error does not say
    is_gpus: bool  # the GPU's memory; else the machine's

    def __str__(self) -> str:
        where = "the GPU's memory" if self.is_gpus else "the machine's memory"
        return f"{self.asked} more of {where} were asked for" if self.asked else f"{where} is full"


def shortage_in(error: BaseException) -> Shortage | None:
    """The shortage of memory that `error` tells of, torch's or Python's; None where it is another error."""
    text, is_torchs = str(error), isinstance(error, RuntimeError)
    is_gpus = is_torchs and bool(re.search("CUDA.*out of memory|CUBLAS_STATUS_ALLOC_FAILED", text))
    if not is_gpus and not isinstance(error, MemoryError) and not (is_torchs and "can't allocate memory" in text):
        return None
    asked = re.search(r"(?:tried to|unable to) allocate ([\d.]+) (bytes|\w?iB)", text, re.IGNORECASE)
    if asked is None:
        return Shortage("", is_gpus)
    return Shortage(f"{int(asked[1]) / 2**30:.1f} GiB" if asked[2] == "bytes" else f"{asked[1]} {asked[2]}", is_gpus)


@contextmanager
def loading(model_name: str) -> Iterator[None]:
    """Turns a shortage of memory while a model is loaded into a ConfigError that says so and what to do."""
    try:
        yield
    except Exception as error:
        if (shortage := shortage_in(error)) is None:
            raise
        larger = larger_gpu(gpu_gib())
        more = f", or gpu={larger} on Modal" if larger else ""
        raise ConfigError(
            f"model_name={model_name!r} does not fit: out of memory while loading it, {shortage}",
            f"Choose a smaller model{more if shortage.is_gpus else ', or more memory (on Modal memory=, in MiB)'}",
        ) from error


def gpu_gib() -> float | None:
    """GiB of this machine's GPU; None where there is none."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else None
