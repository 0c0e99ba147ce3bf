"""What a run says of its steps, in a terminal or a log: a line of numbers, and every few steps a table of completions.

A terminal gets colours and its own width; a pipe or a log gets plain lines of at most 100 characters.
"""

import math
import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_kit.data.samples import last_turn
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.utils.text import dollars, duration, printable

if TYPE_CHECKING:  # it takes a quarter of a second to load, and a quote needs none
    import pandas

PLAIN_WIDTH = 100
LONGEST = 400  # characters of a text in the table


def numbers(status: dict[str, Any]) -> str:
    """ "loss=0.012 reward=0.512±0.301 held-out=0.412 40 s left $0.0031": what a status.json has of these. A reward that
    is NaN is "none"."""
    told = [f"loss={status['loss']:.3f}"] if status.get("loss") is not None else []
    if (reward := status.get("reward")) is not None:
        spread = f"±{status['reward_std']:.3f}" if status.get("reward_std") is not None else ""
        told.append("reward=none" if math.isnan(reward) else f"reward={reward:.3f}{spread}")
    if status.get("eval_reward") is not None:
        told.append(f"held-out={status['eval_reward']:.3f}")
    if status["state"] == "running" and status.get("seconds_left", 0) >= 1:
        told.append(f"{duration(status['seconds_left'])} left")
    if status["usd"]:
        told.append(dollars(status["usd"]))
    return " ".join(told)


def best_and_worst(completions: "pandas.DataFrame", count: int) -> "pandas.DataFrame":
    """Of the newest step's first prompt at most `count` completions, the best first and the worst last."""
    last = completions[completions["step"] == completions["step"].max()]
    group = last[last["sample_id"] == last["sample_id"].iloc[0]]
    group = group.sort_values("advantage", ascending=False, kind="stable", na_position="last")
    best = -(-count // 2)
    return group.drop(group.index[best : max(best, len(group) - count // 2)])


def completions_text(run: RunDirectory, step: int) -> str:
    """The best and worst completions to one prompt of the newest step up to `step`, as a table; empty where there are
    none. What models and people wrote is shown as it is, without what a terminal would act on."""
    rows = run.completions()
    if (rows := rows[rows["step"] <= step]).empty:
        return ""
    shown = best_and_worst(rows, run.config.num_completions_to_print).to_dict("records")
    first, is_terminal = shown[0], sys.stdout.isatty()
    many = sum((rows["step"] == first["step"]) & (rows["sample_id"] == first["sample_id"]))
    title = f"Step {first['step']}, best and worst of {many} completions to {printable(first['sample_id'])}"
    table = Table(show_lines=True, box=box.SQUARE if is_terminal else box.ASCII)
    table.add_column("prompt", ratio=3, style="yellow", overflow="fold")
    table.add_column("completion", ratio=4, style="green", overflow="fold")
    for name in (*first["rewards"], "advantage"):
        table.add_column(Text(name), justify="right", style="cyan", overflow="fold")
    table.add_column("reason", ratio=3, overflow="fold")
    for row in shown:
        asked = last_turn(row["prompt"]) if row is first else ""  # the others answer the same
        scores = map(_number, [*row["rewards"].values(), row["advantage"]])
        table.add_row(_text(asked), _text(row["completion"]), *scores, _text(row["reason"] or ""))
    width = None if is_terminal else PLAIN_WIDTH
    console = Console(force_terminal=is_terminal, force_jupyter=False, width=width, highlight=False)
    with console.capture() as captured:
        console.print(Text(title), table, sep="\n")
    return captured.get().rstrip().encode(console.encoding, "replace").decode(console.encoding)


def _text(text: str) -> Text:
    shown = printable(text).strip()
    return Text(shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…")


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"
