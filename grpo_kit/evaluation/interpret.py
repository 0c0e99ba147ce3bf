"""Interprets an evaluation: which checkpoint to take, what to distrust, and where the gain comes from.

The rules take the numbers and tables of an evaluation. Each is a method of Evaluation: `evaluation.best()`.
"""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import pandas

from grpo_kit.config.judge import shared_rungs
from grpo_kit.judges.calibration import spearman
from grpo_kit.models.checkpoints import BASE
from grpo_kit.utils.statistics import FEW, bootstrap_interval, interval_text

MANY_UNJUDGED = 0.1  # of a model's answers
RUNS_AWAY = 2  # times as many words as the base
NEAR_NOTHING = 0.05  # of the full score, which no mean exceeds
# What models are compared by in place of a judge's scores, where a run's environment alone rewards.
BY_SUCCESS, BY_REWARD = "environment (success)", "environment (reward)"

Numbers = dict[str, Any]  # of a model: see statistics.describe


def warnings(
    models: list[Numbers], trained: Numbers, judge: dict[str, Any], second_judge: dict[str, Any] | None
) -> list[str]:
    """The reasons to doubt the result, a sentence or two each, with what to do; [] where there is none. `trained` is
    the checkpoint that the result speaks of.

    - The judges disagree: for some checkpoint the interval of the first judge's gain lies above 0, that of the second
      judge's does not. If the second one's lies below 0, the text is stronger. It is called reward hacking only where
      the first judge trained the model, as far as is known, and the second did not.
    - Length runs away: the trained checkpoint writes more than twice as many words as the base.
    - Many unjudged: a judge gave no score to more than a tenth of a model's answers.
    - Near nothing: no model's mean is above 0.05 by the first judge, so that a gain is none, however sure.
    - Second judge of the first one's kind: on these samples both go by word overlap with the reference; or one is a
      ladder that asks the other.
    - No sure gain: the interval of the trained checkpoint's gain holds 0, or lies below.
    - Few prompts: fewer than 10 were judged, so that an interval is too narrow, and of one there is none.
    """
    found = _disagreement(models, trained, judge, second_judge) if second_judge else []
    base = models[0]
    if is_near_nothing(models, judge["name"]):
        means = ", ".join(
            f"{model['name']} {model['mean']:.3f}" for model in {m["name"]: m for m in (base, trained)}.values()
        )
        found.append(
            f"Near nothing: {judge['name']} scores {means} of 1, so nearly all answers are worthless and no "
            f"gain can be measured. Imitate the traces first (sft_steps), or take another model or judge: see "
            f"kit.will_it_learn"
        )
    elif (versus := trained["versus_base"]) and versus["interval"][0] <= 0:
        surely = "may be chance" if versus["interval"][1] >= 0 else "is a loss"
        found.append(
            f"No sure gain: {signed(versus)} of {trained['name']} over the base {surely}. Evaluate with a larger n "
            f"(--n), or train longer or by another reward"
        )
    if second_judge:
        one, other = judge["name"], second_judge["name"]
        of_one_kind, take = "", "another judge"
        if shared := shared_rungs([one], [other]):
            of_one_kind = f"{one} and {other} both ask {shared}"
        elif judge.get("by_words") and second_judge.get("by_words"):
            of_one_kind = f"on these samples {one} only compares words with the reply in the trace, as {other} does"
            take = "a judge that reads (--second-judge gemini)"
        if of_one_kind:
            found.append(
                f"The second judge is of the first one's kind: {of_one_kind}, so it is no second opinion. Take {take}, "
                f"or read the samples"
            )
    if trained["words"] > RUNS_AWAY * base["words"]:
        found.append(
            f"Length runs away: {trained['name']} writes {trained['words']:.0f} words on average, the base "
            f"{base['words']:.0f}. See whether longer answers score higher (plots.length_against_score); the reward "
            f"length=0.1 or a smaller max_completion_length keeps it down"
        )
    if (least := min(model["judged"] for model in models)) < FEW:
        says = "which says nothing of others, and has no interval" if least == 1 else "whose interval is too narrow"
        found.append(f"Few prompts: {trained['name']} is judged on {least}, {says}. Evaluate with a larger n (--n)")
    for model in models:
        for by, numbers in ((judge, model), (second_judge, model.get("second"))):
            if by and numbers and numbers["unjudged"] > MANY_UNJUDGED * (numbers["judged"] + numbers["unjudged"]):
                asked = numbers["judged"] + numbers["unjudged"]
                found.append(
                    f"Many unjudged: {by['name']} gave {numbers['unjudged']} of {model['name']}'s {asked} answers no "
                    f"score. The others may not be typical. Evaluate again: only the missing ones are judged"
                )
    return found


