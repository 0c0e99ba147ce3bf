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

from grpo_kit.config.gpus import GPUS, LISTED, MOST_GPUS, gpu_and_count
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Launch
from grpo_kit.costs.earlier import HERE, EarlierRun, earlier_runs, like_run
from grpo_kit.costs.forecast import judge_usd, minutes, times
from grpo_kit.costs.memory import Device, memory_needed, shortage
from grpo_kit.costs.prices import gpu_usd_per_hour, modal_usd_per_hour
from grpo_kit.errors import ConfigError
from grpo_kit.models.shapes import Shape, shape_of
from grpo_kit.preflight.checks import problems_of, too_many_gpus
from grpo_kit.preflight.doctor import Check
from grpo_kit.preflight.quote import Fit, Quote
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.runs.resume import config_to_resume
from grpo_kit.runs.spending import spent_on
from grpo_kit.utils.environment import version_of


def quote_remaining(
    config: TrainConfig,
    status: dict[str, Any],
    runs_dir: str | Path,
    on_modal: bool,
    by: str | None = None,
    checks: tuple[Check, ...] = (),
) -> Quote:
    """The quote of the steps that are left to make by `status`, a run's, which is empty for a new one. `by` names the
    only earlier run that times come from; `checks` are those that were made beside."""
    if status.get("step") and status["state"] != "complete":
        left = max(1, config.max_steps - status["step"])
        config = config.model_copy(update={"max_steps": left, "save_steps": min(config.save_steps, left)})
    runs, shape = [run for run in earlier_runs(runs_dir) if by in (None, run.id)], shape_of(config.model_name)
    gpu = config.gpu if on_modal else None
    device = modal_device(config.gpu) if on_modal else this_machine()
    if not device.is_gpu:  # the processes share its memory
        device = device._replace(gib=device.gib / config.num_processes)
    same = like_run(config, runs, gpu, "step", "size")
    time, judge = minutes(config, shape, device, runs, gpu), judge_usd(config, runs)
    hourly = modal_usd_per_hour(config, gpu) if gpu else 0.0
    quote = Quote(
        config=config,
        on_modal=on_modal,
        device=device,
        shape=shape,
        memory=memory_needed(config, shape, device) if shape else None,
        measured_gib=same and same.memory_gib,
        minutes=time.range,
        minutes_from=time.source,
        usd=time.range and times(hourly / 60, time.range) if on_modal else (0.0, 0.0, 0.0),
        usd_most=hourly * config.timeout / 3600 * (1 + config.retries),
        usd_from=f"${hourly:.2f} an hour, prices of {LISTED['as_of']}" if on_modal else "",
        judge_usd=judge.range,
        judge_usd_from=judge.source,
        first_step=_first_step(config, shape, device, runs, gpu, hourly),
        checks=checks,
        fits=_fits(config, shape, runs) if on_modal and shape else (),
    )
    problems = problems_of(quote, Path(runs_dir), spent_on(status))
    known = {problem.where for problem in problems}
    problems += [found for check in checks if (found := check.problem) and found.where not in known]
    # Two checks may meet the same problem, such as a bad line of the data.
    return replace(quote, problems=tuple({problem.what: problem for problem in problems}.values()))


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
    machine, loaded = hourly * to_one[1] / 60, hourly * (to_two[1] - to_one[1]) / 60
    return {"usd_machine": round(machine, 6), "usd_loaded": round(loaded, 6), "usd_judge": round(steps * judged[1], 6)}


def _fits(config: TrainConfig, shape: Shape, runs: Sequence[EarlierRun]) -> tuple[Fit, ...]:
    """Modal's GPUs that it fits on, as many of each as there are processes; the cheapest first."""
    count, found = config.num_processes, []
    for gpu in [kind if count == 1 else f"{kind}:{count}" for kind in GPUS if count <= MOST_GPUS]:
        device = modal_device(gpu)
        if not shortage(memory_needed(config, shape, device), device):
            there = minutes(config, shape, device, runs, gpu).range
            usd = there and times(modal_usd_per_hour(config, gpu) / 60, there)
            found.append(Fit(gpu, gpu_usd_per_hour(gpu), there, usd))
    return tuple(sorted(found, key=lambda fit: fit.usd_per_hour))


def launch_of(config: TrainConfig, runs_dir: str | Path, backend: str, known: RunDirectory | None = None) -> Launch:
    """The quote as training is told it and as it is said before a run starts; of a `known` run for the steps left.

    Raises RunError for settings that are not the known run's own, ConfigError for more GPUs than a container has.
    """
    on_modal, status = backend == "modal", known.status if known else {}
    if known:
        config = config_to_resume(known, config, check=not on_modal)
    if on_modal and (problem := too_many_gpus(config)):
        raise ConfigError(problem.what, problem.fix)
    machine, hourly = (config.gpu, modal_usd_per_hour(config, config.gpu)) if on_modal else (HERE, 0.0)
    if status.get("state") == "complete":
        return Launch(machine, hourly)
    quote = quote_remaining(config, status, runs_dir, on_modal)
    return Launch(machine, hourly, quote.quoted, quote.in_short())


def modal_device(gpu: str) -> Device:
    """One of these GPUs; requirements-gpu.lock has vLLM."""
    return Device(True, GPUS[gpu_and_count(gpu)[0]]["usable_gib"], has_vllm=True)


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
