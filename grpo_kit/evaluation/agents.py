"""How the dialogues of an evaluation went: the success rate, and what it gains over the base model."""

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
    won = np.array(own.won)
    numbers: dict[str, Any] = {"success": float(np.nanmean(won)), "interval": _interval(won, seed)}
    told = measured(own.dialogues, [verdict.score for verdict in own.verdicts])
    numbers |= {name.removeprefix("agent/"): value for name, value in told.items()}
    numbers["scores"] = {
        name: float(np.mean(found))
        for name in own.dialogues[0].scores
        if name != "success" and (found := [v for each in own.dialogues if (v := each.scores.get(name)) is not None])
    }
    if base:
        gain = won - base.won
        numbers["versus_base"] = {"difference": float(np.nanmean(gain)), "interval": _interval(gain, seed)}
    return numbers


def _interval(values: np.ndarray, seed: int) -> list[float]:
    return bootstrap_interval(values[~np.isnan(values)], seed)


def successes(dialogues: Sequence[Dialogue], verdicts: Sequence[Verdict]) -> list[float]:
    """1 for each that succeeds, else 0; NaN for one with a problem."""
    told = zip(dialogues, verdicts, strict=True)
    return [np.nan if each.problem else float(each.is_success(verdict.score)) for each, verdict in told]


def by_environment(
    models: Sequence[dict[str, Any]],
    answered: MutableMapping[str, Answered],
    judge: str,
    weights: Mapping[str, float],
    seed: int,
) -> str:
    """Puts what the environment says of the dialogues in the place of the judge's scores, whose mean becomes one of the
    environment's: success, or the reward by these weights where next to none succeed, or all do. Returns the name of
    what it is; that of the judge, whose scores stay, where the environment says nothing of some model."""
    by, found = BY_SUCCESS, {name: np.array(own.won) for name, own in answered.items()}
    rates = [np.nanmean(won) for won in found.values()]
    if max(rates) <= NEAR_NOTHING or min(rates) == 1:
        by, found = BY_REWARD, {name: _rewards(own.dialogues, weights) for name, own in answered.items()}
    if any(np.isnan(values).all() for values in found.values()):
        return ""
    for name, own in answered.items():
        told = zip(own.dialogues, found[name].tolist(), own.verdicts, strict=True)
        answered[name] = replace(own, verdicts=[_verdict(*each, judge) for each in told])
    for model in models:
        model["agent"]["scores"][judge] = model["mean"]
        model |= describe(model["name"], answered, seed)
    return by


def _rewards(dialogues: Sequence[Dialogue], weights: Mapping[str, float]) -> np.ndarray:
    """Shape (n,); NaN for one with a problem, or that its environment gave none."""
    told = [[(each.scores[name], weights[name]) for name in weights.keys() & each.scores] for each in dialogues]
    return np.array([sum(np.nan if score is None else weight * score for score, weight in each) for each in told])


def _verdict(dialogue: Dialogue, score: float, judged: Verdict, judge: str) -> Verdict:
    """What the environment says of a dialogue, and the judge besides."""
    told = {name: value for name, value in dialogue.scores.items() if value is not None}
    said = ", ".join(f"{name} {value:.2f}" for name, value in told.items())
    by = f"{judge} {judged.score:.2f}, " if judged.score is not None else f"{judge}: "
    return Verdict(None if np.isnan(score) else score, f"{said}; {by}{judged.reason}", told)


def agent_line(numbers: dict[str, Any]) -> str:
    """ "; success 0.65 [0.56, 0.73], 0.9 calls a dialogue"; empty where there were no dialogues."""
    if not (agent := numbers.get("agent")):
        return ""
    rate = f"{agent['success']:.2f} {interval_text(agent['interval'])}"
    return f"; success {rate}, {agent['calls']:.1f} calls a dialogue"
