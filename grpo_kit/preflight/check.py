"""Makes the quote: what a run will do, need and cost, and finds what stands in its way, before it does.

costs/ counts memory, time and dollars. The problems are those that this machine can tell without a network, each with
its fix; a problem's `where` names the check of doctor.py that would find it too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_kit.config.gpus import GPUS, LISTED, larger_gpu, listed_gpu, modal_usd_per_hour, most_gpus, unknown_gpu
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Launch, check_price_known, shortfall_at_start
from grpo_kit.costs.earlier import HERE, EarlierRun, earlier_runs, measured_memory
from grpo_kit.costs.forecast import measuring_minutes, minutes
from grpo_kit.costs.judging import judge_usd
from grpo_kit.costs.memory import FILLED, Device, decided, device_of, memory_needed, shortage, uses_vllm
from grpo_kit.costs.ranges import Range, times, total
from grpo_kit.data.demo import data_folder, is_made
from grpo_kit.data.samples import numbered_lines
from grpo_kit.errors import ConfigError, KitError, Problem
from grpo_kit.judges.cache import caches_to_start_from
from grpo_kit.models.load import check_model
from grpo_kit.models.shapes import Shape, shape_of
from grpo_kit.models.start import started
from grpo_kit.preflight.doctor import PREPARE, Check
from grpo_kit.preflight.models import judge_problems, model_problems, of_one_family, thinking_problems, unused_model
from grpo_kit.preflight.quote import Quote
from grpo_kit.preflight.verdict import will_it_learn
from grpo_kit.runs.alarms import webhook_problem
from grpo_kit.runs.directory import Dollars, RunDirectory, find_run, spent_on
from grpo_kit.runs.resume import config_to_resume, is_done
from grpo_kit.training.difficulty import answered_before
from grpo_kit.training.failures import Fix, memory_fixes
from grpo_kit.training.plan import NO_SHARING_WITH_SFT, missing_package, no_held_out, too_few_samples
from grpo_kit.utils.text import dollars, duration, settings_text

LONGEST_TIMEOUT = 86400  # seconds, Modal's
LOADING_GIB = 4.0  # of a container's memory, beside the weights, which pass through it
LONG_HOURS = 6.0  # a run here that takes longer is warned of
Problems = Iterator[Problem]


def quote_remaining(
    config: TrainConfig,
    status: dict[str, Any],
    runs_dir: str | Path,
    on_modal: bool,
    earlier: Sequence[EarlierRun] | None = None,
    checks: tuple[Check, ...] = (),
) -> Quote:
    """The quote of the steps that are left to make by `status`, a run's, which is empty for a new one. Times come from
    `earlier` runs, None: those under `runs_dir`; `checks` are those that were made beside."""
    if status.get("step") and not is_done(status, config):
        left = max(1, config.max_steps - status["step"])
        config = config.model_copy(
            update={"max_steps": left, "save_steps": min(config.save_steps, left), "sft_steps": 0}
        )
    runs, shape = earlier_runs(runs_dir) if earlier is None else earlier, shape_of(config.model_name)
    gpu = config.gpu if on_modal else None
    hourly = modal_usd_per_hour(gpu, config.memory) if gpu else 0.0
    price = "" if hourly is None else f"${hourly:.2f} an hour, prices of {LISTED['as_of']}"
    device = device_of(config, gpu)
    time, judge = minutes(config, runs, gpu), judge_usd(config, runs)
    prompts, measuring, measuring_usd = _to_measure(config, status, on_modal), None, None
    if prompts:
        measuring, judged = measuring_minutes(config, prompts, runs, gpu), judge_usd(config, runs, prompts)
        if measuring and judged.range and judge.range and hourly is not None:
            more = judged.range[1] - judge.range[1]
            measuring_usd = Dollars(round(hourly * measuring[1] / 60, 6), round(more, 6))
        if measuring and time.range:
            time = time._replace(range=total(time.range, measuring))
        judge = judged
    usd = times(hourly / 60, time.range) if time.range and hourly is not None else None
    quote = Quote(
        config=config,
        on_modal=on_modal,
        device=device,
        shape=shape,
        memory=memory_needed(config, shape, device) if shape and device.gib > 0 else None,
        measured_gib=measured_memory(config, runs, gpu),
        minutes=time.range,
        minutes_from=time.source,
        usd=usd if on_modal else (0.0, 0.0, 0.0),
        usd_most=None if hourly is None else hourly * config.timeout / 3600 * (1 + config.retries),
        usd_from=(price or f"the price of {gpu} is not known") if on_modal else "",
        judge_usd=judge.range,
        judge_usd_from=judge.source,
        first_step=_first_step(config, runs, gpu, hourly),
        to_measure=prompts,
        measuring=measuring,
        measuring_usd=measuring_usd,
        checks=checks,
        fits=_fits(config, shape) if on_modal and shape else {},
        verdict=will_it_learn(config, runs_dir=runs_dir, on_modal=on_modal),
        warnings=tuple(warnings_of(config, on_modal)),
        slow="" if on_modal else _slow_here(config, time.range, runs),
    )
    problems = problems_of(quote, Path(runs_dir), spent_on(status))
    known = {problem.where for problem in problems}
    problems += [found for check in checks if (found := check.problem) and found.where not in known]
    # Two checks may meet the same problem, such as a bad line of the data.
    return replace(quote, problems=tuple({problem.what: problem for problem in problems}.values()))


def _first_step(
    config: TrainConfig, runs: Sequence[EarlierRun], gpu: str | None, hourly: float | None
) -> Dollars | None:
    """Dollars to the end of the first step; None where they are not known."""
    evaluated = config.model_copy(update={"max_steps": config.num_iterations, "eval_steps": config.num_iterations})
    first = evaluated.model_copy(update={"eval_steps": None})
    time, judged = minutes(first, runs, gpu).range, judge_usd(first, runs).range
    if time is None or judged is None or hourly is None:
        return None
    steps = min(config.max_steps, 1 + config.max_staleness)  # a first step has those ahead judged too
    seconds, usd = 60 * time[1], steps * judged[1]
    times_two, judged_two = minutes(evaluated, runs, gpu).range, judge_usd(evaluated, runs).range
    if config.eval_steps and times_two and judged_two:  # before that step; `evaluated` has one after it, too
        seconds, usd = seconds + 30 * (times_two[1] - time[1]), usd + (judged_two[1] - judged[1]) / 2
    return Dollars(round(hourly * seconds / 3600, 6), round(usd, 6))


def _to_measure(config: TrainConfig, status: dict[str, Any], on_modal: bool) -> int | None:
    """The prompts whose difficulty is still to be measured, and that no earlier run had answered; None where the data
    is not here."""
    known = status.get("difficulty") or {}
    if not config.filter_difficulty or status.get("step") or "prompts_kept" in known:
        return 0
    train = data_folder(config.data) / "train.jsonl"
    if not train.exists():
        return None
    # A judge in the cloud may still have to be paid for them.
    answered = 0 if on_modal or config.cloud_judges else answered_before(config, train)
    return max(0, _lines(train, train.stat().st_mtime_ns) - max(answered, known.get("measured", 0)))


def _fits(config: TrainConfig, shape: Shape) -> dict[str, float]:
    """Modal's GPUs that it fits on, one for each process, with their dollars an hour; the cheapest first."""
    count, fits = config.num_processes, {}
    for kind, row in sorted(GPUS.items(), key=lambda each: each[1]["usd_per_hour"]):
        device = device_of(config, gpu := kind if count == 1 else f"{kind}:{count}")
        if count <= most_gpus(kind) and not shortage(memory_needed(config, shape, device), device):
            fits[gpu] = count * row["usd_per_hour"]
    return fits


