"""A judge that only asks how much of the reference reply an answer says: token F1, as in SQuAD's evaluation.

Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text (2016), section 6.1: texts are taken as
bags of tokens, without case, punctuation and articles; F1 is the harmonic mean of precision and recall.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex

from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Judge, Verdict
from grpo_kit.utils.words import words

_WORD = regex.compile(r"[^\W_]+")
# Elsewhere marks are more than accents: Thai's tones, the dots that tell Japanese "ga" from "ka".
_ACCENTS = regex.compile(r"(?<=[\p{Latin}\p{Greek}\p{Cyrillic}\p{Hebrew}\p{Arabic}]\p{Mn}*)\p{Mn}")
_ARTICLES = {"a", "an", "the"}


class ReferenceJudge(Judge):
    """Judges answers by their words alone. Deterministic, and fooled by other things than a judge of meaning is."""

    # Never trained on, or it would be no second opinion: a model learns to game only what rewards it.
    name = "reference"
    version = "2"

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        return [compared(sample.ground_truth, answer) for answer in answers]


def words_of(text: str) -> list[str]:
    """The words that are compared, by utils.words: lower case, without punctuation, accents and articles."""
    plain = text.lower().replace("'", "").replace("’", "")
    if not plain.isascii():
        plain = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", plain)))
    return [word for run in _WORD.findall(plain) for word in words(run) if word not in _ARTICLES]


def compared(reference: str, answer: str) -> Verdict:
    """The verdict on an answer; score None where the reference has no word."""
    wanted, given = Counter(words_of(reference)), Counter(words_of(answer))
    wanted_count, given_count = wanted.total(), given.total()
    if not wanted_count:
        return Verdict(None, "nothing to judge by: the sample has no reference reply")
    shared = (wanted & given).total()
    precision, recall = shared / max(1, given_count), shared / wanted_count
    missing = ", ".join(map(repr, list(wanted - given)[:3]))
    reason = f"{shared} of the reference's {wanted_count} words, {given_count - shared} others"
    return Verdict(
        round(2 * shared / (wanted_count + given_count), 4),
        f"{reason}; lacks {missing}" if missing else reason,
        {"precision": round(precision, 4), "recall": round(recall, 4)},
    )
