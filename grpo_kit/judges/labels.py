"""People's labels of answers: the CSV file that keeps them, and tables as Argilla and Label Studio export them."""

import ast
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import pandas
from filelock import FileLock

from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError
from grpo_kit.utils.files import check_folder, write_bytes
from grpo_kit.utils.text import did_you_mean

BEST = 5  # labels go from 1, worthless, to it, as good as can be
PREFERENCES = {"a": 1, "tie": 0, "b": -1}  # 1: the first answer is better
SIDES = {"left": "a", "right": "b"}  # Label Studio's names of two answers
LABEL_STUDIO = {"annotator": "labeller", "lead_time": "seconds", "created_at": "time"}
RESPONSES = ("label", "preference", "note")  # what Argilla has a list of
Question = tuple[str, tuple[str, ...]]
Format = Literal["argilla", "label_studio"]
EXPORT = {"argilla": "Export dataset.records.to_list(flatten=True)", "label_studio": "Export as JSON-MIN or CSV"}


@dataclass(frozen=True)
class Label:
    """A row of the file: a score of `answer`, or which of it (a) and `other_answer` (b) is better. Neither: skipped.

    `seconds` it took to decide, None where that is not known; `time` is ISO 8601's.
    """

    sample_id: str
    answer: str
    other_answer: str = ""
    label: int | None = None
    preference: str = ""
    labeller: str = ""
    seconds: float | None = None
    note: str = ""
    time: str = ""

    @property
    def is_skip(self) -> bool:
        return self.label is None and not self.preference

    @property
    def question(self) -> Question:
        """What was asked: the sample, and the answer or, in alphabetical order, the two."""
        return self.sample_id, tuple(sorted((self.answer, self.other_answer))) if self.other_answer else (self.answer,)

    @property
    def value(self) -> float:
        """The score's place from 0, worthless, to 1; of a choice 1 where the question's first answer is better, -1
        where its second is, 0 for a tie."""
        if self.label is not None:
            return (self.label - 1) / (BEST - 1)
        return (1 if self.question[1][0] == self.answer else -1) * PREFERENCES[self.preference]


COLUMNS = [field.name for field in fields(Label)]


class LabelFile:
    """The CSV file at `path`. Each label is in it before the next is given; several people may write to it at once."""

    def __init__(self, path: str | Path):
        """Raises ConfigError where there can be no such file."""
        self.path = Path(path)
        check_folder(self.path.parent)
        self._lock = self.path.parent / f".{self.path.name}.lock"

    def read(self) -> list[Label]:
        """The rows, newest last; none where there is no file. Raises ConfigError, as `read_labels` does."""
        return read_labels(self.path) if self.path.exists() else []

    def save(self, label: Label) -> None:
        """Adds a label, in place of what this labeller said of the same before."""
        with self._open_alone():
            kept = [row for row in self.read() if (row.question, row.labeller) != (label.question, label.labeller)]
            self._write([*kept, label])

    def undo(self, labeller: str, among: Iterable[Question]) -> Label | None:
        """Takes the labeller's newest row back that is about one of these questions. None where there is none."""
        asked = set(among)
        with self._open_alone():
            rows = self.read()
            newest = next((row for row in rows[::-1] if row.labeller == labeller and row.question in asked), None)
            if newest:
                self._write([row for row in rows if row is not newest])
            return newest

    def _open_alone(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._lock)

    def _write(self, rows: Iterable[Label]) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
        write_bytes(self.path, text.getvalue().encode("utf-8-sig"))  # begins with the mark by which Excel knows UTF-8


def read_labels(path: Path) -> list[Label]:
    """The rows of a CSV file with the columns of Label, of which only sample_id, answer, and label or preference must
    be there. Raises ConfigError, naming file and line, for a file that can't be used."""
    labels, line = [], 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restval="", strict=True)
            _check_columns(table.fieldnames or [], f"{path}:1")
            for row in table:
                line = table.line_num
                if None in row:
                    what = f"{path}:{line}: the row has more cells than there are columns"
                    raise ConfigError(what, "Put double quotes around text with commas")
                labels.append(_label(row, f"{path}:{line}"))
    except csv.Error as error:
        raise ConfigError(f"{path}:{line + 1} is not CSV ({error})", "Correct it, or export it again") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror})", "Name the CSV file that has the labels") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} can't be read ({error})", "Save it as CSV in UTF-8") from None
    return labels


def scored(labels: Iterable[Label], samples: Iterable[Sample]) -> list[tuple[Sample, str, float]]:
    """Sample, answer and people's mean score, from 0 to 1, of each answer that was scored.

    Raises ConfigError for a label whose sample is not among these.
    """
    by_id, found = {sample.id: sample for sample in samples}, {}
    for label in labels:
        if label.label is not None:
            if label.sample_id not in by_id:
                what = f"a label is for the sample {label.sample_id!r}, which is not in the data"
                raise ConfigError(what, "Use the data that was labelled")
            found.setdefault((label.sample_id, label.answer), []).append(label.value)
    return [(by_id[name], answer, sum(values) / len(values)) for (name, answer), values in found.items()]


