"""Figures of runs, evaluations and data. Each reads files and returns a matplotlib Figure, which a notebook shows.

How they look is in figures.py; those of evaluations are in evaluation_plots.py, those of sweeps in sweep_plots.py, and
can be had from here.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grpo_kit.config.base import names_where
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import RunError
from grpo_kit.plots.style import (
    ABOVE,
    BLUE,
    COLOURS,
    DARK,
    GREEN,
    ORANGE,
    NotebookFigure,
    short_numbers,
    styled,
    whole_numbers,
)
from grpo_kit.runs.directory import RunDirectory

if TYPE_CHECKING:
    import pandas

    from grpo_kit.judges.calibration import Estimate

SHOWN = """
    reward reward_std loss completions/mean_length entropy frac_reward_zero_std kl
    seconds/generating seconds/judging seconds/updating
""".split()
LEGEND_WIDTH = 130  # characters
# Of the learning curve, whose panels are always the same and whose labels short: matplotlib's own layout would take as
# long as all the rest.
MARGINS = {"left": 0.072, "right": 0.975, "top": 0.905, "bottom": 0.07, "wspace": 0.34, "hspace": 0.55}


def learning_curve(run: RunDirectory) -> NotebookFigure:
    """Reward by step with its running mean and spread; below it what explains a run that does not learn."""
    raw = run.metrics()
    metrics = _by_step(raw)
    window = _window(len(metrics))
    with styled():
        figure = NotebookFigure(figsize=(9, 6.2))
        above, below = ["loss", "length", "entropy", "groups"], ["time", "time", "latency", "failures"]
        if metrics["kl"].notna().any():
            below[1] = "kl"
        rows = [["reward"] * 4, above, below]
        panels = figure.subplot_mosaic(rows, height_ratios=[2.1, 1, 1], gridspec_kw=MARGINS)
        status = run.status
        spent = f", ${status['usd']:.4f}" if status["usd"] else ""
        figure.suptitle(
            f"{run.id}: {run.config.model_name}, step {status['step']} of {status['max_steps']}, {status['state']}"
            f"{spent}",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
        reward, mean = panels["reward"], metrics["reward"].rolling(window, min_periods=1).mean()
        spread = metrics["reward_std"].rolling(window, min_periods=1).mean()
        low, high = mean - spread, mean + spread
        if run.about.get("reward_weights", [1.0]) == [1.0]:  # the judge alone, who scores from 0 to 1
            low, high = low.clip(0, 1), high.clip(0, 1)
        reward.fill_between(metrics.index, low, high, color=BLUE, alpha=0.13, lw=0, label="± 1 sd of completions")
        reward.plot(metrics.index, metrics["reward"], color=BLUE, lw=0.7, alpha=0.6, label="each step")
        marker = "o" if len(metrics) == 1 else None  # one step alone makes no line
        reward.plot(metrics.index, mean, color=BLUE, lw=2.2, marker=marker, label=f"mean of the last {window} steps")
        reward.set_title("reward (mean of a step's completions)")
        reward.legend(**ABOVE)
        _small(panels["loss"], metrics["loss"], "loss")
        _small(panels["length"], metrics["completions/mean_length"], "completion length (tokens)", from_zero=True)
        _small(panels["entropy"], metrics["entropy"], "entropy (nats per token)", from_zero=True)
        _small(panels["groups"], 100 * metrics["frac_reward_zero_std"], "groups with no spread (%)")
        panels["groups"].set_ylim(-2, 102)
        if "kl" in panels:
            _small(panels["kl"], metrics["kl"], "KL from the base model", from_zero=True)
        parts = ["generating", "judging", "updating"]
        panels["time"].stackplot(
            metrics.index,
            [metrics[f"seconds/{part}"].fillna(0) for part in parts],
            labels=parts,
            colors=[BLUE, ORANGE, GREEN],
            alpha=0.8,
            lw=0,
        )
        is_wide = "kl" not in panels
        room = 1.3 if is_wide else 2.6  # for the legend
        panels["time"].set(title="seconds per step", ylim=(0, room * panels["time"].get_ylim()[1]))
        panels["time"].legend(loc="upper right", ncols=3 if is_wide else 1, handlelength=1, columnspacing=0.8)
        _judges(panels["latency"], panels["failures"], run.config, raw)
        for name, panel in panels.items():
            _step_axis(panel, is_small=not (name == "reward" or (name == "time" and is_wide)))
            short_numbers(panel.yaxis)
            if len(metrics) < 2:
                panel.set_xlim(0, status["max_steps"])
            if metrics.empty:
                panel.set_ylim(0, 1)
    return figure


def _judges(latency: Axes, failures: Axes, config: TrainConfig, metrics: "pandas.DataFrame") -> None:
    """How long each judge takes over a step's completions, and what share of them it leaves without a score."""
    for judge, colour in zip(config.judge, (DARK, ORANGE), strict=False):
        if f"judge/{judge}/seconds" in metrics:
            steps, label = metrics["step"], judge if len(config.judge) > 1 else None
            latency.plot(steps, metrics[f"judge/{judge}/seconds"], color=colour, label=label)
            failures.plot(steps, 100 * metrics[f"judge/{judge}/failures"] / config.completions_per_step, color=colour)
    latency.set_title("judge (seconds per step)")
    failures.set_title("judgements failed (%)")
    latency.set_ylim(0, max(1e-3, latency.get_ylim()[1]))
    most = max(1, failures.get_ylim()[1])
    failures.set_ylim(-0.02 * most, most)  # so that a line at 0, as it should be, is seen
    if len(config.judge) > 1:
        latency.legend(loc="upper right")


