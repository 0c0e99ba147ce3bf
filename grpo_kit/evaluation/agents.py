"""How the dialogues of an evaluation went: the success rate, and what it gains over the base model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from grpo_kit.agents.dialogue import Dialogue, measured
from grpo_kit.evaluation.statistics import Answered
from grpo_kit.judges.base import Verdict
from grpo_kit.utils.statistics import bootstrap_interval, interval_text


def agent_numbers(
    dialogues: Sequence[Dialogue], verdicts: Sequence[Verdict], seed: int, base: Answered | None
) -> dict[str, Any]:
    """A model's success rate with its 95% interval, calls and turns in a dialogue, errors, and the means of its world's
    scores; `versus_base` is what it succeeds in more often, dialogue by dialogue."""
    judged = [verdict.score for verdict in verdicts]
    won = successes(dialogues, judged)
    known = won[~np.isnan(won)]
    numbers: dict[str, Any] = {"success": float(known.mean()), "interval": bootstrap_interval(known, seed)}
    numbers |= {name.removeprefix("agent/"): value for name, value in measured(dialogues, judged).items()}
    each = [dialogue.scores for dialogue in dialogues]
    told = {name: [value for scores in each if (value := scores.get(name)) is not None] for name in each[0]}
    numbers["scores"] = {name: float(np.mean(found)) for name, found in told.items() if found and name != "success"}
    if base:
        gain = won - successes(base.dialogues, [verdict.score for verdict in base.verdicts])
        gain = gain[~np.isnan(gain)]
        numbers["versus_base"] = {"difference": float(gain.mean()), "interval": bootstrap_interval(gain, seed)}
    return numbers


def successes(dialogues: Sequence[Dialogue], judged: Sequence[float | None]) -> np.ndarray:
    """Shape (n,), of 0 and 1; NaN for one with a problem."""
    won = [np.nan if each.problem else each.is_success(score) for each, score in zip(dialogues, judged, strict=True)]
    return np.array(won, dtype=float)


def agent_line(numbers: dict[str, Any]) -> str:
    """ "; success 0.65 [0.56, 0.73], 0.9 calls a dialogue"; empty where there were no dialogues."""
    if not (agent := numbers.get("agent")):
        return ""
    rate = f"{agent['success']:.2f} {interval_text(agent['interval'])}"
    return f"; success {rate}, {agent['calls']:.1f} calls a dialogue"
