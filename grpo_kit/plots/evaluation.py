"""Figures of an evaluation: what training changed, where, and whether to trust it."""

import re
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grpo_kit.plots.style import ABOVE, BLUE, DARK, LIGHT, ORANGE, NotebookFigure, styled, whole_numbers

if TYPE_CHECKING:
    import pandas

    from grpo_kit.evaluation.result import Evaluation


def evaluation_figure(evaluation: "Evaluation") -> Figure:
    """Left: each model's mean score with its 95% interval, by the second judge too. Right: what training changed,
    prompt by prompt."""
    base, trained, samples = evaluation.base, evaluation.trained, evaluation.samples()
    with styled():
        figure = NotebookFigure(figsize=(9, 3.6), layout="constrained")
        means, prompts = figure.subplots(1, 2, width_ratios=[1.1, 1])
        figure.suptitle(evaluation.line(), x=0.01, ha="left", fontweight="bold")
        _means(means, evaluation)
        prompts.set_ylabel("prompts")
        whole_numbers(prompts.yaxis)
        if base is None:
            prompts.hist(samples[f"{trained['name']} score"].dropna(), bins=np.linspace(0, 1, 21), color=BLUE)
            prompts.set(title="scores", xlabel="score", xlim=(0, 1))
        else:
            _differences(prompts, samples["difference"].dropna(), trained)
    return figure


def _means(axes: Axes, evaluation: "Evaluation") -> None:
    """Scores over the checkpoints; the base is a line with a band, the second judge's are thin and dashed."""
    models, base = evaluation.checkpoints, evaluation.base
    steps = [int(found[1]) if (found := re.fullmatch(r"checkpoint-(\d+)", m["name"])) else None for m in models]
    if None in steps:
        steps = list(range(len(models)))
        axes.set_xticks(steps, [model["name"] for model in models])
        axes.set_xlim(-0.5, len(models) - 0.5)
    else:
        axes.set(xlabel="training step", xlim=(0, 1.05 * steps[-1]))
        whole_numbers(axes.xaxis)
    if base is not None:
        axes.axhspan(*base["interval"], color=ORANGE, alpha=0.2, lw=0)
        axes.axhline(base["mean"], color=ORANGE, lw=1.8, ls="--", label="base")
    scores = np.array([model["mean"] for model in models])
    low, high = np.array([model["interval"] for model in models]).T
    errors = np.array([scores - low, high - scores])
    axes.errorbar(steps, scores, errors, color=BLUE, marker="o", capsize=3, lw=1.8, label="trained")
    if second := [(step, found) for step, m in zip(steps, models, strict=True) if (found := evaluation.second_of(m))]:
        at, numbers = zip(*second, strict=True)
        scores = np.array([found["mean"] for found in numbers])
        low, high = np.array([found["interval"] for found in numbers]).T
        # Beside the first judge's intervals, not on them.
        at = np.array(at) + 0.012 * np.ptp(axes.get_xlim())
        errors = np.array([scores - low, high - scores])
        line = {"color": DARK, "marker": "s", "ms": 3, "capsize": 2, "lw": 0.9, "ls": "--"}
        axes.errorbar(at, scores, errors, label=f"trained, by {evaluation.second_judge}", **line)
        if base is not None and (found := evaluation.second_of(base)):
            axes.axhline(found["mean"], color=ORANGE, lw=0.9, ls=":", label=f"base, by {evaluation.second_judge}")
    title = f"mean score by {evaluation.judge}, 95% interval" if second else "mean score, 95% interval"
    axes.set(title=title, ylim=(0, 1))
    if second:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, columnspacing=1, handlelength=2)
    else:
        axes.legend(**ABOVE)


def _differences(axes: Axes, differences: "pandas.Series", trained: dict) -> None:
    groups = {
        "worse": differences[differences < 0],
        "equal": differences[differences == 0],
        "better": differences[differences > 0],
    }
    axes.hist(
        list(groups.values()),
        bins=np.linspace(-1.05, 1.05, 22),
        stacked=True,
        color=[ORANGE, LIGHT, BLUE],
        label=[f"{name}: {len(group)}" for name, group in groups.items()],
    )
    axes.set(title=f"{trained['name']} less base, prompt by prompt", xlabel="score difference", xlim=(-1.05, 1.05))
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.legend(loc="upper left")