def to_table(labels: Iterable[Label], format: Format) -> pandas.DataFrame:
    """The labels, without what was skipped, as a table like those that Argilla ("argilla": a row per answer or pair,
    with lists of people's responses) or Label Studio ("label_studio": a row per label) export."""
    given = [label for label in labels if not label.is_skip]
    if format == "label_studio":
        theirs = {kit: name for name, kit in LABEL_STUDIO.items()}
        table = pandas.DataFrame([asdict(label) for label in given], columns=COLUMNS)
        return table.astype({"label": "Int64"}).rename(columns=theirs)  # whole numbers that may be missing
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for label in given:
        told = {name: getattr(label, name) for name in COLUMNS[:3]}
        row = rows.setdefault(tuple(told.values()), {"id": f"{len(rows) + 1}", **told})
        for name in RESPONSES:
            if value := getattr(label, name):
                cells = {"": value, ".users": label.labeller, ".status": "submitted"}
                for ending, cell in cells.items():
                    row.setdefault(f"{name}.responses{ending}", []).append(cell)
    return pandas.DataFrame(list(rows.values()))


def from_table(table: pandas.DataFrame | str | Path, format: Format) -> list[Label]:
    """The labels in what Argilla or Label Studio exported, a JSON or CSV file or a table; see `to_table`. Responses
    that were not submitted are left out, and a table without the column sample_id has the samples' ids in `id`.

    Raises ConfigError, naming the row, for a table that can't be used.
    """
    if not isinstance(table, pandas.DataFrame):
        table = _read_table(Path(table))
    table = table if "sample_id" in table else table.rename(columns={"id": "sample_id"})
    table = table.rename(columns=LABEL_STUDIO if format == "label_studio" else {})
    _check_columns([str(name).removesuffix(".responses") for name in table], f"the {format} table", EXPORT[format])
    labels = []
    for number, row in enumerate(table.to_dict("records"), 1):
        for given in [row] if format == "label_studio" else _responses(row):
            cells = {name: _inside(given.get(name)) if name in RESPONSES else given.get(name) for name in COLUMNS}
            labels.append(_label(cells, f"row {number} of the {format} table"))
    return [label for label in labels if not label.is_skip]


def _read_table(path: Path) -> pandas.DataFrame:
    """The file's cells as they are written: an answer may be "7.50", an id "007" and a note "None"."""
    try:
        if path.suffix == ".csv":
            return pandas.read_csv(path, dtype=str, keep_default_na=False)
        return pandas.DataFrame(json.loads(path.read_text(encoding="utf-8")), dtype=object)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} can't be read ({error})", "Export it again as JSON or CSV in UTF-8") from None


def _responses(row: dict[Any, Any]) -> list[dict[str, Any]]:
    """A record of Argilla's as a row for each of its labellers."""
    by_user: dict[str, dict[str, Any]] = {}
    for name in RESPONSES:
        lists = [_list(row.get(f"{name}.responses{ending}")) for ending in ("", ".users", ".status")]
        for value, user, status in zip_longest(*lists, fillvalue=None):
            if status in (None, "submitted"):
                by_user.setdefault(str(user or ""), {})[name] = value
    return [{name: row.get(name) for name in COLUMNS[:3]} | {"labeller": user} | by_user[user] for user in by_user]


def _list(cell: Any) -> list[Any]:
    """A cell's values: of a list, also one that a CSV file has as text, or of an object; none where it is empty."""
    if isinstance(cell, str) and cell.startswith(("[", "{")):
        with suppress(ValueError, SyntaxError):  # a note that begins so
            cell = ast.literal_eval(cell)
    if isinstance(cell, dict):
        return list(cell.values())
    if isinstance(cell, str) or not hasattr(cell, "__len__"):
        return [] if _is_missing(cell) else [cell]
    return list(cell)


def _inside(cell: Any) -> Any:
    """What the lists and objects hold in which Label Studio wraps one value: 4 of [{"rating": 4}]; texts as lines."""
    while len(inside := _list(cell)) == 1 and inside[0] is not cell:
        cell = inside[0]
    return "\n".join(inside) if len(inside) > 1 and all(isinstance(each, str) for each in inside) else cell


def _is_missing(cell: Any) -> bool:
    return cell is None or cell != cell  # NaN


def _check_columns(there: Sequence[str], where: str, fix: str = "") -> None:
    needed = {name: [name] for name in ("sample_id", "answer")} | {"label": ["label", "preference"]}
    for name, either in needed.items():
        if not set(either) & set(there):
            what = f"{where}: no column {' or '.join(map(repr, either))}; it has: {', '.join(there) or 'none'}"
            raise ConfigError(what, did_you_mean(name, there).strip() or fix)


def _label(row: Mapping[str, Any], where: str) -> Label:
    """The label in a row of cells. Raises ConfigError."""
    cells = {name: "" if _is_missing(cell := row.get(name)) else str(cell) for name in COLUMNS}
    cells |= {name: cells[name].strip() for name in ("label", "preference", "labeller", "seconds")}
    label, preference = cells["label"], SIDES.get(cells["preference"].lower(), cells["preference"].lower())
    try:
        number = int(float(label)) if label else None
        fits = number is None or (number == float(label) and 1 <= number <= BEST)
    except (ValueError, OverflowError):
        number, fits = None, False
    if not fits:
        raise ConfigError(f"{where}: {label!r} is not a label", f"Use 1 (worthless) to {BEST}, or leave it blank")
    if preference and (preference not in PREFERENCES or not cells["other_answer"]):
        fix = "Use a, b or tie with an other_answer, or leave it blank"
        raise ConfigError(f"{where}: {cells['preference']!r} is not a preference between two answers", fix)
    try:
        seconds = float(cells["seconds"]) if cells["seconds"] else None
    except ValueError:
        what = f"{where}: seconds {cells['seconds']!r} is not a number"
        raise ConfigError(what, "Correct it, or leave it blank") from None
    told: dict[str, Any] = {**cells, "label": number, "preference": preference, "seconds": seconds}
    return Label(**told)
