"""Modal's GPUs: gpus.json has a row for each, with its price, memory and speed; the smallest memory first."""

import json
from pathlib import Path

from grpo_kit.utils.text import did_you_mean

LISTED = json.loads(Path(__file__).with_name("gpus.json").read_bytes())
GPUS: dict[str, dict[str, float]] = LISTED["gpus"]
MOST_GPUS = 8  # in one of Modal's containers
CORES = 2  # of a container (app.py)


def gpu_and_count(name: str) -> tuple[str, int]:
    """Modal's way to write several GPUs: "H100:4" -> ("H100", 4)."""
    kind, colon, count = name.partition(":")
    return kind, int(count) if colon and count.isdecimal() else 0 if colon else 1


def checked_gpu(name: str) -> str:
    """Raises ValueError for one that Modal has not."""
    kind, count = gpu_and_count(name)
    if kind not in GPUS:
        raise ValueError(f"one of Modal's GPUs: {', '.join(GPUS)}." + did_you_mean(kind.upper(), GPUS))
    if not 1 <= count <= MOST_GPUS:
        raise ValueError(f"{kind}, or {kind}:N for N of them, from 2 to {MOST_GPUS}")
    return kind if count == 1 else name


def larger_gpu(gib: float | None, processes: int = 1) -> str | None:
    """The smallest of Modal's GPUs with clearly more memory than `gib`, one for each process; None where none has."""
    name = next((name for name, gpu in GPUS.items() if gpu["usable_gib"] > 1.05 * (gib or 0)), None)
    return f"{name}:{processes}" if name and processes > 1 else name


def gpu_usd_per_hour(gpu: str) -> float:
    kind, count = gpu_and_count(gpu)
    return count * GPUS[kind]["usd_per_hour"]


def modal_usd_per_hour(gpu: str, memory: int) -> float:
    """Dollars an hour of a container: its GPUs ("A10", "A10:4"), MiB of memory, and cores."""
    return gpu_usd_per_hour(gpu) + memory / 1024 * LISTED["usd_per_gib_hour"] + CORES * LISTED["usd_per_core_hour"]
