"""The time and dollars that a sweep will take, from the quotes of its runs, and the budget that its runs share."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from grpo_kit.backends.before_launch import quote
from grpo_kit.config.environment import RULES
from grpo_kit.config.gpus import modal_usd_per_hour
from grpo_kit.config.judge import CLOUD, rungs
from grpo_kit.costs.budget import check_price_known
from grpo_kit.costs.earlier import earlier_runs
from grpo_kit.costs.forecast import START, evaluation_minutes, models_evaluated
from grpo_kit.costs.judging import answers_made, judge_usd
from grpo_kit.costs.ranges import Range, range_text, times, total
from grpo_kit.errors import ConfigError, Problem
from grpo_kit.preflight.quote import Quote
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.sweeps.plan import as_evaluated
from grpo_kit.sweeps.run import PlannedRun
from grpo_kit.utils.text import dollars, duration

NOTEBOOK_MINUTES = 0.15  # to start a kernel and import its libraries, on 2 cores
NOTHING: Range = (0.0, 0.0, 0.0)
UNKNOWN: Range = (math.nan, math.nan, math.nan)  # so that a sum with it is unknown too


class RunQuote(NamedTuple):
    """The time and dollars that one run has left, as (low, likely, high)."""

    run: PlannedRun
    training: Quote | None  # None where nothing is left to train
    minutes: Range
    usd: Range
    evaluation_usd: float  # the most that its evaluation may cost, which max_usd does not limit


def quote_of(run: PlannedRun) -> RunQuote:
    """The quote of a run's training, and its evaluation on the same machine."""
    config, asked = run.config, run.evaluation
    if config is None or asked is None:
        return RunQuote(run, None, UNKNOWN, NOTHING, 0.0)
    is_trained = run.stages[0].name in run.record["finished"]
    out = run.folder.parent
    earlier = [*earlier_runs(out), *(earlier_runs(RUNS_DIR) if out != RUNS_DIR.absolute() else ())]
    training = None if is_trained else quote(config, out, run.backend, earlier, ask=False)
    trained = (training.minutes, training.usd, training.judge_usd) if training else (NOTHING,) * 3
    gpu = config.gpu if run.backend == "modal" else None
    models, used = models_evaluated(config), as_evaluated(config, asked)
    minutes = evaluation_minutes(used, asked, earlier, gpu, models) or UNKNOWN
    hourly = modal_usd_per_hour(gpu, config.memory) if gpu else 0.0
    evaluation = UNKNOWN if hourly is None else times(hourly / 60, minutes) if gpu else NOTHING
    first = asked.judge or max(config.judge, key=config.judge.__getitem__)
    own = {name: asked.given[name] for name in ("judge_model", "gemini_model") if name in asked.given}
    own |= {"simulated_user": RULES, "simulated_user_model": None}
    there = {"environment": used.environment, "judge_replies": used.judge_replies}
    judges = CLOUD.keys() & rungs([first, asked.second_judge])
    asking = [config.replace(judge=name, **own).model_copy(update=there) for name in judges]
    asking += [used.model_copy(update={"judge": {"offline": 1.0}})] * (used.simulated_user != RULES)
    for each in asking:
        one = each.model_copy(update={"judge_mode": "absolute", "judge_samples": 1})
        known = judge_usd(one, earlier).range  # an answer costs as in training
        evaluation = _total(evaluation, times(models * asked.n / answers_made(one), known or UNKNOWN))
    starting = times(NOTEBOOK_MINUTES * (1 if is_trained else 2), START)
    usd = _total(*trained[1:], evaluation)
    return RunQuote(run, training, _total(starting, trained[0], minutes), usd, evaluation[2])


