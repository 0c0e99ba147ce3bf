"""Makes the quote: what a run will do, need and cost, and what stands in its way, before it does.

costs/ counts memory, time and dollars; checks.py finds what is wrong as far as this machine can tell; doctor.py asks
the data, the hub and the judge.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_kit.config.batching import batches
from grpo_kit.config.gpus import GPUS, MOST_GPUS, gpu_and_count
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Launch
from grpo_kit.costs.earlier import HERE, EarlierRun, earlier_runs
from grpo_kit.costs.judge import canary_calls, judge_calls, judge_usd
from grpo_kit.costs.memory import Device, memory_needed, shortage
from grpo_kit.costs.prices import gpu_usd_per_hour, modal_usd_per_hour, prices
from grpo_kit.costs.ranges import times
from grpo_kit.costs.time import like_run, minutes
from grpo_kit.errors import ConfigError
from grpo_kit.models.shapes import Shape, shape_of
from grpo_kit.preflight.checks import (
    budget_problems,
    memory_problems,
    problems_of_settings,
    time_problems,
    too_many_gpus,
)
from grpo_kit.preflight.doctor import Check
from grpo_kit.preflight.quote import Fit, Quote
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.runs.resume import config_to_resume
from grpo_kit.runs.spending import spent_on
from grpo_kit.utils.environment import version_of
from grpo_kit.utils.text import settings_text


def quote_remaining(
    config: TrainConfig,
    status: dict[str, Any],
    runs_dir: str | Path,
    on_modal: bool,
    by: str | None = None,
    checks: tuple[Check, ...] = (),
) -> Quote:
    """The quote of the steps that are left to make by `status`, a run's, which is empty for a new one."""
    if status.get("step") and status["state"] != "complete":
        left = max(1, config.max_steps - status["step"])
        config = config.model_copy(update={"max_steps": left, "save_steps": min(config.save_steps, left)})
    runs, shape = [run for run in earlier_runs(runs_dir) if by in (None, run.id)], shape_of(config.model_name)
    gpu = config.gpu if on_modal else None
    device = modal_device(config.gpu) if on_modal else this_machine()
    if not device.is_gpu:  # the processes share its memory
        device = device._replace(gib=device.gib / config.num_processes)
    memory = memory_needed(config, shape, device) if shape else None
    measured = (same := like_run(config, runs, gpu, "step", "size")) and same.memory_gib
    time, judge = minutes(config, shape, device, runs, gpu), judge_usd(config, runs)
    hourly = modal_usd_per_hour(config, config.gpu) if on_modal else 0.0
    usd_most = hourly * config.timeout / 3600 * (1 + config.retries)
    usd = (0.0, 0.0, 0.0)
    if on_modal:
        usd = time.range and times(hourly / 60, time.range, most=usd_most)
    fits, batch = _fits(config, shape, runs) if on_modal and shape else ([], {})

    problems = [*problems_of_settings(config, Path(runs_dir), device, on_modal)]
    if shape and memory:
        cheapest = (
            f"{settings_text({'gpu': fits[0].gpu} | batch)} (${fits[0].usd_per_hour:.2f} an hour)" if fits else ""
        )
        problems += memory_problems(config, shape, device, memory, measured, cheapest, on_modal)
    problems += time_problems(config, time.range, on_modal)
    known, said = {problem.where for problem in problems}, {problem.what for problem in problems}
    for found in filter(None, [check.problem for check in checks]):
        if found.where not in known and found.what not in said:
            problems.append(found)
            said.add(found.what)  # two checks may meet the same problem, such as a bad line of the data
    quote = Quote(
        config=config,
        on_modal=on_modal,
        device=device,
        parameters=shape.parameters if shape else None,
        memory=memory,
        measured_gib=measured,
        minutes=time.range,
        minutes_from=time.source,
        usd=usd,
        usd_most=usd_most,
        usd_from=f"${hourly:.2f} an hour, prices of {prices()['as_of']}" if on_modal else "",
        judge_usd=judge.range,
        judge_usd_from=judge.source,
        first_step=_first_step(config, shape, device, runs, gpu, hourly),
        checks=checks,
        problems=tuple(problems),
        fits=tuple(fits),
    )
    return replace(quote, problems=(*problems, *budget_problems(config, quote.quoted, spent_on(status))))


