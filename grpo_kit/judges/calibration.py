"""Measures of a judge: its agreement with people and with itself, its biases and its price. Needs no torch."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import nan
from statistics import fmean

import numpy as np
import pandas

from grpo_kit.data.samples import Sample
from grpo_kit.data.thoughts import answer_in
from grpo_kit.judges.base import Judge, Verdict
from grpo_kit.judges.batch import judge_batch
from grpo_kit.judges.cache import RewardCache
from grpo_kit.judges.ladder import LadderJudge
from grpo_kit.utils.statistics import bootstrap_interval
from grpo_kit.utils.words import words

PASS = 0.5  # a label or a score from here on says that the answer is good enough
FEWEST = 3  # answers to compare; two always agree perfectly or not at all
STEPS = 4  # from the worst label to the best, by which weighted kappa compares
PADDING = "Thank you so much for reaching out to me today! I am really very happy to be able to help you with this."


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% percentile bootstrap interval; NaN where it is not defined."""

    value: float = nan
    low: float = nan
    high: float = nan

    def __str__(self) -> str:
        return "not defined" if np.isnan(self.value) else f"{self.value:z.2f} [{self.low:z.2f}, {self.high:z.2f}]"


@dataclass(frozen=True)
class Agreement:
    """The agreement of scores with labels. `weighted` is kappa by how far apart they are, `constant` the accuracy of
    always guessing the commonest label, `gain` the accuracy less that, answer by answer; `problem` says why something
    is not defined."""

    answers: int
    left_out: int  # answers that were not judged
    spearman: Estimate = Estimate()
    weighted: Estimate = Estimate()
    kappa: Estimate = Estimate()
    accuracy: Estimate = Estimate()
    constant: Estimate = Estimate()
    gain: Estimate = Estimate()
    problem: str = ""


@dataclass(frozen=True)
class Consistency:
    """The difference between repeated judgements of one answer: their standard deviation, and the share of answers that
    pass at one time and fail at another."""

    answers: int
    left_out: int  # answers with fewer than two judgements
    deviation: Estimate
    flips: Estimate


@dataclass(frozen=True)
class Price:
    """The price of judgements. `usd` is for 1,000 of them, None where it is not known; `note` says why."""

    judgements: int  # made now, not read from the cache, and not failed
    tokens: float | None  # for each
    usd: float | None
    note: str


def agreement(labels: Sequence[float], scores: Sequence[float | None], seed: int) -> Agreement:
    """Compares scores with people's labels, both in [0, 1]. Scores of None are left out and counted.

    Kappa and accuracy ask whether both say the same of an answer: good enough, from 0.5 on, or not. Weighted kappa
    compares the nearest of five equal steps. The intervals come from resampling answers, which count as independent of
    each other.
    """
    found = _compared(labels, scores, seed, lambda each: each >= PASS, "answers with both a label and a score: label")
    if found.problem:
        return found
    label, score = np.array(_both_judged(labels, scores), dtype=float).T
    problems = []
    if len(set(label)) == 1:
        problems.append(f"all {len(label)} labels are {label[0]:g}: also label answers that are better or worse")
    elif len(set(label >= PASS)) == 1:
        problems.append(f"all labels are on one side of {PASS}: kappa needs both sides")
    if len(set(score)) == 1:
        problems.append(f"all {len(score)} scores are {score[0]:g}")
    steps, judged_steps = np.rint(label * STEPS), np.rint(score * STEPS)
    weighted = _resampled(weighted_kappa, steps, judged_steps, seed) if len(set(label)) > 1 else Estimate()
    return replace(found, weighted=weighted, problem="; ".join(problems))


def choice_agreement(choices: Sequence[float], margins: Sequence[float | None], seed: int) -> Agreement:
    """Compares people's choices between two answers with a judge's scores of both.

    `choices` are 1 where the first answer was chosen, -1 for the second, 0 for a tie; `margins` the first answer's
    score less the second's, whose sign is the judge's choice. Margins of None are left out and counted.
    """
    found = _compared(choices, margins, seed, np.sign, "choices with both answers' scores: choose")
    return found if found.constant.value != 1 else replace(found, problem="all choices are the same")


