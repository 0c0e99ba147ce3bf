"""Figures of runs: the learning curve of one, and the rewards of several."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from grpo_kit.config.base import names_where
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import RunError
from grpo_kit.plots.style import ABOVE, BLUE, COLOURS, DARK, ORANGE, TITLE, NotebookFigure, styled, whole_ticks
from grpo_kit.runs.directory import RunDirectory, recent_steps
from grpo_kit.utils.text import dollars

PARTS = ["generating", "judging", "updating"]  # of a step
SMALL = {  # a small panel's column, and its title
    "loss": "loss",
    "completions/mean_length": "completion length (tokens)",
    "entropy": "entropy (nats per token)",
    "frac_reward_zero_std": "groups with no spread (%)",
    "kl": "KL from the base model",
    "failures": "judgements failed (%)",
}
HELD_OUT, SECOND = "eval_reward", "eval_second/"  # the columns of held-out scores, by the run's judges and another
SHOWN = [*SMALL, "reward", "reward_std", HELD_OUT, *(f"seconds/{part}" for part in PARTS)]
LEGEND_WIDTH = 130  # characters
# The learning curve's panels are always the same. matplotlib's own layout would take as long as all the rest.
MARGINS = {"left": 0.072, "right": 0.975, "top": 0.905, "bottom": 0.07, "wspace": 0.34, "hspace": 0.55}


@styled()
def learning_curve(run: RunDirectory) -> NotebookFigure:
    """Reward by step with its running mean and spread; below it, what explains a run that does not learn."""
    metrics, status = by_step(run), run.status
    figure = NotebookFigure(9, 6.2, layout=None)
    third = "kl" if metrics["kl"].notna().any() else "time"
    mosaic: Any = [["reward"] * 4, list(SMALL)[:4], ["time", "time", third, "failures"]]
    panels: dict[str, Axes] = figure.subplot_mosaic(mosaic, height_ratios=[2.1, 1, 1], gridspec_kw=MARGINS)
    spent = f", {dollars(status['usd'])}" if status["usd"] else ""
    at = f"step {status['step']} of {status['max_steps']}, {status['state']}{spent}"
    figure.suptitle(f"{run.id}: {run.config.model_name}, {at}", **TITLE)
    _reward(panels["reward"], metrics, is_judge_alone=run.about.get("reward_weights", [1.0]) == [1.0])
    _held_out(panels["reward"], metrics)
    for name in SMALL.keys() & panels.keys():
        panels[name].plot(metrics[name], color=DARK)
        panels[name].set_title(SMALL[name])
        most = 102 if "%" in SMALL[name] else 1.1 * panels[name].get_ylim()[1]
        if name != "loss":
            panels[name].set_ylim(-0.02 * most, most)  # a line at 0 is seen
    seconds = [metrics[f"seconds/{part}"].fillna(0) for part in PARTS]
    panels["time"].stackplot(metrics.index, seconds, labels=PARTS, colors=COLOURS, alpha=0.8, lw=0)
    panels["time"].set(title="seconds per step", ylim=(0, 1.3 * panels["time"].get_ylim()[1]))  # room for the legend
    panels["time"].legend(loc="upper right", ncols=3, handlelength=1, columnspacing=0.8)
    first, last = (0, status["max_steps"]) if len(metrics) < 2 else (metrics.index[0], metrics.index[-1])
    for name, panel in panels.items():
        is_wide = name in ("reward", "time")
        panel.set_xlabel("step", labelpad=4 if is_wide else 1)
        panel.set_xlim(first - 0.01 * (last - first), last + 0.01 * (last - first))
        whole_ticks(panel.xaxis, most=9 if is_wide else 3)
        # Labels that need little room, whatever the values: 0.25, 1500, -5e-5.
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.5g}".replace("e-0", "e-").replace("-", "−"))
        panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure


def _reward(axes: Axes, metrics: pandas.DataFrame, is_judge_alone: bool) -> None:
    window = recent_steps(len(metrics))
    mean, spread = (metrics[name].rolling(window, min_periods=1).mean() for name in ("reward", "reward_std"))
    low, high = mean - spread, mean + spread
    if is_judge_alone:  # its scores go from 0 to 1
        low, high = low.clip(0, 1), high.clip(0, 1)
    axes.fill_between(metrics.index, low, high, color=BLUE, alpha=0.13, lw=0, label="± 1 sd of completions")
    axes.plot(metrics.index, metrics["reward"], color=BLUE, lw=0.7, alpha=0.6, label="each step")
    _running_mean(axes, mean, color=BLUE, lw=2.2, label=f"mean of the last {window} steps")
    axes.set_title("reward (mean of a step's completions)")


def _held_out(axes: Axes, metrics: pandas.DataFrame) -> None:
    """The held-out scores that were measured while training, where there are; a dashed line where the second judge's
    score is another's. Then the legend."""
    second = [name for name in metrics if str(name).startswith(SECOND)]
    for name, look in [(HELD_OUT, {"ls": "-"}), *((each, {"ls": "--"}) for each in second)]:
        if len(found := metrics[name].dropna()):
            judge = f", by {str(name).split('/')[1]}" if name != HELD_OUT else ""
            axes.plot(found, color=ORANGE, marker="o", ms=3.5, lw=1.4, label=f"held-out{judge}", **look)
            axes.set_title("reward")  # there is no room for more beside the legend
    axes.legend(**ABOVE | {"ncols": 5})


