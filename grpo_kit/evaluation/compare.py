"""`kit.compare`: two runs' models on the same prompts, such as GRPO from the base and GRPO from a warm start."""

from typing import Any

import numpy as np
import pandas

from grpo_kit.errors import RunError
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.models.checkpoints import BASE
from grpo_kit.utils.statistics import bootstrap_interval

# Settings in which two evaluations must be alike.
ALIKE = ("temperature", "max_prompt_length", "max_completion_length", "chat_template_kwargs")


def compare(evaluation: Evaluation, other: Evaluation) -> pandas.DataFrame:
    """A row for the base, each run's warm start and each one's newest checkpoint, by the first judge: mean with its 95%
    interval, and what `evaluation`'s newest checkpoint scores more on the same prompts, with its interval and their
    number. Both runs' bases have a row where they differ.

    Raises RunError where the two have other judges, data or sampling, or no prompt in common.
    """
    judges = [(each.judge, each.results["judge"]["version"]) for each in (evaluation, other)]
    if judges[0] != judges[1]:
        raise RunError("the two evaluations were judged by different judges", "Evaluate one of them again")
    both = evaluation.results, other.results
    differ = [name for name in ALIKE if both[0]["config"].get(name) != both[1]["config"].get(name)]
    differ += ["data"] * (both[0]["data"]["fingerprint"] != both[1]["data"]["fingerprint"])
    if differ:
        raise RunError(f"the two evaluations differ in {', '.join(differ)}", "Evaluate one of them again")
    rows, bases = dict[str, Any](), [each.base and each.base["source"] for each in (other, evaluation)]
    for each in (other, evaluation):
        scores = each.samples().set_index("id")
        for name in dict.fromkeys(model["name"] for model in (each.base, each.warm_start, each.newest) if model):
            is_shared = name == BASE and bases[0] == bases[1]
            label = BASE if is_shared else f"{each.results['target']}: {name}"
            if label in rows and not is_shared:  # two evaluations of one run
                label += f" ({each.path.stem})"
            rows.setdefault(label, scores[f"{name} score"])
    newest, table = [*rows.values()][-1], []
    for label, scores in rows.items():
        gain = (newest - scores).dropna().to_numpy()
        if not len(gain):
            raise RunError("the two evaluations have no judged prompt in common", "Use the same data, n and seed")
        known = scores.dropna().to_numpy()
        row: dict[str, Any] = {"model": label, "mean": known.mean()}
        row |= dict(zip(("low", "high"), bootstrap_interval(known, 0), strict=True))
        if scores is not newest:
            low, high = bootstrap_interval(gain, 0)
            row |= {"newest_gains": np.mean(gain), "gain_low": low, "gain_high": high, "n": len(gain)}
        table.append(row)
    return pandas.DataFrame(table).astype({"n": "Int64"})