def _first_step(
    config: TrainConfig,
    shape: Shape | None,
    device: Device,
    runs: Sequence[EarlierRun],
    gpu: str | None,
    hourly: float,
) -> dict[str, float] | None:
    """Dollars to the end of the first step, as Quote.first_step has them; None where one of them is not known."""
    one, two = (config.model_copy(update={"max_steps": n * config.num_iterations}) for n in (1, 2))
    to_one, to_two = (minutes(steps, shape, device, runs, gpu).range for steps in (one, two))
    judged = judge_usd(one, runs).range
    if to_one is None or to_two is None or judged is None:
        return None
    steps = min(config.max_steps, 1 + config.max_staleness)  # a first step has those ahead judged too
    steps += canary_calls(config) / max(1, judge_calls(one))
    machine, loaded = hourly * to_one[1] / 60, hourly * (to_two[1] - to_one[1]) / 60
    return {"usd_machine": round(machine, 6), "usd_loaded": round(loaded, 6), "usd_judge": round(steps * judged[1], 6)}


def _fits(config: TrainConfig, shape: Shape, runs: Sequence[EarlierRun]) -> tuple[list[Fit], dict[str, int]]:
    """Modal's GPUs that it fits on, the cheapest first: as many as there are processes, and where none is enough, more,
    which share the weights, and a step's completions, out among them; then also the batch that each has."""
    for count in [n for n in (config.num_processes, 2, 4, MOST_GPUS) if config.num_processes <= n <= MOST_GPUS]:
        if config.completions_per_step % count:
            continue
        each = batches(config.completions_per_step // count, config.per_device_train_batch_size)
        found, batch = [], each if count > config.num_processes else {}
        shared = config.model_copy(update={"num_processes": count, **batch})
        for name in [kind if count == 1 else f"{kind}:{count}" for kind in GPUS]:
            device = modal_device(name)
            if not shortage(memory_needed(shared, shape, device), device):
                there, hourly = minutes(shared, shape, device, runs, name).range, modal_usd_per_hour(shared, name)
                usd = there and times(hourly / 60, there)
                found.append(Fit(name, gpu_usd_per_hour(name), there, usd))
        if found:
            return sorted(found, key=lambda fit: fit.usd_per_hour), batch
    return [], {}


def launch_of(config: TrainConfig, runs_dir: str | Path, backend: str, known: RunDirectory | None = None) -> Launch:
    """What a launch tells training, and says before it starts: the quote, of a `known` run for the steps left.

    Raises RunError for settings that are not the known run's own, ConfigError for more GPUs than a container has.
    """
    on_modal, status = backend == "modal", known.status if known else {}
    if known:
        config = config_to_resume(known, config, check=not on_modal)
    place: dict[str, Any] = {"machine": HERE, "usd_per_hour": 0.0}
    if on_modal:
        if problem := too_many_gpus(config):
            raise ConfigError(problem.what, problem.fix)
        place = {"machine": config.gpu, "usd_per_hour": modal_usd_per_hour(config, config.gpu)}
    if status.get("state") == "complete":
        return Launch(**place)
    quote = quote_remaining(config, status, runs_dir, on_modal)
    return Launch(**place, quoted=quote.quoted, notice=quote.in_short())


def modal_device(gpu: str) -> Device:
    """One of these GPUs; requirements-gpu.lock has vLLM."""
    return Device(True, prices()["gpus"][gpu_and_count(gpu)[0]]["usable_gib"], has_vllm=True)


@lru_cache(1)
def this_machine() -> Device:
    """This machine's GPU where torch can use one, else its memory. torch itself is not asked: importing it is slow."""
    import psutil

    asker = shutil.which("nvidia-smi")
    if asker and "+cpu" not in (version_of("torch") or "+cpu"):
        query = [asker, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=5)
            return Device(True, int(done.stdout.split()[0]) / 1024, version_of("vllm") is not None)
        except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
            pass  # a driver with no GPU
    return Device(False, psutil.virtual_memory().total / 2**30)
