"""Finds what is wrong with a run as far as this machine can tell without a network, each with what to do about it.

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
from grpo_kit.costs.memory import FILLED, Device, decided, memory_needed, shortage, uses_vllm
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.errors import ConfigError, KitError, Problem
from grpo_kit.judges.cache import caches_to_start_from
from grpo_kit.models.load import SMOLLM2
from grpo_kit.models.memory_errors import Shortage
from grpo_kit.models.shapes import Shape
from grpo_kit.preflight.doctor import PREPARE, model_problem
from grpo_kit.preflight.quote import Quote
from grpo_kit.runs.resume import is_complete, resume_config
from grpo_kit.runs.spending import Dollars
from grpo_kit.training.failures import LONGEST_TIMEOUT, Fix, Machine, memory_fixes
from grpo_kit.training.plan import missing_package
from grpo_kit.utils.text import dollars, duration, settings_text

LOADING_GIB = 4.0  # of a container's memory, beside the weights, which pass through it
Problems = Iterator[Problem]


def problems_of(quote: Quote, runs_dir: Path, spent: Dollars) -> list[Problem]:
    """All problems that this machine finds; `quote` is without them, `spent` what the run has cost before."""
    config, found = quote.config, [*checkpoint_problems(quote.config), *memory_problems(quote)]
    if quote.on_modal:
        found += [*modal_problems(quote), *time_problems(quote)]
    else:
        found += [*local_problems(config, quote.device), *earlier_run_problems(config, runs_dir)]
    return [*found, *budget_problems(config, quote.quoted, spent)]


def checkpoint_problems(config: TrainConfig) -> Problems:
    if config.save_steps > config.max_steps:
        saves = max(1, config.max_steps // 2 // config.num_iterations) * config.num_iterations
        yield Problem(
            f"save_steps={config.save_steps} is more than max_steps={config.max_steps}, so there is no checkpoint on "
            f"the way: a run that is killed begins anew, and there is no curve to evaluate",
            f"Use save_steps={saves}",
        )


def memory_problems(quote: Quote) -> Problems:
    """An earlier run's peak is believed more than what was counted."""
    config, device, measured = quote.config, quote.device, quote.measured_gib
    has_fitted = measured is not None and measured <= FILLED * device.gib
    if quote.shape and quote.memory and not has_fitted and (why := shortage(quote.memory, device)):
        ways = [settings_text(way) for way in fitting_settings(config, quote.shape, device)]
        ways += [f"gpu={gpu} (${usd:.2f} an hour)" for gpu, usd in list(quote.fits.items())[:1]]
        yield Problem(why, f"Fits with {', or '.join(ways)}" if ways else "Choose a smaller model")


def fitting_settings(config: TrainConfig, shape: Shape, device: Device) -> list[Fix]:
    """Settings with which it fits, each way by itself and as little of it as does; the most useful first."""
    ways = []
    for names in [fix.keys() for fix in _memory_fixes(config, shape, device)]:
        trial, way = config, {}
        while fix := next((fix for fix in _memory_fixes(trial, shape, device) if fix.keys() == names), None):
            trial, way = trial.replace(**fix), way | fix
        if not shortage(memory_needed(trial, shape, device), device):
            ways.append(way)
    return ways


def _memory_fixes(config: TrainConfig, shape: Shape, device: Device) -> list[Fix]:
    """The advice of training.failures that this device can take; empty where it fits."""
    memory = memory_needed(config, shape, device)
    if not shortage(memory, device):
        return []
    checkpointing = decided(config.gradient_checkpointing, device.is_gpu)
    machine = Machine(device.gib if device.is_gpu else None, checkpointing, uses_vllm(config, device))
    fixes = memory_fixes(config, Shortage("", device.is_gpu), memory.phase, machine)
    return [fix for fix in fixes if not fix.keys() & {"gpu", "memory"}]


def modal_problems(quote: Quote) -> Problems:
    config = quote.config
    if problem := too_many_gpus(config):
        yield problem
    host = quote.memory.host + LOADING_GIB if quote.memory else 0.0
    if config.memory / 1024 < host:
        what = f"memory={config.memory} MiB is too little to load the model through, which takes some {host:.0f} GiB"
        yield Problem(what, f"Use memory={math.ceil(host / 8) * 8 * 1024}")


def too_many_gpus(config: TrainConfig) -> Problem | None:
    """For one of Modal's containers."""
    if config.num_processes <= MOST_GPUS:
        return None
    what = f"num_processes={config.num_processes} needs as many GPUs, and a container on Modal has {MOST_GPUS} at most"
    return Problem(what, f"Use num_processes={MOST_GPUS}")


def time_problems(quote: Quote) -> Problems:
    """No problem where the time-out is the longest that there is, and `retries` containers more suffice."""
    config, seconds = quote.config, quote.minutes[1] * 60 if quote.minutes else 0.0
    containers, timeout = 1 + config.retries, config.timeout
    if seconds <= (timeout * containers if timeout == LONGEST_TIMEOUT else timeout):
        return
    what = f"It likely takes {duration(seconds)}, longer than timeout={timeout} ({duration(timeout)})"
    if seconds > timeout * containers:
        what += f", and than 1 + retries={config.retries} such containers together: it would not come to its end"
    if seconds > LONGEST_TIMEOUT * containers:
        yield Problem(what, f"Use fewer steps or a larger GPU; timeout may be {LONGEST_TIMEOUT} at most")
    else:
        yield Problem(what, f"Use timeout={min(LONGEST_TIMEOUT, int(seconds * 1.25) // 60 * 60 + 60)}")


def local_problems(config: TrainConfig, device: Device) -> Problems:
    train, name = Path(config.data) / "train.jsonl", config.model_name
    if train.exists():
        if (there := _lines(train, train.stat().st_mtime_ns)) < config.prompts_per_step:
            batch = there * config.num_generations
            fewer = f", or per_device_train_batch_size={batch} gradient_accumulation_steps=1" if there else ""
            what = f"A step takes {config.prompts_per_step} prompts and {train} has {there}"
            yield Problem(what, f"Use more samples{fewer}")
    elif config.data != DEFAULT_DATA:  # in whose place the demo's is taken
        fix = f"Make it with `{PREPARE}`, or set data to the folder that has it"
        yield Problem(f"There is no {train}", fix, "train.jsonl")
    if "gemini" in config.judge and not os.environ.get("GEMINI_API_KEY", "").strip():
        yield Problem("GEMINI_API_KEY is not set, which judge=gemini needs", "Set it, or use judge=offline", "judge")
    if missing := missing_package(config):
        yield missing
    if config.load_in_4bit and not device.is_gpu:
        yield Problem("load_in_4bit needs an NVIDIA GPU, and this machine has none", "Leave it out, or use Modal")
    if name in ("tiny", SMOLLM2):
        if problem := model_problem(name):
            yield replace(problem, where="model")
    elif "/" not in name and not Path(name).is_dir():
        what = f"There is no folder {name}, and models on the hub are called owner/name"
        yield Problem(what, "Set model_name to one of them", "model")


@lru_cache(8)
def _lines(path: Path, modified: int) -> int:
    with path.open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def earlier_run_problems(config: TrainConfig, runs_dir: Path) -> Problems:
    try:
        caches_to_start_from(config.cache_from, runs_dir)
        resume_config(config, runs_dir)
        if is_complete(config.run_id, runs_dir):
            yield Problem(f"run {config.run_id} is complete: nothing would be done", "Give it another run_id")
    except KitError as error:
        yield error.problem


def budget_problems(config: TrainConfig, quoted: dict, spent: Dollars) -> Problems:
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
