"""Figures of an evaluation: what training changed, where, and whether to trust it."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.axes import Axes

from grpo_kit.plots.style import ABOVE, BLUE, DARK, LIGHT, ORANGE, SMALL, NotebookFigure, name_rows, styled, whole_ticks

if TYPE_CHECKING:
    from grpo_kit.evaluation.result import Evaluation


@styled()
def evaluation_figure(evaluation: "Evaluation") -> NotebookFigure:
    """Left: each model's mean score with its 95% interval, by the second judge too. Right: what training changed,
    prompt by prompt."""
    base, trained, samples = evaluation.base, evaluation.trained, evaluation.samples()
    figure = NotebookFigure(9, 3.6)
    figure.suptitle(evaluation.line(), x=0.01, ha="left")
    means, prompts = figure.subplots(1, 2, width_ratios=[1.1, 1])
    _means(means, evaluation)
    if base is None:
        prompts.hist(samples[f"{trained['name']} score"].dropna(), bins=20, range=(0, 1), color=BLUE)
        prompts.set(title="scores", xlabel="score", xlim=(0, 1))
    else:
        gain = samples["difference"].dropna()
        groups = {"worse": gain[gain < 0], "equal": gain[gain == 0], "better": gain[gain > 0]}
        labels = [f"{name}: {len(group)}" for name, group in groups.items()]
        look = {"stacked": True, "color": [ORANGE, LIGHT, BLUE], "label": labels}
        prompts.hist(list(groups.values()), bins=21, range=(-1.05, 1.05), **look)
        title = f"{trained['name']} less base, prompt by prompt"
        prompts.set(title=title, xlabel="score difference", xlim=(-1.05, 1.05), xticks=[-1, -0.5, 0, 0.5, 1])
        prompts.legend(loc="upper left")
    prompts.set_ylabel("prompts")
    whole_ticks(prompts.yaxis)
    return figure


def _means(axes: Axes, evaluation: "Evaluation") -> None:
    """Scores over the checkpoints; the base is a line with a band, the second judge's lines are thin and dashed."""
    models, base = evaluation.checkpoints, evaluation.base
    found = [re.fullmatch(r"checkpoint-(\d+)", model["name"]) for model in models]
    steps = np.array([int(step[1]) for step in found if step])
    if len(steps) == len(models):
        axes.set(xlabel="training step", xlim=(0, 1.05 * steps[-1]))
        whole_ticks(axes.xaxis)
    else:
        steps = np.arange(len(models))
        axes.set(xlim=(-0.5, len(models) - 0.5))
        axes.set_xticks(steps, [model["name"] for model in models])
    if base is not None:
        axes.axhspan(*base["interval"], color=ORANGE, alpha=0.2, lw=0)
        axes.axhline(base["mean"], color=ORANGE, lw=1.8, ls="--", label="base")
    _error_bars(axes, steps, models, color=BLUE, marker="o", capsize=3, lw=1.8, label="trained")
    if evaluation.second_judge:
        by = f"by {evaluation.second_judge}"
        beside = steps + 0.012 * np.ptp(axes.get_xlim())  # the first judge's intervals
        look = {"color": DARK, "marker": "s", "ms": 3, "capsize": 2, "lw": 0.9, "ls": "--"}
        _error_bars(axes, beside, [evaluation.second_of(model) for model in models], label=f"trained, {by}", **look)
        if base is not None and (second := evaluation.second_of(base)):
            axes.axhline(second["mean"], color=ORANGE, lw=0.9, ls=":", label=f"base, {by}")
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 4}
        axes.legend(**below, columnspacing=1, handlelength=2)
    else:
        axes.legend(**ABOVE)
    judge = f" by {evaluation.judge}" if evaluation.second_judge else ""
    axes.set(title=f"mean score{judge}, 95% interval", ylim=(0, 1))


def _error_bars(axes: Axes, at: np.ndarray, numbers: Sequence[dict | None], **look: Any) -> None:
    """Points with their intervals; none where there are no numbers."""
    found = [(x, each["mean"], *each["interval"]) for x, each in zip(at, numbers, strict=True) if each]
    x, mean, low, high = np.reshape(found, (-1, 4)).T
    axes.errorbar(x, mean, np.array([mean - low, high - mean]), **look)


