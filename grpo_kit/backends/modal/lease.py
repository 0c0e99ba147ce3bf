"""The right to write a run on the volume, which one call on Modal has at a time."""

import itertools
import time

import modal

from grpo_kit.backends.modal.client import CLAIMS, call_exit_reason
from grpo_kit.errors import RunError


class Claim:
    """A call's right to write a run. The newest claim on a run holds; whoever has an older one finds out and stops.

    Claims are numbered entries of a modal.Dict, which lets only one of several put the next number. Old entries expire
    (after a week that nobody asks for them), the newest last.
    """

    def __init__(self, run_id: str, call_id: str, step: int | None = None, patience: float = 0):
        """Raises RunError where another call that still works, or waits for a machine, holds the run, and does not let
        go of it for `patience` seconds. A call's own new container may go on.

        `step` is the checkpoint that a container starts from; None where it is no container that claims.
        """
        deadline = time.monotonic() + patience
        self._claims, self.run_id = modal.Dict.from_name(CLAIMS, create_if_missing=True), run_id
        self._mine = {"call_id": call_id, "step": step, "released": False}
        while True:
            earlier = self._earlier()
            last = earlier[max(earlier)] if earlier else None
            if (
                last
                and not last["released"]
                and last["call_id"] != call_id
                and call_exit_reason(last["call_id"]) is None
            ):
                if time.monotonic() < deadline:
                    time.sleep(0.5)
                    continue
                raise RunError(
                    f"run {run_id} is being trained by another call on Modal: watch it (kit.Run('{run_id}').watch()) "
                    f"or stop that one"
                )
            self._number = max(earlier, default=-1) + 1
            if self._claims.put(self._key(self._number), self._mine, skip_if_exists=True):
                break
        newest_first = (earlier[number] for number in sorted(earlier, reverse=True))
        # Containers of this call in a row, this one included, that started from the same checkpoint.
        self.tries = 1 + sum(1 for _ in itertools.takewhile(self._mine.__eq__, newest_first))

    @property
    def is_first(self) -> bool:
        return self._number == 0

    @property
    def holds(self) -> bool:
        return not self._claims.contains(self._key(self._number + 1))

    def release(self) -> None:
        self._claims.put(self._key(self._number), self._mine | {"released": True})

    def _earlier(self) -> dict[int, dict]:
        """All claims on the run by number."""
        numbers = _numbers(self._claims, self.run_id)
        return {number: claim for number in numbers if (claim := self._claims.get(self._key(number)))}

    def _key(self, number: int) -> str:
        return f"{self.run_id}/{number}"


def end_claims(run_id: str) -> None:
    """Takes the right to write the run from whoever has it, so that a container that takes its time to end is no
    longer heard."""
    claims = modal.Dict.from_name(CLAIMS, create_if_missing=True)
    nobody = {"call_id": "", "step": None, "released": True}
    claims.put(f"{run_id}/{max(_numbers(claims, run_id), default=-1) + 1}", nobody)


def _numbers(claims: modal.Dict, run_id: str) -> list[int]:
    keys = list(claims.keys())
    return [int(key.rpartition("/")[2]) for key in keys if key.rpartition("/")[0] == run_id]
