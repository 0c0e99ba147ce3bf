"""The figure of a data set."""

from matplotlib.axes import Axes

from grpo_kit.plots.style import BLUE, SMALL, NotebookFigure, name_rows, styled

BARS = 20  # the rest are counted together


@styled()
def data_overview(card: dict) -> NotebookFigure:
    """A data set from its data_card.json: samples per service, dialogue acts, lengths in words."""
    services, acts = _largest(card["samples_per_service"]), _largest(card["acts"])
    figure = NotebookFigure(9, max(3, 1 + 0.2 * max(len(services), len(acts) + 4)))
    total, held_out = sum(card["samples"].values()), card["samples"]["eval"]
    title = f"{total:,} samples from {sum(card['dialogues'].values()):,} dialogues, {held_out:,} held out"
    figure.suptitle(title, x=0.01, ha="left")
    panels = figure.subplot_mosaic("SA;SL", height_ratios=[max(3, len(acts)), 3])
    _bars(panels["S"], services, "samples per service")
    _bars(panels["A"], acts, "dialogue acts in the answers")
    lengths = panels["L"]
    lengths.set_title("length in words: shortest, mean, longest")
    name_rows(lengths, ["prompt", "answer"])
    for row, words in enumerate((card["prompt_words"], card["answer_words"])):
        lengths.plot([words["min"], words["max"]], [row, row], color=BLUE, lw=5, alpha=0.3)
        lengths.plot(words["mean"], row, "o", color=BLUE)
        lengths.annotate(f"{words['mean']:.0f}", (words["mean"], row), (0, 6), ha="center", **SMALL)
    return figure


def _bars(axes: Axes, counts: dict[str, int], title: str) -> None:
    bars = axes.barh(range(len(counts)), list(counts.values()), color=BLUE, height=0.7)
    axes.bar_label(bars, labels=[f"{count:,}" for count in counts.values()], padding=3, fontsize=8)
    axes.set_title(title if counts else f"{title}: not annotated")
    name_rows(axes, list(counts))
    axes.set_ylim(bottom=max(len(counts), 6) - 0.4)
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)


def _largest(counts: dict[str, int]) -> dict[str, int]:
    """The largest counts first; the smaller ones as one."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rest = [count for _, count in ordered[BARS:]]
    return dict(ordered[:BARS]) | ({f"{len(rest)} others": sum(rest)} if rest else {})
