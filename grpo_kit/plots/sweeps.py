"""Figures of sweeps: what each setting does, all settings at once, and the best score over what it cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from grpo_kit.errors import RunError
from grpo_kit.plots.style import ABOVE, BLUE, DARK, LIGHT, ORANGE, NotebookFigure, styled

if TYPE_CHECKING:
    import pandas

IN_A_ROW = 3  # panels
MANY = 5  # values; more numbers were drawn from a range, and stand where they are on it
LONG = 24  # letters of all values beside each other; more are written aslant
MOST_NAMES = 14  # on an axis of parallel coordinates
WIDE = 30  # times; a wider range has a logarithmic axis
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}  # a text that lines may cross
MAP = "cividis"  # light is good; told apart without colours too


class SweepResults(Protocol):
    """The part of kit.Sweep that the figures read."""

    @property
    def settings(self) -> list[str]: ...

    def results(self) -> "pandas.DataFrame": ...

    def pooled(self, score: str) -> "pandas.DataFrame": ...


@styled()
def setting_effects(sweep: SweepResults, score: str = "trained") -> NotebookFigure:
    """A panel for each setting: the score of each run by its value, and the mean of each value with its range.

    Runs with one value differ in seeds and in all other settings, so a panel shows what a setting does whatever the
    others are. RunError where no complete run has the score, or all runs are alike.
    """
    done, settings = _complete(sweep, score)
    settings = settings or ["seed"] * ("seed" in done)
    if not settings:
        raise RunError("nothing differs between the runs of this sweep, so there is no effect to show")
    rows, columns = -(-len(settings) // IN_A_ROW), min(IN_A_ROW, len(settings))
    figure = NotebookFigure(9, 0.6 + 2.5 * rows)
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    rng = np.random.default_rng(0)
    shown: dict[str, Any] = {}
    for axes, name in zip(panels, settings, strict=False):
        _effect(axes, done[name], done[score], rng)
        _base(axes, done)
        axes.set_xlabel(name)
        shown |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    for axes in panels[len(settings) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel(_title(score))
    figure.legend(shown.values(), shown, loc="outside upper right", ncols=3)
    return figure


def _effect(axes: Axes, column: "pandas.Series", scores: "pandas.Series", rng: np.random.Generator) -> None:
    values, places = _places(column)
    are_numbers = column.map(type).isin([int, float]).all()
    is_range = are_numbers and len(values) > MANY
    at = column.to_numpy() if is_range else places
    groups = scores.groupby(at)
    aside = 0 if is_range else rng.uniform(-0.08, 0.08, len(at))
    axes.plot(at + aside, scores, "o", ms=4, mew=0, color=BLUE, alpha=0.5, label="each run")
    means, is_line = groups.mean(), are_numbers and not is_range
    axes.vlines(means.index, groups.min(), groups.max(), color=DARK, lw=1.2)
    if groups.size().max() > 1:
        look = {"ms": 5, "color": DARK, "lw": 1, "label": "mean, and range of the runs"}
        axes.plot(means.index, means, "D-" if is_line else "D", **look)
    if is_range:
        axes.set_xscale("log" if 0 < column.min() * WIDE < column.max() else "linear")
    else:
        _name_ticks(axes, values)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.grid(visible=False, axis="x")


@styled()
def setting_map(sweep: SweepResults, score: str = "trained") -> NotebookFigure:
    """All settings at once, seeds pooled: a heat map where two differ, else parallel coordinates, a line a setting.

    RunError where no complete run has the score, or only seeds differ.
    """
    _, settings = _complete(sweep, score)
    if not settings:
        raise RunError("no setting but the seed differs between the runs of this sweep: setting_effects shows those")
    pooled = sweep.pooled(score)
    columns = [_places(pooled[name]) for name in settings]
    # Few cells would be filled where both settings were drawn from ranges.
    is_grid = len(settings) == 2 and 2 * len(pooled) > len(columns[0][0]) * len(columns[1][0])
    figure = _heat_map(pooled, columns) if is_grid else _parallel(pooled["mean"].to_numpy(), columns)
    axes = figure.axes[0]
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if is_grid:
        seeds = " ± sd of seeds" if (pooled["runs"] > 1).any() else ""
        axes.set(xlabel=settings[0], ylabel=settings[1], title=f"mean {_title(score)}{seeds}")
    else:
        axes.set_xticks(range(len(settings) + 1), [*settings, _title(score)])
        axes.set_title(f"{_title(score)} by setting, seeds pooled; the best is thick")
    return figure


Places = tuple[list[str], np.ndarray]  # a setting’s values in order, and which each row has


def _heat_map(pooled: "pandas.DataFrame", columns: list[Places]) -> NotebookFigure:
    (across, x), (down, y) = columns
    grid = np.full((len(down), len(across)), np.nan)
    grid[y, x] = pooled["mean"]
    figure = NotebookFigure(min(9, 2.8 + 1.1 * len(across)), 1.2 + 0.55 * len(down))
    axes = figure.subplots()
    image = axes.imshow(grid, cmap=MAP, aspect="auto", origin="lower")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for at, (mean, sd, runs) in zip(zip(x, y, strict=True), pooled[["mean", "sd", "runs"]].to_numpy(), strict=True):
        text, ink = f"{mean:.2f}" + (f" ± {sd:.2f}" if runs > 1 else ""), "black" if mean > middle else "white"
        axes.text(*at, text, ha="center", va="center", color=ink, fontsize=8)
    _name_ticks(axes, across)
    axes.set_yticks(range(len(down)), down)
    figure.colorbar(image, ax=axes).outline.set_visible(False)
    return figure


def _parallel(scores: np.ndarray, columns: list[Places]) -> NotebookFigure:
    """Lines from setting to setting to the score, in the order of `scores`, the best first."""
    last, low, span = len(columns), scores.min(), np.ptp(scores) or 1
    figure = NotebookFigure(min(9, 3 + 1.6 * last), 3.4)
    axes = figure.subplots()
    heights = [_parallel_axis(axes, at, *column) for at, column in enumerate(columns)] + [(scores - low) / span]
    rng, colours = np.random.default_rng(0), matplotlib.colormaps[MAP]
    for i, line in reversed(list(enumerate(np.transpose(heights)))):  # the best on top
        nudge = np.append(rng.uniform(-0.012, 0.012, last), 0)  # so that lines through one value are told apart
        axes.plot(line + nudge, color=colours(line[-1]), lw=3 if i == 0 else 1.5)
    axes.axvline(last, color=DARK, lw=0.8)
    for height in (0, 0.5, 1) if np.ptp(scores) else (0,):
        axes.text(last + 0.04, height, f"{low + span * height:.2f}", va="center", fontsize=8)
    axes.set(xlim=(-0.6, last + 0.35), ylim=(-0.08, 1.08))
    axes.yaxis.set_visible(False)
    return figure


def _parallel_axis(axes: Axes, at: int, values: list[str], places: np.ndarray) -> np.ndarray:
    """Draws a setting's axis, its values evenly spread, and returns the height of each row on it."""
    heights = np.linspace(0, 1, len(values)) if len(values) > 1 else np.array([0.5])
    axes.axvline(at, color=LIGHT, lw=0.8)
    every = -(-len(values) // MOST_NAMES)  # so that they do not run into each other
    for value, height in list(zip(values, heights, strict=True))[::every]:
        shown = value if len(value) <= 16 else f"{value[:15]}…"
        axes.text(at - 0.05, height, shown, ha="right", va="center", fontsize=8, bbox=BEHIND, zorder=3)
    return heights[places]


@styled()
def best_so_far(sweep: SweepResults, score: str = "trained") -> NotebookFigure:
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


def _base(axes: Axes, done: "pandas.DataFrame") -> None:
    """The base model's score, where all runs have the same."""
    if "base" in done and done["base"].nunique() == 1:
        axes.axhline(done["base"].iloc[0], color=ORANGE, lw=1.5, ls="--", label="base model")


def _complete(sweep: SweepResults, score: str) -> tuple["pandas.DataFrame", list[str]]:
    """The complete runs with that score, and the settings that differ between them. RunError where there are none."""
    sweep.pooled(score)  # raises it
    table = sweep.results()
    done = table[(table["state"] == "complete") & table[score].notna()].reset_index(drop=True)
    return done, [name for name in sweep.settings if done[name].map(str).nunique() > 1]


def _places(column: "pandas.Series") -> Places:
    """A setting's values as text, in order, and the place among them of each row's value."""

    def order(value: Any) -> tuple:
        return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))

    cells = ["none" if value is None or value != value else value for value in column]
    values = sorted(dict.fromkeys(cells), key=order)
    # The last part of the name of a model on the hub, or of a folder.
    names = [f"{value:g}" if isinstance(value, float) else str(value).rpartition("/")[2] for value in values]
    return names, np.array([values.index(cell) for cell in cells])


def _name_ticks(axes: Axes, values: Sequence[str]) -> None:
    is_long = sum(map(len, values)) > LONG
    aslant = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axes.set_xticks(range(len(values)), values, **aslant)


def _title(score: str) -> str:
    return "held-out score" if score == "trained" else score.replace("_", " ")
