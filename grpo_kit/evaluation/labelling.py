"""What people are asked to label, in which order, and how far judges agree with them, and they with each other."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from math import copysign, inf
from pathlib import Path

import pandas

from grpo_kit.data.samples import Sample, read_samples
from grpo_kit.data.thoughts import answer_in
from grpo_kit.errors import ConfigError
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.judges.calibration import Agreement, agreement, choice_agreement
from grpo_kit.judges.labels import Label, Question
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.utils.statistics import FEW

# The keys that people press, and what they mean.
SCORES = {"1": "worthless", "2": "poor", "3": "fair", "4": "good", "5": "perfect"}
CHOICES = {"a": "a is better", "t": "tie", "b": "b is better"}
OTHERS = {"u": "undo", "s": "skip"}

Samples = Iterable[Sample] | str | Path
Answers = Evaluation | Mapping[str, Sequence[str]]
Scores = Mapping[str, Mapping[tuple[str, str], float | None]]  # judge: (sample's id, answer): score from 0 to 1


@dataclass(frozen=True)
class Item:
    """A question to people: how good the one answer is, or which of the two is better, in the order they are shown."""

    sample: Sample
    answers: tuple[str, ...]

    @property
    def question(self) -> Question:
        return self.sample.id, tuple(sorted(self.answers))


@dataclass(frozen=True)
class Labelling:
    """Samples by id, their answers without who wrote them, and what judges said of these, which people aren't told."""

    samples: Mapping[str, Sample]
    answers: Mapping[str, Sequence[str]]
    scores: Scores

    @classmethod
    def of(cls, samples: Samples, answers: Answers, scores: Scores | None = None) -> "Labelling":
        """`samples` may be a file of samples, or a data folder, whose eval.jsonl is read. An evaluation gives the
        answers of base and trained model and both judges' scores. Raises ConfigError where an answer has no sample."""
        if isinstance(samples, str | Path):
            path = Path(samples)
            samples = read_samples(path / "eval.jsonl" if path.is_dir() else path)
        by_id = {sample.id: sample for sample in samples}
        if isinstance(answers, Evaluation):
            answers, of_judges = _evaluated(answers)
            scores = of_judges | dict(scores or {})
        answers = {name: [texts] if isinstance(texts, str) else texts for name, texts in answers.items()}
        if unknown := [name for name in answers if name not in by_id]:
            what = f"{len(unknown)} of {len(answers)} samples with answers are not among the samples: {unknown[0]!r}"
            raise ConfigError(what, "Give the samples that were answered, such as the data's eval.jsonl")
        return cls(by_id, answers, scores or {})

    def items(self, choose: bool, seed: int = 0) -> list[Item]:
        """A question per answer, or per pair of answers with `choose`, in a random order that `seed` fixes; those on
        which the judges differ come first, the more the sooner."""
        rng, items = random.Random(seed), []
        for name, texts in self.answers.items():
            said = {answer_in(text) or "": text for text in texts}  # the same words are asked about once
            for few in combinations(said, 2 if choose else 1):
                if not choose or all(each.strip() for each in few):
                    items.append(Item(self.samples[name], tuple(said[each] for each in rng.sample(few, len(few)))))
        rng.shuffle(items)
        ranks = self._ranks()
        return sorted(items, key=lambda item: -_disagreement(item, ranks))

    def agreement(self, labels: Iterable[Label], choose: bool, seed: int = 0) -> dict[str, Agreement]:
        """The agreement of each judge with people, and of each two people who labelled the same, of scores or choices.

        Where several people labelled the same, a judge is compared with their mean, or with what most of them chose.
        """
        said: dict[Question, dict[str, float]] = {}
        for label in labels:
            if not label.is_skip and (label.label is None) == choose:
                said.setdefault(label.question, {})[label.labeller or "no name"] = label.value
        compare = choice_agreement if choose else agreement
        people = [sum(values.values()) / len(values) for values in said.values()]
        if choose:
            people = [copysign(1, mean) if mean else 0.0 for mean in people]
        found = {
            name: compare(people, [_score(own, question) for question in said], seed)
            for name, own in self.scores.items()
        }
        for one, other in combinations(sorted({name for values in said.values() for name in values}), 2):
            both = [(values[one], values[other]) for values in said.values() if one in values and other in values]
            if both:
                found[f"{one} and {other}"] = compare([a for a, _ in both], [b for _, b in both], seed)
        return found

    def _ranks(self) -> list[dict[tuple[str, str], float]]:
        """Each judge's ranks of the answers, from 0 to 1, since two judges' scores are not on one scale."""
        there = [{key: score for key, score in own.items() if score is not None} for own in self.scores.values()]
        ranked = [pandas.Series(own.values(), dtype=float).rank(pct=True) for own in there]
        return [dict(zip(own, ranks, strict=True)) for own, ranks in zip(there, ranked, strict=True)]


