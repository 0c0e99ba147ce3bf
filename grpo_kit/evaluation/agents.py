"""How the dialogues of an evaluation went: the success rate, what it gains over the base model, and scores by the
environment in place of a judge's."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from grpo_kit.agents.dialogue import Dialogue, measured
from grpo_kit.evaluation.interpret import BY_REWARD, BY_SUCCESS, NEAR_NOTHING
from grpo_kit.evaluation.statistics import Answered, describe
from grpo_kit.judges.base import Verdict
from grpo_kit.utils.statistics import bootstrap_interval, interval_text


def agent_numbers(own: Answered, seed: int, base: Answered | None) -> dict[str, Any]:
    """A model's success rate with its 95% interval, calls and turns in a dialogue, errors, and the means of its world's
    scores; `versus_base` is what it succeeds in more often, dialogue by dialogue."""
    told = measured(own.dialogues, [verdict.score for verdict in own.verdicts])
    numbers: dict[str, Any] = {name.removeprefix("agent/"): value for name, value in told.items()}
    won = np.array(own.won, dtype=float)
    numbers |= {"success": float(np.nanmean(won)), "interval": bootstrap_interval(won[~np.isnan(won)], seed)}
    scores = {name: _scores(own, {name: 1}) for name in own.dialogues[0].scores if name != "success"}
    numbers["scores"] = {name: float(np.nanmean(each)) for name, each in scores.items() if not np.isnan(each).all()}
    if base:
        gain = won - np.array(base.won, dtype=float)
        gain = gain[~np.isnan(gain)]
        numbers["versus_base"] = {"difference": float(gain.mean()), "interval": bootstrap_interval(gain, seed)}
    return numbers


def successes(dialogues: Sequence[Dialogue], verdicts: Sequence[Verdict]) -> list[float | None]:
    """1 for each that succeeds, else 0; None for one with a problem. Without dialogues there are none."""
    told = zip(dialogues, verdicts, strict=False)
    return [None if each.problem else float(each.is_success(verdict.score)) for each, verdict in told]


def by_environment(
    models: Sequence[dict], answered: MutableMapping[str, Answered], judge: str, weights: Mapping[Any, float], seed: int
) -> str:
    """Puts what the environment says of the dialogues in the place of the judge's scores, whose mean becomes one of the
    environment's: success, or the reward by these weights where next to none succeed, or all do. Returns what it is;
    "", and leaves the judge's scores, where the environment says nothing of some model."""
    by, found = BY_SUCCESS, {name: np.array(own.won, dtype=float) for name, own in answered.items()}
    rates = [np.nanmean(won) for won in found.values()]
    if max(rates) <= NEAR_NOTHING or min(rates) == 1:
        by, found = BY_REWARD, {name: _scores(own, weights) for name, own in answered.items()}
    if any(np.isnan(each).all() for each in found.values()):
        return ""
    for name, own in answered.items():
        verdicts = []
        for dialogue, score, judged in zip(own.dialogues, found[name].tolist(), own.verdicts, strict=True):
            parts = {part: value for part, value in dialogue.scores.items() if value is not None}
            told = parts | ({} if judged.score is None else {judge: judged.score})
            said = ", ".join(f"{part} {value:.2f}" for part, value in told.items())
            reason = ": ".join(filter(None, (said, judged.reason)))
            verdicts.append(Verdict(None if np.isnan(score) else score, reason, parts))
        answered[name] = replace(own, verdicts=verdicts)
    for model in models:
        model["agent"]["scores"][judge] = model["mean"]
        model |= describe(model["name"], answered, seed)
    return by


def _scores(own: Answered, weights: Mapping[Any, float]) -> np.ndarray:
    """The weighted sums of the worlds' scores, shape (n,); NaN where one is not known."""
    known = [[(each.scores[name], weights[name]) for name in weights if name in each.scores] for each in own.dialogues]
    return np.array([sum(np.nan if score is None else weight * score for score, weight in each) for each in known])


def agent_line(numbers: dict[str, Any]) -> str:
    """ "; success 0.65 [0.56, 0.73], 0.9 calls a dialogue"; empty where there were no dialogues."""
    if not (agent := numbers.get("agent")):
        return ""
    rate = f"{agent['success']:.2f} {interval_text(agent['interval'])}"
    return f"; success {rate}, {agent['calls']:.1f} calls a dialogue"
