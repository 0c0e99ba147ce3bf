"""What a sweep will take and cost, by the quotes of its runs, and what it has cost."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_kit.backends.quote import quote
from grpo_kit.costs.budget import check_price_known
from grpo_kit.costs.earlier import earlier_runs
from grpo_kit.costs.judge import judge_calls, judge_usd
from grpo_kit.costs.prices import modal_usd_per_hour
from grpo_kit.costs.ranges import Range, range_text
from grpo_kit.costs.time import evaluation_minutes, models_evaluated
from grpo_kit.errors import ConfigError
from grpo_kit.preflight.quote import Quote
from grpo_kit.sweeps.plan import EVALUATION_FILE, RESULT_FILE, PlannedRun, read_json
from grpo_kit.utils.text import dollars, duration

NOTEBOOK_SECONDS = 6.0  # to start a kernel and import what it needs, on 2 cores


@dataclass(frozen=True)
class RunQuote:
    """What one run will take. Ranges are (low, likely, high); None: not known."""

    run: PlannedRun
    training: Quote | None  # None where nothing is trained
    evaluation_usd: Range | None  # for its evaluation: judges, and Modal's machine
    evaluation_minutes: Range | None

    @property
    def minutes(self) -> Range | None:
        training = self.training
        notebooks = 1 + bool(training)
        starting = (NOTEBOOK_SECONDS * notebooks / 60,) * 3
        parts = [starting, self.evaluation_minutes, *([training.minutes] if training else [])]
        return None if None in parts else tuple(map(sum, zip(*parts, strict=True)))

    @property
    def usd(self) -> Range | None:
        training = self.training
        parts = [self.evaluation_usd, *([training.usd, training.judge_usd] if training else [])]
        return None if None in parts else tuple(map(sum, zip(*parts, strict=True)))


def quote_of(run: PlannedRun) -> RunQuote:
    if run.config is None:
        return RunQuote(run, None, (0.0, 0.0, 0.0), None)
    training = None
    if not run.has_finished(run.stages[0], run.record):
        training = quote(run.config, run.folder.parent, run.backend, ask=False)
    minutes = evaluation_minutes(run.config, run.evaluation, run.config.gpu if run.backend == "modal" else None)
    return RunQuote(run, training, _evaluation_usd(run, minutes), minutes)


def _evaluation_usd(run: PlannedRun, minutes: Range | None) -> Range | None:
    """The machine's time, and the judges by what a judgement in training is quoted at."""
    config, asked = run.config, run.evaluation
    machine = judges = (0.0, 0.0, 0.0)
    if run.backend == "modal":
        hourly = modal_usd_per_hour(config, config.gpu)
        machine = minutes and tuple(hourly * each / 60 for each in minutes)
    first = asked.judge or max(config.judge, key=config.judge.get)
    if count := [first, asked.second_judge].count("gemini"):
        as_judge = config.replace(judge="gemini", gemini_mode="absolute", gemini_samples=1)
        known = judge_usd(as_judge, earlier_runs(run.folder.parent)).range
        share = count * models_evaluated(config) * asked.n / judge_calls(as_judge)
        judges = known and tuple(each * share for each in known)
    return None if None in (machine, judges) else tuple(map(sum, zip(machine, judges, strict=True)))


def spent_on(run: PlannedRun, status: dict[str, Any] | None = None) -> float | None:
    """Dollars that a run has cost so far, training and evaluation; None where a price is not known.

    `status` is that of what it trains, where it was read already.
    """
    if run.config is None:
        result = read_json(run.folder / RESULT_FILE)
        usd = [result.get("usd", result.get("judge_usd", 0.0))]
    else:
        evaluated = read_json(run.folder / EVALUATION_FILE)
        hourly = modal_usd_per_hour(run.config, run.config.gpu) if run.backend == "modal" else 0.0
        usd = [(run.status() if status is None else status).get("usd", 0.0), evaluated.get("judge_usd", 0.0)]
        usd.append(hourly * evaluated.get("seconds", 0.0) / 3600)
    return None if None in usd else sum(usd)


