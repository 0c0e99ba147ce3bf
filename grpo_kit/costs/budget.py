"""A run's dollars while it trains, and whether max_usd still pays for its next step.

The machine's seconds count at the launcher's price, and the judge by its own usage. The next step is expected to cost
the median of the last few; one that costs far more, as where a judge is asked again, can exceed the budget by that.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from grpo_kit.config.environment import as_user
from grpo_kit.config.gpus import GPUS
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import judged
from grpo_kit.errors import ConfigError, Problem
from grpo_kit.judges.chat.prices import unknown_price
from grpo_kit.runs.directory import SFT_METRICS, Dollars
from grpo_kit.runs.writer import RunWriter
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.utils.text import dollars

LAST = 5  # steps whose median is what the next one costs


@dataclass(frozen=True)
class Launch:
    """The part of a run that its launcher knows and training does not: its machine, the price, and the quote."""

    machine: str = "here"  # or Modal's GPU
    usd_per_hour: float | None = 0.0  # of the machine; None: not known
    quoted: dict[str, Any] | None = None  # see Quote.quoted
    notice: str = ""  # what is said before a run starts


LOCAL = Launch()


class Budget:
    """Watches the cost of a run's steps. Each `see_…` says why what comes next can't be paid; "" where it can."""

    def __init__(self, writer: RunWriter):
        self._writer, self._config, self._hourly = writer, writer.config, writer.usd_per_hour or 0.0
        self._rows = read_lines(writer.run.path / "metrics.jsonl")
        self._cycles = _cycles(self._rows, self._config.num_iterations, self._hourly)
        self._before = Dollars(0.0, 0.0)  # what was spent when it was last seen
        self._warm_seconds = sum(row["step_time"] for row in read_lines(writer.run.path / SFT_METRICS))  # before
        self._evaluation = _evaluation_in(self._rows, self._hourly)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """An evaluation of held-out prompts, which costs more than is counted as the step's."""
        before = self._writer.dollars()
        yield
        self._evaluation = _less(self._writer.dollars(), before)
        self._before = Dollars(*map(sum, zip(self._before, self._evaluation, strict=True)))

    def see_start(self) -> str:
        """Called before the model is loaded and once it is."""
        self._before, writer = self._writer.dollars(), self._writer
        here = self._hourly, writer.seconds + self._warm_seconds
        return str(shortfall_at_start(self._config, self._before, writer.status, self._rows, *here) or "")

    def see_sft_step(self, step: int, seconds: float) -> str:
        """Called after each step of the warm start, which took so many seconds."""
        a_step = Dollars(self._hourly * seconds / 3600, 0.0)
        return self._see_part(a_step, self._config.sft_steps - step, "the warm start's next step")

    def see_measuring(self, batches_left: float) -> str:
        """Called before the first batch of prompts whose difficulty is measured, with 0, and after each, with those
        that are left."""
        return self._see_part(self._since(), batches_left, "measuring more prompts")

    def _see_part(self, part: Dollars, left: float, which: str) -> str:
        """Of what comes before GRPO's steps: `left` more such parts, and then all that was quoted."""
        spent, quoted = self._writer.dollars(), self._writer.status.get("quoted") or {}
        enough = max(spent.in_all + left * part.in_all, quoted.get("usd") or 0.0)
        return str(_exceeded(self._config, spent, part, enough, which) or "") if left > 0 else ""

    def see_step(self, step: int) -> str:
        """Called after each step."""
        if step % self._config.num_iterations:  # a judge is asked once for so many steps
            return ""
        self._cycles.append(self._since())
        return str(_shortfall(self._config, self._before, self._cycles, step, self._evaluation) or "")

    def _since(self) -> Dollars:
        """What was spent since it was last seen."""
        before, self._before = self._before, self._writer.dollars()
        return _less(self._before, before)


def check_price_known(config: TrainConfig, usd_per_hour: float | None = 0.0) -> None:
    """Raises ConfigError for a max_usd with a judge or a machine whose dollars can't be counted."""
    if config.max_usd is not None and usd_per_hour is None:
        what = f"max_usd={config.max_usd:g} can't be kept: the price of gpu={config.gpu} is not known"
        raise ConfigError(what, f"Use one of {', '.join(GPUS)}, or add its price to grpo_kit/config/gpus.json")
    why = unknown_price(config, config.cloud_judges) or unknown_price(as_user(config), [config.simulated_user])
    if config.max_usd is not None and why:
        raise ConfigError(f"max_usd={config.max_usd:g} can't be kept: {why.what}", why.fix)


