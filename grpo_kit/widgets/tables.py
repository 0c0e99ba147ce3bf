"""Samples, runs, completions and answers as tables for the widgets: filtered, the most worth reading first."""

from collections.abc import Sequence

import pandas as pd

from grpo_kit.backends.run import Run
from grpo_kit.data.samples import Sample, conversation_text, last_turn
from grpo_kit.errors import RunError
from grpo_kit.evaluation.result import BASE, Evaluation, main_evaluation
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.utils.words import words

GROUP_ORDERS = {  # name: which column of `groups` it sorts by, largest first or not
    "as trained": ("step", False),
    "best on average": ("score", True),
    "worst on average": ("score", False),
    "largest advantage": ("advantage", True),
    "rewards disagree most": ("disagreement", True),
}
ANSWER_ORDERS = {  # name: which column of `answers` it sorts by, largest first or not
    "biggest gain": ("gain", True),
    "biggest loss": ("gain", False),
    "best score": ("score", True),
    "worst score": ("score", False),
    "judges disagree most": ("disagreement", True),
}
SAMPLE_ORDERS = {  # name: which column of preflight.prepared's table it sorts by, largest first or not
    "not answerable first": ("unknown acts", True),
    "longest prompt": ("tokens", True),
    "longest reply": ("reply tokens", True),
    "as in the files": ("line", False),
}
COMMON_ORDERS = {  # name: which column of `with_spread` it sorts by, largest first or not
    "scores differ most": ("spread", True),
    "worst on average": ("mean", False),
    "best on average": ("mean", True),
}
PROTOTYPE_ORDERS = {  # name: which column of `prototypes` it sorts by, largest first or not
    "as in the data": ("place", False),
    "most dialogue acts": ("most acts", True),
    "longest prompt": ("words", True),
}


def prototypes(given: Sequence[Sample]) -> pd.DataFrame:
    """A row per sample: place, asked, words, services, acts (their names), most acts (how many) and text, all of it."""
    rows = [
        {
            "place": place,
            "asked": last_turn(each.prompt),
            "words": len(words(each.conversation)),
            "services": each.services,
            "acts": [act.act for act in each.acts],
            "most acts": len(each.acts),
            "text": "\n".join([each.id, each.conversation, each.ground_truth, each.rubric]),
        }
        for place, each in enumerate(given)
    ]
    return pd.DataFrame(rows)


def narrowed(table: pd.DataFrame, order: tuple[str, bool], text: str = "", **names: str) -> pd.DataFrame:
    """The rows that hold `text` somewhere in their column `text` and, where a name is given for a column of names
    (services="Hotels_1"), have it there; sorted by the column that `order` names, largest first or not."""
    found = table
    for column, name in names.items():
        found = found[[not name or name in own for own in found[column]]]
    return _sorted(found[_holds(found[["text"]], text)], *order)


def completions(run: Run) -> pd.DataFrame:
    """run.completions() with the columns that sort them: `score`, `disagreement`, and `asked`, the prompt's last turn.

    `score` is the weighted sum of the rewards that were given, as TRL sums them, NaN where there is none;
    `disagreement` the largest less the smallest of them, NaN where there are fewer than two.
    """
    table = run.completions()
    if table.empty:
        return table
    names = run.about["rewards"]
    given = pd.DataFrame(table["rewards"].tolist(), table.index, names, dtype=float)
    weights = run.about.get("reward_weights") or [1.0] * len(names)
    table["score"] = given.mul(weights, axis=1).sum(axis=1, min_count=1)
    table["disagreement"] = (given.max(axis=1) - given.min(axis=1)).where(given.count(axis=1) > 1)
    return table.assign(asked=table["prompt"].map(last_turn))


def groups(table: pd.DataFrame, step: int | None = None, text: str = "", order: str = "as trained") -> pd.DataFrame:
    """A row per group of `completions`: step, sample_id, asked, mean score, largest advantage and disagreement.

    Only those of a step, where one is given, that hold `text` somewhere in prompt, completions or reasons.
    """
    found = table if step is None else table[table["step"] == step]
    grouped = found.groupby(["step", "sample_id"], sort=False)
    rows = grouped.agg({"asked": "first", "score": "mean", "advantage": "max", "disagreement": "max"}).reset_index()
    if text.strip():
        texts = found[["completion", "reason"]].assign(prompt=found["prompt"].map(conversation_text))
        rows = rows[_holds(texts, text).groupby([found["step"], found["sample_id"]], sort=False).any().to_numpy()]
    return _sorted(rows, *GROUP_ORDERS[order])


def group(table: pd.DataFrame, step: int, sample_id: str) -> pd.DataFrame:
    """The completions of one group, best first."""
    return _sorted(table[(table["step"] == step) & (table["sample_id"] == sample_id)], "score", True)


def answer_orders(evaluation: Evaluation) -> list[str]:
    """The orders of its answers: gains need a base model, disagreement a second judge."""
    lacking = {"gain" if not evaluation.base else "", "disagreement" if not evaluation.second_judge else ""}
    return [name for name, (by, _) in ANSWER_ORDERS.items() if by not in lacking]


