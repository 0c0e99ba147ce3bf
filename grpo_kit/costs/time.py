"""How long a run will take: by earlier runs where there are any, else by one rough line.

The rough line divides counted operations by a machine's usual speed; its range is wide, and nothing of it was measured
on a GPU.
"""

import os
from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.gpus import gpu_and_count
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import HERE, EarlierRun
from grpo_kit.costs.judge import judge_calls
from grpo_kit.costs.memory import Device, decided, uses_vllm
from grpo_kit.costs.prices import prices
from grpo_kit.costs.ranges import Estimate, Range, times
from grpo_kit.models.shapes import Shape, shape_of

ROUGH, SCALED, ONE_STEP = (1 / 3, 1, 3), (1 / 2, 1, 2), (1 / 2, 1, 1.25)  # low and high as shares of what is likely
GPU_SHARE = 0.3  # of a GPU's published speed that training comes to
GEMINI_SECONDS = 2.0  # of a call
STARTING_SECONDS, STARTING_HERE_SECONDS = 150.0, 10.0  # of a container with its model and vLLM; of a process here


class _Speed(NamedTuple):
    """A machine's, as far as a rough estimate needs it."""

    operations: float  # a second, of a process
    bytes: float  # a second, of its memory
    a_layer: float  # seconds to start a layer's work for one more token
    starting: float  # seconds before the first step


def minutes(
    config: TrainConfig, shape: Shape | None, device: Device, runs: Sequence[EarlierRun], gpu: str | None
) -> Estimate:
    """Minutes from the start to the end of a run on Modal's `gpu`, or on this machine where that is None."""
    if run := like_run(config, runs, gpu, "step", "size"):
        if len(run.cycles) == 1:
            source = f"the first step of {run.id}, which is slower than later ones: likely less"
            return Estimate(times(_by_run(config, run)[1], ONE_STEP), source)
        return Estimate(_by_run(config, run), f"the steps of {run.id}, which had the same sizes")
    if run := like_run(config, runs, gpu, "step"):
        ratio = _size(config) / _size(TrainConfig.model_construct(**run.settings))
        return Estimate(
            times(_by_run(config, run, ratio)[1], SCALED), f"the steps of {run.id}, scaled to this size: rough"
        )
    if shape is None:
        return Estimate(None, "the model's shape is not, and there is no earlier run of it")
    if device.is_gpu and gpu is None:
        return Estimate(None, "there is no earlier run of this model on this machine's GPU")
    speed = f"{gpu}'s published speed" if gpu else "a usual CPU's speed"
    likely = rough_seconds(config, shape, device, gpu) / 60
    return Estimate(times(likely, ROUGH), f"counted operations and {speed}: very rough, nothing was measured")


def like_run(config: TrainConfig, runs: Sequence[EarlierRun], gpu: str | None, *roles) -> EarlierRun | None:
    """The newest run on the same machine whose settings of these roles are the same; one that made a single step only
    where no other did."""
    like = [run for run in runs if run.machine == (gpu or HERE) and run.is_like(config, *roles)]
    return next((run for run in like if len(run.cycles) > 1), like[0] if like else None)


def _size(config: TrainConfig) -> int:
    return config.completions_per_process * config.max_completion_length


def _by_run(config: TrainConfig, run: EarlierRun, ratio: float = 1.0) -> Range:
    """Minutes: by its mean step, and for low and high by the quicker and the slower half of its steps. The first step
    is slower than the others, so it counts by itself."""
    first, *others = run.cycles
    steps = sorted(others) or [first]
    half = len(steps) // 2
    around = STARTING_HERE_SECONDS if run.around is None else run.around
    start = around + ratio * config.num_iterations * first
    more = ratio * max(0, config.max_steps - config.num_iterations)
    low, likely, high = mean(steps[: len(steps) - half]), mean(steps), mean(steps[half:])
    return times(1 / 60, (start + more * low, start + more * likely, start + more * high))


def rough_seconds(config: TrainConfig, shape: Shape, device: Device, gpu: str | None) -> float:
    """From the start to the end of a run; two operations a parameter and token, prompts at half their longest."""
    speed, share = _speed(config, device, gpu), 1 / config.num_iterations  # of the steps that generate and judge
    tokens = config.completions_per_process * (config.max_prompt_length / 2 + config.max_completion_length)
    # There, and back for the adapter and once more for trained weights; there again for checkpointing, for the
    # probabilities that the tokens were drawn with, and for the reference's.
    passes = 2 + (not config.use_lora) + decided(config.gradient_checkpointing, device.is_gpu)
    passes += share * ((uses_vllm(config, device) or config.max_staleness > 0) + bool(config.beta))
    computing = 2 * shape.parameters * tokens * passes / speed.operations
    computing += config.gradient_accumulation_steps * 10 * speed.a_layer * shape.layers
    computing += share * _generating(config, shape, speed)
    calls = judge_calls(config) / config.max_steps  # on average
    judging = GEMINI_SECONDS * calls / config.gemini_max_in_flight
    step = max(computing, judging) if config.max_staleness else computing + judging
    return speed.starting + config.max_steps * step


def evaluation_minutes(config: TrainConfig, asked: EvalConfig, gpu: str | None) -> Range | None:
    """Minutes of one of Modal's `gpu`, or of this machine's processor where that is None, until the base model and each
    checkpoint have answered; very rough. None where the model's shape is not known."""
    if (shape := shape_of(config.model_name)) is None:
        return None
    batch = {"per_device_train_batch_size": asked.batch_size, "gradient_accumulation_steps": 1, "use_vllm": False}
    for name in ("max_prompt_length", "max_completion_length"):
        batch[name] = getattr(asked, name) or getattr(config, name)
    answering, speed = config.model_copy(update=batch), _speed(config, Device(gpu is not None, 0), gpu)
    batches = models_evaluated(config) * -(-asked.n // asked.batch_size)
    return times((speed.starting + batches * _generating(answering, shape, speed)) / 60, ROUGH)


def models_evaluated(config: TrainConfig) -> int:
    """The base model and a run's checkpoints."""
    return 1 + -(-config.max_steps // config.save_steps)


def _generating(config: TrainConfig, shape: Shape, speed: _Speed) -> float:
    """Seconds for one process's completions of a step; each token reads all weights, or computes for longer."""
    together, weights = config.completions_per_process, 2 * shape.parameters
    a_token = speed.a_layer * shape.layers + max(weights / speed.bytes, weights * together / speed.operations)
    prompts = weights * together * config.max_prompt_length / 2 / speed.operations
    return config.max_completion_length * a_token + prompts


def _speed(config: TrainConfig, device: Device, gpu: str | None) -> _Speed:
    if gpu is None:  # by the tiny model and SmolLM2-135M on 2 cores of an AMD EPYC (docs/results.md)
        cores = min(config.torch_threads or 64, (os.cpu_count() or 1) / config.num_processes)
        return _Speed(operations=30e9 * cores, bytes=1e10, a_layer=0.004, starting=STARTING_HERE_SECONDS)
    listed = prices()["gpus"][gpu_and_count(gpu)[0]]
    a_layer = 0.0002 if uses_vllm(config, device) else 0.0015
    return _Speed(GPU_SHARE * listed["teraflops"] * 1e12, listed["gb_per_second"] * 1e9, a_layer, STARTING_SECONDS)
