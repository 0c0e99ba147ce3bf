"""What an evaluation found: the statistics of judged answers, and the files that hold them. Needs no torch."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grpo_kit.judges import Verdict
from grpo_kit.runs import RunError, read_lines, write_json
from grpo_kit.samples import Sample

if TYPE_CHECKING:
    import pandas

BASE = "base"
RESAMPLES = 10_000


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What `evaluate` found, on its files alone. "trained" is the last of the models, the newest checkpoint."""

    path: Path  # NAME.json, which holds `results`; NAME.samples.jsonl and NAME.png lie beside it
    results: dict

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """The evaluation at `path`, a NAME.json. Raises RunError where there is none."""
        path = Path(path)
        if not path.is_file():
            there = ", ".join(sorted(found.name for found in path.parent.glob("*.json"))) or "none"
            raise RunError(f"no evaluation {path}; in that folder there are: {there}")
        return cls(path, json.loads(path.read_text()))

    def __repr__(self) -> str:
        return f"Evaluation({self.path}: {self.line()})"

    @property
    def samples_path(self) -> Path:
        return self.path.with_suffix(".samples.jsonl")

    @property
    def figure_path(self) -> Path:
        return self.path.with_suffix(".png")

    @property
    def models(self) -> list[dict]:
        """Each model's numbers: the base's first where there is one, then the checkpoints', oldest first."""
        return self.results["models"]

    @property
    def base(self) -> dict | None:
        return self.models[0] if len(self.models) > 1 else None

    @property
    def trained(self) -> dict:
        return self.models[-1]

    def line(self) -> str:
        """`base 0.41 trained 0.78 difference +0.37 [+0.30, +0.44] (n=128)`: mean scores, a 95% interval, pairs."""
        trained = self.trained
        if self.base is None:
            low, high = trained["interval"]
            return f"{trained['name']} {trained['mean']:.2f} [{low:.2f}, {high:.2f}] (n={trained['judged']})"
        versus = trained["versus_base"]
        low, high = versus["interval"]
        return (
            f"base {self.base['mean']:.2f} trained {trained['mean']:.2f} "
            f"difference {versus['difference']:+.2f} [{low:+.2f}, {high:+.2f}] (n={versus['pairs']})"
        )

    def summary(self) -> "pandas.DataFrame":
        """A row per model. Scores are in [0, 1], low and high bound 95% intervals, differences are to the base."""
        import pandas

        rows = []
        for model in self.models:
            row = {"model": model["name"], "mean": model["mean"]}
            row["low"], row["high"] = model["interval"]
            row |= {name: model[name] for name in ("stdev", "min", "max", "words", "unjudged")}
            if versus := model["versus_base"]:
                row["difference"] = versus["difference"]
                row["difference_low"], row["difference_high"] = versus["interval"]
                row["win_rate"] = versus["win_rate"]
            rows.append(row)
        return pandas.DataFrame(rows)

    def criteria(self) -> "pandas.DataFrame":
        """The mean of each of the judge's criteria, a row per model."""
        import pandas

        return pandas.DataFrame({model["name"]: model["criteria"] for model in self.models}).T

    def samples(self) -> "pandas.DataFrame":
        """A row per prompt: the models' answers, scores and reasons side by side; trained less base score."""
        import pandas

        rows = []
        for sample in read_lines(self.samples_path):
            prompt = sample["prompt"]
            if not isinstance(prompt, str):
                prompt = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
            row = {"id": sample["id"], "prompt": prompt, "ground_truth": sample["ground_truth"]}
            for name, answered in sample["answers"].items():
                row |= {name: answered["answer"], f"{name} score": answered["score"]}
                row[f"{name} reason"] = answered["reason"]
            rows.append(row)
        table = pandas.DataFrame(rows)
        scores = [f"{model['name']} score" for model in self.models]
        table[scores] = table[scores].astype(float)  # unjudged is NaN
        if self.base is not None:
            table["difference"] = table[scores[-1]] - table[scores[0]]
        return table


def write_evaluation(
    path: Path,
    results: dict,
    samples: Sequence[Sample],
    answers: dict[str, Sequence[str]],
    verdicts: dict[str, Sequence[Verdict]],
) -> Evaluation:
    """Writes NAME.samples.jsonl, NAME.png and, last, `path`: where NAME.json is, the others are whole."""
    from grpo_kit.plots import evaluation_figure

    evaluation = Evaluation(path, results)
    with _replacing(evaluation.samples_path) as partial, partial.open("w") as file:
        for i, sample in enumerate(samples):
            row = {name: getattr(sample, name) for name in ("id", "prompt", "ground_truth", "rubric")}
            row["answers"] = {
                name: {"answer": answers[name][i], "score": given[i].score, "reason": given[i].reason}
                for name, given in verdicts.items()
            }
            file.write(json.dumps(row) + "\n")
    with _replacing(evaluation.figure_path) as partial:
        evaluation_figure(evaluation).savefig(partial, format="png", dpi=150)
    write_json(path, results)
    return evaluation


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.partial")
    yield partial
    os.replace(partial, path)


def describe(name: str, answers: Sequence[str], verdicts: Sequence[Verdict], seed: int) -> dict:
    """A model's numbers over the answers that were judged; `words` is the mean length of all of them.

    Raises RunError if no answer was judged.
    """
    scores = scores_of(verdicts)
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        raise RunError(
            f"the judge scored none of {name}'s answers, so nothing was saved. It says: {verdicts[0].reason}"
        )
    judged = [verdict.criteria for verdict in verdicts if verdict.score is not None]
    return {
        "mean": float(scores.mean()),
        "interval": bootstrap_interval(scores, seed),
        "stdev": float(scores.std(ddof=1)) if len(scores) > 1 else 0.0,
        "min": float(scores.min()),
        "max": float(scores.max()),
        "words": float(np.mean([len(text.split()) for text in answers])),
        "judged": len(scores),
        "unjudged": len(verdicts) - len(scores),
        "criteria": {
            criterion: float(np.mean([found[criterion] for found in judged if criterion in found]))
            for criterion in dict.fromkeys(criterion for found in judged for criterion in found)
        },
    }


def compare(base: Sequence[Verdict], trained: Sequence[Verdict], seed: int) -> dict:
    """Trained less base score, prompt by prompt; a prompt that lacks one of the two is left out.

    `win_rate` is the share of pairs in which the trained model scores higher, ties counting half. Raises RunError
    if there is no pair.
    """
    differences = scores_of(trained) - scores_of(base)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        raise RunError("the judge scored both models on no prompt, so they can't be compared and nothing was saved")
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


def bootstrap_interval(values: np.ndarray, seed: int) -> list[float]:
    """Low and high end of the 95% percentile bootstrap interval of the mean of `values`, shape (n,).

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; 10,000 resamples. Of the differences
    of pairs it is the paired bootstrap: a resample draws whole pairs. Prompts count as independent of each other.
    """
    rng = np.random.default_rng(seed)
    some = 1000  # resamples at a time, to bound the memory
    means = [values[rng.integers(len(values), size=(some, len(values)))].mean(axis=1) for _ in range(RESAMPLES // some)]
    return np.quantile(means, [0.025, 0.975]).tolist()
