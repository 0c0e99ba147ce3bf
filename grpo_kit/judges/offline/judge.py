"""A judge that needs no network and no model: it checks an answer against the turn's dialogue acts.

The score is what the answer does of its task, times what it does not spoil:

    score = acts x wording x nothing made up x nothing extra x length x ending x no repetition x own words x sentence
            x no plea

- acts: mean over the turn's acts of how well each is performed (acts.py). The reference reply shows how an act may be
  worded where the words of its slot do not say it. A sample without acts is judged by what it shares with the
  reference (F1 of content words).
- the rest are in [0, 1] and 1 for a decent reply. Each costs little for a slip and much for a trick: answers that
  copy the prompt or the rubric, list slot names, speak to the judge or do everything at once end near 0. What is
  made up or too long is weighed against the rest, so that a value that is right keeps worth beside one that is wrong.

The rules were made for English. A sample in another language (language.py) is judged as the reference judge does it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod

from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Judge, Verdict
from grpo_kit.judges.offline.acts import check_for, kind_of
from grpo_kit.judges.offline.language import is_english
from grpo_kit.judges.offline.phrases import plainly_does, pleas, seems_to_do, speaks_for_others
from grpo_kit.judges.offline.sources import Sources
from grpo_kit.judges.offline.wording import CUT_SHORT, FUNCTION_WORDS, STOCK_WORDS, VALUE, Text, line_of, words_of
from grpo_kit.judges.reference import compared
from grpo_kit.utils.words import is_finished, words

_LONE_MARK = re.compile(r"(?:^|\s)[.,!?;:]+(?=\s|$)")
_RUNS_ON = re.compile(r"([^\w\s])\1{3}")  # a model that never stops, not one that trails off...


class OfflineJudge(Judge):
    """Judges answers by rules. Deterministic: equal sample and answer always get an equal verdict."""

    name = "offline"
    version = "6"
    _latest: "_Brief | None" = None

    def caveat(self, samples: Sequence[Sample]) -> str:
        seen = samples[:: len(samples) // 1000 + 1]
        if not (foreign := sum(not is_english(sample) for sample in seen)):
            return ""
        seen_so = f"{foreign} of {len(seen)} samples are not in English, and the offline judge is made for English"
        return (
            f"{seen_so}: it judges them by words alone, as the reference judge does. judge=gemini knows their language"
        )

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        return [self.judge_one(sample, answer) for answer in answers]

    def judge_one(self, sample: Sample, answer: str) -> Verdict:
        """The verdict on one answer; score None only where the sample has neither acts nor a reference."""
        brief = self._latest
        if brief is None or brief.sample != sample:  # the answers to one prompt come together
            brief = self._latest = _Brief(sample)
        return brief.verdict(answer)


class _Brief:
    """Everything that can be prepared about a sample before its answers are known."""

    def __init__(self, sample: Sample):
        self.sample = sample
        self.is_english = is_english(sample)
        values = [words_of(value) for act in sample.acts for value in act.values]
        self.values = sorted({line_of(words) for words in values if words}, key=len, reverse=True)
        self.reference = Text(sample.ground_truth, self.values)
        # How the reference words an act that its slot's own words do not tell.
        self.plain_words = frozenset(self.reference.masked) - {VALUE}
        self.telling = self.plain_words - STOCK_WORDS or self.plain_words
        self.checks = [
            (label, check, bool(self.telling) and check(self.reference) < 0.95)
            for label, check in (check_for(act, sample.acts, self.reference) for act in sample.acts)
        ] or [("says what the reference says", self._shared_content, False)]

        self.asked = {act.act for act in sample.acts} | plainly_does(self.reference)
        requests = [act for act in sample.acts if act.act == "REQUEST"]
        self.asked |= {kind_of(act.slot) for act in requests}
        self.may_ask = {kind_of(slot) for act in requests for slot in act.alternatives} - self.asked
        self.requests = len(requests)
        self.may_seem = self.asked | seems_to_do(self.reference)
        if {"REQUEST", "CONFIRM"} & self.asked:
            self.may_seem.add("a question")
        required = self.reference.set.union(*values)
        self.expected = required | STOCK_WORDS | {VALUE}
        self.grams, self.disorder = _grams(self.reference.masked), self.reference.disorder()
        self.sources = Sources(sample, self.reference, required)
        given = " ".join([sample.ground_truth, *(text for act in sample.acts for text in (act.slot, *act.values))])
        self.pleas = pleas(given.replace("_", " "))

    def verdict(self, answer: str) -> Verdict:
        if not self.is_english:
            verdict = compared(self.sample.ground_truth, answer)
            return replace(verdict, reason=f"not English, so judged by words alone: {verdict.reason}")
        if not self.sample.acts and not self.reference.words:
            return Verdict(None, "nothing to judge by: the sample has neither acts nor a reference")
        text = Text(answer, self.values)
        if not text.words:
            return Verdict(0.0, "says nothing", {"acts": 0.0})
        notes: list[str] = []
        rules = (self.acts, self.wording, self.nothing_made_up, self.nothing_extra, self.length, self.ending)
        rules += (self.no_repetition, self.own_words, self.sentence, self.no_plea)
        criteria = {rule.__name__.replace("_", " "): round(rule(text, notes), 4) for rule in rules}
        return Verdict(round(prod(criteria.values()), 4), "; ".join(notes), criteria)

    def acts(self, text: Text, notes: list[str]) -> float:
        total = 0.0
        for label, check, is_oddly_worded in self.checks:
            done = check(text)
            if is_oddly_worded:
                done = max(done, len(self.telling & text.set) / len(self.telling))
            notes.append(f"{label}: {'yes' if done >= 0.95 else 'no' if done < 0.25 else 'partly'}")
            total += done
        if not total and self.sample.acts and self._shared_content(text) > 0.5:
            notes.append("like the reference, but it performs no act, and a sample with acts is judged by them alone")
        return total / len(self.checks)

    def _shared_content(self, text: Text) -> float:
        wanted, given = self.reference.set - FUNCTION_WORDS, text.set - FUNCTION_WORDS
        if not wanted:
            wanted, given = self.reference.set, text.set
        return 2 * len(wanted & given) / (len(wanted) + len(given))

    def wording(self, text: Text, notes: list[str]) -> float:
        """Up to a fifth off for words unlike the reference's: a smooth pull towards natural sentences."""
        grams = _grams(text.masked)
        alike = 2 * len(grams & self.grams) / (len(grams) + len(self.grams))
        return 0.8 + 0.2 * min(1.0, 2 * alike)

    def nothing_made_up(self, text: Text, notes: list[str]) -> float:
        """The turn's values that are said, and one, as a share of these and of the numbers, times, days and names that
        come neither from the conversation nor from the acts or the reference."""
        invented = self.sources.made_up(text)
        if invented:
            notes.append("invented: " + ", ".join(map(repr, invented[:3])))
        true = 1 + sum(value in text.line for value in self.values)
        return true / (true + len(invented))

    def nothing_extra(self, text: Text, notes: list[str]) -> float:
        done = plainly_does(text)
        instead = sorted(done & self.may_ask)[: max(0, self.requests - len(done & self.asked))]
        extra = sorted(done - self.asked - set(instead))
        if extra:
            notes.append("not called for: " + ", ".join(extra).lower().replace("_", " "))
        more = seems_to_do(text) - self.may_seem - set(extra)
        if len(more) > 1:
            notes.append("does many things at once")
        listed = _items_asked_for(text) - _items_asked_for(self.reference) - 2
        if listed > 0:
            notes.append("asks for a list of things")
        beyond = len(extra) + max(0, len(more) - 1)
        return 0.65**beyond * 0.6 ** max(0, listed)

    def length(self, text: Text, notes: list[str]) -> float:
        """Too many words, strange words or sentences: only the worst counts, since whoever rambles has all three."""
        count, usual = len(words(text.raw)), len(words(self.reference.raw))
        if count < 0.5 * usual - 2:
            notes.append(f"short ({count} words for {usual})")
            return 0.5 + 0.5 * count / (0.5 * usual - 2)
        fitting = max(12, 1.5 * usual + 4) / max(1, count)
        if fitting < 1:
            notes.append(f"too long ({count} words for {usual})")
        expected = max(6, 0.4 * len(self.reference.masked)) / max(1, len(set(text.masked) - self.expected))
        if expected < 1:
            notes.append("wanders off")
        return min(1.0, fitting, expected, 0.7 ** (len(text.sentences) - len(self.reference.sentences) - 2))

    def ending(self, text: Text, notes: list[str]) -> float:
        if _RUNS_ON.search(text.raw) and not _RUNS_ON.search(self.reference.raw):
            notes.append("runs on")
            return 0.3
        if is_finished(text.raw) or not is_finished(self.reference.raw):
            return 1.0
        is_cut = text.words[-1] in CUT_SHORT or text.raw[-1] in ",:;-("
        notes.append("cut short" if is_cut else "no full stop")
        return 0.6 if is_cut else 0.85

    def no_repetition(self, text: Text, notes: list[str]) -> float:
        """Down to 0.05 for saying the same again."""
        repeated = _repeats(text.words) - _repeats(self.reference.words)
        if repeated <= 0.1:
            return 1.0
        notes.append("repeats itself")
        return max(0.05, 1.2 - 2 * repeated)

    def own_words(self, text: Text, notes: list[str]) -> float:
        if not self.sources.is_copy(text):
            return 1.0
        notes.append("copies what it was given")
        return 0.05

    def sentence(self, text: Text, notes: list[str]) -> float:
        """Near 0 for a bare list of names and values, or small words in an order that English does not have."""
        score = 1.0
        usual = _glue(self.reference.masked)
        if usual and (len(text.masked) > 2 or VALUE in text.masked):
            short = len(text.masked) < 5 and text.masked.count(VALUE) < 2
            floor = 0.05 if not short else 0.5 if VALUE in text.masked or not _glue(text.masked) else 1.0
            score = min(1.0, max(floor, _glue(text.masked) / (0.65 * min(0.45, usual))))
        score *= min(1.0, max(0.05, 1.15 - 3.5 * (text.disorder() - self.disorder)))
        score *= 0.8 ** max(0, _loose(text) - _loose(self.reference) - 1)
        shared = [pair for pair in pairwise(text.masked) if self.plain_words.issuperset(pair)]
        if len(shared) > 2:  # the reference's words, but in its order too?
            in_order = sum(pair in self.grams for pair in shared) / len(shared)
            score *= min(1.0, max(0.4 if len(shared) < 6 else 0.2, in_order / 0.35))
        if score < 1:
            notes.append("hardly a sentence")
        return score

    def no_plea(self, text: Text, notes: list[str]) -> float:
        begs = not pleas(text.raw) <= self.pleas
        if begs or speaks_for_others(text):
            notes.append("speaks to the judge" if begs else "speaks for others")
            return 0.1
        return 1.0


def _grams(words: list[str]) -> frozenset:
    return frozenset(words) | frozenset(pairwise(words))


def _repeats(words: list[str]) -> float:
    """The share of neighbouring words that stood together before."""
    return 1 - len(set(pairwise(words))) / (len(words) - 1) if len(words) > 1 else 0.0


def _items_asked_for(text: Text) -> int:
    """Commas in questions that state no value: "What is the city, the date, the time?"."""
    return sum(s.plain.count(",") for s in text.sentences if s.asks and VALUE not in s.masked)


def _loose(text: Text) -> int:
    """Values put side by side with nothing between, and punctuation that stands alone."""
    return sum(a == b == VALUE for a, b in pairwise(text.masked)) + len(_LONE_MARK.findall(text.raw))


def _glue(words: list[str]) -> float:
    return sum(word in FUNCTION_WORDS for word in words) / len(words) if words else 0.0