def is_near_nothing(models: list[Numbers], judge: str) -> bool:
    """Whether no model's mean score is worth speaking of. A reward has a scale of its own."""
    return judge != BY_REWARD and max(model["mean"] for model in models) <= NEAR_NOTHING


def _disagreement(
    models: list[Numbers], trained: Numbers, judge: dict[str, Any], second_judge: dict[str, Any]
) -> list[str]:
    both = [model for model in models if model["versus_base"] and model.get("second")]
    apart = [m for m in both if m["versus_base"]["interval"][0] > 0 >= m["second"]["versus_base"]["interval"][0]]
    if not apart:
        return []
    worse = [model for model in apart if _is_surely_worse(model)]
    shown = trained if trained in (worse or apart) else (worse or apart)[-1]
    text = (
        f"The judges disagree at {_some(apart, models)}: at {shown['name']} {judge['name']} sees a gain of "
        f"{signed(shown['versus_base'])}, and {second_judge['name']} {'a loss' if worse else 'none that is sure'}, "
        f"{signed(shown['second']['versus_base'])}. "
    )
    if judge["trained_with"] is not False and not second_judge["trained_with"]:
        text += "This looks like reward hacking. " if worse else "This may be reward hacking: try a larger n. "
    return [text + "Read the samples on which they disagree, and correct the judge or rubric that rewards them"]


def _is_surely_worse(model: Numbers) -> bool:
    """Whether the second judge's interval of the gain lies below 0."""
    second = model.get("second")
    return bool(second and second["versus_base"] and second["versus_base"]["interval"][1] < 0)


def _some(some: list[Numbers], models: list[Numbers]) -> str:
    if len(some) == 1:
        return some[0]["name"]
    return f"{len(some)} of {len(models) - 1} checkpoints, first {some[0]['name']}"


def signed(versus: dict[str, Any]) -> str:
    """ "+0.37 [+0.30, +0.44]": a difference and its interval."""
    return f"{versus['difference']:+.2f} {interval_text(versus['interval'], '+')}"


def is_warm_start(name: str) -> bool:
    """Whether a model of that name is the checkpoint of a run's supervised stage."""
    return name.startswith("checkpoint-sft-")


def added(models: list[Numbers], judge: str) -> str:
    """What GRPO added to the warm start, in words: the newest checkpoint's paired difference to it, by the first judge,
    with its 95% interval. Empty where there was none, or GRPO has no checkpoint yet."""
    if not (versus := models[-1].get("versus_sft")):
        return ""
    low, high = versus["interval"]
    surely = "added to imitation" if low > 0 else "took from imitation" if high < 0 else "added nothing that is sure"
    warm = next(model["name"] for model in models if is_warm_start(model["name"]))
    return f"GRPO {surely}: {models[-1]['name']} less {warm} {signed(versus)} (n={versus['pairs']}, by {judge})"


