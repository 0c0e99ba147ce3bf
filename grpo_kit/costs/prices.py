"""Prices of Modal's machines, by the list in config/gpus.json."""

from grpo_kit.config.gpus import GPUS, LISTED, gpu_and_count
from grpo_kit.config.train import TrainConfig

CORES = 2  # of a container on Modal (app.py)


def modal_usd_per_hour(config: TrainConfig, gpu: str) -> float:
    """Dollars an hour of a container: its GPUs ("A10", "A10:4"), memory and cores."""
    beside = config.memory / 1024 * LISTED["usd_per_gib_hour"] + CORES * LISTED["usd_per_core_hour"]
    return gpu_usd_per_hour(gpu) + beside


def gpu_usd_per_hour(gpu: str) -> float:
    kind, count = gpu_and_count(gpu)
    return count * GPUS[kind]["usd_per_hour"]
