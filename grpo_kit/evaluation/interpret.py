"""What an evaluation means: which checkpoint to take, what to distrust, and where the gain comes from. Rules, in words.

Each is a method of Evaluation too: `evaluation.best()`.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from grpo_kit.evaluation.result import BASE
from grpo_kit.utils.statistics import bootstrap_interval

if TYPE_CHECKING:
    import pandas

    from grpo_kit.evaluation.result import Evaluation

FEW = 10  # a service with fewer prompts is marked
MANY_UNJUDGED = 0.1  # of a model's answers
RUNS_AWAY = 2  # times as many words as the base


def warnings(evaluation: "Evaluation") -> list[str]:
    """What makes the result doubtful, a sentence or two each, with what to do; [] where nothing does.

    - The judges part: for some checkpoint the interval of the first judge's gain lies above 0 and the second judge's
      does not. If the second one's lies below 0, the words are stronger. It is called reward hacking only where the
      first judge trained the model, as far as is known, and the second did not.
    - Length runs away: the newest checkpoint writes more than twice as many words as the base.
    - Many unjudged: a judge gave no score to more than a tenth of a model's answers.
    """
    found = [*_judges_part(evaluation)]
    base, trained = evaluation.base, evaluation.trained
    if base and trained["words"] > RUNS_AWAY * base["words"]:
        found.append(
            f"Length runs away: {trained['name']} writes {trained['words']:.0f} words on average, the base "
            f"{base['words']:.0f}. Look whether longer answers score higher (plots.length_against_score); the reward "
            f"length=0.1 or a smaller max_completion_length holds it"
        )
    for model in evaluation.models:
        for judge, numbers in _by_judge(evaluation, model).items():
            asked = numbers["judged"] + numbers["unjudged"]
            if numbers["unjudged"] > MANY_UNJUDGED * asked:
                found.append(
                    f"Many unjudged: {judge} gave {numbers['unjudged']} of {model['name']}'s {asked} answers no score. "
                    f"The rest may not stand for all: evaluate again, and only what is missing is judged"
                )
    return found


def _judges_part(evaluation: "Evaluation") -> list[str]:
    parted = [
        model
        for model in evaluation.checkpoints
        if model["versus_base"]
        and (second := evaluation.second_of(model))
        and model["versus_base"]["interval"][0] > 0 >= second["versus_base"]["interval"][0]
    ]
    if not parted:
        return []
    first, second = evaluation.results["judge"], evaluation.results["second_judge"]
    fallen = [model for model in parted if evaluation.second_of(model)["versus_base"]["interval"][1] < 0]
    shown = (fallen or parted)[-1]
    gain, other = shown["versus_base"], evaluation.second_of(shown)["versus_base"]
    text = (
        f"The judges part at {_some(parted, evaluation)}: at {shown['name']} {first['name']} sees a gain of "
        f"{_signed(gain)}, and {second['name']} {'a loss' if fallen else 'none that is sure'}, {_signed(other)}. "
    )
    if first.get("trained_with") is False or second.get("trained_with"):
        return [text + "Read the samples on which they disagree before you believe either"]
    if fallen:
        text += "This looks like reward hacking: the model has learnt to please its judge and answers worse. "
    else:
        text += "This may be reward hacking, or too few prompts for the second judge: try a larger n. "
    return [text + "Read the samples on which they disagree, and mend the judge or rubric that pays for what you see"]


def _some(models: list[dict[str, Any]], evaluation: "Evaluation") -> str:
    if len(models) == 1:
        return models[0]["name"]
    return f"{len(models)} of {len(evaluation.checkpoints)} checkpoints, first {models[0]['name']}"


def _signed(versus: dict[str, Any]) -> str:
    low, high = versus["interval"]
    return f"{versus['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _by_judge(evaluation: "Evaluation", model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    second = evaluation.second_of(model)
    return {evaluation.judge: model} | ({evaluation.second_judge: second} if second else {})


def best(evaluation: "Evaluation") -> dict[str, Any]:
    """The model to take: its numbers, and `why` in words.

    The rule: a checkpoint that the second judge surely finds worse than the base (its interval lies below 0) is out.
    Of what is left, the base included, take the earliest whose mean by the first judge is within one standard error of
    the highest, the error being that of their paired difference. So a later checkpoint has to earn its steps, and
    where it is the base that is named, training gained nothing that is sure.

    The one-standard-error rule is Breiman, Friedman, Olshen and Stone's, Classification and Regression Trees (1984),
    section 3.4.3; pairing is ours.
    """
    out = [model for model in evaluation.checkpoints if _is_surely_worse(evaluation.second_of(model))]
    left = [model for model in evaluation.models if model not in out]
    excluded = ""
    if out:
        excluded = (
            f"; {evaluation.second_judge} finds {_some(out, evaluation)} worse than the base, which rules that out"
        )
    top = max(left, key=lambda model: model["mean"])
    scores = evaluation.samples()
    for model in left:
        behind = (scores[f"{top['name']} score"] - scores[f"{model['name']} score"]).dropna()
        error = behind.std() / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
        if model is top or behind.mean() <= error:
            break
    if model is top:
        why = (
            f"{evaluation.judge} scores it highest ({top['mean']:.2f}), and nothing earlier is within a standard error"
        )
    else:
        why = (
            f"the earliest within one standard error ({error:.3f}) of the highest, {top['name']} ({top['mean']:.2f}): "
            f"it is {behind.mean():.3f} behind on the same prompts"
        )
    if model["name"] == BASE:
        why += "; so training gained nothing that is sure"
    return {**model, "why": why + excluded}


def _is_surely_worse(second: dict[str, Any] | None) -> bool:
    return bool(second and second["versus_base"] and second["versus_base"]["interval"][1] < 0)


def services(evaluation: "Evaluation") -> "pandas.DataFrame":
    """Scores by the service that a prompt is about, the largest gain first. Turns about several have a row together.

    Columns: base and trained (means), difference with low and high (95% paired bootstrap; without a base they bound
    the mean), n (prompts judged for both) and few (n below 10: read it as a hint). The rows' n add up to the pairs.
    """
    import pandas

    samples, trained = evaluation.samples(), f"{evaluation.trained['name']} score"
    measured = "difference" if evaluation.base else trained
    rows = []
    for service, own in samples.dropna(subset=measured).groupby("services"):
        values, row = own[measured].to_numpy(), {"service": service}
        row |= {"base": own[f"{BASE} score"].mean()} if evaluation.base else {}
        row |= {"trained": own[trained].mean()} | ({"difference": values.mean()} if evaluation.base else {})
        row["low"], row["high"] = bootstrap_interval(values, seed=0) if len(values) > 1 else (np.nan, np.nan)
        rows.append(row | {"n": len(values), "few": len(values) < FEW})
    order = "difference" if evaluation.base else "trained"
    return pandas.DataFrame(rows).set_index("service").sort_values(order, ascending=False)


class Trend(NamedTuple):
    """How a model's scores go with the length of its answers."""

    rho: float  # Spearman's rank correlation; NaN where lengths or scores are all the same
    n: int

    def __str__(self) -> str:
        if math.isnan(self.rho):
            return "no trend to see: lengths or scores are all the same"
        # Under no correlation rho has a standard error of 1 / sqrt(n - 1): Kendall, Rank Correlation Methods (1948).
        if abs(self.rho) < 1.96 / math.sqrt(self.n - 1):
            return f"no clear trend (rank correlation {self.rho:+.2f})"
        return f"longer answers score {'higher' if self.rho > 0 else 'lower'} (rank correlation {self.rho:+.2f})"


def length_trends(evaluation: "Evaluation") -> dict[str, Trend]:
    """By model, base and newest: does the first judge pay for length? Each prints as a few words."""
    samples = evaluation.samples()
    found = {}
    for model in [evaluation.base, evaluation.trained] if evaluation.base else [evaluation.trained]:
        pairs = samples[[f"{model['name']} words", f"{model['name']} score"]].dropna()
        ranks = pairs.rank()
        varies = len(pairs) > 2 and (ranks.nunique() > 1).all()
        found[model["name"]] = Trend(ranks.corr().iloc[0, 1] if varies else math.nan, len(pairs))
    return found
