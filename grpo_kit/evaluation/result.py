"""An evaluation's results, and the files that hold them. Needs no torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas

from grpo_kit.data.samples import Sample, conversation_text
from grpo_kit.data.thoughts import answer_in
from grpo_kit.errors import RunError
from grpo_kit.evaluation import interpret
from grpo_kit.evaluation.statistics import Answered
from grpo_kit.judges.base import Verdict
from grpo_kit.models.checkpoints import BASE
from grpo_kit.utils.files import replacing, write_json
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.utils.statistics import interval_text
from grpo_kit.utils.words import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVER_SFT = ("over_sft", "over_sft_low", "over_sft_high")


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The results of `evaluate`, from its files alone. "trained" is the checkpoint that they speak of, the same in
    line, figures, warnings and result: the one that `best` takes, or the newest where it takes the base model."""

    path: Path  # NAME.json, which holds `results`; NAME.samples.jsonl and NAME.png lie beside it
    results: dict

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """The evaluation at `path`, a NAME.json. Raises RunError where there is none."""
        path = Path(path)
        if not path.is_file():
            there = ", ".join(sorted(found.name for found in path.parent.glob("*.json"))) or "none"
            raise RunError(f"there is no evaluation {path}", f"Choose one of that folder's: {there}")
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
    def newest(self) -> dict:
        return self.models[-1]

    @property
    def trained(self) -> dict:
        if len(self.checkpoints) == 1:
            return self.newest
        return next((model for model in self.checkpoints if model["name"] == self._best["name"]), self.newest)

    @property
    def warm_start(self) -> dict | None:
        """The numbers of the run's supervised stage, which GRPO went on from."""
        return next((model for model in self.models if interpret.is_warm_start(model["name"])), None)

    @property
    def checkpoints(self) -> list[dict]:
        """The models but for the base."""
        return self.models[1:] if self.base else self.models

    @property
    def judge(self) -> str:
        """Who gave the scores: the first judge, or the environment where that alone rewarded the run."""
        return self._first["name"]

    @property
    def _first(self) -> dict[str, Any]:
        return self.results.get("by_environment") or self.results["judge"]

    @property
    def second_judge(self) -> str | None:
        """None where none was asked, or it judged nothing of some model."""
        return self.results["second_judge"]["name"] if all(model.get("second") for model in self.models) else None

    def line(self) -> str:
        """`base 0.41 trained 0.78 difference +0.37 [+0.30, +0.44] (n=128)`: mean scores, a 95% interval, pairs.
        `chosen` says which checkpoint is the trained one."""
        trained = self.trained
        if self.base is None:
            interval = interval_text(trained["interval"])
            return f"{trained['name']} {trained['mean']:.2f} {interval} (n={trained['judged']})"
        versus = trained["versus_base"]
        means = f"base {self.base['mean']:.2f} trained {trained['mean']:.2f}"
        return f"{means} difference {interpret.signed(versus)} (n={versus['pairs']})"

    def chosen(self) -> str:
        """The name of the trained checkpoint, and why it is this one."""
        name, best = self.trained["name"], self._best
        if name == best["name"]:
            return f"{name}: {best['why']}"
        return f"{name}: the newest, compared with the base model, which is what the rule takes: {best['why']}"

    def summary(self) -> pandas.DataFrame:
        """A row per model, by the first judge, and which one `best` takes. Scores are in [0, 1], low and high bound 95%
        intervals, differences are to the base, and wins, ties and losses count prompts against it. over_sft is the
        difference to the warm start, where there was one."""
        rows = []
        for model in self.models:
            row = {"model": model["name"], "chosen": "✓" * (model["name"] == self._best["name"]), **_row(model)}
            row |= {name: model[name] for name in ("stdev", "min", "max", "words", "unjudged")}
            if versus := model["versus_base"]:
                row |= {name: versus[name] for name in ("win_rate", "wins", "ties", "losses")}
            if versus := model.get("versus_sft"):
                row |= dict(zip(OVER_SFT, (versus["difference"], *versus["interval"]), strict=True))
            rows.append(row)
        table = pandas.DataFrame(rows, columns=list(rows[-1]))  # the base's row has fewer
        counts = table.columns.intersection(["wins", "ties", "losses"])
        return table.astype(dict.fromkeys(counts, "Int64"))  # whole numbers that may be missing

    def agents(self) -> pandas.DataFrame:
        """A row per model of an evaluation in an environment: its success rate and what that gains over the base,
        each with its 95% interval, calls, turns and errors, and the means of the environment's scores; else empty."""
        rows = []
        for model in self.models:
            if agent := model.get("agent"):
                versus = agent.get("versus_base") or {"difference": None, "interval": (None, None)}
                values = (agent["success"], *agent["interval"], versus["difference"], *versus["interval"])
                rates = dict(zip(("success", "low", "high", "gain", "gain_low", "gain_high"), values, strict=True))
                counts = {name: agent[name] for name in ("calls", "turns", "errors", "cut")}
                rows.append({"model": model["name"], **rates, **counts, **agent["scores"]})
        return pandas.DataFrame(rows)

    def judges(self) -> pandas.DataFrame:
        """A row per model and judge: its mean, and its gain over the base, each with its 95% interval."""
        return pandas.DataFrame(
            {"model": model["name"], "judge": judge, **_row(numbers)}
            for model in self.models
            for judge, numbers in ((self.judge, model), (self.second_judge, model.get("second")))
            if numbers
        )

    def criteria(self) -> pandas.DataFrame:
        """The mean of each of the judge's criteria, a row per model."""
        return pandas.DataFrame({model["name"]: model["criteria"] for model in self.models}).T

    def samples(self) -> pandas.DataFrame:
        """A row per prompt: the models' answers, words, scores and reasons side by side; trained minus base score.

        With a second judge also its scores and reasons, its difference, and `disagreement`: the share of the trained
        model's answers that the first judge ranks below this one, less the same by the second judge. (Ranks, since
        two judges' scores are not on one scale.)
        """
        rows = []
        for sample in read_lines(self.samples_path):
            row = {"id": sample["id"], "prompt": conversation_text(sample["prompt"])}
            row |= {"ground_truth": sample["ground_truth"], "services": " + ".join(sample["services"]) or "none named"}
            row["act"] = interpret.kind_of_turn(sample.get("acts", ()))  # an evaluation of before has none
            for name, answered in sample["answers"].items():
                told = conversation_text(answered["messages"]) if "messages" in answered else answered["answer"]
                row |= {name: told, f"{name} words": len(words(answer_in(answered["answer"]) or ""))}
                row |= {f"{name} score": answered["score"], f"{name} reason": answered["reason"]}
                row |= {f"{name} success": answered["success"]} if "success" in answered else {}
                if second := answered.get("second"):
                    row |= {f"{name} second score": second["score"], f"{name} second reason": second["reason"]}
            rows.append(row)
        table = pandas.DataFrame(rows)
        for kind, differing in (("score", "difference"), ("second score", "second_difference")):
            scores = [name for model in self.models if (name := f"{model['name']} {kind}") in table]
            table[scores] = table[scores].astype(float)  # unjudged is NaN
            if self.base is not None and len(scores) == len(self.models):
                table[differing] = table[f"{self.trained['name']} {kind}"] - table[scores[0]]
        first, second = (f"{self.trained['name']} {kind}" for kind in ("score", "second score"))
        if second in table:
            table["disagreement"] = table[first].rank(pct=True) - table[second].rank(pct=True)
        return table

    def services(self) -> pandas.DataFrame:
        """Scores by service. See grpo_kit.evaluation.interpret.scores_by."""
        return interpret.scores_by("services", self.samples(), self.trained["name"])

    def by_act(self) -> pandas.DataFrame:
        """Scores by class of act (offer, inform, notify, confirm, request, goodbye, other); empty where samples have no
        acts. See grpo_kit.evaluation.interpret.scores_by and kind_of_turn."""
        return interpret.scores_by("act", self.samples(), self.trained["name"])

    def length_trends(self) -> dict[str, interpret.Trend]:
        """Whether longer answers score higher, for base and trained model. Each trend prints as a few words."""
        samples = self.samples()
        names = dict.fromkeys(model["name"] for model in (self.base or self.trained, self.trained))
        return {name: interpret.length_trend(samples, name) for name in names}

    def warnings(self) -> list[str]:
        """The reasons to doubt the result. See grpo_kit.evaluation.interpret.warnings for the rules."""
        return interpret.warnings(self.models, self.trained, self._first, self.results["second_judge"])

    def added(self) -> str:
        """What GRPO added to the warm start; empty where there was none. See grpo_kit.evaluation.interpret.added."""
        return interpret.added(self.models, self.judge)

    def best(self) -> dict[str, Any]:
        """The model to take, and `why`. See grpo_kit.evaluation.interpret.best for the rule."""
        return self._best

    @cached_property
    def _best(self) -> dict[str, Any]:
        rows = [row["answers"] for row in read_lines(self.samples_path)]
        scores = {model["name"]: [row[model["name"]]["score"] for row in rows] for model in self.models}
        return interpret.best(self.models, pandas.DataFrame(scores, dtype=float), self.judge, self.second_judge)

    def result(self) -> dict[str, Any]:
        """A summary as JSON: the models' means and intervals, both judges, warnings, the best checkpoint, and
        the scores of each prompt, for comparisons with other runs."""

        def brief(model: dict) -> dict[str, Any]:
            names = ("mean", "interval", "versus_base")
            second = {name: model["second"][name] for name in names} if model.get("second") else None
            return {"name": model["name"], **{name: model[name] for name in names}, "second": second}

        best, rows = self.best(), read_lines(self.samples_path)
        labelled = {"trained": self.trained} | ({BASE: self.base} if self.base else {})
        labelled |= {"warm_start": self.warm_start} if self.warm_start else {}
        asked = [self.results.get(name) for name in ("judge", "second_judge", "simulated_user")]
        usd = [each.get("usd", 0.0) for each in asked if each]
        return {
            "run": self.results["target"],
            "evaluation": self.path.name,
            "line": self.line(),
            "chosen": self.chosen(),
            "n": self.results["n"],
            "judge": self.judge,
            "second_judge": self.second_judge,
            "base": brief(self.base) if self.base else None,
            "trained": brief(self.trained),
            "warm_start": brief(self.warm_start) if self.warm_start else None,
            "added": self.newest.get("versus_sft"),
            "best": brief(best) | {"why": best["why"]},
            "warnings": self.warnings(),
            "scores": {
                label: {row["id"]: row["answers"][model["name"]]["score"] for row in rows}
                for label, model in labelled.items()
            },
            "seconds": round(sum(model.get("seconds", 0.0) for model in self.models), 1),
            "judge_usd": None if None in usd else sum(usd),  # None where a price is not known
        }


