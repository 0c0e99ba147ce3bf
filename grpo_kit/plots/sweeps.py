"""Figures of sweeps: the effect of each setting, and the best score over the dollars spent."""

from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from grpo_kit.errors import RunError
from grpo_kit.plots.style import ABOVE, BLUE, DARK, LIGHT, ORANGE, NotebookFigure, styled

IN_A_ROW = 3  # panels
MANY = 5  # values; more numbers were drawn from a range
LONG = 24  # letters of all values beside each other; more are written aslant
WIDE = 30  # times; a wider range has a logarithmic axis
Sweep = Any  # kit.Sweep, whose room is built on this one


@styled()
def setting_effects(sweep: Sweep, score: str = "trained") -> NotebookFigure:
    """A panel for each setting: the score of each run by its value, and the mean of each value with its range.

    Runs with one value differ in seeds and in all other settings, so a panel shows what a setting does whatever the
    others are. RunError where no complete run has the score, or all runs are alike.
    """
    done, settings = _complete(sweep, score)
    settings = settings or ["seed"] * ("seed" in done)
    if not settings:
        raise RunError("no setting differs between the runs of this sweep", "Give a setting a list of values")
    rows, columns = -(-len(settings) // IN_A_ROW), min(IN_A_ROW, len(settings))
    figure = NotebookFigure(9, 0.6 + 2.5 * rows)
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes, name in zip(panels, settings, strict=False):
        _effect(axes, done[name], done[score])
        _base(axes, done)
        axes.set_xlabel(name)
    for axes in panels[len(settings) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel(_title(score))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _effect(axes: Axes, column: pandas.Series, scores: pandas.Series) -> None:
    """Many numbers stand where they are on a range, other values beside each other."""
    are_numbers = all(type(value) in (int, float) and value == value for value in column)
    if are_numbers and column.nunique() > MANY:
        at, aside = column.to_numpy(), 0.0
        if 0 < column.min() * WIDE < column.max():
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        cells = ["none" if value is None or value != value else value for value in column]
        values = sorted(set(cells), key=lambda value: (isinstance(value, str), value))
        at = np.array([values.index(cell) for cell in cells])
        aside = np.random.default_rng(0).uniform(-0.08, 0.08, len(at))
        # The last part of the name of a model on the hub, or of a folder.
        names = [f"{value:g}" if isinstance(value, float) else str(value).rpartition("/")[2] for value in values]
        axes.set_xticks(range(len(values)), names, rotation=20 if sum(map(len, names)) > LONG else 0)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.grid(visible=False, axis="x")
    axes.plot(at + aside, scores, "o", ms=4, mew=0, color=BLUE, alpha=0.5, label="each run")
    found = scores.groupby(at).agg(["mean", "min", "max"])
    axes.vlines(found.index, found["min"], found["max"], color=DARK, lw=1.2)
    axes.plot(found.index, found["mean"], "D", ms=5, color=DARK, label="mean, and range of the runs")


@styled()
def best_so_far(sweep: Sweep, score: str = "trained") -> NotebookFigure:
    """The best score so far over the dollars that were spent; over minutes of work where it cost nothing.

    RunError where no complete run has the score.
    """
    done, _ = _complete(sweep, score)
    done = done.sort_values("ended")
    usd = done["usd"].fillna(0).cumsum()
    has_cost = usd.iloc[-1] > 0
    spent = usd if has_cost else (done["seconds"] / 60).cumsum()
    figure = NotebookFigure(7, 2.9)
    axes = figure.subplots()
    axes.plot(spent, done[score], "o", ms=4, color=LIGHT, label="each run")
    look = {"color": BLUE, "lw": 1.8, "marker": "o", "ms": 3, "label": "best single run so far"}
    axes.step(spent, done[score].cummax(), where="post", **look)
    _base(axes, done)
    unit = "US dollars, all runs so far" if has_cost else "minutes of all runs so far (nothing was spent)"
    axes.set(xlabel=unit, ylabel=_title(score))
    axes.set_xlim(left=0)
    axes.legend(**ABOVE)
    return figure


def _base(axes: Axes, done: pandas.DataFrame) -> None:
    """The base model's score, where all runs have the same."""
    if "base" in done and done["base"].nunique() == 1:
        axes.axhline(done["base"].iloc[0], color=ORANGE, lw=1.5, ls="--", label="base model")


def _complete(sweep: Sweep, score: str) -> tuple[pandas.DataFrame, list[str]]:
    """The complete runs with that score, and the settings that differ between them. RunError where there are none."""
    sweep.pooled(score)  # raises it
    table = sweep.results()
    done = table[(table["state"] == "complete") & table[score].notna()].reset_index(drop=True)
    return done, [name for name in sweep.settings if done[name].map(str).nunique() > 1]


def _title(score: str) -> str:
    return "held-out score" if score == "trained" else score.replace("_", " ")