def shortfall_at_start(
    config: TrainConfig, spent: Dollars, status: dict, rows: list[dict], usd_per_hour: float, seconds_gone: float = 0.0
) -> Problem | None:
    """Why max_usd does not pay for the first step of a process, which has loaded nothing yet; None where it does.

    The cost is that of the steps in `rows` and of the seconds that it took to load; before there are any, what was
    quoted. Where neither is known the step is made. `seconds_gone` of this process are spent already.
    """
    gone = usd_per_hour * seconds_gone / 3600
    if cycles := _cycles(rows, config.num_iterations, usd_per_hour):
        loading = max(0.0, usd_per_hour * status.get("starting_seconds", 0.0) / 3600 - gone)
        return _shortfall(config, spent, cycles, status["step"], _evaluation_in(rows, usd_per_hour), loading)
    quoted = status.get("quoted") or {}
    if not quoted.get("first_step"):
        return None
    (machine, judge), which = quoted["first_step"], "the first step"
    known = status.get("difficulty") or {"measured": 0, "prompts": 1}
    if quoted.get("measuring") and (left := 1 - known.get("measured", 1) / known.get("prompts", 1)):
        machine, judge = machine + left * quoted["measuring"][0], judge + left * quoted["measuring"][1]
        which = "measuring difficulty and the first step"
    next_step = Dollars(max(0.0, machine - gone), judge)
    enough = spent.in_all + max((quoted["usd"] or 0.0) - gone, next_step.in_all)
    return _exceeded(config, spent, next_step, enough, f"by the quote {which}")


def _shortfall(
    config: TrainConfig,
    spent: Dollars,
    cycles: Sequence[Dollars],
    step: int,
    evaluation: Dollars,
    loading: float | None = None,
) -> Problem | None:
    """Why the step after `step` can't be paid; None where it can, or where none is left. `evaluation` is the cost of
    one. `loading` are the dollars that a new process still takes, which has nothing judged ahead; None: it has made
    steps."""
    left = math.ceil((config.max_steps - step) / config.num_iterations)
    if left <= 0:
        return None
    machine, judge = (median(part) for part in zip(*cycles[-LAST:], strict=True))
    judged_ahead, loading = (config.max_staleness, 0.0) if loading is None else (0, loading)
    to_judge = max(0, left - judged_ahead)
    judged_next = min(to_judge, 1 if judged_ahead else 1 + config.max_staleness)
    is_evaluated = config.is_evaluated(step + config.num_iterations)
    next_step = Dollars(
        machine + loading + is_evaluated * evaluation.machine, judged_next * judge + is_evaluated * evaluation.judge
    )
    evaluations = config.evaluations(after=step) * evaluation.in_all
    enough = spent.in_all + loading + left * machine + to_judge * judge + evaluations
    return _exceeded(config, spent, next_step, enough, "the next step")


def _exceeded(config: TrainConfig, spent: Dollars, next_step: Dollars, enough: float, which: str) -> Problem | None:
    """The problem where `next_step` passes max_usd; `enough` pays for the whole run."""
    if config.max_usd is None or spent.in_all + next_step.in_all <= config.max_usd:
        return None
    so_far = f"{dollars(spent.in_all)} is spent ({spent})" if spent.in_all else "nothing is spent yet"
    costs = f"{which} costs about {dollars(next_step.in_all)} ({next_step})"
    what = f"max_usd={config.max_usd:g} would be passed: {so_far}, and {costs}"
    return Problem(what, f"max_usd={float(f'{1.1 * enough:.2g}'):g} likely pays for all of it")


def _less(spent: Dollars, before: Dollars) -> Dollars:
    return Dollars(spent.machine - before.machine, spent.judge - before.judge)


def _evaluation_in(rows: Sequence[dict], usd_per_hour: float) -> Dollars:
    """The cost of the last evaluation in metrics.jsonl; 0 where there is none."""
    last = next((row for row in reversed(rows) if "eval_runtime" in row), {})
    return Dollars(usd_per_hour * last.get("eval_runtime", 0.0) / 3600, judged(last, "usd", "eval_judge"))


def _cycles(rows: Sequence[dict], every: int, usd_per_hour: float) -> list[Dollars]:
    """The cost of each `every` steps of metrics.jsonl, which share their completions."""
    made = [row for row in rows if row.get("step_time")]
    steps = [(usd_per_hour * row["step_time"] / 3600, judged(row, "usd", "judge")) for row in made]
    cycles = [steps[start : start + every] for start in range(0, len(steps), every)]
    return [Dollars(*map(sum, zip(*cycle, strict=True))) for cycle in cycles]