def main_evaluation(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """Of a run's evaluations, the newest last, the one that speaks for it: no endpoint's, of the most prompts, and of
    several such the newest. None where there is none."""
    own = [each for each in evaluations if "endpoint" not in each.results]
    return max(reversed(own), key=lambda each: each.results["n"], default=None)


def _row(numbers: dict) -> dict[str, float]:
    low, high = numbers["interval"]
    row = {"mean": numbers["mean"], "low": low, "high": high}
    if versus := numbers["versus_base"]:
        low, high = versus["interval"]
        row |= {"difference": versus["difference"], "difference_low": low, "difference_high": high}
    return row


def _told(verdict: Verdict) -> dict:
    return {"score": verdict.score, "reason": verdict.reason}


def write_evaluation(
    path: Path,
    results: dict,
    samples: Sequence[Sample],
    answered: Mapping[str, Answered],
    draw: "Callable[[Evaluation], Figure] | None" = None,
) -> Evaluation:
    """Writes NAME.samples.jsonl, then `path`, so that where NAME.json is the samples are whole, and last NAME.png."""
    evaluation = Evaluation(path, results)
    with replacing(evaluation.samples_path) as partial, partial.open("w") as file:
        for i, sample in enumerate(samples):
            row = {name: getattr(sample, name) for name in ("id", "prompt", "ground_truth", "rubric", "services")}
            row["acts"] = [act.act for act in sample.acts]
            row["answers"] = {
                name: {"answer": own.answers[i], **_told(own.verdicts[i])}
                | ({"second": _told(own.second[i])} if own.second else {})
                | ({"messages": own.dialogues[i].messages, "success": own.won[i]} if own.dialogues else {})
                for name, own in answered.items()
            }
            file.write(json.dumps(row) + "\n")
    write_json(path, results)
    if draw:
        with replacing(evaluation.figure_path) as partial:
            draw(evaluation).savefig(partial, format="png", dpi=150)
    return evaluation
