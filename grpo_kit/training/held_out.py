"""Held-out scores while training (eval_steps): the prompts, what each evaluation found, the best checkpoint, and when
falling scores end a run. Needs no torch; the answers are made in evaluating.py."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import NamedTuple

import numpy as np

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Judge, make_judge
from grpo_kit.runs.directory import checkpoint_step
from grpo_kit.utils.statistics import bootstrap_interval, interval_text

Scores = Mapping[str, float]  # by the sample's id, of those that were judged


class HeldOutScores(NamedTuple):
    """An evaluation: the run's own scores of the answers, and the second judge's."""

    step: int
    scores: Scores
    second: Scores

    @property
    def mean(self) -> float:
        return fmean(self.scores.values())


def choose(samples: Sequence[Sample], n: int, seed: int, taken: Collection[str]) -> list[Sample]:
    """`n` of them, by the seed alone, of all lengths: one from each n-th part of those that are sorted by length. Each
    gets an id of its own that is not `taken`, since judges and rewards look samples up by their ids."""
    by_length = sorted(range(len(samples)), key=lambda i: len(samples[i].conversation))
    rng, used, found = np.random.default_rng(seed), set(taken), []
    for part in np.array_split(by_length, min(n, len(samples))):
        sample = samples[rng.choice(part)]
        if sample.id in used:
            sample = sample.replace(id=f"held-out {sample.id}, {len(found) + 1}")
        used.add(sample.id)
        found.append(sample)
    return found


def second_judge(config: TrainConfig) -> Judge | None:
    """The judge that evaluations ask besides, which costs nothing; None where the run is trained with it."""
    name = EvalConfig().second_judge
    return make_judge(name) if name and name not in config.rungs else None


def scores_in(rows: Iterable[dict]) -> list[HeldOutScores]:
    """The evaluations in the rows of eval_scores.jsonl in which an answer was judged, by step."""
    by_step: dict[int, HeldOutScores] = {}
    for row in rows:
        found = by_step.setdefault(row["step"], HeldOutScores(row["step"], {}, {}))
        for kept, score in ((found.scores, row["score"]), (found.second, row["second"])):
            if score is not None:
                kept[row["sample_id"]] = score  # pyright: ignore[reportIndexIssue]
    return [by_step[step] for step in sorted(by_step) if by_step[step].scores]


def best_checkpoint(found: Iterable[HeldOutScores], saved: Iterable[Path | PurePosixPath]) -> str | None:
    """The name of the saved checkpoint with the highest held-out score, the earliest of equal ones; None: none has."""
    names = {checkpoint_step(path): path.name for path in saved}
    scored = [each for each in found if each.step in names]
    return names[max(scored, key=lambda each: each.mean).step] if scored else None


def change(before: Scores, after: Scores, seed: int) -> tuple[float, list[float]]:
    """The mean difference, prompt by prompt, and its 95% paired bootstrap interval; NaN where there is no pair."""
    pairs = np.array([after[each] - before[each] for each in sorted(before.keys() & after.keys())])
    return (float(pairs.mean()) if len(pairs) else math.nan), bootstrap_interval(pairs, seed)


def versus_best(found: Sequence[HeldOutScores], seed: int) -> dict[str, float]:
    """The last evaluation against the best before it, as metrics.jsonl has it; empty where there is none before."""
    if len(found) < 2:
        return {}
    mean, (low, high) = change(max(found[:-1], key=lambda each: each.mean).scores, found[-1].scores, seed)
    return {f"versus_best/{name}": value for name, value in (("mean", mean), ("low", low), ("high", high))}


def why_to_stop(found: Sequence[HeldOutScores], patience: int | None, seed: int) -> str:
    """Why a run stops after these evaluations; empty where it goes on.

    It stops where in each of the last `patience` evaluations the score is surely below that of the best one before (the
    paired interval ends below 0); or where the second judge's score is surely below its own best, and the score that
    is trained for has risen since.
    """
    if not patience or len(found) <= patience:
        return ""
    for told in (_fallen, _gamed):
        said = [told(found[:place], found[place], seed) for place in range(len(found) - patience, len(found))]
        if all(said):
            return f"{said[-1]} for {patience} evaluation{'s' * (patience > 1)}"
    return ""


def _fallen(before: Sequence[HeldOutScores], last: HeldOutScores, seed: int) -> str:
    best = max(before, key=lambda each: each.mean)
    mean, interval = change(best.scores, last.scores, seed)
    if not interval[1] < 0:
        return ""
    difference = f"{mean:+.2f} {interval_text(interval, '+')}"
    return f"held-out score fell from {best.mean:.2f} (step {best.step}) to {last.mean:.2f} ({difference})"


def _gamed(before: Sequence[HeldOutScores], last: HeldOutScores, seed: int) -> str:
    judged = [each for each in before if each.second]
    if not judged:
        return ""
    best = max(judged, key=lambda each: fmean(each.second.values()))
    mean, interval = change(best.second, last.second, seed)
    if not interval[1] < 0 or not change(best.scores, last.scores, seed)[0] > 0:
        return ""
    return (
        f"the second judge's held-out score fell by {-mean:.2f} {interval_text(interval, '+')} since step {best.step}, "
        f"while the score that is trained for rose from {best.mean:.2f} to {last.mean:.2f},"
    )