def _compared(
    labels: Sequence[float],
    scores: Sequence[float | None],
    seed: int,
    verdict: Callable[[np.ndarray], np.ndarray],
    few: str,
) -> Agreement:
    """Compares labels with scores by their ranks, and by the verdicts that people and judge come to with them. Of too
    few, `few` begins the problem."""
    judged = _both_judged(labels, scores)
    left_out = len(labels) - len(judged)
    if len(judged) < FEWEST:
        return Agreement(len(judged), left_out, problem=f"{len(judged)} {few} at least {FEWEST}, better 50")
    label, score = np.array(judged, dtype=float).T
    said, found = verdict(label), verdict(score)
    values, counts = np.unique(said, return_counts=True)
    right, guessed = said == found, said == values[counts.argmax()]
    return Agreement(
        len(label),
        left_out,
        spearman=_resampled(spearman, label, score, seed),
        kappa=_resampled(cohens_kappa, said, found, seed) if len(values) > 1 else Estimate(),
        accuracy=mean(right, seed),
        constant=mean(guessed, seed),
        gain=mean(right.astype(float) - guessed, seed),
    )


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation, row by row: shapes (rows, n) -> (rows,). NaN where one of the two is constant.

    Pearson's correlation of the ranks, equal values sharing their mean rank: Spearman, The proof and measurement of
    association between two things, American Journal of Psychology 15 (1904).
    """
    ranks = [pandas.DataFrame(values).rank(axis=1).to_numpy() for values in (one, other)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def cohens_kappa(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Agreement of two raters' verdicts beyond chance, row by row: shapes (rows, n) -> (rows,).

    (observed - expected) / (1 - expected), where expected is what two raters with these shares of each verdict would
    agree by chance; NaN where both always say the same. Cohen, A coefficient of agreement for nominal scales,
    Educational and Psychological Measurement 20 (1960).
    """
    verdicts = np.unique([one, other])
    expected = sum((one == verdict).mean(axis=1) * (other == verdict).mean(axis=1) for verdict in verdicts)
    with np.errstate(invalid="ignore"):
        return ((one == other).mean(axis=1) - expected) / (1 - expected)


