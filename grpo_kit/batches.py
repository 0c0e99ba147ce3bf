"""Batch arithmetic: completions a step, in passes and processes, and the groups of one prompt that must divide them."""

import math
from typing import TYPE_CHECKING

from grpo_kit.gpus import MOST_GPUS, gpu_and_count
from grpo_kit.settings import ConfigError

if TYPE_CHECKING:
    from grpo_kit.config import TrainConfig

# How a step's completions are spread, which a run may be resumed with differently.
SPREAD = ("num_processes", "per_device_train_batch_size", "gradient_accumulation_steps")


def batch_problem(config: "TrainConfig") -> str | None:
    """Why a run's numbers do not go together, with the nearest that do; None where they do."""
    group, processes, per_step = config.num_generations, config.num_processes, config.completions_per_step
    if group < 2:
        return (
            "num_generations=1 cannot work: GRPO compares the completions of a prompt with each other, so it needs at "
            "least 2. Use num_generations=2."
        )
    kind, gpus = gpu_and_count(config.gpu)
    if gpus != processes <= MOST_GPUS:
        return (
            f"num_processes={processes} and gpu={config.gpu} do not go together: each process has a GPU of its own. "
            f"Use gpu={kind}{f':{processes}' if processes > 1 else ''}, or leave num_processes out."
        )
    if per_step % group:
        batch, passes = nearest_batches(config)
        by = f" x num_processes={processes}" if processes > 1 else ""
        return (
            f"per_device_train_batch_size={config.per_device_train_batch_size} x gradient_accumulation_steps="
            f"{config.gradient_accumulation_steps}{by} makes {per_step} completions a step, which groups of "
            f"num_generations={group} do not divide. Nearest that works: per_device_train_batch_size={batch} "
            f"gradient_accumulation_steps={passes} ({batch * passes * processes} completions a step)."
        )
    if "gemini" in config.judge and config.gemini_mode == "group" and config.completions_per_process % group:
        return (
            f"gemini_mode=group compares whole groups, and each process judges its own completions, which are "
            f"{config.completions_per_process}: make that a multiple of num_generations={group}, or use "
            f"gemini_mode=absolute."
        )
    return None


def nearest_batches(config: "TrainConfig") -> tuple[int, int]:
    """The batch and accumulation that groups divide, one of them changed, by as few completions as can be."""
    batch, passes = config.per_device_train_batch_size, config.gradient_accumulation_steps

    def nearest(value: int, other: int) -> int:
        unit = config.num_generations // math.gcd(config.num_generations, other * config.num_processes)
        return max(1, round(value / unit)) * unit

    options = [(batch, nearest(passes, batch)), (nearest(batch, passes), passes)]
    return min(options, key=lambda option: abs(math.prod(option) - batch * passes))


def batches(completions: int, most: int) -> dict[str, int]:
    """The settings that make so many completions in a process: the largest batch of at most `most`, and its passes."""
    batch = next(size for size in range(min(most, completions), 0, -1) if completions % size == 0)
    return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": completions // batch}


def spread(own: "TrainConfig", asked: "TrainConfig") -> "TrainConfig":
    """A run's own settings, for as many processes as it is asked to go on with: as many completions a step.

    Raises ConfigError where they can't share them evenly, or one alone can't have all the weights.
    """
    count, per_step = asked.num_processes, own.completions_per_step
    if count == own.num_processes or not {"num_processes", "gpu"} & asked.given.keys():
        return own
    if own.fsdp is True and count == 1:
        raise ConfigError(
            f"the weights of run {own.run_id} are shared out among processes (fsdp), and one can't go on with it "
            f"alone. Use num_processes=2 or more"
        )
    if per_step % count:
        work = ", ".join(str(n) for n in range(1, MOST_GPUS + 1) if per_step % n == 0)
        raise ConfigError(
            f"num_processes={count} can't share the {per_step} completions a step with which run {own.run_id} was "
            f"started. It can go on with num_processes={work}"
        )
    kind = gpu_and_count(own.gpu)[0]
    gpu = f"{kind}:{count}" if 1 < count <= MOST_GPUS else kind
    return own.replace(num_processes=count, gpu=gpu, **batches(per_step // count, own.per_device_train_batch_size))