def answers(evaluation: Evaluation, model: str | None = None, order: str | None = None, text: str = "") -> pd.DataFrame:
    """A row per prompt: the answer of `model`, a checkpoint's name (None: the trained one), beside the base model's.

    Columns: id, prompt, asked, ground_truth, answer, score, reason and, where the evaluation has a base model, base,
    base score, base reason and gain; with a second judge also second score, second reason (each also of the base) and
    `disagreement`, by how much of all answers the two judges' ranks of this one differ, from 0 to 1. Only the rows
    that hold `text` somewhere; `order` is one of `answer_orders`. RunError where there is no such checkpoint.
    """
    model, order = model or evaluation.trained["name"], order or answer_orders(evaluation)[0]
    models = [each["name"] for each in evaluation.checkpoints]
    if model not in models:
        raise RunError(f"{evaluation.path.name} has no model {model!r}", f"Choose one of: {', '.join(models)}")
    parts = ["score", "reason", *(["second score", "second reason"] if evaluation.second_judge else [])]
    own = {model: "answer"} | {f"{model} {part}": part for part in parts}
    base = [BASE, *(f"{BASE} {part}" for part in parts)] if evaluation.base else []
    table = evaluation.samples()[["id", "prompt", "ground_truth", *own, *base]].rename(columns=own)
    if evaluation.base:
        table["gain"] = table["score"] - table[f"{BASE} score"]
    if evaluation.second_judge:
        table["disagreement"] = (table["score"].rank(pct=True) - table["second score"].rank(pct=True)).abs()
    prompts = pd.Series([row["prompt"] for row in read_lines(evaluation.samples_path)], dtype=object)
    if text.strip():
        table = table[_holds(table.select_dtypes(exclude="number").drop(columns="id"), text)]
    return _sorted(table.assign(prompt=prompts, asked=prompts.map(last_turn)), *ANSWER_ORDERS[order])


def in_common(runs: Sequence[Run]) -> tuple[pd.DataFrame, list[str]]:
    """A row per prompt that all runs have answered, and the names of those who did, `RUN: checkpoint-20`.

    Columns: id, prompt, asked, ground_truth and for each name NAME, NAME score, NAME reason. From the evaluations
    that speak for the runs where all have one, with their base model once; else what each was trained on last.
    """
    found = [(run.id, own) for run in runs if (own := main_evaluation(run.evaluations()))]
    each = [_evaluated(*own) for own in found] if len(found) == len(runs) else [_trained(run) for run in runs]
    shared, names = set.intersection(*(set(table.index) for table in each)), dict[str, None]()
    both = pd.DataFrame(index=[name for name in each[0].index if name in shared])
    for table in each:
        both = both.join(table[table.columns.difference(both.columns, sort=False)])
        names |= dict.fromkeys(name.removesuffix(" score") for name in map(str, table) if name.endswith(" score"))
    return both.rename_axis("id").reset_index(), list(names)


def _evaluated(run: str, evaluation: Evaluation) -> pd.DataFrame:
    table, rows = evaluation.samples().set_index("id"), read_lines(evaluation.samples_path)
    names = {model["name"]: f"{run}: {model['name']}" for model in evaluation.models if model["name"] != BASE}
    renamed = {f"{name}{part}": f"{own}{part}" for name, own in names.items() for part in ("", " score", " reason")}
    kept = [name for name in (BASE, f"{BASE} score", f"{BASE} reason", *renamed) if name in table]
    prompts = pd.Series({row["id"]: row["prompt"] for row in rows}, dtype=object)
    told = table[["ground_truth"]].assign(prompt=prompts, asked=prompts.map(last_turn))
    return told.join(table[kept].rename(columns=renamed))


def _trained(run: Run) -> pd.DataFrame:
    name, table = f"{run.id}: training", completions(run)
    renamed = {"completion": name, "score": f"{name} score", "reason": f"{name} reason"}
    table = table.reindex(columns=["step", "sample_id", "prompt", "asked", *renamed])
    last = table.sort_values("step", kind="stable").drop_duplicates("sample_id", keep="last").set_index("sample_id")
    return last.drop(columns="step").rename(columns=renamed).assign(ground_truth="")


def with_spread(table: pd.DataFrame, names: Sequence[str], least: float, text: str, order: str) -> pd.DataFrame:
    """The rows of `in_common` that hold `text` somewhere and whose scores by these names differ by `least` or more,
    with their `spread` and `mean`."""
    scores = table[[f"{name} score" for name in names]].astype(float)
    found = table.assign(spread=scores.max(axis=1) - scores.min(axis=1), mean=scores.mean(axis=1))
    found = found[(found["spread"] >= least) | (least == 0)]
    return _sorted(found[_holds(found[["asked", *names]], text)], *COMMON_ORDERS[order])


def _sorted(table: pd.DataFrame, by: str, descending: bool) -> pd.DataFrame:
    return table.sort_values(by, ascending=not descending, kind="stable", na_position="last", ignore_index=True)


def _holds(texts: pd.DataFrame, text: str) -> pd.Series:
    """Which rows hold `text` in one of their columns; capitals do not count."""
    return texts.apply(lambda column: column.str.contains(text.strip(), case=False, regex=False, na=False)).any(axis=1)