def best(models: list[Numbers], scores: pandas.DataFrame, judge: str, second_judge: str | None) -> Numbers:
    """The model to take: its numbers, and the reason, `why`. `scores` has a row per prompt, a column per model.

    The rule: a checkpoint that the second judge surely finds worse than the base (its interval lies below 0) is out.
    Of the others, the base included, take the earliest whose mean by the first judge is within one standard error of
    the highest, the error being that of their paired difference. So a later checkpoint has to earn its steps, and
    where the base is named, training gained nothing that is sure.

    A checkpoint that is chosen of several by its mean has one that is a little too high, which `why` says.

    The one-standard-error rule is Breiman, Friedman, Olshen and Stone's, Classification and Regression Trees (1984),
    section 3.4.3; pairing is ours. Where all are near nothing, none is better than the first.
    """
    if min(model["judged"] for model in models) < 2:
        return {**models[-1], "why": "the newest: one prompt tells nothing of which is best"}
    if is_near_nothing(models, judge):
        return {**models[0], "why": f"no model scores above {NEAR_NOTHING} by {judge}, so none is worth taking"}
    out = [model for model in models if _is_surely_worse(model)]
    left = [model for model in models if model not in out]
    top = max(left, key=lambda model: model["mean"])
    why = f"{judge} scores it highest ({top['mean']:.2f}), and nothing earlier is within a standard error"
    chosen = top
    for model in left[: left.index(top)]:
        behind = (scores[top["name"]] - scores[model["name"]]).dropna()
        error = behind.std() / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
        if behind.mean() <= error:
            chosen = model
            why = (
                f"the earliest within one standard error ({error:.3f}) of the highest, {top['name']} "
                f"({top['mean']:.2f}): it is {behind.mean():.3f} behind on the same prompts"
            )
            break
    if chosen["name"] == BASE:
        why += "; so training gained nothing that is sure"
    if out:
        why += f"; {second_judge} finds {_some(out, models)} worse than the base, which rules that out"
    if chosen["name"] != BASE and len(models) > 2:
        why += f"; chosen of {len(models) - 1} on the same prompts, its score is a little too high"
    return {**chosen, "why": why}


# The kinds of a system turn by the acts of Schema-Guided Dialogue that tell them, the most telling first: what needs a
# database's answer before what needs only what was said.
_KINDS = {
    "offer": {"OFFER"},
    "inform": {"INFORM", "INFORM_COUNT"},
    "notify": {"NOTIFY_SUCCESS", "NOTIFY_FAILURE"},
    "confirm": {"CONFIRM"},
    "request": {"REQUEST", "OFFER_INTENT", "REQ_MORE"},
    "goodbye": {"GOODBYE"},
}


def kind_of_turn(acts: Collection[str]) -> str | None:
    """The class of a turn with these acts, of its most telling one: offer, inform, notify, confirm, request, goodbye,
    or other. None without acts."""
    return next((kind for kind, telling in _KINDS.items() if telling & set(acts)), "other" if acts else None)


def scores_by(what: str, samples: pandas.DataFrame, trained: str) -> pandas.DataFrame:
    """Scores by a column of `samples`: the services that a prompt is about, or the class of its turn's acts. The
    largest gain comes first, and turns about several services have a row together.

    `samples` is Evaluation.samples(), and `trained` the model's name.
    Columns: base and trained (means), difference with low and high (95% paired bootstrap; without a base they bound
    the mean), n (prompts judged for both) and few (n below 10: read it as a hint). The rows' n add up to the pairs.
    """
    measured = "difference" if "difference" in samples else "trained"
    shown = {what: what, f"{BASE} score": "base", f"{trained} score": "trained", "difference": "difference"}
    groups = samples.filter(list(shown)).rename(columns=shown).dropna(subset=measured).groupby(what)
    table = groups.mean()
    bounds = [bootstrap_interval(each.to_numpy(), seed=0) for _, each in groups[measured]]
    table = table.assign(low=[low for low, _ in bounds], high=[high for _, high in bounds], n=groups.size())
    return table.assign(few=table["n"] < FEW).sort_values(measured, ascending=False)


class Trend(NamedTuple):
    """How a model's scores go with the length of its answers."""

    rho: float  # Spearman's rank correlation; NaN where lengths or scores are all the same, or there are fewer than 3
    n: int

    def __str__(self) -> str:
        if math.isnan(self.rho):
            few = f"{self.n} answers are too few" if self.n < 3 else "lengths or scores are all the same"
            return f"no trend to see: {few}"
        # Under no correlation rho has a standard error of 1 / sqrt(n - 1): Kendall, Rank Correlation Methods (1948).
        if abs(self.rho) < 1.96 / math.sqrt(self.n - 1):
            return f"no clear trend (rank correlation {self.rho:+.2f})"
        return f"longer answers score {'higher' if self.rho > 0 else 'lower'} (rank correlation {self.rho:+.2f})"


def length_trend(samples: pandas.DataFrame, model: str) -> Trend:
    """Whether the first judge pays a model for length. `samples` is Evaluation.samples()."""
    pairs = samples[[f"{model} words", f"{model} score"]].dropna()
    words, scores = pairs.to_numpy(dtype=float).T[:, None]
    return Trend(float(spearman(words, scores)[0]) if len(pairs) > 2 else math.nan, len(pairs))