@dataclass(frozen=True)
class SweepQuote:
    """What is left to do of a sweep, and what it will take and cost."""

    quotes: tuple[RunQuote, ...]  # of the runs that are not done
    runs: int  # in all
    jobs: int  # at a time
    budget: float | None
    spent: float  # so far

    @property
    def minutes(self) -> Range | None:
        """From start to end. None where that of some run is not known."""
        each = [found.minutes for found in self.quotes]
        if not each or None in each:
            return None
        longest = tuple(map(max, zip(*each, strict=True)))
        together = (sum(part) / self.jobs for part in zip(*each, strict=True))
        return tuple(map(max, longest, together))

    @property
    def usd(self) -> Range | None:
        each = [found.usd for found in self.quotes]
        return None if None in each else tuple(map(sum, zip(*each, strict=True))) if each else (0.0, 0.0, 0.0)

    def rows(self) -> list[tuple[str, str]]:
        done = self.runs - len(self.quotes)
        rows = [("runs", f"{self.runs}, {self.jobs} at a time" + (f"; {done} are done" if done else ""))]
        trained = [found.training for found in self.quotes if found.training]
        if self.quotes and self.quotes[0].run.config:
            sources = _first_of(each.minutes_from for each in trained)
            sources = f"training by {sources}; evaluations by counting" if trained else "evaluations, by counting"
            known = range_text(self.minutes, lambda m: duration(60 * m)) if self.minutes else "not known"
            rows.append(("time", f"{known} ({sources})"))
            rows.append(("cost", self._cost(trained)))
        elif self.quotes:
            rows.append(("time", "not known: these notebooks train nothing that could be quoted"))
            if self.budget is not None:
                rows.append(("cost", "not known: the budget is looked at between runs"))
        if self.budget is not None:
            rows.append(("budget", f"{dollars(self.budget)}, of which {dollars(self.spent)} is spent"))
        return rows

    def _cost(self, trained: Sequence[Quote]) -> str:
        if self.usd is None:
            return "not known" + (f": {trained[0].judge_usd_from or trained[0].minutes_from}" if trained else "")
        if not self.usd[2]:
            return "nothing"
        sources = [_first_of(each.usd_from for each in trained), _first_of(each.judge_usd_from for each in trained)]
        sources = "; a run: ".join(filter(None, sources)) + "; " * bool(any(sources))
        return f"{range_text(self.usd, dollars)} ({sources}evaluations included)"

    def problems(self) -> list[str]:
        found = Counter(str(problem) for each in self.quotes if each.training for problem in each.training.problems)
        return [f"{text} ({count} of {len(self.quotes)} runs)" for text, count in found.items()]

    def __str__(self) -> str:
        rows = [*self.rows(), *(("problem", text) for text in self.problems())]
        return "\n".join(f"{name:<8} {text}" for name, text in rows)


class Purse:
    """A sweep's budget. Each run is lent what it may cost at most, so that together they can't pass it."""

    def __init__(self, budget: float, runs: Sequence[PlannedRun], jobs: int):
        if budget <= 0:
            raise ConfigError(f"budget={budget:g}: should be dollars above 0")
        self.budget = budget
        self._runs, self._jobs, self._lent = runs, jobs, {}
        for run in runs:
            if run.config:
                check_price_known(run.config.replace(max_usd=budget))

    def lend(self, found: RunQuote) -> float | None:
        """What the training may cost in all; 0 where it costs nothing, None where what is left does not pay for it."""
        name, left = found.run.name, self.left(but=found.run)
        if found.run.config is None:  # as much as the dearest so far
            dearest = max((spent_on(run) or 0.0 for run in self._runs), default=0.0)
            known: Range | None = (dearest, dearest, dearest)
        else:
            known = found.usd
        _, likely, most = known or (0.0, 0.0, max(0.0, left / self._jobs))
        beside = found.evaluation_usd[2] if found.evaluation_usd else 0.0
        share = min(left, most)
        if likely > left or (most > beside and share <= beside):
            return None
        self._lent[name] = share
        return max(share - beside, 0.0)

    def give_back(self, run: PlannedRun) -> None:
        self._lent.pop(run.name, None)

    def spent(self) -> float:
        return sum(spent_on(run) or 0.0 for run in self._runs)

    def left(self, but: PlannedRun | None = None) -> float:
        """What is neither spent nor lent, apart from one run."""
        others = [run for run in self._runs if run is not but]
        return self.budget - sum(max(self._lent.get(run.name, 0.0), spent_on(run) or 0.0) for run in others)


def _first_of(texts: Iterable[str]) -> str:
    """The first of the different texts; of more than one it is said how many."""
    found = list(dict.fromkeys(filter(None, texts)))
    return "" if not found else found[0] + (f" (and {len(found) - 1} more such)" if len(found) > 1 else "")