@dataclass(frozen=True)
class SweepQuote:
    """The runs that a sweep has left, and the time and dollars that they will take."""

    quotes: tuple[RunQuote, ...]  # of the runs that are not done
    runs: int  # in all
    jobs: int  # at a time
    budget: float | None
    spent: float  # so far

    @property
    def minutes(self) -> Range:
        """From start to end, at least the longest run's. Runs here share the cores."""
        runs, at_a_time = [found.minutes for found in self.quotes], min(self.jobs, len(self.quotes))
        here = [run.config for run in (each.run for each in self.quotes) if run.config and run.backend == "local"]
        if here:
            cores = os.cpu_count() or 1
            at_a_time = min(at_a_time, cores // max(config.torch_threads or cores for config in here))
        shared = times(1 / max(1, at_a_time), _total(*runs))
        return cast(Range, tuple(map(max, zip(shared, *runs, strict=True))))

    @property
    def usd(self) -> Range:
        return _total(*(found.usd for found in self.quotes))

    @property
    def crowded(self) -> Problem | None:
        """Where runs that are trained here at a time need more memory together than there is. Each quote is for one."""
        trained = [found.training for found in self.quotes if found.training and not found.training.on_modal]
        count, most = min(self.jobs, len(trained)), max((each.memory_gib or 0.0 for each in trained), default=0.0)
        if not trained or count < 2 or count * most <= (device := trained[0].device).gib:
            return None
        whose = "GPU" if device.is_gpu else "machine"
        what = f"{count} runs at a time need up to {count * most:.1f} GiB of the {whose}'s {device.gib:.1f}"
        return Problem(what, f"Use --jobs {max(1, int(device.gib // most))}")

    def __str__(self) -> str:
        done = self.runs - len(self.quotes)
        rows = [("runs", f"{self.runs}, {self.jobs} at a time" + (f"; {done} are done" if done else ""))]
        trained = [found.training for found in self.quotes if found.training]
        if self.quotes and self.quotes[0].run.config:
            source = f", {trained[0].minutes_from}" if trained else ""
            time = _text(self.minutes, lambda minutes: duration(60 * minutes))
            rows.append(("time", f"{time} for training and evaluation{source}"))
            sources = [trained[0].usd_from, trained[0].judge_usd_from] if trained else []
            sources = "; a run: ".join([*filter(None, sources), "evaluations included"])
            rows.append(("cost", f"{_text(self.usd, dollars)} ({sources})" if self.usd[2] else "nothing"))
        elif self.quotes:
            rows.append(("time", "not known: these notebooks train nothing that could be quoted"))
        if self.budget is not None:
            rows.append(("budget", f"{dollars(self.budget)}, of which {dollars(self.spent)} is spent"))
        found = [*(problem for training in trained for problem in training.problems), self.crowded]
        problems = dict.fromkeys(str(problem) for problem in found if problem)
        return "\n".join(f"{name:<8} {text}" for name, text in [*rows, *(("problem", text) for text in problems)])


class BudgetPool:
    """The dollars that all runs of a sweep share. A run is started when what is left covers its quote."""

    def __init__(self, budget: float, runs: Sequence[PlannedRun], jobs: int):
        """Raises ConfigError for a budget that can't be kept."""
        if budget <= 0:
            raise ConfigError(f"budget={budget:g} pays for nothing", "Give US dollars above 0, or leave budget out")
        for run in runs:
            if run.config:
                hourly = modal_usd_per_hour(run.config.gpu, run.config.memory) if run.backend == "modal" else 0.0
                check_price_known(run.config.replace(max_usd=budget), hourly)
        self._budget, self._runs, self._jobs = budget, runs, jobs
        self._reserved: dict[str, float] = {}  # by runs under way: dollars that each may cost at most, in all

    def reserve(self, run: PlannedRun) -> float | None:
        """The max_usd of the run's training; 0 where it costs nothing, None where what is left does not cover it.

        What the run may cost is reserved until `release`, so runs under way can't pass the budget together. A run
        whose cost is not known may have an equal share of what is left.
        """
        spent = {each.name: each.usd() or 0.0 for each in self._runs}
        left = self._budget - sum(max(usd, self._reserved.get(name, 0.0)) for name, usd in spent.items())
        found = quote_of(run)
        _, likely, most = found.usd
        if math.isnan(most):
            likely, most = 0.0, max(0.0, left / self._jobs)
        for_evaluation = 0.0 if math.isnan(found.evaluation_usd) else found.evaluation_usd
        share = min(left, most)
        if likely > left or left <= 0 or most > for_evaluation >= share:
            return None
        self._reserved[run.name] = spent[run.name] + share
        return self._reserved[run.name] - for_evaluation if most else 0.0

    def release(self, run: PlannedRun) -> None:
        """Frees what an ended run did not spend."""
        self._reserved.pop(run.name, None)


def _total(*ranges: Range | None) -> Range:
    """The sum; None is unknown."""
    return total(NOTHING, *(each or UNKNOWN for each in ranges))


def _text(values: Range, shown: Callable[[float], str]) -> str:
    return "not known" if math.isnan(values[1]) else range_text(values, shown)
