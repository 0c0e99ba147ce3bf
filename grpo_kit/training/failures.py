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
    """The machine of a run, as far as advice depends on it."""

    gpu_gib: float | None  # the GPU's memory; None: no GPU
    gradient_checkpointing: bool
    use_vllm: bool


def out_of_memory(config: TrainConfig, run_id: str, shortage: Shortage, part: str, step: int, machine: Machine) -> str:
    """What ran out of memory in which part of which step (counted from 1), and what helps."""
    blame = "The reward functions took it: have them work on fewer completions at once" if part == "judging" else ""
    where = "loading the checkpoint" if part == "loading" else f"{part} in step {step}"
    fixes = advice(memory_fixes(config, shortage, part, machine), run_id)
    return ". ".join(filter(None, [f"Out of memory while {where}: {shortage}", blame, fixes]))


def memory_fixes(config: TrainConfig, shortage: Shortage, part: str, machine: Machine) -> list[Fix]:
    """Settings that need less memory in that part of a step, or give more; the most useful first."""
    trains_there = shortage.is_gpus == (machine.gpu_gib is not None)
    updates, generates = (trains_there and part == each for each in ("updating", "generating"))
    batch, length = config.per_device_train_batch_size, config.max_completion_length
    larger = larger_gpu(machine.gpu_gib, config.num_processes)
    return _applying(
        (updates and batch > 1, batches(config.completions_per_process, batch // 2 or 1)),
        (updates and not machine.gradient_checkpointing, {"gradient_checkpointing": True}),
        (generates, _fewer_completions(config)),  # all completions of a step are generated together
        (trains_there and part != "judging" and not config.use_lora, {"use_lora": True}),
        ((updates or generates) and length > 1, {"max_completion_length": length // 2}),
        ((updates or generates) and machine.use_vllm, {"use_vllm": False}),  # it keeps memory of its own
        (not shortage.is_gpus, {"memory": 2 * config.memory}),
        (shortage.is_gpus and larger is not None, {"gpu": larger}),
    )


def speed_fixes(config: TrainConfig, part: str, machine: Machine) -> list[Fix]:
    """Settings that make that part of a step quicker; the most useful first."""
    length, passes = config.max_completion_length, config.gradient_accumulation_steps
    gpu = larger_gpu(machine.gpu_gib, config.num_processes) if machine.gpu_gib else config.gpu
    if part == "generating":
        return _applying(
            (machine.gpu_gib is not None and not machine.use_vllm, {"use_vllm": True}),
            (length > 1, {"max_completion_length": length // 2}),
            (True, _fewer_completions(config)),
            (gpu is not None, {"gpu": gpu}),
        )
    if part == "updating":
        return _applying(
            (gpu is not None, {"gpu": gpu}),
            (not config.use_lora, {"use_lora": True}),
            (machine.gradient_checkpointing, {"gradient_checkpointing": False}),
            (passes > 1, batches(config.completions_per_process, 2 * config.per_device_train_batch_size)),
        )
    if "gemini" not in config.judge:
        return []
    answers = config.prompts_per_step if config.gemini_mode == "group" else config.completions_per_step
    calls, rate = min(256, answers * config.gemini_samples), config.gemini_requests_per_minute
    lite = JudgeConfig.model_fields["gemini_model"].default
    return _applying(
        (not config.max_staleness and config.num_iterations == 1, {"max_staleness": 1}),
        (config.gemini_max_in_flight < calls, {"gemini_max_in_flight": calls}),
        (bool(rate), {"gemini_requests_per_minute": 2 * (rate or 0)}),
        (config.gemini_mode == "absolute", {"gemini_mode": "group"}),
        (config.gemini_samples > 1, {"gemini_samples": 1}),
        (config.gemini_model != lite, {"gemini_model": lite}),
    )


def _applying(*fixes: tuple[bool, Fix]) -> list[Fix]:
    return [fix for applies, fix in fixes if applies and fix]


def _fewer_completions(config: TrainConfig) -> Fix:
    """Half as many completions a step: of each prompt, or where that leaves fewer than 2, of half as many prompts."""
    if config.num_generations < 4 and config.prompts_per_step < 2:
        return {}
    group = config.num_generations // (2 if config.num_generations >= 4 else 1)
    prompts = config.prompts_per_step // (1 if config.num_generations >= 4 else 2)
    fewer = batches(max(1, group * prompts // config.num_processes), config.per_device_train_batch_size)
    return fewer if group == config.num_generations else {"num_generations": group, **fewer}


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


def advice(fixes: Sequence[Fix], run_id: str) -> str:
    """A sentence with the fixes that the same run can resume with, and those that only a new one can have."""
    free, modal = set(names_where(TrainConfig, "resume")), ModalConfig.model_fields.keys()
    text = [(fix, settings_text(fix) + " on Modal" * (fix.keys() <= modal)) for fix in fixes]
    same = [written for fix, written in text if fix.keys() <= free]
    other = [written for fix, written in text if not fix.keys() <= free]
    parts = [f"run_id={run_id} can go on with {' or '.join(same)}"] if same else []
    if other:
        keeps = f"cache_from={run_id} takes its judgements over"
        parts.append(f"only a new run ({keeps}) can have {', or '.join(other)}")
    return "; ".join(parts)
