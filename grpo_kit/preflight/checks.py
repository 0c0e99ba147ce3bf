"""What is wrong with a run as far as this machine can tell without a network, each with what to do about it.

A problem's `where` names the check of doctor.py that would find it too.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from grpo_kit.config.gpus import MOST_GPUS
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import check_price_known, shortfall_at_start
from grpo_kit.costs.memory import FILLED, Device, Memory, decided, memory_needed, shortage, uses_vllm
from grpo_kit.costs.ranges import Range
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.errors import ConfigError, KitError, Problem
from grpo_kit.judges.cache import caches_to_start_from
from grpo_kit.models.memory_errors import Shortage
from grpo_kit.models.shapes import Shape
from grpo_kit.preflight.doctor import PREPARE, model_problem
from grpo_kit.runs.resume import is_complete, resume_config
from grpo_kit.runs.spending import Dollars
from grpo_kit.training.failures import LONGEST_TIMEOUT, Machine, memory_fixes
from grpo_kit.training.plan import missing_package
from grpo_kit.utils.files import CACHE
from grpo_kit.utils.text import dollars, duration, settings_text

LOADING_GIB = 4.0  # of a container's memory, beside the weights, which pass through it


def memory_problems(
    config: TrainConfig,
    shape: Shape,
    device: Device,
    memory: Memory,
    measured: float | None,
    cheapest: str,
    on_modal: bool,
) -> Iterator[Problem]:
    """`measured` is the peak of earlier runs of the same sizes, in GiB, which is believed more than what was counted.
    `cheapest` names the cheapest GPU of Modal's that it fits on, or is empty."""
    has_fitted = measured is not None and measured <= FILLED * device.gib
    if not has_fitted and (why := shortage(memory, device)):
        ways = [settings_text(fix) for fix in fitting_settings(config, shape, device)]
        ways += filter(None, [cheapest])
        fix = f"Fits with {', or '.join(ways)}" if ways else "Choose a smaller model"
        yield Problem(why, fix)
    host = memory.host + LOADING_GIB
    if on_modal and config.memory / 1024 < host:
        what = f"memory={config.memory} MiB is too little to load the model through, which takes some {host:.0f} GiB"
        yield Problem(what, f"Use memory={math.ceil(host / 8) * 8 * 1024}")


def fitting_settings(config: TrainConfig, shape: Shape, device: Device) -> list[dict]:
    """Settings with which it fits, each way by itself and as little of it as does; those that keep most come first."""
    memory, start = memory_needed(config, shape, device), {}
    if memory.vllm_least > memory.vllm:  # nothing else helps as long as vLLM can't start
        start = {"use_vllm": False}
    batches = {"per_device_train_batch_size", "gradient_accumulation_steps"}
    kinds = [{"use_vllm"}, {"gradient_checkpointing"}, batches, {"use_lora"}, {"num_generations", *batches}]
    ways: list[dict] = []
    if config.fsdp is False and not shortage(memory_needed(config.replace(fsdp="auto"), shape, device), device):
        ways.append({"fsdp": "auto"})
    for names in [*kinds, {"max_completion_length"}]:
        way = _fitted(config, shape, device, names, start)
        ways += [way] if way and way not in ways else []
        if way and way == start:
            break  # all others are that and more
    return ways


def _fitted(config: TrainConfig, shape: Shape, device: Device, names: set[str], start: dict) -> dict:
    """`start` and as much of training.failures' fix of these settings as is needed; empty where that does not help."""
    trial, changed = config.replace(**start), dict(start)
    for _ in range(12):
        memory = memory_needed(trial, shape, device)
        if not shortage(memory, device):
            return changed
        machine = Machine(
            device.gib if device.is_gpu else None,
            decided(trial.gradient_checkpointing, device.is_gpu),
            uses_vllm(trial, device),
        )
        fixes = memory_fixes(trial, Shortage("", device.is_gpu), memory.phase, machine)
        fix = next((fix for fix in fixes if fix.keys() == names), None)
        if fix is None:
            return {}
        trial, changed = trial.replace(**fix), changed | fix
    return {}


