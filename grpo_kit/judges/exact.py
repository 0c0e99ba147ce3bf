"""A judge for tasks with one right answer: 1 where an answer ends in the reference's, else 0.

A number is compared with the last number of the answer, as GSM8K's evaluations do (Cobbe et al., Training Verifiers to
Solve Math Word Problems, 2021); a text with the whole answer.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Judge, Verdict

_NUMBER = re.compile(r"(?:(?<!\d)[-−])?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")
_UNITS = " $€£%"


class ExactJudge(Judge):
    """Compares the final answer. Deterministic, and blind to how an answer was found."""

    name = "exact"
    version = "1"

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        """One verdict for each answer, in order; score None where the sample has no reference. The right answer is the
        column `final_answer`, or the whole reference where there is none."""
        final = sample.columns.get("final_answer")
        right = str(sample.ground_truth if final is None else final).strip()
        return [compared(right, answer) for answer in answers]


def compared(right: str, answer: str) -> Verdict:
    """The verdict on an answer; score None where nothing is right."""
    if not right:
        return Verdict(None, "nothing to judge by: the sample has no reference reply")
    number = right.strip(_UNITS).rstrip(".")
    if _NUMBER.fullmatch(number):
        numbers = _NUMBER.findall(answer)
        is_right = bool(numbers) and _value(numbers[-1]) == _value(number)
        given = numbers[-1] if numbers else "no number"
    else:
        is_right, given = _plain(answer) == _plain(right), "another text"
    return Verdict(float(is_right), f"{right} is right" if is_right else f"{given} in place of {right}")


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", "").replace("−", "-"))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
