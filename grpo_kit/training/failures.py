"""Out of memory, or too slow: which part of a step it is, and the settings that help, with their values."""

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from grpo_kit.config.base import names_where
from grpo_kit.config.batching import batches
from grpo_kit.config.gpus import larger_gpu
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.modal import ModalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.models.memory_errors import Shortage
from grpo_kit.utils.text import duration, settings_text

Fix = dict[str, Any]  # settings that help together
LONGEST_TIMEOUT = 86400  # seconds, Modal's
FIRST_STEPS = 3  # how many tell how long a run will take


class Machine(NamedTuple):
    """What a run is made on, as far as advice depends on it."""

    gpu_gib: float | None  # the GPU's memory; None: no GPU
    gradient_checkpointing: bool
    use_vllm: bool


def out_of_memory(config: TrainConfig, run_id: str, shortage: Shortage, part: str, step: int, machine: Machine) -> str:
    """What ran out of memory in which part of which step (counted from 1), and what helps."""
    fixes = memory_fixes(config, shortage, part, machine)
    blame = "The reward functions took it: have them work on fewer completions at once" if part == "judging" else ""
    where = "loading the checkpoint" if part == "loading" else f"{part} in step {step}"
    return ". ".join(filter(None, [f"Out of memory while {where}: {shortage}", blame, advice(fixes, run_id)]))


