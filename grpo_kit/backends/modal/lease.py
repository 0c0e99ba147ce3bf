"""The right to write a run on the volume, which one call on Modal has at a time."""

import itertools
import time
from typing import Any, NamedTuple

import modal

from grpo_kit.backends.modal.client import LEASES, call_exit_reason
from grpo_kit.errors import RunError

WAIT_SECONDS = 10  # a call ends just after its container has written that the run has ended
NO_CALL = {"call_id": "", "step": None, "tries": 0}


class Lease(NamedTuple):
    """A call's right to write a run, until the call ends or a newer lease is given out.

    A run's leases are numbered entries of a modal.Dict, which lets only one of several callers put the next number.
    Whoever has an older one than the newest finds out and stops. Entries that nobody asks for expire after a week.
    """

    run_id: str
    number: int
    tries: int  # the call's containers in a row that began at the same step, this one among them

    @property
    def is_held(self) -> bool:
        """Whether no newer lease on the run was given out."""
        return not _leases().contains(f"{self.run_id}/{self.number + 1}")


def acquire_lease(run_id: str, call_id: str, step: int | None = None) -> Lease:
    """Takes the run over from a call that has ended, or from an earlier container of the same call.

    `step` is that of the checkpoint from which a container begins; None for the call's launcher, whose containers may
    be quicker. Raises RunError where another call runs, or waits for a machine, and does not end within WAIT_SECONDS.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        number, last = _newest(run_id)
        is_own = last["call_id"] == call_id
        if is_own and step is None:
            return Lease(run_id, number, last["tries"])
        if is_own or not last["call_id"] or call_exit_reason(last["call_id"]):
            tries = last["tries"] + 1 if is_own and last["step"] == step else 1
            if _put(run_id, number + 1, {"call_id": call_id, "step": step, "tries": tries}):
                return Lease(run_id, number + 1, tries)
        elif time.monotonic() > deadline:
            what = f"run {run_id} is being trained by another call on Modal"
            raise RunError(what, f"Watch it (kit.Run('{run_id}').watch()) or stop that one")
        else:
            time.sleep(0.5)


def lease_new_run(stem: str, call_id: str) -> Lease:
    """The lease on a new run called `stem`, or `stem_2` and so on where that name was leased before."""
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    run_id = next(name for name in names if _put(name, 0, {**NO_CALL, "call_id": call_id}))
    return Lease(run_id, 0, tries=1)


def revoke_lease(run_id: str) -> None:
    """Ends whatever lease there is on the run, so that a container that takes its time to end writes no more."""
    while not _put(run_id, _newest(run_id)[0] + 1, NO_CALL):
        pass


def _newest(run_id: str) -> tuple[int, dict[str, Any]]:
    """The number and entry of the run's newest lease; -1 where it has none."""
    leases = _leases()
    numbers = [int(key.rpartition("/")[2]) for key in leases.keys() if key.rpartition("/")[0] == run_id]  # noqa: SIM118
    newest = max(numbers, default=-1)
    return newest, leases.get(f"{run_id}/{newest}") or NO_CALL


def _put(run_id: str, number: int, entry: dict[str, Any]) -> bool:
    """False where another caller has put this number."""
    return _leases().put(f"{run_id}/{number}", entry, skip_if_exists=True)


def _leases() -> modal.Dict:
    return modal.Dict.from_name(LEASES, create_if_missing=True)