def _small(axes: Axes, values: "pandas.Series", title: str, from_zero: bool = False) -> None:
    axes.plot(values.index, values, color=DARK)
    axes.set_title(title)
    if from_zero:
        axes.set_ylim(0, max(1e-3, 1.1 * values.max()) if values.notna().any() else 1)


def compare_runs(runs: Sequence[RunDirectory]) -> Figure:
    """The running mean of several runs' rewards in one picture; the legend says which settings differ.

    Settings that change no score, such as the GPU, are left out; what rewards a run had stands as `rewards`. Runs that
    nothing else tells apart have their names beside it. RunError where there are no runs.
    """
    if not runs:
        raise RunError("there is no run to compare: give at least one")
    metrics = [_by_step(run.metrics()) for run in runs]
    window = _window(max(map(len, metrics)))
    labels = _differences_in_words(runs)
    labels = [label if len(found) else f"{label} (no step yet)" for label, found in zip(labels, metrics, strict=True)]
    in_a_row = max(1, min(6, len(runs), LEGEND_WIDTH // (max(map(len, labels)) + 8)))
    labels = [textwrap.fill(label, LEGEND_WIDTH, subsequent_indent="   ") for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels) / in_a_row
    with styled():
        figure = NotebookFigure(figsize=(9, 3.4 + 0.18 * lines), layout="constrained")
        axes = figure.subplots()
        for i, (found, label) in enumerate(zip(metrics, labels, strict=True)):
            mean = found["reward"].rolling(window, min_periods=1).mean()
            line = ("-", "--", ":", "-.")[i // len(COLOURS) % 4]
            marker = "o" if mean.notna().sum() == 1 else None  # one step alone makes no line
            axes.plot(mean, color=COLOURS[i % len(COLOURS)], ls=line, marker=marker, lw=1.8, label=label)
        axes.set(title=f"reward (mean of the last {window} steps)", ylabel="reward")
        figure.legend(loc="outside lower left", ncols=in_a_row, handlelength=2.6)
        _step_axis(axes)
        if not any(map(len, metrics)):
            axes.set(xlim=(0, max(run.status["max_steps"] for run in runs)), ylim=(0, 1))
    return figure


def _differences_in_words(runs: Sequence[RunDirectory]) -> list[str]:
    """What sets each run apart from the others: `seed=1, learning_rate=0.001`, or its name where no setting does."""
    left_out = {"run_id", "judge", "reward_funcs", *names_where(TrainConfig, "resume")}
    settings = [run.config.model_dump(exclude=left_out) | {"rewards": _rewards_of(run)} for run in runs]
    differing = [name for name in settings[0] if any(other[name] != settings[0][name] for other in settings)]
    words = [", ".join(f"{name}={_in_short(name, setting[name])}" for name in differing) for setting in settings]
    return [
        label if words.count(label) == 1 and label else " ".join(filter(None, (run.id, label and f"({label})")))
        for run, label in zip(runs, words, strict=True)
    ]


def _rewards_of(run: RunDirectory) -> str:
    """`gemini x 0.7 + offline x 0.3`; weights of 1 are not said."""
    names = run.about["rewards"]
    weights = run.about.get("reward_weights") or [1.0] * len(names)
    return " + ".join(
        name if weight == 1 else f"{name} x {weight:g}" for name, weight in zip(names, weights, strict=True)
    )


def _in_short(name: str, value: Any) -> str:
    return Path(value).name if name == "data" else f"{value:g}" if isinstance(value, float) else str(value)


def score_distributions(scores: dict[str, Sequence[float | None]]) -> Figure:
    """Scores by whose answers they are: for each score, the share of answers that got at least that."""
    with styled():
        figure = NotebookFigure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots()
        for (name, given), colour, line in zip(
            scores.items(), COLOURS, ("-", "--", ":", "-.", "-", "--"), strict=False
        ):
            judged = np.sort([score for score in given if score is not None])[::-1]
            shares = np.arange(1, len(judged) + 1) / len(judged)
            axes.step(np.r_[1, judged, 0], np.r_[0, shares, 1], where="post", color=colour, ls=line, lw=1.8, label=name)
        axes.set(title="share of answers that score at least so much", xlabel="score", xlim=(0, 1), ylim=(0, 1.02))
        figure.legend(loc="outside right upper")
    return figure


def intervals(panels: dict[str, dict[str, "Estimate"]]) -> Figure:
    """Estimates with their intervals: a panel for each title, and in all of them one row and colour for each name."""
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    with styled():
        figure = NotebookFigure(figsize=(min(9, 2.5 + 3 * len(panels)), 1.2 + 0.35 * len(names)), layout="constrained")
        drawn = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (title, rows) in zip(drawn, panels.items(), strict=True):
            for name, found in rows.items():
                row, ends = names.index(name), [[found.value - found.low], [found.high - found.value]]
                axes.errorbar(
                    found.value, row, xerr=ends, fmt="o", color=COLOURS[row % len(COLOURS)], capsize=3, lw=1.8
                )
                text, at = ("not defined", 0.5) if np.isnan(found.value) else (f"{found.value:z.2f}", found.value)
                axes.annotate(text, (at, row), (0, 6), textcoords="offset points", ha="center", fontsize=8)
            axes.set(title=title, xticks=[-1, -0.5, 0, 0.5, 1], yticks=range(len(names)), yticklabels=names)
            axes.grid(visible=False, axis="y")
        lowest = np.nanmin([0.0, *(found.low for rows in panels.values() for found in rows.values())])
        axes.set(xlim=(lowest - 0.06, 1.06), ylim=(len(names) - 0.5, -0.7))
        figure.supxlabel("95% intervals", fontsize=8)
    return figure


def data_overview(card: dict) -> Figure:
    """A data set from its data_card.json: samples per service, dialogue acts, lengths in words."""
    services, acts = _largest(card["samples_per_service"]), _largest(card["acts"])
    rows = max(len(services), len(acts) + 4)
    with styled():
        figure = NotebookFigure(figsize=(9, max(3, 1 + 0.2 * rows)), layout="constrained")
        panels = figure.subplot_mosaic(
            [["services", "acts"], ["services", "lengths"]], height_ratios=[max(3, len(acts)), 3]
        )
        total, held_out = sum(card["samples"].values()), card["samples"]["eval"]
        figure.suptitle(
            f"{total:,} samples from {sum(card['dialogues'].values()):,} dialogues, {held_out:,} held out",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
        _bars(panels["services"], services, "samples per service")
        _bars(panels["acts"], acts, "dialogue acts in the answers")
        for row, words in enumerate((card["answer_words"], card["prompt_words"])):
            panels["lengths"].plot([words["min"], words["max"]], [row, row], color=BLUE, lw=5, alpha=0.3)
            panels["lengths"].plot(words["mean"], row, "o", color=BLUE)
            panels["lengths"].annotate(
                f"{words['mean']:.0f}",
                (words["mean"], row),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        panels["lengths"].set(
            title="length in words: shortest, mean, longest", yticks=[0, 1], yticklabels=["answer", "prompt"]
        )
        panels["lengths"].set_ylim(-0.5, 1.6)
        panels["lengths"].grid(visible=False, axis="y")
    return figure


def _bars(axes: Axes, counts: dict[str, int], title: str) -> None:
    bars = axes.barh(list(counts), list(counts.values()), color=BLUE, height=0.7)
    axes.bar_label(bars, labels=[f"{count:,}" for count in counts.values()], padding=3, fontsize=8)
    axes.set(title=title if counts else f"{title}: not annotated", ylim=(max(len(counts), 6) - 0.4, -0.6))
    axes.margins(x=0.12)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(bool(counts))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _largest(counts: dict[str, int], shown: int = 20) -> dict[str, int]:
    """The largest counts first; those beyond `shown` as one."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rest = ordered[shown:]
    return dict(ordered[:shown]) | ({f"{len(rest)} others": sum(count for _, count in rest)} if rest else {})


def _window(steps: int) -> int:
    return max(3, steps // 10)


def _by_step(metrics: "pandas.DataFrame") -> "pandas.DataFrame":
    """What the figures show of run.metrics(), by step; what was not measured is NaN."""
    if "step" in metrics:
        metrics = metrics.set_index("step")
    return metrics.reindex(columns=SHOWN).astype(float)


def _step_axis(axes: Axes, is_small: bool = False) -> None:
    axes.set_xlabel("step", labelpad=1 if is_small else 4)
    whole_numbers(axes.xaxis, most=3 if is_small else 9)
    axes.margins(x=0.01)
