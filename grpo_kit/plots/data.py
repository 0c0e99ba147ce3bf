"""The figure of a data set."""

from collections import Counter

from matplotlib.axes import Axes

from grpo_kit.plots.style import BLUE, TITLE, NotebookFigure, name_rows, styled

BARS = 20  # the rest are counted together


@styled()
def data_overview(card: dict) -> NotebookFigure:
    """A data set from its data_card.json: samples per service, dialogue acts, lengths in words."""
    services, acts = card["samples_per_service"], card["acts"]
    figure = NotebookFigure(9, max(3, 1 + 0.2 * min(BARS + 1, max(len(services), len(acts) + 4))))
    total, held_out = sum(card["samples"].values()), card["samples"]["eval"]
    dialogues = sum(card["dialogues"].values())
    figure.suptitle(f"{total:,} samples from {dialogues:,} dialogues, {held_out:,} held out", **TITLE)
    panels = figure.subplot_mosaic("SA;SL", height_ratios=[max(3, len(acts)), 3])
    _bars(panels["S"], services, "samples per service")
    _bars(panels["A"], acts, "dialogue acts in the answers")
    lengths, words = panels["L"], (card["prompt_words"], card["answer_words"])
    shortest, means, longest = ([each[name] for each in words] for name in ("min", "mean", "max"))
    lengths.hlines([0, 1], shortest, longest, color=BLUE, lw=5, alpha=0.3)
    lengths.plot(means, [0, 1], "o", color=BLUE)
    lengths.set_title("length in words: shortest, mean, longest")
    name_rows(lengths, [f"prompt, mean {means[0]:.0f}", f"answer, mean {means[1]:.0f}"])
    return figure


def _bars(axes: Axes, counts: dict[str, int], title: str) -> None:
    """The largest counts first; the smaller ones as one."""
    shown = dict(Counter(counts).most_common(BARS))
    if rest := len(counts) - len(shown):
        shown[f"{rest} others"] = sum(counts.values()) - sum(shown.values())
    bars = axes.barh(range(len(shown)), list(shown.values()), color=BLUE, height=0.7)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set_title(title if shown else f"{title}: not annotated")
    name_rows(axes, list(shown), at_least=6)
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
