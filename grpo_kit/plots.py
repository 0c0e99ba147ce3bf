"""Figures of runs, evaluations and data. Each reads files and returns a matplotlib Figure, which a notebook shows.

No pyplot, so they work in any thread and without a display, and nothing is shown twice. Colours are Okabe and Ito's,
which colour-blind readers tell apart.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grpo_kit.runs import Run

if TYPE_CHECKING:
    import pandas

    from grpo_kit.calibration import Estimate
    from grpo_kit.comparison import Evaluation

COLOURS = BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072B2 #E69F00 #009E73 #CC79A7 #56B4E9 #D55E00".split()
DARK, LIGHT = "#555555", "#BBBBBB"
SHOWN = """
    reward reward_std loss completions/mean_length entropy frac_reward_zero_std kl
    seconds/generating seconds/judging seconds/updating
""".split()
ABOVE = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3}  # a legend beside the title
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.borderaxespad": 0.2,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 1.5,
}


class NotebookFigure(Figure):
    """A Figure that a notebook shows as it is, with no pyplot and no magic."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


def learning_curve(run: Run) -> Figure:
    """Reward by step with its running mean and spread; below it what explains a run that does not learn."""
    metrics = _by_step(run)
    window = _window(len(metrics))
    with matplotlib.rc_context(STYLE):
        figure = NotebookFigure(figsize=(9, 6.2), layout="constrained")
        last = ["groups", "kl", "time"] if metrics["kl"].notna().any() else ["groups", "time", "time"]
        panels = figure.subplot_mosaic([["reward"] * 3, ["loss", "length", "entropy"], last], height_ratios=[2.1, 1, 1])
        status = run.status
        spent = f", ${status['usd']:.4f} for Gemini" if status["usd"] else ""
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
        reward.plot(metrics.index, mean, color=BLUE, lw=2.2, label=f"mean of the last {window} steps")
        reward.set(title="reward (mean of a step's completions)", ylabel="reward")
        reward.legend(**ABOVE)
        _small(panels["loss"], metrics["loss"], "loss")
        _small(panels["length"], metrics["completions/mean_length"], "completion length (tokens)", from_zero=True)
        _small(panels["entropy"], metrics["entropy"], "entropy (nats per token)", from_zero=True)
        _small(panels["groups"], 100 * metrics["frac_reward_zero_std"], "groups with no spread (%)", from_zero=True)
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
        panels["time"].set(title="seconds per step", ylim=(0, 1.3 * panels["time"].get_ylim()[1]))
        panels["time"].legend(loc="upper right", ncols=3, handlelength=1, columnspacing=0.8)
        for panel in panels.values():
            _step_axis(panel)
            if metrics.empty:
                panel.set(xlim=(0, status["max_steps"]), ylim=(0, 1))
    return figure


def _small(axes: Axes, values: "pandas.Series", title: str, from_zero: bool = False) -> None:
    axes.plot(values.index, values, color=DARK)
    axes.set_title(title)
    if from_zero:
        axes.set_ylim(0, max(1e-3, 1.1 * values.max()) if values.notna().any() else 1)


def compare_runs(runs: Sequence[Run]) -> Figure:
    """The running mean of several runs' rewards in one picture; the legend says which settings differ."""
    settings = [run.config.model_dump(exclude={"run_id"}) for run in runs]
    differing = [name for name in settings[0] if any(other[name] != settings[0][name] for other in settings)]
    with matplotlib.rc_context(STYLE):
        figure = NotebookFigure(figsize=(9, 3.4 + 0.18 * len(runs)), layout="constrained")
        axes = figure.subplots()
        for i, (run, setting) in enumerate(zip(runs, settings, strict=True)):
            metrics = _by_step(run)
            mean = metrics["reward"].rolling(_window(len(metrics)), min_periods=1).mean()
            label = ", ".join(f"{name}={setting[name]}" for name in differing) or run.id
            line = ("-", "--", ":", "-.")[i // len(COLOURS) % 4]
            axes.plot(metrics.index, mean, color=COLOURS[i % len(COLOURS)], ls=line, lw=1.8, label=label)
        axes.set(title="reward (running mean)", ylabel="reward")
        figure.legend(loc="outside lower left")
        _step_axis(axes)
    return figure


def score_distributions(scores: dict[str, Sequence[float | None]]) -> Figure:
    """Scores by whose answers they are: for each score, the share of answers that got at least that."""
    with matplotlib.rc_context(STYLE):
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
    with matplotlib.rc_context(STYLE):
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


def evaluation_figure(evaluation: "Evaluation") -> Figure:
    """Left: each model's mean score with its 95% interval. Right: what training changed, prompt by prompt."""
    base, trained, samples = evaluation.base, evaluation.trained, evaluation.samples()
    with matplotlib.rc_context(STYLE):
        figure = NotebookFigure(figsize=(9, 3.6), layout="constrained")
        means, prompts = figure.subplots(1, 2, width_ratios=[1.1, 1])
        figure.suptitle(evaluation.line(), x=0.01, ha="left", fontweight="bold")
        models = [model for model in evaluation.models if model is not base]
        steps = [int(found[1]) if (found := re.fullmatch(r"checkpoint-(\d+)", m["name"])) else None for m in models]
        if None in steps:
            steps = list(range(len(models)))
            means.set_xticks(steps, [model["name"] for model in models])
            means.set_xlim(-0.5, len(models) - 0.5)
        else:
            means.set(xlabel="training step", xlim=(0, 1.05 * steps[-1]))
            _whole_numbers(means.xaxis)
        if base is not None:
            means.axhspan(*base["interval"], color=ORANGE, alpha=0.2, lw=0)
            means.axhline(base["mean"], color=ORANGE, lw=1.8, ls="--", label="base model")
        scores = np.array([model["mean"] for model in models])
        low, high = np.array([model["interval"] for model in models]).T
        means.errorbar(
            steps, scores, [scores - low, high - scores], color=BLUE, marker="o", capsize=3, lw=1.8, label="trained"
        )
        means.set(title="mean score, 95% interval", ylim=(0, 1))
        means.legend(**ABOVE)
        prompts.set_ylabel("prompts")
        _whole_numbers(prompts.yaxis)
        if base is None:
            prompts.hist(samples[f"{trained['name']} score"].dropna(), bins=np.linspace(0, 1, 21), color=BLUE)
            prompts.set(title="scores", xlabel="score", xlim=(0, 1))
        else:
            _differences(prompts, samples["difference"].dropna(), trained)
    return figure


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


def data_overview(card: dict) -> Figure:
    """A data set from its data_card.json: samples per service, dialogue acts, lengths in words."""
    services, acts = _largest(card["samples_per_service"]), _largest(card["acts"])
    rows = max(len(services), len(acts) + 4)
    with matplotlib.rc_context(STYLE):
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


def _by_step(run: Run) -> "pandas.DataFrame":
    """What the figures show of a run's metrics, by step; what was not measured is NaN."""
    metrics = run.metrics()
    if "step" in metrics:
        metrics = metrics.set_index("step")
    return metrics.reindex(columns=SHOWN).astype(float)


def _step_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    _whole_numbers(axes.xaxis)
    axes.margins(x=0.01)


def _whole_numbers(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
