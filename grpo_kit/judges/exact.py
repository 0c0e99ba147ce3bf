"""A judge for tasks with one right answer: 1 where an answer ends in the reference's, else 0.

A number is compared by value with the last number of the answer, as GSM8K's evaluations do (Cobbe et al., Training
Verifiers to Solve Math Word Problems, 2021); a text with the whole answer.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Judge, Verdict

# A sign is none after a word or a number: "room-5", "3-5". A currency may follow it: "-$5".
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?:(?<!\w)[-−+])?[$€£]?(?:{_DIGITS})(?:\s*/\s*(?:{_DIGITS}))?")


class ExactJudge(Judge):
    """Compares the final answer. Deterministic, and blind to how an answer was found."""

    name = "exact"
    version = "1"

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        """The right answer is the column `final_answer`, or the whole reference where that has none."""
        final = sample.columns.get("final_answer")
        right = (str(sample.ground_truth) if final in (None, "") else str(final)).strip()
        return [compared(right, answer) for answer in answers]

    def caveat(self, samples: Sequence[Sample]) -> str:
        """How many references are texts, which an answer must equal as a whole."""
        finals = [str(each.columns.get("final_answer") or each.ground_truth) for each in samples]
        texts = sum(_value(final) is None for final in finals)
        return f"{texts} of {len(samples)} references are no numbers: the whole answer must equal them" if texts else ""


def compared(right: str, answer: str) -> Verdict:
    """The verdict on an answer; score None where nothing is right."""
    if not right:
        return Verdict(None, "nothing to judge by: the sample has no reference reply")
    if (value := _value(right)) is not None:
        numbers = _NUMBER.findall(answer)
        is_right = bool(numbers) and _value(numbers[-1]) == value
        given = numbers[-1] if numbers else "no number"
    else:
        is_right, given = _plain(answer) == _plain(right), "another text"
    return Verdict(float(is_right), f"{right} is right" if is_right else f"{given} in place of {right}")


def _value(text: str) -> Fraction | None:
    """The number that a text is, with a unit such as % or a final stop behind it; None where it is none."""
    number = text.strip(" %€£").rstrip(".")
    if not _NUMBER.fullmatch(number):
        return None
    over, _, under = re.sub(r"[\s,$€£]", "", number.replace("−", "-")).partition("/")
    under = Fraction(Decimal(under or 1))
    return Fraction(Decimal(over)) / under if under else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
