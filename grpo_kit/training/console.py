"""What a run says of its steps, in a terminal or a log: a line of numbers, and every few steps a table of completions.

A terminal gets colours and its own width; a pipe or a log gets plain lines of at most 100 characters.
"""

import math
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import last_turn
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.utils.text import dollars, duration, printable

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
    return " ".join(told + [dollars(status["usd"])] * bool(status["usd"]))


def is_shown(config: TrainConfig, step: int) -> bool:
    """Whether the completions of this step are printed."""
    return bool(config.num_completions_to_print) and step > 0 and step % config.logging_steps == 0


def completions_text(run: RunDirectory, step: int) -> str:
    """The best and worst completions to one prompt of the newest step up to `step`, as a table; empty where there are
    none. What models and people wrote is shown as it is, without what a terminal would act on."""
    rows = run.completions()
    if (rows := rows[rows["step"] <= step]).empty:
        return ""
    rows = rows[rows["step"] == rows["step"].max()]
    group = rows[rows["sample_id"] == rows["sample_id"].iloc[0]]
    group = group.sort_values("advantage", ascending=False, kind="stable", na_position="last").to_dict("records")
    count, title = run.config.num_completions_to_print, f"best and worst of {len(group)} completions to "
    title = f"Step {rows['step'].iloc[0]}, {title}{printable(group[0]['sample_id'])}"
    if len(group) > count:
        group = group[: -(-count // 2)] + group[len(group) - count // 2 :]
    is_terminal = sys.stdout.isatty()
    table = Table(
        title=Text(title), title_justify="left", show_lines=True, box=box.SQUARE if is_terminal else box.ASCII
    )
    columns: dict[str, dict[str, Any]] = {"prompt": {"ratio": 3, "style": "yellow"}}
    columns |= {"completion": {"ratio": 4, "style": "green"}}
    columns |= {name: {"justify": "right", "style": "cyan"} for name in group[0]["rewards"]}
    columns |= {"advantage": {"justify": "right", "style": "magenta"}, "reason": {"ratio": 3}}
    for name, look in columns.items():
        table.add_column(Text(name), overflow="fold", **look)
    asked = last_turn(group[0]["prompt"])
    for row in group:
        scores = [*row["rewards"].values(), row["advantage"]]
        cells = [_text(asked), _text(row["completion"]), *map(_number, scores), _text(row["reason"] or "")]
        table.add_row(*cells)
        asked = ""  # the others answer the same
    width = None if is_terminal else PLAIN_WIDTH
    console = Console(force_terminal=is_terminal, force_jupyter=False, width=width, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip().encode(console.encoding, "replace").decode(console.encoding)


def _text(text: str) -> Text:
    shown = printable(text).strip()
    return Text(shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…")


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"
