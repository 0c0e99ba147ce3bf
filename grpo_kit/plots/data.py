"""The figure of a data set."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from grpo_kit.plots.style import BLUE, DARK, ORANGE, TITLE, NotebookFigure, name_rows, styled, whole_ticks

BARS = 20  # the rest are counted together
BINS = 40


@styled()
def data_overview(
    title: str, lengths: Mapping[str, tuple[Sequence[int], str, int]], counts: Mapping[str, Mapping[str, int]]
) -> NotebookFigure:
    """Above: histograms of `lengths` by what has them, each with the name and the value of the setting that bounds
    them; what lies beyond is orange. Below: `counts` as bars by what is counted, where there are any."""
    rows = min(BARS + 1, max(map(len, counts.values()), default=0))
    below = 0.6 + 0.2 * rows if counts else 0
    figure = NotebookFigure(9, 2.6 + below)
    figure.suptitle(title, **TITLE)
    halves: Any = figure.subfigures(2, height_ratios=[2.6, below]) if counts else [figure]
    for axes, (what, (values, setting, limit)) in zip(
        halves[0].subplots(1, len(lengths)), lengths.items(), strict=True
    ):
        _histogram(axes, what, values, setting, limit)
    panels = halves[-1].subplots(1, len(counts), squeeze=False)[0] if counts else []
    for axes, (what, found) in zip(panels, counts.items(), strict=True):
        _bars(axes, found, what)
    return figure


def _histogram(axes: Axes, what: str, values: Sequence[int], setting: str, limit: int) -> None:
    width = max(*values, limit) // BINS + 1  # whole tokens, so that no bar is empty by chance
    edges = np.arange(0, max(*values, limit) + 1 + width, width)
    within, beyond = ([value for value in values if (value > limit) is is_over] for is_over in (False, True))
    axes.hist([within, beyond], bins=edges.tolist(), stacked=True, color=[BLUE, ORANGE])
    axes.axvline(limit, color=DARK, lw=1.2, ls="--", label=f"{setting}={limit}, {len(beyond):,} longer")
    axes.set(title=what, ylabel="samples", xlim=(0, 1.03 * edges[-1]))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))
    whole_ticks(axes.xaxis)
    whole_ticks(axes.yaxis, 5)


def _bars(axes: Axes, counts: Mapping[str, int], title: str) -> None:
    """The largest counts first; the smaller ones as one."""
    shown = dict(Counter(counts).most_common(BARS))
    if rest := len(counts) - len(shown):
        shown[f"{rest} others"] = sum(counts.values()) - sum(shown.values())
    bars = axes.barh(range(len(shown)), list(shown.values()), color=BLUE, height=0.7)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set_title(title)
    name_rows(axes, list(shown), at_least=6)
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