def win_rates(evaluation: "Evaluation") -> Figure:
    """On how many prompts each checkpoint beats the base model, ties with it or loses, by the first judge."""
    models = [model for model in evaluation.checkpoints if model["versus_base"]]
    with styled():
        figure = NotebookFigure(figsize=(9, 1.3 + 0.3 * max(1, len(models))), layout="constrained")
        axes = figure.subplots()
        if not models:
            return _says(figure, axes, "no base model to win against")
        names, left = [model["name"] for model in models], np.zeros(len(models))
        pairs = np.array([model["versus_base"]["pairs"] for model in models])
        parts = {"wins": (BLUE, "white"), "ties": (LIGHT, "black"), "losses": (ORANGE, "black")}
        for part, (colour, ink) in parts.items():
            counts = np.array([model["versus_base"][part] for model in models])
            shares = 100 * counts / pairs
            bars = axes.barh(names, shares, left=left, color=colour, height=0.75, label=part)
            labels = [str(count) if share >= 3 else "" for count, share in zip(counts, shares, strict=True)]
            axes.bar_label(bars, labels=labels, label_type="center", color=ink, fontsize=8)
            left += shares
        rates = [f"{100 * model['versus_base']['win_rate']:.0f}%" for model in models]
        for row, rate in enumerate(rates):
            axes.annotate(rate, (100, row), (5, 0), textcoords="offset points", va="center", fontsize=8)
        axes.axvline(50, color=DARK, lw=0.8, ls=":")
        axes.set(title="against the base model; right: win rate, ties as halves", xlabel="prompts (%)", xlim=(0, 100))
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(axis="y", length=0)
        axes.legend(**ABOVE)
    return figure


def breakdown(evaluation: "Evaluation") -> Figure:
    """Where a gain comes from. Left: the judge's criteria, base and trained. Right: the gain by service, 95% intervals;
    hollow where a service has few prompts."""
    criteria, services = evaluation.criteria(), evaluation.services()
    base, trained = evaluation.base, evaluation.trained
    rows = max(len(criteria.columns), len(services), 3)
    with styled():
        figure = NotebookFigure(figsize=(9, 1.3 + 0.26 * rows), layout="constrained")
        left, right = figure.subplots(1, 2)
        places = range(len(criteria.columns))
        if base:
            left.hlines(places, criteria.loc[base["name"]], criteria.loc[trained["name"]], color=LIGHT, lw=2.5)
            left.plot(criteria.loc[base["name"]], places, "o", ms=8, color=ORANGE, mfc="white", label="base")
        left.plot(criteria.loc[trained["name"]], places, "o", color=BLUE, label="trained")
        left.set(title=f"criteria of {evaluation.judge}", xlabel="mean of the criterion", xlim=(-0.02, 1.02))
        left.set_yticks(places, criteria.columns)
        left.legend(**ABOVE)
        value = services["difference" if base else "trained"]
        for row, (found, low, high, few) in enumerate(
            zip(value, services["low"], services["high"], services["few"], strict=True)
        ):
            right.plot([low, high], [row, row], color=BLUE, lw=1.8, alpha=0.4 if few else 1)
            right.plot(found, row, "o", color=BLUE, mfc="white" if few else BLUE)
        if base:
            right.axvline(0, color=DARK, lw=0.8)
        counted = [f"{name} ({n})" for name, n in services["n"].items()]
        right.set_yticks(range(len(services)), counted)
        few = ", hollow: few" if services["few"].any() else ""
        right.set(title=f"by service (prompts{few})", xlabel="gain over the base model" if base else "score")
        for axes in (left, right):
            axes.grid(visible=False, axis="y")
            axes.set_ylim(rows - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
    return figure


def length_against_score(evaluation: "Evaluation") -> Figure:
    """Each answer's length and score, base and newest checkpoint, and in words whether longer ones score higher."""
    samples = evaluation.samples()
    with styled():
        figure = NotebookFigure(figsize=(9, 3.4), layout="constrained")
        trends = evaluation.length_trends()
        panels = figure.subplots(1, len(trends), sharex=True, sharey=True, squeeze=False)[0]
        rng = np.random.default_rng(0)
        for axes, (name, trend), colour in zip(panels, trends.items(), (ORANGE, BLUE)[-len(trends) :], strict=True):
            words, scores = samples[f"{name} words"], samples[f"{name} score"]
            aside = rng.uniform(-0.3, 0.3, len(words))  # whole numbers of words would lie on each other
            axes.plot(words + aside, scores, "o", ms=4, mew=0, alpha=0.5, color=colour)
            by_length = scores.groupby(_bins(words)).mean()
            at = words.groupby(_bins(words)).mean()
            axes.plot(at, by_length, color=DARK, lw=1.5, marker="D", ms=3, label="mean of a fifth of the answers")
            axes.set(title=f"{name}: {trend}", xlabel="words", ylim=(-0.03, 1.03))
        panels[0].set_ylabel(f"score by {evaluation.judge}")
        panels[-1].set_xlim(left=0)
        whole_numbers(panels[-1].xaxis)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right")
    return figure


def _bins(words: "pandas.Series") -> "pandas.Series":
    """Up to five groups of about as many answers, by length."""
    import pandas

    return pandas.qcut(words, 5, duplicates="drop") if words.nunique() > 1 else words


def _says(figure: Figure, axes: Axes, text: str) -> Figure:
    axes.set_axis_off()
    axes.set_title(text)
    return figure
