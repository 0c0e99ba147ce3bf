"""Whether an endpoint serves what was trained: its log-probabilities against the trainer's, and its scores against the
run's own evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas

from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError
from grpo_kit.evaluation.interpret import BY_SUCCESS, signed
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.evaluation.statistics import Answered
from grpo_kit.models.checkpoints import BASE, Checkpoints
from grpo_kit.models.endpoint import Endpoint, ServedModel
from grpo_kit.models.generate import log_probs_after
from grpo_kit.models.prompts import prompt_tokens
from grpo_kit.utils.statistics import bootstrap_interval

PROMPTS = 32  # whose answers' log-probabilities are compared
# How far they may be apart in the mean: where both compute in float32, and where one rounds to bfloat16, by which vLLM
# was 0.006 apart with 2 layers and 0.045 with SmolLM2's 30 (docs/serve.md).
EXACT, AGREE = 1e-4, 0.1
SHOWN = 3  # prompts, where the two part most


def served_models(endpoint: Endpoint, subject: Checkpoints) -> Iterator[tuple[str, str, ServedModel]]:
    """Those of the subject's models that the endpoint serves, by the same names; without the base the newest alone.
    Raises ConfigError where there is none, and for the endpoint of another run, whose checkpoints have such names too.
    """
    run, other = subject.run, endpoint.run_id()
    if run and other not in (None, run.id, run.config.run_id):  # a copy's folder may have a name of its own
        what = f"{endpoint.url} serves run {other}, not {run.id}"
        raise ConfigError(what, "Serve that run, or evaluate the one that is served")
    about = endpoint.about()
    there, longest = [each["id"] for each in about], [told for each in about if (told := each.get("max_model_len"))]
    names = [name for name in subject.names if name in there]
    if not names:
        what = f"{endpoint.url} serves none of {', '.join(subject.names)}, but {', '.join(there)}"
        raise ConfigError(what, "Serve that run, or evaluate the one that is served")
    for name in names if BASE in names else names[-1:]:
        yield name, endpoint.url, ServedModel(endpoint, name, min(longest, default=None))


def log_prob_agreement(
    subject: Checkpoints, tokenizer: Any, samples: Sequence[Sample], answered: Mapping[str, Answered]
) -> dict[str, dict[str, Any]]:
    """How far the endpoint's log-probabilities of its own answers' tokens are from those of the weights here, as they
    are trained: for each model the mean and largest distance, the tokens compared, and the prompt that is furthest."""
    chosen = range(0, len(samples), max(1, len(samples) // PROMPTS))[:PROMPTS]
    found = {}
    for name, _, model in subject.models():
        own = answered.get(name)
        told = {samples[i].id: _drawn(own, i, tokenizer, samples[i]) for i in chosen if own}
        apart = {id: _apart(model.eval(), *drawn) for id, drawn in told.items() if drawn[2]}
        if apart:
            all_of_them, furthest = np.concatenate([*apart.values()]), max(apart, key=lambda id: apart[id].mean())
            found[name] = {"mean": float(all_of_them.mean()), "largest": float(all_of_them.max())}
            found[name] |= {"prompts": len(apart), "tokens": len(all_of_them), "furthest": furthest}
        del model  # makes room for the next
    return found


def _drawn(own: Answered, place: int, tokenizer: Any, sample: Sample) -> tuple[list[int], Sequence, Sequence, Sequence]:
    """What was asked, the tokens after it, their log-probabilities, and which of them the model wrote."""
    if own.dialogues:
        led = own.dialogues[place]
        return led.prompt_ids, led.ids, led.logprobs or (), led.own
    answer: Any = own.answers[place]
    asked = prompt_tokens(tokenizer, sample.prompt, sample.tools)
    return asked, answer.tokens, answer.log_probs, [1] * len(answer.tokens)


def _apart(model: Any, asked: list[int], tokens: Sequence, log_probs: Sequence, own: Sequence) -> np.ndarray:
    return np.abs(np.subtract(log_probs, log_probs_after(model, asked, tokens)))[np.array(own, dtype=bool)]


def score_agreement(evaluation: Evaluation, own: Evaluation) -> dict[str, dict[str, Any]]:
    """What the endpoint's models score more than the same models in the run's `own` evaluation, prompt by prompt, how
    many answers are the same, and the prompts where the scores part most, with both scores. In an environment also what
    they succeed in more often, as `success`."""
    served, here = (each.samples().set_index("id") for each in (evaluation, own))
    found = {}
    for name in [model["name"] for model in evaluation.models if f"{model['name']} score" in here]:
        same = int((served[name] == here[name].reindex(served.index)).sum())
        found[name] = _against(served[f"{name} score"], here[f"{name} score"]) | {"same": same}
        if (won := f"{name} success") in served and won in here and evaluation.judge != BY_SUCCESS:
            found[name]["success"] = _against(served[won], here[won])
    return found


def _against(served: pandas.Series, own: pandas.Series) -> dict[str, Any]:
    scores = served.astype(float).to_frame("served").join(own.astype(float).rename("own")).dropna()
    gain = scores["served"] - scores["own"]
    parted = scores.loc[gain.abs().sort_values(ascending=False).index[:SHOWN]].round(2)
    return {
        "served": float(scores["served"].mean()),
        "own": float(scores["own"].mean()),
        "difference": float(gain.mean()),
        "interval": bootstrap_interval(gain.to_numpy(), 0),
        "pairs": len(gain),
        "parted": {id: [row["served"], row["own"]] for id, row in parted.iterrows() if row["served"] != row["own"]},
    }


def in_words(log_probs: Mapping[str, dict], scores: Mapping[str, dict]) -> list[str]:
    """A sentence for each model and comparison, which says where the two part."""
    lines = []
    for name, told in log_probs.items():
        far = f"{told['mean']:.2g} apart in the mean, {told['largest']:.2g} at most"
        rounded = "agree, as bfloat16 rounds, with" if told["mean"] <= AGREE else "PART from"
        verb = "agree with" if told["mean"] <= EXACT else rounded
        where = "" if told["mean"] <= AGREE else f", most at {told['furthest']}"
        count = f"{told['tokens']} tokens of {told['prompts']} answers"
        lines.append(f"{name}: its log-probabilities {verb} the trainer's: {far} ({count}){where}")
    for name, told in scores.items():
        lines.append(f"{name}: {_compared('scores', told)}; {told['same']} of {told['pairs']} answers are the same")
        lines += [f"{name}: {_compared('succeeds in', told['success'])}"] if "success" in told else []
    return lines


def _compared(verb: str, told: dict[str, Any]) -> str:
    low, high = told["interval"]
    verdict = "" if low <= 0 <= high else "THEY PART: "
    means = f"the endpoint {verb} {told['served']:.3f}, the run's own evaluation {told['own']:.3f}"
    most = ", ".join(f"{id} ({a:.2f} and {b:.2f})" for id, (a, b) in told["parted"].items())
    return f"{verdict}{means}, difference {signed(told)}" + (f", furthest apart at {most}" if most else "")