def memory_fixes(config: TrainConfig, shortage: Shortage, part: str, machine: Machine) -> list[Fix]:
    """Settings that need less memory in that part of a step, or give more; the most useful first."""
    fixes: list[Fix] = []
    trains_there = shortage.is_gpus == (machine.gpu_gib is not None)
    if part == "updating" and trains_there:
        fixes += _other_batch(config, config.per_device_train_batch_size // 2)
        fixes += [] if machine.gradient_checkpointing else [{"gradient_checkpointing": True}]
    if part == "generating" and trains_there:  # all completions of a step are generated together
        fixes += _fewer_completions(config)
    if part != "judging" and trains_there and not config.use_lora:
        fixes.append({"use_lora": True})
    if part in ("updating", "generating") and trains_there:
        fixes += [{"max_completion_length": config.max_completion_length // 2}] * (config.max_completion_length > 1)
        fixes += [{"use_vllm": False}] if machine.use_vllm else []  # it keeps memory of its own
    if not shortage.is_gpus:
        return [*fixes, {"memory": 2 * config.memory}]
    larger = larger_gpu(machine.gpu_gib, config.num_processes)
    return [*fixes, {"gpu": larger}] if larger else fixes


def too_slow(
    config: TrainConfig,
    run_id: str,
    steps: Sequence[dict[str, float]],
    steps_to_make: int,
    rewards: Sequence[str],
    machine: Machine,
) -> str | None:
    """One line where the steps that this process has to make take longer than config.timeout; else None.

    `steps` are the seconds of its first steps by part (generating, judging, updating); the median step counts.
    """
    every = config.num_iterations  # only the first of so many steps generates and judges
    cycles = [steps[start : start + every] for start in range(0, len(steps), every)]
    a_step = median(sum(sum(step.values()) for step in cycle) for cycle in cycles) / every
    needed = a_step * steps_to_make
    if needed <= config.timeout:
        return None
    by_part = {part: median(sum(step[part] for step in cycle) for cycle in cycles) / every for part in steps[0]}
    slowest = max(by_part, key=by_part.__getitem__)
    fixes = speed_fixes(config, slowest, machine)
    if needed * 1.25 <= LONGEST_TIMEOUT:
        fixes.append({"timeout": int(needed * 1.25) // 60 * 60 + 60})
    own = [name for name in rewards if name not in ("gemini", "offline")]
    quicker = f"Quicker reward functions help ({', '.join(own)})" if slowest == "judging" and own else ""
    slow = (
        f"Slow: a step takes {a_step:.1f} s, so {steps_to_make} steps take {duration(needed)}, longer than timeout="
        f"{config.timeout} ({duration(config.timeout)}), after which Modal goes on in a new container, at most "
        f"retries={config.retries} times. {by_part[slowest] / sum(by_part.values()):.0%} of a step is {slowest}"
    )
    return ". ".join(filter(None, [slow, quicker, advice(fixes, run_id)]))


def speed_fixes(config: TrainConfig, part: str, machine: Machine) -> list[Fix]:
    """Settings that make that part of a step quicker; the most useful first."""
    gpu = larger_gpu(machine.gpu_gib, config.num_processes) if machine.gpu_gib else config.gpu
    larger: list[Fix] = [{"gpu": gpu}] if gpu else []
    if part == "generating":
        vllm = [{"use_vllm": True}] if machine.gpu_gib and not machine.use_vllm else []
        shorter = [{"max_completion_length": config.max_completion_length // 2}] * (config.max_completion_length > 1)
        return [*vllm, *shorter, *_fewer_completions(config), *larger]
    if part == "updating":
        batch, passes = config.per_device_train_batch_size, config.gradient_accumulation_steps
        lora: list[Fix] = [] if config.use_lora else [{"use_lora": True}]
        plain = [{"gradient_checkpointing": False}] if machine.gradient_checkpointing else []
        fewer_passes = [batches(config.completions_per_process, 2 * batch)] if passes > 1 else []
        return [*larger, *lora, *plain, *fewer_passes]
    if "gemini" not in config.judge:
        return []
    fixes: list[Fix] = []
    if not config.max_staleness and config.num_iterations == 1:
        fixes.append({"max_staleness": 1})
    answers = config.prompts_per_step if config.gemini_mode == "group" else config.completions_per_step
    if config.gemini_max_in_flight < (calls := min(256, answers * config.gemini_samples)):
        fixes.append({"gemini_max_in_flight": calls})
    if config.gemini_requests_per_minute:
        fixes.append({"gemini_requests_per_minute": 2 * config.gemini_requests_per_minute})
    if config.gemini_mode == "absolute":
        fixes.append({"gemini_mode": "group"})
    if config.gemini_samples > 1:
        fixes.append({"gemini_samples": 1})
    if config.gemini_model != (lite := JudgeConfig.model_fields["gemini_model"].default):
        fixes.append({"gemini_model": lite})
    return fixes


def advice(fixes: Sequence[Fix], run_id: str) -> str:
    """The fixes in words: those that the same run can go on with, and those that only a new one can have."""
    free = set(names_where(TrainConfig, "resume"))
    same = [_setting(fix) for fix in fixes if fix.keys() <= free]
    other = [_setting(fix) for fix in fixes if not fix.keys() <= free]
    parts = [f"run_id={run_id} can go on with {' or '.join(same)}"] if same else []
    if other:
        keeps = f"cache_from={run_id} takes its judgements over"
        parts.append(f"only a new run ({keeps}) can have {', or '.join(other)}")
    return "; ".join(parts)


def _setting(fix: Fix) -> str:
    """ "per_device_train_batch_size=2 gradient_accumulation_steps=8", as a shell takes it."""
    written = settings_text(fix)
    return f"{written} on Modal" if fix.keys() <= ModalConfig.model_fields.keys() else written


def _other_batch(config: TrainConfig, most: int) -> list[Fix]:
    """As many completions a step, with at most `most` in a pass."""
    return [batches(config.completions_per_process, most)] if most else []


def _fewer_completions(config: TrainConfig) -> list[Fix]:
    """Half as many completions a step: of each prompt, or where that leaves fewer than 2, of half as many prompts."""
    group, prompts = config.num_generations, config.prompts_per_step
    if group >= 4:
        group //= 2
    elif prompts >= 2:
        prompts //= 2
    else:
        return []
    fewer = batches(max(1, group * prompts // config.num_processes), config.per_device_train_batch_size)
    return [fewer if group == config.num_generations else {"num_generations": group, **fewer}]
