"""The time and dollars that a sweep will take, from the quotes of its runs, and the budget that its runs share."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from grpo_kit.backends.quote import quote
from grpo_kit.costs.budget import check_price_known
from grpo_kit.costs.earlier import earlier_runs
from grpo_kit.costs.forecast import Range, evaluation_minutes, judge_calls, judge_usd, models_evaluated, range_text
from grpo_kit.costs.prices import modal_usd_per_hour
from grpo_kit.errors import ConfigError
from grpo_kit.preflight.quote import Quote
from grpo_kit.sweeps.run import PlannedRun
from grpo_kit.utils.text import dollars, duration

NOTEBOOK_MINUTES = 0.1  # to start a kernel and import its libraries, on 2 cores
NOTHING: Range = (0.0, 0.0, 0.0)


class RunQuote(NamedTuple):
    """The time and dollars that one run has left. Ranges are (low, likely, high); None: not known."""

    run: PlannedRun
    training: Quote | None  # None where nothing is left to train
    minutes: Range | None
    usd: Range | None
    evaluation_usd: float  # the most that its evaluation may cost, which max_usd does not limit


def quote_of(run: PlannedRun) -> RunQuote:
    """The quote of a run's training, and its evaluation on the same machine."""
    config, asked = run.config, run.evaluation
    if config is None or asked is None:
        return RunQuote(run, None, None, NOTHING, 0.0)
    is_trained = run.stages[0].name in run.record["finished"]
    training = None if is_trained else quote(config, run.folder.parent, run.backend, ask=False)
    trained = (training.minutes, training.usd, training.judge_usd) if training else (NOTHING,) * 3
    gpu = config.gpu if run.backend == "modal" else None
    minutes = evaluation_minutes(config, asked, gpu)
    judges: Range | None = NOTHING
    if count := [asked.judge or max(config.judge, key=config.judge.__getitem__), asked.second_judge].count("gemini"):
        as_judge = config.replace(judge="gemini", gemini_mode="absolute", gemini_samples=1)
        known = judge_usd(as_judge, earlier_runs(run.folder.parent)).range  # a call costs as in training
        judges = _times(known, count * models_evaluated(config) * asked.n / judge_calls(as_judge))
    evaluation = _total([_times(minutes, modal_usd_per_hour(config, gpu) / 60) if gpu else NOTHING, judges])
    starting = _times((1, 1, 1), NOTEBOOK_MINUTES * (1 if is_trained else 2))
    usd = _total([*trained[1:], evaluation])
    return RunQuote(run, training, _total([starting, trained[0], minutes]), usd, evaluation[2] if evaluation else 0.0)


@dataclass(frozen=True)
class SweepQuote:
    """The runs that a sweep has left, and the time and dollars that they will take."""

    quotes: tuple[RunQuote, ...]  # of the runs that are not done
    runs: int  # in all
    jobs: int  # at a time
    budget: float | None
    spent: float  # so far

    @property
    def minutes(self) -> Range | None:
        """From start to end, at least the longest run's; None where a run's are not known."""
        runs = [found.minutes for found in self.quotes]
        shared = _times(_total(runs), 1 / max(1, min(self.jobs, len(runs))))
        return shared and cast(Range, tuple(map(max, zip(shared, *filter(None, runs), strict=True))))

    @property
    def usd(self) -> Range | None:
        return _total([found.usd for found in self.quotes])

    def __str__(self) -> str:
        done = self.runs - len(self.quotes)
        rows = [("runs", f"{self.runs}, {self.jobs} at a time" + (f"; {done} are done" if done else ""))]
        trained = [found.training for found in self.quotes if found.training]
        if self.quotes and self.quotes[0].run.config:
            source = f"training by {trained[0].minutes_from}; " if trained else ""
            known = _text(self.minutes, lambda minutes: duration(60 * minutes))
            rows.append(("time", f"{known} ({source}evaluations by counting)"))
            sources = [trained[0].usd_from, trained[0].judge_usd_from] if trained else []
            sources = "; a run: ".join(filter(None, sources)) + "; " * any(sources)
            is_free = self.usd and not self.usd[2]
            cost = "nothing" if is_free else f"{_text(self.usd, dollars)} ({sources}evaluations included)"
            rows.append(("cost", cost))
        elif self.quotes:
            rows.append(("time", "not known: these notebooks train nothing that could be quoted"))
            if self.budget is not None:
                rows.append(("cost", "not known: no run is started once the budget is spent"))
        if self.budget is not None:
            rows.append(("budget", f"{dollars(self.budget)}, of which {dollars(self.spent)} is spent"))
        problems = Counter(str(problem) for training in trained for problem in training.problems)
        rows += [("problem", f"{text} ({count} of {len(self.quotes)} runs)") for text, count in problems.items()]
        return "\n".join(f"{name:<8} {text}" for name, text in rows)


class BudgetPool:
    """The dollars that all runs of a sweep share. A run is started when what is left covers its quote."""

    def __init__(self, budget: float, runs: Sequence[PlannedRun], jobs: int):
        """Raises ConfigError for a budget that can't be kept."""
        if budget <= 0:
            raise ConfigError(f"budget={budget:g}: should be dollars above 0")
        for run in runs:
            if run.config:
                check_price_known(run.config.replace(max_usd=budget))
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
        _, likely, most = found.usd or (0.0, 0.0, max(0.0, left / self._jobs))
        share = min(left, most)
        if likely > left or left <= 0 or most > found.evaluation_usd >= share:
            return None
        self._reserved[run.name] = spent[run.name] + share
        return self._reserved[run.name] - found.evaluation_usd if most else 0.0

    def release(self, run: PlannedRun) -> None:
        """Frees what an ended run did not spend."""
        self._reserved.pop(run.name, None)

    def spent(self) -> float:
        return sum(run.usd() or 0.0 for run in self._runs)


def _total(ranges: Sequence[Range | None]) -> Range | None:
    """The sum; None where one is not known."""
    known = [each for each in ranges if each is not None]
    return cast(Range, tuple(map(sum, zip(NOTHING, *known, strict=True)))) if len(known) == len(ranges) else None


def _times(values: Range | None, factor: float) -> Range | None:
    return values and (values[0] * factor, values[1] * factor, values[2] * factor)


def _text(values: Range | None, shown: Callable[[float], str]) -> str:
    return range_text(values, shown) if values else "not known"
