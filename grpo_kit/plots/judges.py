"""Figures of judges: the scores that they give, and how well they agree."""

from collections.abc import Mapping, Sequence

import numpy as np

from grpo_kit.judges.calibration import Estimate
from grpo_kit.plots.style import COLOURS, DARK, NotebookFigure, name_rows, styled


@styled()
def score_distributions(scores: Mapping[str, Sequence[float | None]]) -> NotebookFigure:
    """A curve for each kind of answer in `scores`: for each score, the share of answers that got at least that."""
    figure = NotebookFigure(7, 3.2)
    axes = figure.subplots()
    top = max([1.0, *(score for given in scores.values() for score in given if score is not None)])
    for (name, given), colour, line in zip(scores.items(), COLOURS, "- -- : -. - --".split(), strict=False):
        judged = np.sort([score for score in given if score is not None])[::-1]
        shares = np.arange(1, len(judged) + 1) / len(judged)
        axes.step(np.r_[top, judged, 0], np.r_[0, shares, 1], where="post", color=colour, ls=line, lw=1.8, label=name)
    axes.set(title="share of answers that score at least so much", xlabel="score", xlim=(0, top), ylim=(0, 1.02))
    figure.legend(loc="outside right upper")
    return figure


@styled()
def intervals(panels: dict[str, dict[str, Estimate]]) -> NotebookFigure:
    """Estimates with their 95% intervals: a panel for each title, and in all panels one row and colour for a name."""
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    figure = NotebookFigure(min(9, 2.5 + 3 * len(panels)), 1.2 + 0.35 * len(names))
    drawn = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(drawn, panels.items(), strict=True):
        for name, found in rows.items():
            row, ends = names.index(name), [[found.value - found.low], [found.high - found.value]]
            axes.errorbar(found.value, row, xerr=ends, fmt="o", color=COLOURS[row % 6], capsize=3, lw=1.8)
            text, at = ("not defined", 0.5) if np.isnan(found.value) else (f"{found.value:z.2f}", found.value)
            axes.annotate(text, (at, row), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axes.set_title(title)
        axes.update_datalim([(0, 0), (1, 0)])
        name_rows(axes, names)
    figure.supxlabel("95% intervals", fontsize=8)
    return figure


@styled()
def score_dots(
    rows: Mapping[str, Mapping[str, Sequence[float | None]]], ceiling: float | None = None
) -> NotebookFigure:
    """A row of dots for each name in `rows`, a colour for each of those who scored; `ceiling` is a line not to pass."""
    figure = NotebookFigure(7, 1.1 + 0.3 * len(rows))
    axes, judges = figure.subplots(), list(dict.fromkeys(judge for row in rows.values() for judge in row))
    for number, judge in enumerate(judges):
        offset = 0.5 * ((number + 0.5) / len(judges) - 0.5)
        points = [(score, y + offset) for y, row in enumerate(rows.values()) for score in row.get(judge, ())]
        there = [(x, y) for x, y in points if x is not None and not np.isnan(x)]
        axes.plot(*np.reshape(there, (-1, 2)).T, "o", color=COLOURS[number % 6], alpha=0.6, label=judge, clip_on=False)
    if ceiling is not None:
        axes.axvline(ceiling, color=DARK, lw=1, ls=":")
    axes.set(xlabel="score", xlim=(0, 1))
    name_rows(axes, list(rows))
    if len(judges) > 1:
        figure.legend(loc="outside right upper")
    return figure
