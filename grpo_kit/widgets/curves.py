"""`Curves(runs)`: a run's learning curve, or several runs on each other, to hover over, zoom, smooth and click."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas
import traitlets

from grpo_kit.plots import runs as plots
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.widgets.still import Still, picture_html

DASHES = "", "7 4", "2 3", "8 3 2 3"
SECONDS = {"seconds": "seconds per step"}  # all parts of it


class Curves(Still, anywidget.AnyWidget):
    """Reward by step, and what explains it, of the runs that `show` was given last, in the colours of the page's theme;
    nothing while they have no steps.

    In a browser hovering says step, value and run; a drag zooms, a double click shows all again; a slider smooths; an
    entry of the legend highlights and hides. A click on a point calls `on_step(run, step)`, a second one there
    `on_step(None, None)`.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    runs = traitlets.List().tag(sync=True)  # of each: name, columns and, in float32, its rows
    panels = traitlets.List().tag(sync=True)  # of each: title, lines, and what its axis holds in any case
    smoothing = traitlets.Float(0.1).tag(sync=True)  # the share of the steps that a mean is of
    picked = traitlets.List().tag(sync=True)  # number of the run, and step, of the point that was clicked

    def __init__(
        self,
        runs: Sequence[RunDirectory] = (),
        on_step: Callable[[RunDirectory | None, int | None], object] = lambda run, step: None,
        compares: bool = False,
    ):
        """`compares`: a saved notebook keeps the rewards in one figure, also where they are of one run."""
        super().__init__(layout={"width": "100%"})
        self.shown: list[RunDirectory] = []
        self._rows, self._compares = list[np.ndarray](), compares
        self.observe(lambda _: on_step(*self._point()), "picked")
        self.on_msg(lambda *_: self.send_state(["panels", "runs"]))  # a page that has lost some asks for all
        self.show(runs)

    def show(self, runs: Sequence[RunDirectory]) -> None:
        """Reads these runs' files and shows them. Of runs that are shown already only new rows are sent."""
        tables = [_table(run) for run in runs]
        names = [run.id for run in runs] if len(runs) < 2 else plots.names_of(runs)
        heads = [{"name": name, "columns": ["step", *table]} for name, table in zip(names, tables, strict=True)]
        rows = [table.reset_index().to_numpy("<f4") for table in tables]
        known = [{key: run[key] for key in ("name", "columns")} for run in self.runs]
        are_same = heads == known and [str(run.storage) for run in runs] == [str(run.storage) for run in self.shown]
        with self.hold_sync():
            self.panels = _panels(runs, names, tables)
            if not (are_same and all(map(_goes_on, self._rows, rows))):
                self.runs = [head | {"rows": each.tobytes()} for head, each in zip(heads, rows, strict=True)]
                self.picked, self._rows = [], rows
        for i, (old, new) in enumerate(zip(self._rows, rows, strict=True)):
            if len(new) > len(old):
                self.runs[i]["rows"] = new.tobytes()  # in place, which sends nothing; a page loaded anew gets all
                self.send({"run": i, "after": old.nbytes}, [new[len(old) :].tobytes()])
        self.shown, self._rows = list(runs), rows

    def still(self) -> str:
        if not self.shown:
            return ""
        compares = self._compares or len(self.shown) > 1
        return picture_html(plots.compare_runs(self.shown) if compares else plots.learning_curve(self.shown[0]))

    def _point(self) -> tuple[RunDirectory | None, int | None]:
        return (self.shown[self.picked[0]], int(self.picked[1])) if self.picked else (None, None)


def _table(run: RunDirectory) -> pandas.DataFrame:
    table = plots.by_step(run)
    parts = table[[f"seconds/{part}" for part in plots.PARTS]]
    return table.assign(seconds=parts.sum(axis=1, min_count=1))


def _goes_on(old: np.ndarray, new: np.ndarray) -> bool:
    """Not where a run was resumed from an earlier step."""
    return len(new) >= len(old) and np.array_equal(new[: len(old)], old, equal_nan=True)


def _panels(runs: Sequence[RunDirectory], names: list[str], tables: list[pandas.DataFrame]) -> list[dict]:
    """The panels and lines that have something to show."""
    made = _of_one(runs[0], [str(name) for name in tables[0]]) if len(runs) == 1 else _of_several(names)
    measured = [{name for name in table if table[name].notna().any()} for table in tables]
    for panel in made:
        panel["lines"] = [line for line in panel["lines"] if line["column"] in measured[line["run"]]]
    return [panel for panel in made if panel["lines"]]


def _of_one(run: RunDirectory, columns: list[str]) -> list[dict]:
    second = [name for name in columns if name.startswith(plots.SECOND)]
    lines = [
        _line("reward", "band", label="± 1 sd of completions", spread="reward_std"),
        _line("reward", "each", label="each step"),
        _line("reward", "mean", label="mean"),
        _line(plots.HELD_OUT, "dots", 1, label="held-out"),
        *(_line(name, "dots", 1, DASHES[1], label=f"held-out, by {name.split('/')[1]}") for name in second),
    ]
    small = {name: [_line(name, look, "grey") for look in ("each", "mean")] for name in plots.SMALL}
    parts = [_line(f"seconds/{part}", "mean", i, label=part) for i, part in enumerate(plots.PARTS)]
    is_judge_alone = run.about.get("reward_weights", [1.0]) == [1.0]  # its scores go from 0 to 1
    return [
        _panel("reward (mean of a step's completions)", "reward", lines, wide=True, clip=is_judge_alone),
        *(_panel(title, name, small[name]) for name, title in plots.SMALL.items()),
        _panel(SECONDS["seconds"], "seconds", parts, own=True),
    ]


def _of_several(names: list[str]) -> list[dict]:
    """The same panels, with a line for each run."""
    looks = [(colour, DASHES[dash]) for colour, dash in map(plots.look_of, range(len(names)))]

    def lines(column: str) -> list[dict]:
        return [_line(column, "mean", *looks[i], run=i, label=name) for i, name in enumerate(names)]

    titles = plots.SMALL | SECONDS
    small = [_panel(title, name, lines(name)) for name, title in titles.items()]
    return [_panel("reward", "reward", lines("reward"), wide=True), *small]


def _line(column: str, look: str, colour: int | str = 0, dash: str = "", run: int = 0, **more: str) -> dict[str, Any]:
    return {"column": column, "look": look, "colour": f"c{colour}", "dash": dash, "run": run, **more}


def _panel(title: str, column: str, lines: list[dict], **more: Any) -> dict[str, Any]:
    """Its axis holds 0, but for loss and reward, so that a line at 0 is seen; that of a share also 100%."""
    ends = {} if column in ("loss", "reward") else {"low": 0}
    return {"title": title, "lines": lines, **ends, **({"high": 100} if "%" in title else {}), **more}
