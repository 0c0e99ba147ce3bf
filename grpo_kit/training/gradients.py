# pyright: basic
"""Steps whose gradient is no number: they are skipped, so that they do not spoil the weights."""

import math
from typing import Any

from grpo_kit.errors import RunError
from grpo_kit.training.progress import RunProgress

MOST_SKIPPED = 3  # in a row


class SkipsBadSteps:
    """Mixed into one of transformers' trainers. verl does the same; Trainer itself would make every weight NaN."""

    _progress: RunProgress
    _skipped = 0  # steps in a row
    state: Any

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Trainer's, asked before each update. Raises RunError where MOST_SKIPPED steps in a row have to be skipped."""
        norm = super()._get_grad_norm(model, grad_norm)  # pyright: ignore[reportAttributeAccessIssue]
        if math.isfinite(float(norm)):
            self._skipped = 0
            return norm
        model.zero_grad()  # to None, which optimisers pass over
        self._skipped += 1
        step = self.state.global_step + 1
        if self._skipped == MOST_SKIPPED:
            what = f"the gradients of steps {step + 1 - MOST_SKIPPED} to {step} are no numbers, so nothing is learnt"
            raise RunError(what, "Try a smaller learning_rate, or bf16=false. Its checkpoints are sound")
        self._progress.say(f"Step {step} is skipped: its gradient is no number")
        return norm
