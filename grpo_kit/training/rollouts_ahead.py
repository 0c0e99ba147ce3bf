"""Completions that are made and judged before the update that learns from them is due: max_staleness.

TRL makes a step's completions, waits for their scores, and only then updates. Here TRL's own method runs in a greenlet,
which pauses once the judge has been asked; the completions of the next steps are made in the meantime, and it goes on
when its step is due. So the judge works while the model is updated and more is generated, and a step's completions were
drawn from weights that are up to max_staleness updates old. The loss is told the probabilities that they were drawn
with, as where TRL learns from completions again (num_iterations), and weighs and clips by them.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet
from trl.trainer.grpo_trainer import GRPOTrainer

Rows = list[dict[str, Any]]


class Ahead:
    """The completions of the next steps, as far as they are on their way."""

    def __init__(self, trainer: GRPOTrainer, max_staleness: int):
        self._trainer, self._most = trainer, max_staleness
        self._drawn: deque[tuple[list[Rows], Any]] = deque()
        self._begun: deque[tuple[greenlet, defaultdict]] = deque()  # with what TRL has counted of each

    def draw(self, draw: Callable[[], tuple[list[Rows], Any]]) -> tuple[list[Rows], Any]:
        """The rows of one update, as `draw` gives them. Those of the next ones are drawn with them, as far as the epoch
        goes: nothing is made ahead over its end."""
        found: tuple[list[Rows], Any] = ([], None)
        while len(self._drawn) <= self._most and (found := draw())[0]:
            self._drawn.append(found)
        return self._drawn.popleft() if self._drawn else found

    def make(self, make: Callable[[Rows], dict[str, Any]], rows: Rows) -> dict[str, Any]:
        """Returns what `make` does for the rows of this step, once those of later steps are on their way too."""
        if not self._begun:
            self._begin(make, rows)
        left = self._trainer.state.max_steps - self._trainer.state.global_step
        for batches, _ in list(self._drawn)[len(self._begun) - 1 : left - 1]:
            self._begin(make, batches[0])
        due, metrics = self._begun.popleft()
        self._trainer._metrics["train"].update(metrics)
        return due.switch()

    def _begin(self, make: Callable[[Rows], dict[str, Any]], rows: Rows) -> None:
        """Makes one step's completions, and has the judge asked."""
        trainer, begun = self._trainer, (greenlet(make), defaultdict(list))
        # The counts of a later step belong to its own line, and TRL keeps the probabilities of completions only where
        # it is to learn from them again.
        now, trainer._metrics["train"] = trainer._metrics["train"], begun[1]
        trainer.num_iterations += 1
        try:
            begun[0].switch(rows)
        finally:
            trainer.num_iterations -= 1
            trainer._metrics["train"] = now
        self._begun.append(begun)

    def close(self) -> None:
        """Gives up what was begun and is not due: paused, it would hold the trainer and its model."""
        while self._begun:
            self._begun.popleft()[0].throw()


def wait_until_due() -> None:
    """Pauses where the scores of completions are needed next, while those of later steps are made."""
    getcurrent().parent.switch()  # pyright: ignore[reportOptionalMemberAccess]