def launch_of(config: TrainConfig, runs_dir: str | Path, backend: str, known: RunDirectory | None = None) -> Launch:
    """The quote as training is told it and as it is said before a run starts; of a `known` run for the steps left.

    Raises RunError for settings that are not the known run's own, ConfigError for more GPUs than a container has and a
    model that can't be used.
    """
    on_modal, status = backend == "modal", known.status if known else {}
    config = config if on_modal else started(config, runs_dir)
    if known:
        config = config_to_resume(known, config, check=not on_modal)
    if on_modal and (problem := too_many_gpus(config)):
        raise ConfigError(problem.what, problem.fix)
    machine, hourly = (config.gpu, modal_usd_per_hour(config.gpu, config.memory)) if on_modal else (HERE, 0.0)
    if is_done(status, config):
        return Launch(machine, hourly)
    check_model(config.model_name, config)
    quote = quote_remaining(config, status, runs_dir, on_modal)
    return Launch(machine, hourly, quote.quoted, quote.in_short())


def problems_of(quote: Quote, runs_dir: Path, spent: Dollars) -> list[Problem]:
    """All problems that this machine finds; `quote` is without them, `spent` what the run has cost before."""
    config, found = quote.config, [*thinking_problems(quote.config)]
    found += [*memory_problems(quote), *judge_problems(config, quote.on_modal)]
    found += model_problems(config, runs_dir, quote.on_modal)
    if quote.on_modal:
        found += [*modal_problems(quote), *time_problems(quote)]
    else:
        found += [*local_problems(config, quote.device), *earlier_run_problems(config, runs_dir)]
    return [*found, *budget_problems(config, quote.quoted, spent, None if quote.usd_most is None else 0.0)]


