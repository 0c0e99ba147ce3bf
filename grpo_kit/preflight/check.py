"""Makes the quote: what a run will do, need and cost, and what stands in its way, before it does.

costs/ counts memory, time and dollars; checks.py finds what is wrong as far as this machine can tell; doctor.py asks
the data, the hub and the judge.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_kit.config.gpus import GPUS, LISTED, MOST_GPUS
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Launch
from grpo_kit.costs.earlier import HERE, EarlierRun, earlier_runs, like_run
from grpo_kit.costs.forecast import judge_usd, minutes, times
from grpo_kit.costs.memory import device_of, memory_needed, shortage
from grpo_kit.costs.prices import gpu_usd_per_hour, modal_usd_per_hour
from grpo_kit.errors import ConfigError
from grpo_kit.models.shapes import Shape, shape_of
from grpo_kit.preflight.checks import problems_of, too_many_gpus
from grpo_kit.preflight.doctor import Check
from grpo_kit.preflight.quote import Quote
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.runs.resume import config_to_resume
from grpo_kit.runs.spending import Dollars, spent_on


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
    device, same = device_of(config, gpu), like_run(config, runs, gpu, "step", "size")
    time, judge = minutes(config, runs, gpu), judge_usd(config, runs)
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
        first_step=_first_step(config, runs, gpu, hourly),
        checks=checks,
        fits=_fits(config, shape) if on_modal and shape else {},
    )
    problems = problems_of(quote, Path(runs_dir), spent_on(status))
    known = {problem.where for problem in problems}
    problems += [found for check in checks if (found := check.problem) and found.where not in known]
    # Two checks may meet the same problem, such as a bad line of the data.
    return replace(quote, problems=tuple({problem.what: problem for problem in problems}.values()))


def _first_step(config: TrainConfig, runs: list[EarlierRun], gpu: str | None, hourly: float) -> Dollars | None:
    """Dollars to the end of the first step; None where they are not known."""
    first = config.model_copy(update={"max_steps": config.num_iterations})
    time, judged = minutes(first, runs, gpu).range, judge_usd(first, runs).range
    if time is None or judged is None:
        return None
    steps = min(config.max_steps, 1 + config.max_staleness)  # a first step has those ahead judged too
    return Dollars(round(hourly * time[1] / 60, 6), round(steps * judged[1], 6))


def _fits(config: TrainConfig, shape: Shape) -> dict[str, float]:
    """Modal's GPUs that it fits on, as many of each as there are processes, with their dollars an hour; the cheapest
    first."""
    count = config.num_processes
    gpus = [kind if count == 1 else f"{kind}:{count}" for kind in GPUS if count <= MOST_GPUS]
    devices = {gpu: device_of(config, gpu) for gpu in sorted(gpus, key=gpu_usd_per_hour)}
    enough = [gpu for gpu, device in devices.items() if not shortage(memory_needed(config, shape, device), device)]
    return {gpu: gpu_usd_per_hour(gpu) for gpu in enough}


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