def _running_mean(axes: Axes, mean: pandas.Series, **look: Any) -> None:
    axes.plot(mean, marker="o" if mean.count() == 1 else None, **look)  # one step alone makes no line


@styled()
def compare_runs(runs: Sequence[RunDirectory]) -> NotebookFigure:
    """The running mean of several runs' rewards in one picture; the legend has `names_of` them.

    Settings that change no score, such as the GPU, are left out; `rewards` stands for what rewarded a run. RunError
    where there are no runs.
    """
    if not runs:
        raise RunError("there is no run to compare", "Give at least one")
    metrics = [by_step(run) for run in runs]
    window = recent_steps(max(map(len, metrics)))
    labels = [textwrap.shorten(label, LEGEND_WIDTH, placeholder=" …") for label in names_of(runs)]
    columns = max(1, min(6, len(runs), LEGEND_WIDTH // (max(map(len, labels)) + 8)))
    figure = NotebookFigure(9, 3.4 + 0.18 * len(runs) / columns)
    axes = figure.subplots()
    for i, (found, label) in enumerate(zip(metrics, labels, strict=True)):
        colour, dash = look_of(i)
        look = {"color": COLOURS[colour], "ls": ("-", "--", ":", "-.")[dash], "lw": 1.8}
        _running_mean(axes, found["reward"].rolling(window, min_periods=1).mean(), label=label, **look)
    axes.set(title=f"reward (mean of the last {window} steps)", xlabel="step", ylabel="reward")
    axes.margins(x=0.01)
    whole_ticks(axes.xaxis)
    figure.legend(loc="outside lower left", ncols=columns, handlelength=2.6)
    return figure


def look_of(i: int) -> tuple[int, int]:
    """The numbers of the i-th run's colour and dash. Neighbours differ in both, so that each is seen where they lie on
    each other; 24 runs have looks of their own."""
    return i % 6, (i + i // 12) % 4


def names_of(runs: Sequence[RunDirectory]) -> list[str]:
    """What legends call runs: the settings that differ, in words, `seed 1, learning rate 0.001`, where those tell all
    of them apart; else each has its own name before them, `run_1: seed 1`."""
    left_out = {"run_id", "judge", "reward_funcs", *names_where(TrainConfig, "resume")}
    settings = [run.config.model_dump(exclude=left_out) | {"rewards": _rewards_of(run)} for run in runs]
    differing = [name for name in settings[0] if any(other[name] != settings[0][name] for other in settings)]
    labels = [", ".join(_in_words(name, setting[name]) for name in differing) for setting in settings]
    if len({*labels}) == len(runs) > 1:
        return labels
    return [f"{run.id}: {label}" if label else run.id for run, label in zip(runs, labels, strict=True)]


def _rewards_of(run: RunDirectory) -> str:
    """`gemini x 0.7 + offline x 0.3`; weights of 1 are left out."""
    names = run.about["rewards"]
    weights = run.about.get("reward_weights") or [1.0] * len(names)
    return " + ".join(name if w == 1 else f"{name} x {w:g}" for name, w in zip(names, weights, strict=True))


def _in_words(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool) or value is None:
        return words if value else f"no {words.removeprefix('use ')}"
    return f"{words} {Path(value).name if name == 'data' else f'{value:g}' if isinstance(value, float) else value}"


def by_step(run: RunDirectory) -> pandas.DataFrame:
    """The columns of run.metrics() that the figures show, by step; shares in percent, NaN where not measured."""
    found = run.metrics()
    shown = found.set_index("step") if "step" in found else found
    second = [name for name in shown if str(name).startswith(SECOND)]
    shown = shown.reindex(columns=[*SHOWN, *second]).astype(float)
    failed = found.filter(regex="^judge/.*/failures$").sum(axis=1, min_count=1).to_numpy()
    shown["failures"] = failed / (len(run.config.judge) * run.config.completions_per_step)
    return shown.assign(**{name: 100 * shown[name] for name in ("failures", "frac_reward_zero_std")})
