"""Out of memory: the part of a step that it happened in, and the settings that help, with their values."""

from typing import Any

from grpo_kit.config.batching import batches
from grpo_kit.config.gpus import larger_gpu
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import Problem
from grpo_kit.utils.text import settings_text

Fix = dict[str, Any]  # settings that help together


def out_of_memory(config: TrainConfig, run: str, is_gpus: bool, part: str, step: int, gpu_gib: float | None) -> Problem:
    """The memory that is full, `is_gpus` or the machine's, in which part of which step (from 1), and what helps.

    `run` is its name, `config` has the gradient checkpointing and use of vLLM that were decided on.
    """
    where = "loading the checkpoint" if part == "loading" else f"{part} in step {step}"
    what = f"Out of memory while {where}: the {'GPU' if is_gpus else 'machine'}'s memory is full"
    if part == "judging":
        what += ". The reward functions fill it: let them work on fewer completions at once"
    fixes = memory_fixes(config, is_gpus, part, gpu_gib)
    larger = [f"Resume with {settings_text(fix)} on Modal" for fix in fixes if fix.keys() <= {"memory", "gpu"}]
    others = ", or ".join(settings_text(fix) for fix in fixes if not fix.keys() <= {"memory", "gpu"})
    new = [f"Start a new run (cache_from={run} uses its judgements again) with {others}"] if others else []
    return Problem(what, ". ".join(larger + new))


def memory_fixes(config: TrainConfig, is_gpus: bool, part: str, gpu_gib: float | None) -> list[Fix]:
    """Settings that need less of the full memory in that part of a step, or give more; the most useful first."""
    trains_there = is_gpus == (gpu_gib is not None)
    updates, generates = (trains_there and part == each for each in ("updating", "generating"))
    batch, length = config.per_device_train_batch_size, config.max_completion_length
    larger = larger_gpu(gpu_gib, config.num_processes)
    fixes: list[tuple[Any, Fix]] = [
        (updates and batch > 1, batches(config.completions_per_process, batch // 2 or 1)),
        (updates and config.gradient_checkpointing is False, {"gradient_checkpointing": True}),
        (generates, _fewer_completions(config)),  # all completions of a step are generated together
        (trains_there and part != "judging" and not config.use_lora, {"use_lora": True}),
        ((updates or generates) and length > 1, {"max_completion_length": length // 2}),
        ((updates or generates) and config.use_vllm is True, {"use_vllm": False}),  # it keeps memory of its own
        (not is_gpus, {"memory": 2 * config.memory}),
        (is_gpus and larger, {"gpu": larger}),
    ]
    return [fix for applies, fix in fixes if applies and fix]


def _fewer_completions(config: TrainConfig) -> Fix:
    """Half as many completions a step: of each prompt, or where that leaves fewer than 2, of half as many prompts."""
    group, prompts, batch = config.num_generations, config.prompts_per_step, config.per_device_train_batch_size
    if group >= 4:
        group //= 2
        return {"num_generations": group, **batches(max(1, group * prompts // config.num_processes), batch)}
    return batches(max(1, group * (prompts // 2) // config.num_processes), batch) if prompts > 1 else {}
