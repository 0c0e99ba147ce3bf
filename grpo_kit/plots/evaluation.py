"""Figures of an evaluation: the change that training made, where it made it, and whether to trust it."""

import re

import numpy as np
from matplotlib.axes import Axes

from grpo_kit.evaluation.result import Evaluation
from grpo_kit.plots.style import ABOVE, BLUE, DARK, LIGHT, ORANGE, TITLE, NotebookFigure, name_rows, styled, whole_ticks
from grpo_kit.plots.tables import Table, table


def scores(evaluation: Evaluation) -> Table:
    """A row per model by the first judge, and of agents how many dialogues succeed, their calls and their errors."""
    shown, agents = evaluation.summary(), evaluation.agents()
    if len(agents):
        rates = agents[["model", "success", "low", "high", "calls", "errors"]]
        shown = shown.merge(rates.rename(columns={"low": "success_low", "high": "success_high"}), "left", "model")
    return table(shown.drop(columns=["stdev", "min", "max", "wins", "ties", "losses"], errors="ignore"))


@styled()
def evaluation_figure(evaluation: Evaluation) -> NotebookFigure:
    """Left: each model's mean score with its 95% interval, by the second judge too. Right: the gain on each prompt."""
    base, trained, samples = evaluation.base, evaluation.trained, evaluation.samples()
    figure = NotebookFigure(9, 3.6)
    figure.suptitle(f"{trained['name']}: {evaluation.line()}" if base else evaluation.line(), **TITLE)
    means, prompts = figure.subplots(1, 2, width_ratios=[1.1, 1])
    _means(means, evaluation)
    if base is None:
        prompts.hist(samples[f"{trained['name']} score"].dropna(), bins=20, range=_scale(evaluation), color=BLUE)
        prompts.set(title="scores", xlabel="score", xlim=_scale(evaluation))
    else:
        gain = samples["difference"].dropna()
        groups = {"worse": gain[gain < 0], "equal": gain[gain == 0], "better": gain[gain > 0]}
        labels = [f"{name}: {len(group)}" for name, group in groups.items()]
        look = {"stacked": True, "color": [ORANGE, LIGHT, BLUE], "label": labels}
        low, high = _scale(evaluation)
        prompts.hist(list(groups.values()), bins=21, range=(-1.05 * (high - low), 1.05 * (high - low)), **look)
        title = f"{trained['name']} minus base, prompt by prompt"
        prompts.set(title=title, xlabel="score difference", xlim=(-1.05 * (high - low), 1.05 * (high - low)))
        prompts.legend(loc="upper left")
    prompts.set_ylabel("prompts")
    whole_ticks(prompts.yaxis)
    return figure


def _means(axes: Axes, evaluation: Evaluation) -> None:
    """Scores over GRPO's checkpoints, the chosen one in a ring; the base is a line with a band, a warm start a line,
    and the second judge's lines are thin and dashed."""
    base, second, warm = evaluation.base, evaluation.second_judge, evaluation.warm_start
    models = [model for model in evaluation.checkpoints if model is not warm] or evaluation.checkpoints
    found = [re.fullmatch(r"checkpoint-(\d+)", model["name"]) for model in models]
    steps = np.array([int(step[1]) for step in found if step])
    if len(steps) == len(models):
        axes.set(xlabel="training step", xlim=(0, 1.05 * steps[-1]))
        whole_ticks(axes.xaxis)
    else:
        steps = np.arange(len(models))
        axes.set_xlim(-0.5, len(models) - 0.5)
        axes.set_xticks(steps, [model["name"] for model in models])
    if base is not None:
        axes.axhspan(*base["interval"], color=ORANGE, alpha=0.2, lw=0)
        axes.axhline(base["mean"], color=ORANGE, lw=1.8, ls="--", label="base")
    if warm and warm not in models:
        axes.axhline(warm["mean"], color=DARK, lw=1.2, ls="-.", label="warm start")
    judges = {"trained": (steps, models, {"color": BLUE, "marker": "o", "capsize": 3, "lw": 1.8})}
    if second:
        beside = steps + 0.012 * np.ptp(axes.get_xlim())  # the first judge's intervals
        thin = {"color": DARK, "marker": "s", "ms": 3, "capsize": 2, "lw": 0.9, "ls": "--"}
        judges[f"trained, by {second}"] = (beside, [model["second"] for model in models], thin)
        if base is not None:
            axes.axhline(base["second"]["mean"], color=ORANGE, lw=0.9, ls=":", label=f"base, by {second}")
    for label, (at, numbers, look) in judges.items():
        mean, low, high = np.array([[each["mean"], *each["interval"]] for each in numbers]).T
        axes.errorbar(at, mean, np.array([mean - low, high - mean]), label=label, **look)
    for step, model in zip(steps, models, strict=True):
        if len(models) > 1 and model["name"] == evaluation.best()["name"]:
            axes.plot(step, model["mean"], "o", ms=12, mfc="none", color=BLUE, label="chosen")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, columnspacing=1, handlelength=2)
    interval = "95% interval" if evaluation.trained["judged"] > 1 else "no interval of one prompt"
    by = f" by {evaluation.judge}" if second or evaluation.results.get("by_environment") else ""
    axes.set(title=f"mean score{by}, {interval}", ylim=_scale(evaluation))


def _scale(evaluation: Evaluation) -> tuple[float, float]:
    """From 0 to 1, or as far as an environment's rewards go."""
    return min(0, *(each["min"] for each in evaluation.models)), max(1, *(each["max"] for each in evaluation.models))


@styled()
def breakdown(evaluation: Evaluation) -> NotebookFigure:
    """The sources of a gain. Left: the judge's criteria, base and trained. Right: the gain by service with its 95%
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
    left.plot(trained, places, "o", color=BLUE, label=trained.name)
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
    name_rows(left, list(criteria.columns), at_least=rows)
    name_rows(right, [f"{name} ({n})" for name, n in services["n"].items()], at_least=rows)
    return figure


@styled()
def length_against_score(evaluation: Evaluation) -> NotebookFigure:
    """Each answer's length and score, base and trained checkpoint; the legend says whether longer ones score higher."""
    samples, trends = evaluation.samples(), evaluation.length_trends()
    figure = NotebookFigure(7, 3.4)
    axes = figure.subplots()
    for (name, trend), colour in zip(trends.items(), (ORANGE, BLUE)[-len(trends) :], strict=True):
        words, scores = samples[f"{name} words"], samples[f"{name} score"]
        axes.plot(words, scores, "o", ms=4, mew=0, alpha=0.5, color=colour, label=f"{name}: {trend}")
    axes.set(xlabel="words", ylabel=f"score by {evaluation.judge}")
    low, high = _scale(evaluation)
    axes.set_ylim(low - 0.03, high + 0.03)
    axes.set_xlim(left=0)
    whole_ticks(axes.xaxis)
    figure.legend(loc="outside upper left")
    return figure
