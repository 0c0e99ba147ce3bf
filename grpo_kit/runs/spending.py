"""What a run has cost, in US dollars."""

from typing import Any, NamedTuple

from grpo_kit.utils.text import dollars


class Dollars(NamedTuple):
    """US dollars by what they are for."""

    machine: float  # GPU, cores and memory
    judge: float

    @property
    def in_all(self) -> float:
        return self.machine + self.judge

    def __str__(self) -> str:
        parts = [f"{dollars(self.machine)} for the machine"] * bool(self.machine)
        return " and ".join([*parts, *[f"{dollars(self.judge)} for the judge"] * bool(self.judge)]) or "$0"


def spent_on(status: dict[str, Any]) -> Dollars:
    """What status.json says that a run has cost."""
    return Dollars(status.get("usd_machine", 0.0), status.get("usd_judge") or 0.0)
