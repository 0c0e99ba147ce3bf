"""Seconds by counted operations and a machine's speed, for where no earlier run tells; and calls to the judge.

Rough: on a GPU nothing was measured, and published speeds are not reached.
"""

import os
from typing import NamedTuple

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.memory import Device, decided, is_sharded, uses_vllm
from grpo_kit.models.shapes import Shape

# A CPU, by the tiny model and SmolLM2-135M on 2 cores of an AMD EPYC (docs/results.md): within a fifth of both.
CPU_FLOPS_A_CORE, CPU_SECONDS_A_LAYER, CPU_DECODING_SECONDS_A_LAYER = 30e9, 0.05, 0.004
# A GPU: the share of its published speed that training comes to, and what starting kernels takes where that is more.
GPU_UTILISATION, GPU_SECONDS_A_LAYER, GPU_DECODING_SECONDS_A_LAYER = 0.3, 0.005, 0.0015
LINK_UTILISATION = 0.5  # of the published speed between two GPUs, where weights are shared out
VLLM_BANDWIDTH, VLLM_SECONDS_A_STEP, VLLM_SYNC_SECONDS = 0.6, 0.004, 2.0
STARTING_SECONDS, VLLM_STARTING_SECONDS, STARTING_HERE_SECONDS = 120.0, 90.0, 10.0
LOADING_SECONDS = 10.0  # a model's weights that are in the container's page cache
GEMINI_SECONDS = 2.0  # of a call
CANARIES = 4, 8  # prompts, and answers to each (canaries.py)


class _Work(NamedTuple):
    """Operations of a process in a step, 2 a parameter and token; prompts counted at half of what they may be."""

    passing: float  # of one forward pass over all of a step's tokens
    forward_passes: float  # that an update comes to: there, back (once more for trained weights), again
    decoded: float  # of one token of each completion
    prompts: float  # of the prompts, before the first token
    share: float  # of the steps that generate


def _work(config: TrainConfig, shape: Shape, device: Device) -> _Work:
    a_token = 2 * shape.parameters
    prompt, together = config.max_prompt_length / 2, config.completions_per_process
    again = decided(config.gradient_checkpointing, device.is_gpu)
    # The same tokens by the probabilities that they were drawn with, and by the reference's.
    looks = (uses_vllm(config, device) or config.max_staleness > 0) + bool(config.beta)
    share = 1 / config.num_iterations
    return _Work(
        passing=a_token * together * (prompt + config.max_completion_length),
        forward_passes=2 + (not config.use_lora) + again + looks * share,
        decoded=a_token * together,
        prompts=a_token * together * prompt,
        share=share,
    )


def cpu_seconds(config: TrainConfig, shape: Shape) -> float:
    work = _work(config, shape, Device(False, 0))
    updating = work.passing * work.forward_passes / _cpu_speed(config)
    updating += config.gradient_accumulation_steps * CPU_SECONDS_A_LAYER * shape.layers
    step = _step(config, work.share * _cpu_seconds_generating(config, shape) + updating, work.share)
    return STARTING_HERE_SECONDS + config.max_steps * step


def _step(config: TrainConfig, computing: float, share: float) -> float:
    """Seconds of a step that computes for `computing`; its judge works after that or, made ahead, beside it."""
    judging = share * _judging_seconds(config)
    return max(computing, judging) if config.max_staleness else computing + judging


def _cpu_seconds_generating(config: TrainConfig, shape: Shape) -> float:
    """Of one step's completions."""
    work, speed = _work(config, shape, Device(False, 0)), _cpu_speed(config)
    decoding = config.max_completion_length * (CPU_DECODING_SECONDS_A_LAYER * shape.layers + work.decoded / speed)
    return decoding + work.prompts / speed


def _cpu_speed(config: TrainConfig) -> float:
    """Operations a second of a process."""
    cores = min(config.torch_threads or 64, (os.cpu_count() or 1) / config.num_processes)
    return CPU_FLOPS_A_CORE * cores