@styled()
def win_rates(evaluation: "Evaluation") -> NotebookFigure:
    """The prompts on which each checkpoint beats the base model, ties with it or loses, by the first judge."""
    models = [model for model in evaluation.checkpoints if model["versus_base"]]
    figure = NotebookFigure(9, 1.3 + 0.3 * max(1, len(models)))
    axes = figure.subplots()
    if not models:
        axes.set_axis_off()
        axes.set_title("no base model to win against")
        return figure
    versus = pandas.DataFrame([model["versus_base"] for model in models])
    left = np.zeros(len(models))
    for part, colour, ink in (("wins", BLUE, "white"), ("ties", LIGHT, "black"), ("losses", ORANGE, "black")):
        shares = 100 * versus[part] / versus["pairs"]
        bars = axes.barh(versus.index, shares, left=left, color=colour, height=0.75, label=part)
        labels = [str(count) if share >= 3 else "" for count, share in zip(versus[part], shares, strict=True)]
        axes.bar_label(bars, labels=labels, label_type="center", color=ink, fontsize=8)
        left += shares
    for row, rate in enumerate(versus["win_rate"]):
        axes.annotate(f"{100 * rate:.0f}%", (100, row), (5, 0), va="center", **SMALL)
    axes.axvline(50, color=DARK, lw=0.8, ls=":")
    axes.set(title="against the base model; right: win rate, ties as halves", xlabel="prompts (%)", xlim=(0, 100))
    name_rows(axes, [model["name"] for model in models])
    axes.grid(visible=False)
    axes.legend(**ABOVE)
    return figure


@styled()
def breakdown(evaluation: "Evaluation") -> NotebookFigure:
    """Where a gain comes from. Left: the judge's criteria, base and trained. Right: the gain by service with its 95%
    interval; hollow where a service has few prompts."""
    criteria, services = evaluation.criteria(), evaluation.services()
    base, trained = evaluation.base, criteria.loc[evaluation.trained["name"]]
    rows = max(len(criteria.columns), len(services), 3)
    figure = NotebookFigure(9, 1.3 + 0.26 * rows)
    left, right = figure.subplots(1, 2)
    places = range(len(criteria.columns))
    if base:
        before = criteria.loc[base["name"]]
        left.hlines(places, before, trained, color=LIGHT, lw=2.5)
        left.plot(before, places, "o", ms=8, color=ORANGE, mfc="white", label="base")
    left.plot(trained, places, "o", color=BLUE, label="trained")
    left.set(title=f"criteria of {evaluation.judge}", xlabel="mean of the criterion", xlim=(-0.02, 1.02))
    left.legend(**ABOVE)
    found = services[["difference" if base else "trained", "low", "high", "few"]]
    for row, (value, low, high, few) in enumerate(found.itertuples(index=False)):
        right.plot([low, high], [row, row], color=BLUE, lw=1.8, alpha=0.4 if few else 1)
        right.plot(value, row, "o", color=BLUE, mfc="white" if few else BLUE)
    if base:
        right.axvline(0, color=DARK, lw=0.8)
    hollow = ", hollow: few" if services["few"].any() else ""
    right.set(title=f"by service (prompts{hollow})", xlabel="gain over the base model" if base else "score")
    name_rows(left, list(criteria.columns))
    name_rows(right, [f"{name} ({n})" for name, n in services["n"].items()])
    for axes in (left, right):
        axes.set_ylim(rows - 0.5, -0.5)
    return figure


@styled()
def length_against_score(evaluation: "Evaluation") -> NotebookFigure:
    """Each answer's length and score, base and newest checkpoint; in words whether longer ones score higher."""
    samples, trends = evaluation.samples(), evaluation.length_trends()
    figure = NotebookFigure(9, 3.4)
    panels = figure.subplots(1, len(trends), sharex=True, sharey=True, squeeze=False)[0]
    rng = np.random.default_rng(0)
    for axes, (name, trend), colour in zip(panels, trends.items(), (ORANGE, BLUE)[-len(trends) :], strict=True):
        found = samples[[f"{name} words", f"{name} score"]].set_axis(["words", "score"], axis=1)
        aside = rng.uniform(-0.3, 0.3, len(found))  # whole numbers of words would lie on each other
        axes.plot(found["words"] + aside, found["score"], "o", ms=4, mew=0, alpha=0.5, color=colour)
        is_constant = found["words"].nunique() == 1
        fifth = found["words"] if is_constant else pandas.qcut(found["words"], 5, duplicates="drop")
        means = found.groupby(fifth, observed=True).mean()
        look = {"color": DARK, "lw": 1.5, "marker": "D", "ms": 3, "label": "mean of a fifth of the answers"}
        axes.plot(means["words"], means["score"], **look)
        axes.set(title=f"{name}: {trend}", xlabel="words", ylim=(-0.03, 1.03))
    panels[0].set_ylabel(f"score by {evaluation.judge}")
    panels[-1].set_xlim(left=0)
    whole_ticks(panels[-1].xaxis)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right")
    return figure
