"""Figures of sweeps: what each setting does, all settings at once, and the best score over what it cost."""

from typing import TYPE_CHECKING, Any, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grpo_kit.errors import RunError
from grpo_kit.plots.style import ABOVE, BLUE, DARK, LIGHT, ORANGE, STYLE, NotebookFigure

if TYPE_CHECKING:
    import pandas

IN_A_ROW = 3  # panels
MANY = 5  # values; more numbers were drawn from a range, and stand where they are on it
LONG = 24  # letters of all values beside each other; more are written aslant
MOST_NAMES = 14  # on an axis of parallel coordinates
WIDE = 30  # times; a wider range is shown by its logarithm
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}  # a text that lines may cross
MAP = "cividis"  # light is good; told apart without colours too


class SweepResults(Protocol):
    """The part of kit.Sweep that the figures read."""

    @property
    def settings(self) -> list[str]: ...

    def results(self) -> "pandas.DataFrame": ...

    def pooled(self, score: str) -> "pandas.DataFrame": ...


def setting_effects(sweep: SweepResults, score: str = "trained") -> Figure:
    """A panel for each setting: the score of each run by its value, and the mean of each value with its range.

    Runs with one value differ in seeds and in all other settings, so a panel shows what a setting does whatever the
    others are.
    """
    done, settings = _complete(sweep, score)
    settings = settings or ["seed"] * ("seed" in done)
    if not settings:
        raise RunError("nothing differs between the runs of this sweep, so there is no effect to show")
    rows = -(-len(settings) // IN_A_ROW)
    with matplotlib.rc_context(STYLE):
        figure = NotebookFigure(figsize=(9, 0.6 + 2.5 * rows), layout="constrained")
        columns = min(IN_A_ROW, len(settings))
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
        rng = np.random.default_rng(0)
        for name, axes in zip(settings, panels, strict=False):  # in this order no panel is taken in vain
            _effect(axes, done[name], done[score], rng)
            _base(axes, done)
            axes.set_xlabel(name)
        for axes in list(panels):
            axes.set_axis_off()
        for axes in figure.axes[::columns]:
            axes.set_ylabel(_words(score))
        shown: dict[str, Any] = {}
        for axes in figure.axes:
            handles, labels = axes.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        figure.legend(shown.values(), shown, loc="outside upper right", ncols=3)
    return figure


def _effect(axes: Axes, column: "pandas.Series", scores: "pandas.Series", rng: np.random.Generator) -> None:
    values, places = _places(column)
    points = {"ls": "", "marker": "o", "ms": 4, "mew": 0, "color": BLUE, "alpha": 0.5, "label": "each run"}
    groups = scores.groupby(places)
    are_numbers = column.map(type).isin([int, float]).all()
    if len(values) > MANY and are_numbers:
        axes.plot(column, scores, **points)
        if groups.size().max() > 1:
            means = scores.groupby(column).mean()
            axes.plot(means.index, means, "D", ms=5, color=DARK, label="mean of a value's runs")
        if 0 < column.min() * WIDE < column.max():
            axes.set_xscale("log")
        return
    axes.plot(places + rng.uniform(-0.08, 0.08, len(places)), scores, **points)
    means = groups.mean()
    axes.vlines(means.index, groups.min(), groups.max(), color=DARK, lw=1.2)
    if groups.size().max() > 1:
        line = "D-" if are_numbers else "D"
        axes.plot(means.index, means, line, ms=5, color=DARK, lw=1, label="mean, and range of the runs")
    _name_ticks(axes, values)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.grid(visible=False, axis="x")


def setting_map(sweep: SweepResults, score: str = "trained") -> Figure:
    """All settings at once, seeds pooled: a heat map where two differ, else parallel coordinates, a line a setting."""
    _, settings = _complete(sweep, score)
    if not settings:
        raise RunError("no setting but the seed differs between the runs of this sweep: setting_effects shows those")
    pooled = sweep.pooled(score)
    cells = pooled[settings].map(str).nunique().prod() if len(settings) == 2 else 0
    # Of two that were drawn from ranges hardly any cell would be filled.
    return _heat_map(pooled, settings, score) if len(pooled) > cells / 2 > 0 else _parallel(pooled, settings, score)


def _heat_map(pooled: "pandas.DataFrame", settings: list[str], score: str) -> Figure:
    (across, places_across), (down, places_down) = (_places(pooled[name]) for name in settings)
    grid = np.full((len(down), len(across)), np.nan)
    grid[places_down, places_across] = pooled["mean"]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        size = (min(9, 2.8 + 1.1 * len(across)), 1.2 + 0.55 * len(down))
        figure = NotebookFigure(figsize=size, layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(grid, cmap=MAP, aspect="auto", origin="lower")
        middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
        for row, x, y in zip(pooled.itertuples(), places_across, places_down, strict=True):
            spread = f" ± {row.sd:.2f}" if row.runs > 1 else ""
            ink = "black" if row.mean > middle else "white"
            axes.text(x, y, f"{row.mean:.2f}{spread}", ha="center", va="center", color=ink, fontsize=8)
        _name_ticks(axes, across)
        axes.set_yticks(range(len(down)), down)
        seeds = " ± sd of seeds" if (pooled["runs"] > 1).any() else ""
        axes.set(xlabel=settings[0], ylabel=settings[1], title=f"mean {_words(score)}{seeds}")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes).outline.set_visible(False)
    return figure


def _parallel(pooled: "pandas.DataFrame", settings: list[str], score: str) -> Figure:
    scores = pooled["mean"]
    low, high = scores.min(), scores.max()
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = NotebookFigure(figsize=(min(9, 3 + 1.6 * len(settings)), 3.4), layout="constrained")
        axes = figure.subplots()
        colours = matplotlib.colormaps[MAP]
        heights = [_parallel_axis(axes, at, pooled[name]) for at, name in enumerate(settings)]
        span = (high - low) or 1
        heights.append((scores - low) / span)
        rng = np.random.default_rng(0)
        for i in reversed(range(len(pooled))):  # the best on top
            nudge = [*rng.uniform(-0.012, 0.012, len(settings)), 0]  # so that lines through one value are told apart
            line = [height[i] + aside for height, aside in zip(heights, nudge, strict=True)]
            axes.plot(range(len(line)), line, color=colours(heights[-1][i]), lw=3 if i == 0 else 1.5)
        last = len(settings)
        axes.axvline(last, color=DARK, lw=0.8)
        for height in (0, 0.5, 1) if high > low else (0,):
            axes.text(last + 0.04, height, f"{low + span * height:.2f}", va="center", fontsize=8)
        axes.set_xticks(range(last + 1), [*settings, _words(score)])
        axes.set(title=f"{_words(score)} by setting, seeds pooled; the best is thick", xlim=(-0.6, last + 0.35))
        axes.set_ylim(-0.08, 1.08)
        axes.yaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _parallel_axis(axes: Axes, at: int, column: "pandas.Series") -> np.ndarray:
    """Draws a setting's axis, its values evenly spread; where each row stands on it."""
    values, places = _places(column)
    axes.axvline(at, color=LIGHT, lw=0.8)
    heights = np.linspace(0, 1, len(values)) if len(values) > 1 else np.array([0.5])
    every = -(-len(values) // MOST_NAMES)  # so that they do not run into each other
    for value, height in list(zip(values, heights, strict=True))[::every]:
        shown = value if len(value) <= 16 else f"{value[:15]}…"
        axes.text(at - 0.05, height, shown, ha="right", va="center", fontsize=8, bbox=BEHIND, zorder=3)
    return heights[places]


def best_so_far(sweep: SweepResults, score: str = "trained") -> Figure:
    """The best score so far over the dollars that were spent; over minutes of work where it cost nothing."""
    done, _ = _complete(sweep, score)
    done = done.sort_values("ended")
    has_cost = bool(done["usd"].fillna(0).sum())
    spent = (done["usd"].fillna(0) if has_cost else done["seconds"] / 60).cumsum()
    with matplotlib.rc_context(STYLE):
        figure = NotebookFigure(figsize=(7, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.plot(spent, done[score], "o", ms=4, color=LIGHT, label="each run")
        best = done[score].cummax()
        axes.step(spent, best, where="post", color=BLUE, lw=1.8, marker="o", ms=3, label="best single run so far")
        _base(axes, done)
        unit = "US dollars, all runs so far" if has_cost else "minutes of all runs so far (nothing was spent)"
        axes.set(xlabel=unit, ylabel=_words(score))
        axes.set_xlim(left=0)
        axes.legend(**ABOVE)
    return figure


def _base(axes: Axes, done: "pandas.DataFrame") -> None:
    """The base model's score, where all runs have the same."""
    if "base" in done and done["base"].nunique() == 1:
        axes.axhline(done["base"].iloc[0], color=ORANGE, lw=1.5, ls="--", label="base model")


def _complete(sweep: SweepResults, score: str) -> tuple["pandas.DataFrame", list[str]]:
    """The complete runs with that score, and the settings that differ between them. RunError where there are none."""
    sweep.pooled(score)  # says so where there is no such score
    table = sweep.results()
    done = table[(table["state"] == "complete") & table[score].notna()].reset_index(drop=True)
    return done, [name for name in sweep.settings if done[name].map(str).nunique() > 1]


def _places(column: "pandas.Series") -> tuple[list[str], np.ndarray]:
    """A setting's different values in order, as text, and which of them each row has."""

    def order(value: Any) -> tuple:
        is_number = isinstance(value, int | float) and value == value
        return (0, value, "") if is_number else (1, 0, str(value))

    values = sorted(dict.fromkeys("none" if value != value or value is None else value for value in column), key=order)
    places = [values.index("none" if value != value or value is None else value) for value in column]
    # Of a model on the hub or a folder, its own name.
    return [f"{v:g}" if isinstance(v, float) else str(v).rpartition("/")[2] for v in values], np.array(places)


def _name_ticks(axes: Axes, values: list[str]) -> None:
    is_long = sum(map(len, values)) > LONG
    aslant = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axes.set_xticks(range(len(values)), values, **aslant)


def _words(score: str) -> str:
    return "held-out score" if score == "trained" else score.replace("_", " ")