def warnings_of(config: TrainConfig, on_modal: bool) -> Iterator[str]:
    """What works, and may not be what was meant: a GPU that the list lacks; a loss without what its paper sets."""
    yield from [*of_one_family(config, config.model_name), *unused_model(config)]
    if config.save_steps > config.max_steps:
        saves = max(1, config.max_steps // 2 // config.num_iterations) * config.num_iterations
        what = f"save_steps={config.save_steps} is more than max_steps={config.max_steps}, so there is no checkpoint "
        what += "on the way: a run that is killed begins anew, and there is no curve to evaluate"
        yield f"{what}. Use save_steps={saves}"
    if config.warmup_steps >= config.max_steps:
        what = f"warmup_steps={config.warmup_steps} of max_steps={config.max_steps}: the rate never reaches its peak"
        yield f"{what}. Use warmup_steps={config.max_steps // 10}"
    loss, ratio_of = config.loss_type, config.trl.get("importance_sampling_level", "token")
    if on_modal and (unknown := unknown_gpu(config.gpu)):
        yield unknown
    if loss == "cispo" and "epsilon_high" not in config.trl:
        yield f"loss_type=cispo caps the ratio at epsilon_high, here epsilon={config.epsilon:g}: try trl=epsilon_high=5"
    if loss == "luspo" and ratio_of != "sequence":
        yield "loss_type=luspo is meant for ratios of whole answers: try trl=importance_sampling_level=sequence"
    if ratio_of == "sequence" and loss in ("bnpo", "dr_grpo", "dapo", "cispo"):
        yield f"importance_sampling_level=sequence weights an answer by its length with loss_type={loss}: GSPO has grpo"


def _slow_here(config: TrainConfig, here: Range | None, runs: Sequence[EarlierRun]) -> str:
    """In plain words that a run takes longer here than anyone waits, and what a GPU of Modal's would take."""
    if here is None or here[1] < LONG_HOURS * 60:
        return ""
    there, hourly = minutes(config, runs, config.gpu).range, modal_usd_per_hour(config.gpu, config.memory)
    gpu = f", where the {config.gpu} likely takes {duration(60 * there[1])}" if there else ""
    gpu += f" and {dollars(hourly * there[1] / 60)}" if there and hourly else ""
    low, _, high = (duration(60 * value) for value in here)
    return f"It would take {low} to {high} on this machine: use Modal's GPUs (backend modal){gpu}"


def memory_problems(quote: Quote) -> Problems:
    """An earlier run's peak is believed more than what was counted."""
    if quote.config.sft_steps and quote.memory and quote.memory.shares > 1:
        yield NO_SHARING_WITH_SFT
    config, device, measured = quote.config, quote.device, quote.measured_gib
    has_fitted = measured is not None and measured <= FILLED * device.gib
    if quote.shape and quote.memory and not has_fitted and (why := shortage(quote.memory, device)):
        ways = [settings_text(way) for way in fitting_settings(config, quote.shape, device)]
        ways += [f"gpu={gpu} (${usd:.2f} an hour)" for gpu, usd in list(quote.fits.items())[:1]]
        yield Problem(why, f"Fits with {', or '.join(ways)}" if ways else "Choose a smaller model", is_forecast=True)


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
    settled = {"gradient_checkpointing": checkpointing, "use_vllm": uses_vllm(config, device)}
    gpu_gib = device.gib if device.is_gpu else None
    fixes = memory_fixes(config.model_copy(update=settled), device.is_gpu, memory.phase, gpu_gib)
    return [fix for fix in fixes if not fix.keys() & {"gpu", "memory"}]


def modal_problems(quote: Quote) -> Problems:
    config = quote.config
    if problem := too_many_gpus(config):
        yield problem
    host = quote.memory.host + LOADING_GIB if quote.memory else 0.0
    if config.memory / 1024 < host:
        what = f"memory={config.memory} MiB is too little to load the model through, which takes some {host:.0f} GiB"
        yield Problem(what, f"Use memory={math.ceil(host / 8) * 8 * 1024}", is_forecast=True)


def too_many_gpus(config: TrainConfig) -> Problem | None:
    """For one of Modal's containers."""
    count, most, (kind, _, _) = config.num_processes, most_gpus(config.gpu), config.gpu.partition(":")
    if count <= most:
        return None
    what = f"num_processes={count} needs as many GPUs, and a container on Modal has {most} {kind} at most"
    larger = larger_gpu(listed_gpu(kind).get("usable_gib"), count)
    return Problem(what, f"Use num_processes={most}" + (f", or gpu={larger}" if larger else ""))


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
        fix = f"Use fewer steps or a larger GPU; timeout may be {LONGEST_TIMEOUT} at most"
    else:
        fix = f"Use timeout={min(LONGEST_TIMEOUT, int(seconds * 1.25) // 60 * 60 + 60)}"
    yield Problem(what, fix, is_forecast=True)


def local_problems(config: TrainConfig, device: Device) -> Problems:
    train = Path(config.data) / "train.jsonl"
    if train.exists():
        yield from too_few_samples(config, _lines(train, train.stat().st_mtime_ns))
    elif not is_made(config.data):
        fix = f"Make it with `{PREPARE}`, or set data to the folder that has it"
        yield Problem(f"There is no {train}", fix, "train.jsonl")
    if train.exists() and config.eval_steps and not (held_out := train.with_name("eval.jsonl")).exists():
        yield replace(no_held_out(config, f"there is no {held_out}").problem, where="eval.jsonl")
    yield from filter(None, (missing_package(config), webhook_problem(config)))


@lru_cache(8)
def _lines(path: Path, modified: int) -> int:
    return sum(1 for _ in numbered_lines(path))


def earlier_run_problems(config: TrainConfig, runs_dir: Path) -> Problems:
    try:
        caches_to_start_from(config.cache_from, runs_dir)
        if (known := find_run(config.run_id, runs_dir)) and is_done(known.status, config_to_resume(known, config)):
            fix = "Give it another run_id, or a larger max_steps"
            yield Problem(f"run {config.run_id} is complete: nothing would be done", fix)
    except KitError as error:
        yield error.problem


def budget_problems(config: TrainConfig, quoted: dict, spent: Dollars, hourly: float | None = 0.0) -> Problems:
    """`quoted` is what Quote.quoted gives for the steps that are left, `spent` what the run has cost before, `hourly`
    None where the machine's price is not known."""
    if config.max_usd is None:
        return
    try:
        check_price_known(config, hourly)
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
            is_forecast=True,
        )
