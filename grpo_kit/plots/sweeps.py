"""Figures of sweeps: what each setting does, all settings at once, and the best score over what it cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.axes import Axes

from grpo_kit.errors import RunError
from grpo_kit.plots.style import ABOVE, BLUE, DARK, LIGHT, ORANGE, NotebookFigure, styled

if TYPE_CHECKING:
    import pandas

IN_A_ROW = 3  # panels
MANY = 5  # values; more numbers were drawn from a range
LONG = 24  # letters of all values beside each other; more are written aslant
WIDE = 30  # times; a wider range has a logarithmic axis


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
    are_numbers = _are_numbers(column)
    is_range = are_numbers and len(values) > MANY  # and the values stand where they are on it
    at = column.to_numpy() if is_range else places
    groups = scores.groupby(at)
    aside = 0 if is_range else rng.uniform(-0.08, 0.08, len(at))
    axes.plot(at + aside, scores, "o", ms=4, mew=0, color=BLUE, alpha=0.5, label="each run")
    means = groups.mean()
    axes.vlines(means.index, groups.min(), groups.max(), color=DARK, lw=1.2)
    if groups.size().max() > 1:
        look = {"ms": 5, "color": DARK, "lw": 1, "label": "mean, and range of the runs"}
        axes.plot(means.index, means, "D-" if are_numbers and not is_range else "D", **look)
    if is_range:
        axes.set_xscale("log" if 0 < column.min() * WIDE < column.max() else "linear")
    else:
        _name_ticks(axes, values)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.grid(visible=False, axis="x")


@styled()
def setting_map(sweep: SweepResults, score: str = "trained", settings: Sequence[str] = ()) -> NotebookFigure:
    """A heat map of the mean score by two `settings`; seeds and all other settings are pooled. Without `settings`, the
    two that change the score most.

    RunError where no complete run has the score, only seeds differ, or one of `settings` does not.
    """
    done, differing = _complete(sweep, score)
    if not differing:
        raise RunError("no setting but the seed differs between the runs of this sweep: setting_effects shows those")
    if unknown := [name for name in settings if name not in differing]:
        raise RunError(f"{unknown[0]} does not differ between the complete runs", f"These do: {', '.join(differing)}")
    places = {name: _places(done[name], most=MANY) for name in differing}
    effects = {name: done[score].groupby(at).mean().std() for name, (_, at) in places.items()}
    strongest = sorted(differing, key=lambda name: -effects[name])[:2]
    name, *second = settings[:2] or [name for name in differing if name in strongest]
    (across, x), (down, y) = places[name], places[second[0]] if second else ([""], np.zeros(len(done), int))
    cells = done[score].groupby([y, x]).agg(["mean", "std", "count"])
    figure = NotebookFigure(min(9, 2.8 + 1.1 * len(across)), 1.2 + 0.55 * len(down))
    axes = figure.subplots()
    image = axes.imshow(cells["mean"].unstack(), cmap="cividis", aspect="auto", origin="lower")
    middle = (cells["mean"].min() + cells["mean"].max()) / 2
    for (row, column), (mean, sd, runs) in zip(cells.index, cells.to_numpy(), strict=True):
        text, ink = f"{mean:.2f}" + (f" ± {sd:.2f}" if runs > 1 else ""), "black" if mean > middle else "white"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    _name_ticks(axes, across)
    axes.set_yticks(range(len(down)), down)
    axes.set(xlabel=name, ylabel="".join(second))
    others = "seeds" if len(differing) < 3 else "runs, other settings pooled"
    axes.set_title(f"mean {_title(score)}" + (f" ± sd of {others}" if (cells["count"] > 1).any() else ""))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes).outline.set_visible(False)
    return figure


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


def _places(column: "pandas.Series", most: int | None = None) -> tuple[list[str], np.ndarray]:
    """A setting's values as text, in order, and the place among them of each row's value. More numbers than `most` are
    binned into as many ranges."""
    import pandas

    def order(value: Any) -> tuple:
        return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))

    if most and column.nunique() > most and _are_numbers(column):
        bins = pandas.qcut(column, most, labels=False, duplicates="drop")
        ranges = column.groupby(bins).agg(["min", "max"]).to_numpy()
        return [f"{low:.2g} to {high:.2g}" for low, high in ranges], bins.to_numpy()
    cells = ["none" if value is None or value != value else value for value in column]
    values = sorted(dict.fromkeys(cells), key=order)
    # The last part of the name of a model on the hub, or of a folder.
    names = [f"{value:g}" if isinstance(value, float) else str(value).rpartition("/")[2] for value in values]
    return names, np.array([values.index(cell) for cell in cells])


def _are_numbers(column: "pandas.Series") -> bool:
    return all(type(value) in (int, float) and value == value for value in column)


def _name_ticks(axes: Axes, values: Sequence[str]) -> None:
    is_long = sum(map(len, values)) > LONG
    aslant = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axes.set_xticks(range(len(values)), values, **aslant)


def _title(score: str) -> str:
    return "held-out score" if score == "trained" else score.replace("_", " ")