def agreement_table(found: Mapping[str, Agreement], choose: bool) -> pandas.DataFrame:
    """A row for each of these agreements, of choices or else of scores, with 95% intervals as text."""
    kappa = "kappa" if choose else "weighted"
    shown = {kappa: "kappa", "spearman": "Spearman", "accuracy": "accuracy", "constant": "constant guess"}
    rows = [
        {"agreement of": name, "labels": each.answers}
        | {head: str(getattr(each, what)) for what, head in shown.items()}
        | {"problem": each.problem or f"fewer than {FEW}: intervals are too narrow" * (each.answers < FEW)}
        for name, each in found.items()
    ]
    return pandas.DataFrame(rows, columns=["agreement of", "labels", *shown.values(), "problem"])


def label_of(item: Item, key: str, labeller: str, seconds: float, note: str = "") -> Label:
    """What a person says who presses a key of SCORES or CHOICES, or "s" to skip."""
    return Label(
        item.sample.id,
        *item.answers,
        label=int(key) if key in SCORES else None,
        preference={"t": "tie"}.get(key, key) if key in CHOICES else "",
        labeller=labeller,
        seconds=round(seconds, 1),
        note=note,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def next_item(items: Sequence[Item], labels: Iterable[Label], labeller: str) -> Item | None:
    """The first that this person has neither labelled nor skipped, else what was skipped first; None where none is
    left."""
    said = {label.question: label for label in labels if label.labeller == labeller}
    if fresh := next((item for item in items if item.question not in said), None):
        return fresh
    by_question = {item.question: item for item in items}
    return next((by_question[name] for name in said if said[name].is_skip and name in by_question), None)


def progress(items: Sequence[Item], labels: Iterable[Label], labeller: str) -> tuple[int, int]:
    """How many of the questions this person has answered, and skipped."""
    asked = {item.question for item in items}
    own = [label.is_skip for label in labels if label.labeller == labeller and label.question in asked]
    return own.count(False), own.count(True)


def _evaluated(evaluation: Evaluation) -> tuple[dict[str, list[str]], dict[str, dict[tuple[str, str], float | None]]]:
    """The answers of base and trained model by sample, and the judges' scores of them."""
    first, second = evaluation.judge, f"{evaluation.second_judge} (second judge)"
    models = [model["name"] for model in (evaluation.base, evaluation.trained) if model]
    answers, scores = {}, {first: {}} | ({second: {}} if evaluation.second_judge else {})
    for row in read_lines(evaluation.samples_path):
        for told in (row["answers"][name] for name in models):
            answers.setdefault(row["id"], []).append(told["answer"])
            for judge, verdict in ((first, told), (second, told.get("second"))):
                if judge in scores and verdict:
                    scores[judge][row["id"], told["answer"]] = verdict["score"]
    return answers, scores


def _score(own: Mapping[tuple[str, str], float | None], question: Question) -> float | None:
    """A judge's score of the answer, or how much higher the first of two scores than the second; None if unjudged."""
    name, texts = question
    scores = [score for text in texts if (score := own.get((name, text))) is not None]
    if len(scores) < len(texts):
        return None
    return scores[0] if len(scores) == 1 else scores[0] - scores[1]


def _disagreement(item: Item, ranks: Iterable[Mapping[tuple[str, str], float]]) -> float:
    """The largest less the smallest of the judges' ranks, or of their differences; -inf where only one has judged."""
    places = [place for own in ranks if (place := _score(own, item.question)) is not None]
    return max(places) - min(places) if len(places) > 1 else -inf
