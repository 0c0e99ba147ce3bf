"""A figure of agents: how their dialogues go while a run trains."""

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from grpo_kit.errors import RunError
from grpo_kit.plots.style import BLUE, DARK, GREEN, ORANGE, RED, TITLE, NotebookFigure, styled, whole_ticks
from grpo_kit.runs.directory import RunDirectory, recent_steps

HEADS = {"success": "dialogues that succeed", "calls": "calls and messages in a dialogue", "errors": "what goes wrong"}
LINES = {
    "success": {"agent/success": ("training", BLUE), "eval_agent/success": ("held-out", ORANGE)},
    "calls": {"agent/calls": ("calls", BLUE), "agent/turns": ("messages", GREEN)},
    "errors": {"agent/errors": ("calls that fail", RED), "agent/cut": ("dialogues cut", DARK)},
}


@styled()
def agent_curve(run: RunDirectory) -> NotebookFigure:
    """By step: the success rate, calls and messages in a dialogue, and the shares of failed calls and of dialogues that
    were cut. Raises RunError for a run without an environment."""
    metrics = run.metrics()
    if "agent/success" not in metrics:
        raise RunError(f"run {run.id} has no dialogues to draw", "environment=replay trains with some")
    found = metrics.set_index("step")
    window = recent_steps(len(found))
    figure = NotebookFigure(9, 2.9)
    figure.suptitle(f"{run.id}: environment={run.config.environment}, means of {window} steps", **TITLE)
    panels: list[Axes] = list(figure.subplots(1, 3, width_ratios=[1.4, 1, 1]))
    for panel, (kind, lines) in zip(panels, LINES.items(), strict=True):
        for name, (label, colour) in lines.items():
            if name not in found:
                continue
            values = found[name].dropna()
            is_held_out = name.startswith("eval_")
            shown = values if is_held_out else values.rolling(window, min_periods=1).mean()
            panel.plot(shown, color=colour, label=label, **({"marker": "o", "ms": 3.5} if is_held_out else {}))
        panel.set(title=HEADS[kind], xlabel="step", ylim=(0, None if kind == "calls" else 1))
        if kind != "calls":
            panel.yaxis.set_major_formatter(PercentFormatter(1))
        panel.legend()
        whole_ticks(panel.xaxis)
    return figure