def weighted_kappa(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cohen's kappa of two raters' numbers with quadratic weights, row by row: shapes (rows, n) -> (rows,).

    1 less the mean squared difference of the two over that of each of one rater's numbers from each of the other's;
    NaN where both always say the same. Cohen, Weighted kappa, Psychological Bulletin 70 (1968).
    """
    by_chance = one.var(axis=1) + other.var(axis=1) + (one.mean(axis=1) - other.mean(axis=1)) ** 2
    with np.errstate(invalid="ignore"):
        return 1 - ((one - other) ** 2).mean(axis=1) / by_chance


def mean(values: Sequence[float | None] | np.ndarray, seed: int) -> Estimate:
    """The mean of the values that are not None."""
    there = np.array([value for value in values if value is not None], dtype=float)
    return Estimate(float(there.mean()), *bootstrap_interval(there, seed)) if len(there) else Estimate()


def share_above(right: Sequence[float | None], wrong: Sequence[float | None], seed: int) -> Estimate:
    """The share of pairs in which `right` scores higher than `wrong`, ties counting half: 0.5 for who guesses."""
    return mean([(a > b) + (a == b) / 2 for a, b in _both_judged(right, wrong)], seed)


def _both_judged(one: Sequence[float | None], other: Sequence[float | None]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]


def _resampled(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], one: np.ndarray, other: np.ndarray, seed: int
) -> Estimate:
    """A statistic of pairs with its interval; not defined where it is NaN."""
    value, pairs = float(statistic(one[None], other[None])[0]), np.stack([one, other], axis=1)
    if np.isnan(value):
        return Estimate()
    return Estimate(value, *bootstrap_interval(pairs, seed, lambda rows: statistic(rows[..., 0], rows[..., 1])))


async def self_consistency(
    judge: Judge, cache: RewardCache | None, samples: Sequence[Sample], answers: Sequence[str], repeats: int, seed: int
) -> Consistency:
    """Judges the same answers `repeats` times. A judge that compares is shown them in another order each time."""
    judged = await judge_batch(judge, cache, samples, answers, repeats)
    each = [[verdict.score for verdict in own if verdict.score is not None] for own in judged.each]
    each = [scores for scores in each if len(scores) > 1]
    flips = [min(scores) < PASS <= max(scores) for scores in each]
    deviations = [float(np.std(scores, ddof=1)) for scores in each]
    return Consistency(len(each), len(answers) - len(each), mean(deviations, seed), mean(flips, seed))


def length_bias(answers: Sequence[str], scores: Sequence[float | None], seed: int) -> Estimate:
    """Spearman's correlation of score and length in words. For answers of equal worth it should be near 0."""
    judged = _both_judged([len(words(answer_in(text) or "")) for text in answers], scores)
    if len(judged) < FEWEST:
        return Estimate()
    lengths, score = np.array(judged, dtype=float).T
    return _resampled(spearman, lengths, score, seed)


async def padding_gain(judge: Judge, cache: RewardCache | None, samples: Sequence[Sample], seed: int) -> Estimate:
    """The mean gain in score of the references when empty talk is added to them. It should not be above 0."""
    plain = [sample.ground_truth for sample in samples]
    padded = [f"{text} {PADDING}" for text in plain]
    verdicts = (await judge_batch(judge, cache, [*samples, *samples], plain + padded)).verdicts
    scores = [verdict.score for verdict in verdicts]
    return mean([after - before for before, after in _both_judged(scores[: len(plain)], scores[len(plain) :])], seed)


async def position_bias(
    judge: Judge, cache: RewardCache | None, groups: Sequence[tuple[Sample, Sequence[str]]], repeats: int, seed: int
) -> Estimate:
    """The gain in score of answers by standing in the first half of their group's places rather than the second.

    Each prompt's answers are judged `repeats` times by a judge that compares and whose `order(sample, answers, repeat)`
    tells which answer stands in each place. An answer is compared with itself only, so that its worth cancels out; the
    middle place of an odd number belongs to neither half. The interval comes from resampling groups.
    """
    # Sorted, and without their thoughts, as judge_batch hands them over.
    distinct = [(sample, sorted({answer_in(text) or "" for text in answers})) for sample, answers in groups]
    judged = await asyncio.gather(
        *(judge_batch(judge, cache, [sample] * len(answers), answers, repeats) for sample, answers in distinct)
    )
    differences = []
    for (sample, answers), found in zip(distinct, judged, strict=True):
        orders = [
            judge.order(sample, answers, repeat)  # pyright: ignore[reportAttributeAccessIssue] -- has it if it compares
            for repeat in range(repeats)
        ]
        places = 2 * np.argsort(orders, axis=1).T + 1 - len(answers)  # of each answer in each repeat; 0 is the middle
        scores = pandas.DataFrame([[verdict.score for verdict in own] for own in found.each], dtype=float)
        gains = scores.where(places < 0).mean(axis=1) - scores.where(places > 0).mean(axis=1)
        differences.append(gains.mean())
    return mean([difference for difference in differences if not np.isnan(difference)], seed)


async def ladder_effect(
    ladder: LadderJudge,
    cache: RewardCache,
    samples: Sequence[Sample],
    answers: Sequence[str],
    labels: Sequence[float] = (),
    seed: int = 0,
) -> str:
    """What a ladder saves and changes on these answers, in words, and how it and each of its rungs alone agree with
    people's `labels` of them, from 0 to 1, if there are any; also on those alone that a rung settles. All rungs judge
    all of them for it, once: `cache` keeps that."""
    judged = {judge.name: await judge_batch(judge, cache, samples, answers) for judge in (*ladder.rungs, ladder)}
    scores = {name: [verdict.score for verdict in found.verdicts] for name, found in judged.items()}
    *cheaper, dear = [rung.name for rung in ladder.rungs]
    by = [verdict.by for verdict in judged[ladder.name].verdicts]
    settled = ", ".join(f"{name} settles {by.count(name)} ({by.count(name) / (len(by) or 1):.0%})" for name in cheaper)
    pairs = _both_judged(scores[ladder.name], scores[dear])
    changed = [abs(one - other) for one, other in pairs if one != other]
    lines = [
        f"{ladder.name}, unsure from {ladder.low:g} to {ladder.high:g}: of {len(answers)} answers {settled}; "
        f"{by.count(dear)} go up to {dear}",
        f"{len(changed)} of {len(pairs)} scores are not {dear}'s: "
        f"{fmean(changed or [0]):.2f} apart on average, {max(changed, default=0):.2f} at most; "
        f"{sum((one >= PASS) != (other >= PASS) for one, other in pairs)} pass by one and fail by the other",
    ]
    for name in cheaper:
        told = zip(scores[name], by, strict=True)
        scores[f"what {name} settles"] = [score if rung == name else None for score, rung in told]
    for name, own in scores.items() if len(labels) else ():
        found = agreement(labels, own, seed)
        shown = f"Spearman {found.spearman}, weighted kappa {found.weighted}, accuracy {found.accuracy}"
        lines.append(f"{name} and the labels: {shown}" + f" ({found.problem})" * bool(found.problem))
    return "\n".join(lines)


async def judge_and_price(
    judge: Judge, cache: RewardCache | None, samples: Sequence[Sample], answers: Sequence[str]
) -> tuple[list[Verdict], Price]:
    """The batch's verdicts, and the price of the judgements made for it: failed calls and retries are part of it."""
    before = judge.usage and replace(judge.usage)
    judged = await judge_batch(judge, cache, samples, answers)
    made, after = sum(verdict.score is not None for verdict in judged.fresh), judge.usage
    if before is None or after is None:
        return judged.verdicts, Price(made, None, 0.0, "free")
    made += (settled := (after.settled or 0) - (before.settled or 0))
    if not made:
        note = "all failed" if judged.fresh else "nothing paid: all of it was in the cache"
        return judged.verdicts, Price(0, None, None, note)
    usd, note = None, "no price is known: set judge_input_price and judge_output_price"
    if before.usd is not None and after.usd is not None:
        usd, note = 1000 * (after.usd - before.usd) / made, f"{settled} settled by a cheaper judge" * bool(settled)
    return judged.verdicts, Price(made, (after.tokens - before.tokens) / made, usd, note)