def gpu_seconds(config: TrainConfig, shape: Shape, device: Device, gpu: dict[str, float]) -> float:
    work, vllm = _work(config, shape, device), uses_vllm(config, device)
    updating = work.passing * work.forward_passes / _speed(gpu)
    updating += config.gradient_accumulation_steps * GPU_SECONDS_A_LAYER * shape.layers
    generating = _gpu_seconds_generating(config, shape, device, gpu)
    if is_sharded(config, shape, device):  # all weights go round, to generate, there and back; their gradients once
        going_round = 2 * shape.parameters / (LINK_UTILISATION * gpu["link_gb_per_second"] * 1e9)
        generating += going_round
        rounds = config.gradient_accumulation_steps * (2 if config.use_lora else 3)
        updating = max(updating, rounds * going_round)  # meanwhile
    step = _step(config, work.share * generating + updating, work.share)
    return STARTING_SECONDS + vllm * VLLM_STARTING_SECONDS + config.max_steps * step


def _gpu_seconds_generating(config: TrainConfig, shape: Shape, device: Device, gpu: dict[str, float]) -> float:
    """Of one step's completions."""
    work, speed, bandwidth = _work(config, shape, device), _speed(gpu), gpu["gb_per_second"] * 1e9
    # Each token that is decoded reads all weights, and the cache of what was there before.
    length = config.max_prompt_length / 2 + config.max_completion_length / 2
    read = 2 * shape.parameters + config.completions_per_process * shape.cache_bytes(int(length), 2)
    if uses_vllm(config, device):
        decoding = config.max_completion_length * (VLLM_SECONDS_A_STEP + read / (VLLM_BANDWIDTH * bandwidth))
        decoding += VLLM_SYNC_SECONDS
    else:
        a_token = max(GPU_DECODING_SECONDS_A_LAYER * shape.layers, read / bandwidth + work.decoded / speed)
        decoding = config.max_completion_length * a_token
    return decoding + work.prompts / speed


def _speed(gpu: dict[str, float]) -> float:
    """Operations a second."""
    return GPU_UTILISATION * gpu["teraflops"] * 1e12


def seconds_of_evaluation(config: TrainConfig, asked: EvalConfig, shape: Shape, gpu: dict[str, float] | None) -> float:
    """From the start, of a container where it is a GPU, until the base model and each checkpoint have answered."""
    batch = {"per_device_train_batch_size": asked.batch_size, "gradient_accumulation_steps": 1, "use_vllm": False}
    for name in ("max_prompt_length", "max_completion_length"):
        batch[name] = getattr(asked, name) or getattr(config, name)
    answering, batches = config.model_copy(update=batch), -(-asked.n // asked.batch_size)
    if gpu:
        starting, a_batch = STARTING_SECONDS, _gpu_seconds_generating(answering, shape, Device(True, 0), gpu)
    else:
        starting, a_batch = STARTING_HERE_SECONDS, _cpu_seconds_generating(answering, shape)
    loading = LOADING_SECONDS if gpu else 0.0
    return starting + models_evaluated(config) * (loading + batches * a_batch)


def models_evaluated(config: TrainConfig) -> int:
    """The base model and a run's checkpoints."""
    return 1 + -(-config.max_steps // config.save_steps)


def judge_calls(config: TrainConfig) -> int:
    """Calls to Gemini in the whole run, retries and equal answers apart."""
    if "gemini" not in config.judge:
        return 0
    answers = config.prompts_per_step if config.gemini_mode == "group" else config.completions_per_step
    return answers * config.gemini_samples * -(-config.max_steps // config.num_iterations)


def _judging_seconds(config: TrainConfig) -> float:
    steps = -(-config.max_steps // config.num_iterations)
    return GEMINI_SECONDS * -(-judge_calls(config) // steps // config.gemini_max_in_flight)


def canary_calls(config: TrainConfig) -> int:
    """Calls to Gemini before the first step, where the judge is tried on answers that are worth nothing."""
    if "gemini" not in config.judge or config.canaries == "off":
        return 0
    prompts, answers = CANARIES
    return prompts * (1 if config.gemini_mode == "group" else answers) * config.gemini_samples
