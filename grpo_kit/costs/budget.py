"""What a run costs as it goes on, and whether the next step can still be paid: max_usd.

Counted are the machine's seconds at the price that the launcher names, and what the judge says it has used. Nothing is
counted ahead but the next step, at the median of the last few; a step that costs far more than those before it (a judge
that is asked again and again) can pass the budget by that much.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError
from grpo_kit.judges.gemini.prices import judge_price
from grpo_kit.runs.spending import Dollars
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.utils.text import dollars

if TYPE_CHECKING:
    from grpo_kit.runs.writer import RunWriter

LAST = 5  # steps whose median is what the next one costs


@dataclass(frozen=True)
class Launch:
    """What a run's launcher knows and training does not: where it is made, at what price, and what was quoted."""

    machine: str = "here"  # or Modal's GPU
    usd_per_hour: float = 0.0  # of the machine
    quoted: dict[str, Any] | None = None  # see Quote.quoted
    notice: str = ""  # what is said before a run starts

    def as_sent(self) -> dict[str, Any]:
        """What travels to Modal."""
        return {"machine": self.machine, "usd_per_hour": self.usd_per_hour, "quoted": self.quoted}


LOCAL = Launch()


class Budget:
    """Watches what a run's steps cost."""

    def __init__(self, writer: "RunWriter"):
        self._writer, self._config = writer, writer.config
        self._rows = read_lines(writer.run.path / "metrics.jsonl")
        self._cycles = deque(_cycles(self._rows, self._config.num_iterations, writer.usd_per_hour), maxlen=LAST)
        self._before = Dollars(0.0, 0.0)
        self._asked = 1 + self._config.max_staleness  # steps that the next one has judged: the first, those ahead too

    def see_start(self) -> str:
        """To be called before the model is loaded, and when it is. Why this process's first step can't be paid; empty
        where it can."""
        self._before, writer = self._writer.dollars(), self._writer
        spent_here = writer.usd_per_hour, writer.seconds
        return shortfall_at_start(self._config, self._before, writer.status, self._rows, *spent_here)

    def see_step(self, step: int) -> str:
        """To be called after each step. Why the next one can't be paid; empty where it can, or where none is left."""
        if step % self._config.num_iterations:  # a judge is asked once for so many steps
            return ""
        spent = self._writer.dollars()
        judge = (spent.judge - self._before.judge) / self._asked
        self._cycles.append(Dollars(spent.machine - self._before.machine, judge))
        self._before, self._asked = spent, 1
        return _shortfall(self._config, spent, _median(self._cycles), step, ahead=self._config.max_staleness)


def refuse_unknown_price(config: TrainConfig) -> None:
    """Raises ConfigError for a max_usd with a judge whose dollars can't be counted."""
    if config.max_usd is not None and "gemini" in config.judge and None in judge_price(config):
        raise ConfigError(
            f"max_usd={config.max_usd:g} can't be kept: {config.gemini_model} has no price in "
            "grpo_kit/judges/gemini/prices.json. Give gemini_input_price and gemini_output_price (dollars per million "
            "tokens)"
        )


def shortfall_at_start(
    config: TrainConfig,
    spent: Dollars,
    status: dict[str, Any],
    rows: Sequence[dict],
    usd_per_hour: float,
    seconds_gone: float = 0.0,
) -> str:
    """Why the first step that a process makes can't be paid, before it loads anything; empty where it can.

    By the steps in `rows` and the seconds that it took to load; before there are any, by what was quoted; where neither
    says anything, the step is made. `seconds_gone` are those of this process, which are spent already.
    """
    gone = usd_per_hour * seconds_gone / 3600
    if cycles := _cycles(rows, config.num_iterations, usd_per_hour)[-LAST:]:
        loading = max(0.0, usd_per_hour * status.get("starting_seconds", 0.0) / 3600 - gone)
        return _shortfall(config, spent, _median(cycles), status["step"], loading)
    quoted = status.get("quoted") or {}
    if not (first := quoted.get("first_step")) or config.max_usd is None:
        return ""
    next_step = Dollars(max(first["usd_loaded"], first["usd_machine"] - gone), first["usd_judge"])
    if spent.in_all + next_step.in_all <= config.max_usd:
        return ""
    whole = max((quoted["usd"] or 0.0) - gone, next_step.in_all)
    return _in_words(config, spent, next_step, spent.in_all + whole, "by the quote the first step")


def _shortfall(
    config: TrainConfig, spent: Dollars, a_step: Dollars, step: int, loading: float = 0.0, ahead: int = 0
) -> str:
    """Why the step after `step` can't be paid; empty where it can, or where none is left. Of `ahead` steps the
    judgements are asked for already, and paid."""
    left = math.ceil((config.max_steps - step) / config.num_iterations)
    to_judge = max(0, left - ahead)
    judged_next = min(to_judge, 1 if ahead else 1 + config.max_staleness)
    next_step = Dollars(a_step.machine + loading, judged_next * a_step.judge)
    if config.max_usd is None or left <= 0 or spent.in_all + next_step.in_all <= config.max_usd:
        return ""
    enough = spent.in_all + loading + left * a_step.machine + to_judge * a_step.judge
    return _in_words(config, spent, next_step, enough, "the next step")


def _in_words(config: TrainConfig, spent: Dollars, next_step: Dollars, enough: float, which: str) -> str:
    digits = 2 - math.floor(math.log10(enough)) - 1
    enough = math.ceil(1.1 * enough * 10**digits) / 10**digits
    spent_so_far = f"{dollars(spent.in_all)} is spent ({spent})" if spent.in_all else "nothing is spent yet"
    costs = f"{which} costs about {dollars(next_step.in_all)} ({next_step})"
    return (
        f"max_usd={config.max_usd:g} would be passed: {spent_so_far}, and {costs}. "
        f"max_usd={enough:g} likely pays for all of it"
    )


def _cycles(rows: Iterable[dict], every: int, usd_per_hour: float) -> list[Dollars]:
    """What each `every` steps in metrics.jsonl, which share their completions, cost together."""
    steps = [
        Dollars(usd_per_hour * row["step_time"] / 3600, row.get("judge/gemini/usd") or 0.0)
        for row in rows
        if row.get("step_time")
    ]
    cycles = [steps[start : start + every] for start in range(0, len(steps), every)]
    return [Dollars(sum(s.machine for s in cycle), sum(s.judge for s in cycle)) for cycle in cycles]


def _median(cycles: Iterable[Dollars]) -> Dollars:
    cycles = list(cycles)
    return Dollars(median(cycle.machine for cycle in cycles), median(cycle.judge for cycle in cycles))
