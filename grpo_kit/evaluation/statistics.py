"""The statistics of judged answers: a model's numbers, what it gains prompt by prompt, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas

from grpo_kit.agents.dialogue import Dialogue
from grpo_kit.data.thoughts import answer_in
from grpo_kit.errors import RunError
from grpo_kit.evaluation.interpret import is_warm_start
from grpo_kit.judges.base import Verdict
from grpo_kit.models.checkpoints import BASE
from grpo_kit.utils.statistics import bootstrap_interval
from grpo_kit.utils.words import words


@dataclass(frozen=True)
class Answered:
    """A model's answers to all prompts with the judge's verdicts on them, and the second judge's where there is one."""

    answers: Sequence[str]
    verdicts: Sequence[Verdict]
    second: Sequence[Verdict] | None = None
    dialogues: Sequence[Dialogue] = ()  # which the answers end, in an environment
    won: Sequence[float | None] = ()  # 1 for each that succeeds, else 0; None where that is not known


def describe(name: str, answered: Mapping[str, Answered], seed: int, by: str = "verdicts") -> dict:
    """The numbers of one of the models over its answers that were judged; `words` is the mean length of all of them
    without their thoughts; `versus_base` and `versus_sft` are `compare` with the base model and with the warm start,
    where it comes after one. `by` is "verdicts", or "second" for the second judge's.

    Raises RunError if no answer was judged.
    """
    told = {each: found for each, own in answered.items() if (found := getattr(own, by))}
    answers, verdicts, base = answered[name].answers, told[name], told.get(BASE) if name != BASE else None
    warm = next((found for each, found in told.items() if is_warm_start(each) and name not in (each, BASE)), None)
    scores = scores_of(verdicts)
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        what = f"the judge scored none of {name}'s answers. It says: {verdicts[0].reason}"
        raise RunError(what, "Correct that, or choose another judge, and evaluate again")
    judged = [verdict.criteria for verdict in verdicts if verdict.score is not None]
    return {
        "mean": float(scores.mean()),
        "interval": bootstrap_interval(scores, seed),
        "stdev": float(scores.std(ddof=1)) if len(scores) > 1 else math.nan,
        "min": float(scores.min()),
        "max": float(scores.max()),
        "words": float(np.mean([len(words(answer_in(text) or "")) for text in answers])),
        "judged": len(scores),
        "unjudged": len(verdicts) - len(scores),
        "criteria": pandas.DataFrame(judged).mean().to_dict(),
        "versus_base": compare(base, verdicts, seed) if base else None,
        "versus_sft": compare(warm, verdicts, seed) if warm else None,
    }


def compare(base: Sequence[Verdict], trained: Sequence[Verdict], seed: int) -> dict:
    """Trained minus base score, prompt by prompt; a prompt that lacks one of the two is left out.

    `win_rate` is the share of pairs in which the trained model scores higher, ties counting half. Raises RunError
    if there is no pair.
    """
    differences = scores_of(trained) - scores_of(base)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        what = "there is no prompt on which the judge scored both models, so they can't be compared"
        raise RunError(what, "Evaluate again: judgements that were made are kept")
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    ties = len(differences) - wins - losses
    return {
        "difference": float(differences.mean()),
        "interval": bootstrap_interval(differences, seed),
        "pairs": len(differences),
        "win_rate": (wins + ties / 2) / len(differences),
        "wins": wins,
        "ties": ties,
        "losses": losses,
    }


def scores_of(verdicts: Sequence[Verdict]) -> np.ndarray:
    """Shape (n,), NaN where unjudged."""
    return np.array([verdict.score for verdict in verdicts], dtype=float)
