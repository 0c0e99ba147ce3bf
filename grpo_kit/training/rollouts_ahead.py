"""Completions that are made and judged before the update that learns from them is due: max_staleness.

TRL makes a step's completions, waits for their scores, and only then updates. Here TRL's own method runs in a greenlet,
which pauses once the judge has been asked; the completions of the next steps are made in the meantime, and it goes on
when its step is due. So the judge works while the model is updated and more is generated, and a step's completions were
drawn from weights that are up to max_staleness updates old. The loss is told the probabilities that they were drawn
with, as where TRL learns from completions again (num_iterations), and weighs and clips by them.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from trl.trainer.grpo_trainer import GRPOTrainer

Rows = list[dict[str, Any]]


class Ahead:
    """The completions of the next steps, as far as they are on their way."""

    def __init__(self, trainer: "GRPOTrainer", max_staleness: int):
        self._trainer, self._most = trainer, max_staleness
        self._drawn: deque[tuple[list[Rows], Any]] = deque()
        self._begun: deque[_Begun] = deque()

    def draw(self, draw: Callable[[], tuple[list[Rows], Any]]) -> tuple[list[Rows], Any]:
        """The rows of one update, as `draw` gives them. Those of the next ones are drawn with them, as far as the epoch
        goes: nothing is made ahead over its end."""
        found: tuple[list[Rows], Any] = ([], None)
        while len(self._drawn) <= self._most and (found := draw())[0]:
            self._drawn.append(found)
        return self._drawn.popleft() if self._drawn else found

    def make(self, make: Callable[[Rows], dict[str, Any]], rows: Rows) -> dict[str, Any]:
        """What `make` returns of the rows of this step, once those of later steps are on their way too."""
        state = self._trainer.state
        if not self._begun:
            self._begun.append(_Begun(self._trainer, make, rows))
        left = state.max_steps - state.global_step
        for batches, _ in list(self._drawn)[len(self._begun) - 1 : left - 1]:
            self._begun.append(_Begun(self._trainer, make, batches[0]))
        return self._begun.popleft().finish()

    def close(self) -> None:
        """Gives up what was begun and is not due: paused, it would hold the trainer and its model."""
        while self._begun:
            self._begun.popleft().give_up()


class _Begun:
    """One step's completions, made and with the judge."""

    def __init__(self, trainer: "GRPOTrainer", make: Callable[[Rows], dict[str, Any]], rows: Rows):
        self._trainer, self._greenlet, self._metrics = trainer, greenlet(make), defaultdict(list)
        # What TRL counts while it generates belongs to a later step's line, and it keeps the probabilities of
        # completions only where it is to learn from them again.
        metrics, trainer._metrics["train"] = trainer._metrics["train"], self._metrics
        tokens = trainer.state.num_input_tokens_seen
        trainer.num_iterations += 1
        try:
            self._greenlet.switch(rows)
        finally:
            self._tokens, trainer.state.num_input_tokens_seen = trainer.state.num_input_tokens_seen - tokens, tokens
            trainer.num_iterations -= 1
            trainer._metrics["train"] = metrics

    def finish(self) -> dict[str, Any]:
        state = self._trainer.state
        state.num_input_tokens_seen += self._tokens
        self._trainer._metrics["train"].update(self._metrics | {"num_tokens": [state.num_input_tokens_seen]})
        return self._greenlet.switch()

    def give_up(self) -> None:
        self._greenlet.throw()


def wait_until_due() -> None:
    """Pauses where the scores of completions are needed next, while those of later steps are made."""
    getcurrent().parent.switch()  # pyright: ignore[reportOptionalMemberAccess]