def problems_of_settings(config: TrainConfig, runs_dir: Path, device: Device, on_modal: bool) -> Iterator[Problem]:
    """What stands in the way apart from memory and time, as far as this machine can tell."""
    if not on_modal:
        yield from _problems_here(config, device)
    elif why := too_many_gpus(config):
        yield why
    if config.save_steps > config.max_steps:
        saves = max(1, config.max_steps // 2 // config.num_iterations) * config.num_iterations
        fix = f"Use save_steps={saves}" if saves <= config.max_steps else f"Use max_steps={saves} save_steps={saves}"
        yield Problem(
            f"save_steps={config.save_steps} is more than max_steps={config.max_steps}, so there is no checkpoint on "
            f"the way: a run that is killed begins anew, and there is no curve to evaluate",
            fix,
        )
    if on_modal:
        return
    try:
        caches_to_start_from(config.cache_from, runs_dir)
        resume_config(config, runs_dir)
        if is_complete(config.run_id, runs_dir):
            yield Problem(f"run {config.run_id} is complete: nothing would be done", "Give it another run_id")
    except KitError as error:
        yield error.problem


def too_many_gpus(config: TrainConfig) -> Problem | None:
    """For one of Modal's containers."""
    if config.num_processes <= MOST_GPUS:
        return None
    what = f"num_processes={config.num_processes} needs as many GPUs, and a container on Modal has {MOST_GPUS} at most"
    return Problem(what, f"Use num_processes={MOST_GPUS}")


def _problems_here(config: TrainConfig, device: Device) -> Iterator[Problem]:
    train = Path(config.data) / "train.jsonl"
    is_demo = config.data == DEFAULT_DATA and not train.exists()
    train = CACHE / "demo" / "train.jsonl" if is_demo else train
    if not train.exists():
        if not is_demo:  # which is made where it is needed
            fix = f"Make it with `{PREPARE}`, or set data to the folder that has it"
            yield Problem(f"There is no {train}", fix, "train.jsonl")
    elif (there := _lines(train, train.stat().st_mtime_ns)) < config.prompts_per_step:
        batch = there * config.num_generations
        fewer = f", or per_device_train_batch_size={batch} gradient_accumulation_steps=1" if there else ""
        yield Problem(
            f"A step takes {config.prompts_per_step} prompts and {train} has {there}", f"Use more samples{fewer}"
        )
    if "gemini" in config.judge and not os.environ.get("GEMINI_API_KEY", "").strip():
        yield Problem("GEMINI_API_KEY is not set, which judge=gemini needs", "Set it, or use judge=offline", "judge")
    if missing := missing_package(config):
        yield missing
    if config.load_in_4bit and not device.is_gpu:
        yield Problem("load_in_4bit needs an NVIDIA GPU, and this machine has none", "Leave it out, or use Modal")
    name = config.model_name
    if "/" not in name and not Path(name).is_dir():
        if name not in ("tiny", "SmolLM2-135M-Instruct"):
            yield Problem(
                f"There is no folder {name}, and models on the hub are called owner/name",
                "Set model_name to one of them",
                "model",
            )
        elif problem := model_problem(name):
            yield replace(problem, where="model")


@lru_cache(8)
def _lines(path: Path, modified: int) -> int:
    with path.open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def time_problems(config: TrainConfig, time: Range | None, on_modal: bool) -> Iterator[Problem]:
    if not on_modal or time is None or time[1] * 60 <= config.timeout:
        return
    what = (
        f"It likely takes {duration(60 * time[1])}, longer than timeout={config.timeout} ({duration(config.timeout)})"
    )
    containers = 1 + config.retries
    comes_to_its_end = time[1] * 60 <= config.timeout * containers
    if not comes_to_its_end:
        what += f", and than 1 + retries={config.retries} such containers together: it would not come to its end"
    resumed = f"a new container resumes it, at most retries={config.retries} times"
    enough = int(time[1] * 60 * 1.25) // 60 * 60 + 60
    each = enough // containers // 60 * 60 + 60
    if enough <= LONGEST_TIMEOUT:
        yield Problem(what, f"Use timeout={enough}" + (f"; else {resumed}" if comes_to_its_end else ""))
    elif comes_to_its_end:
        yield Problem(what, f"It may be left so: {resumed}")
    elif each <= LONGEST_TIMEOUT:
        yield Problem(what, f"Use timeout={each}, after which {resumed}")
    else:
        yield Problem(what, f"Use fewer steps or a larger GPU; timeout may be {LONGEST_TIMEOUT} at most")


def budget_problems(config: TrainConfig, quoted: dict, spent: Dollars) -> Iterator[Problem]:
    """`quoted` is what Quote.quoted gives for the steps that are left, `spent` what the run has cost before."""
    if config.max_usd is None:
        return
    try:
        check_price_known(config)
    except ConfigError as error:
        yield error.problem
        return
    if problem := shortfall_at_start(config, spent, {"quoted": quoted}, [], 0.0):
        yield problem
    elif quoted["usd"] and spent.in_all + quoted["usd"] > config.max_usd:
        steps = int(config.max_steps * (config.max_usd - spent.in_all) / quoted["usd"])
        before = f", and {dollars(spent.in_all)} is spent, which together is" if spent.in_all else ","
        yield Problem(
            f"It likely costs {dollars(quoted['usd'])}{before} more than max_usd={config.max_usd:g}: it would stop, "
            f"with a checkpoint, after some {steps} of {config.max_steps} steps",
            f"Use max_usd={spent.in_all + 1.25 * quoted['usd']:.2g}, or fewer steps; a run that stopped can be resumed",
        )
