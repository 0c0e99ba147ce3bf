"""`table(frame)`: a DataFrame as people read it. Field names become words, a value and its bounds are one cell, what
was not measured is blank, and long texts unfold. It is plain HTML, so that a saved notebook and GitHub show it too."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from grpo_kit.config.train import TrainConfig
from grpo_kit.utils.text import dollars, duration, on_a_line, printable

HEADINGS = {
    "asked": "the user’s turn",
    "best_checkpoint": "best",
    "few": "few prompts",
    "ground_truth": "reply in the trace",
    "high": "highest",
    "low": "lowest",
    "memory_gib": "memory, GiB",
    "minutes": "took",
    "model_name": "model",
    "newest_gains": "the newest gains",
    "num_generations": "group",
    "over_sft": "over the warm start",
    "quoted_minutes": "quoted",
    "quoted_usd": "quoted cost",
    "second_difference": "difference by the second judge",
    "seconds": "took",
    "stdev": "sd",
    "unjudged": "not judged",
    "unknown": "not in the prompt",
    "usd": "cost",
    "usd_judge": "the judge’s",
    "usd_machine": "the machine’s",
    "win_rate": "wins",
}
SECONDS = {"seconds": 1, "minutes": 60, "quoted_minutes": 60}  # in one unit of these columns
GAINS = ("difference", "gain", "newest_gains", "over_sft", "second_difference")
LONG, SHORT = 120, 20  # characters; a longer text is folded, a shorter one stays on a line
NUMBER = re.compile(r"[-+$]?\d[\d,.]*(e-?\d+)?%?( (s|min|h))?( [\[(±].*)?|\d+/\d+")
CSS, JS = (Path(__file__).with_name(f"tables.{kind}").read_text() for kind in ("css", "js"))


class Cell(NamedTuple):
    """A value as it is read, and as it is sorted where that is not by its text."""

    text: str
    order: float | None = None


@dataclass(frozen=True, repr=False)
class Table:
    """A DataFrame as a notebook shows it. `headings` name fields otherwise than HEADINGS."""

    frame: pd.DataFrame
    headings: Mapping[str, str]

    def columns(self) -> dict[str, list[Cell]]:
        """The cells by heading. A column that is all blank is left out; X, X_low and X_high are one, X with bounds."""
        frame, found = self.frame, dict[str, list[Cell]]()
        if not isinstance(frame.index, pd.RangeIndex) and not pd.api.types.is_integer_dtype(frame.index):
            frame = frame.reset_index(names=[name or " " * at for at, name in enumerate(frame.index.names, 1)])
        for name, *others in _with_bounds(list(map(str, frame))):
            parts = [frame[each] if each else [None] * len(frame) for each in (name, *others)]
            cells = [_cell(name, *values) for values in zip(*parts, strict=True)]
            if any(cell.text for cell in cells):
                heading = self.headings.get(name) or HEADINGS.get(name, name.replace("_", " "))
                found[heading + " [95%]" * bool(others[0] and name not in SECONDS)] = cells
        return found

    def __repr__(self) -> str:
        shown = []
        for heading, cells in self.columns().items():
            texts = [" ".join(text.split()) for text in (heading, *(cell.text for cell in cells))]
            shown.append([f"{text:{'>' if _are_numbers(cells) else '<'}{max(map(len, texts))}}" for text in texts])
        return "\n".join("  ".join(row).rstrip() for row in zip(*shown, strict=True))

    def html(self, keys: list[str] | None = None, hidden: Sequence[str] = ()) -> str:
        """A <table> without the columns of the `hidden` headings; `keys` are put on its rows, by which a script knows
        them."""
        columns = {heading: cells for heading, cells in self.columns().items() if heading not in hidden}
        marks = [f' data-key="{escape(key)}"' for key in keys] if keys else [""] * len(self.frame)
        sides = {head: f' align="{"right" if _are_numbers(cells) else "left"}"' for head, cells in columns.items()}
        lines = [
            f"<tr{mark}>{''.join(_td(cells[at], sides[head]) for head, cells in columns.items())}</tr>"
            for at, mark in enumerate(marks)
        ]
        heads = "".join(f'<th scope="col"{sides[head]}>{escape(head.strip())}</th>' for head in columns)
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"

    def page(self, hidden: Sequence[str] = ()) -> str:
        """The same with its looks, wherever it stands."""
        return f'<div class="grpo-kit-table"><style>{CSS}</style>{self.html(hidden=hidden)}</div>'

    def _repr_html_(self) -> str:
        """In a live notebook with a script that sorts it; a saved one would warn of every script in it."""
        script = f"<script>{{{JS}\nliven(document.currentScript.previousElementSibling);}}</script>"
        live = script if "JPY_SESSION_NAME" in os.environ else ""
        return self.page() + live


def table(frame: pd.DataFrame | pd.Series, **headings: str) -> Table:
    """A DataFrame, or a Series, as people read it; `headings` name its fields otherwise: `low="worst run"`."""
    return Table(frame.to_frame() if isinstance(frame, pd.Series) else frame, headings)


def _with_bounds(names: list[str]) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    """Each column with those of its low and high end and of its deviation, which follow it. The ends of several runs,
    after an sd, stand alone."""
    names = list(names)
    while names:
        name, low, high, spread = names.pop(0), None, None, None
        if len(names) > 1 and re.fullmatch(r"(.*_)?low", names[0]) and name not in ("sd", "stdev"):
            low, high = names.pop(0), names.pop(0)
        if names and names[0] == f"{name}_sd":
            spread = names.pop(0)
        yield name, low, high, spread


def _cell(name: str, value: Any, low: Any, high: Any, spread: Any) -> Cell:
    text = _text(name, value)
    if text and name == "started":
        return Cell(text, datetime.fromisoformat(value).timestamp())
    if not text or isinstance(value, str):
        return Cell(text)
    if not pd.isna(low):
        ends = _text(name, low), _text(name, high)
        text += " ({} to {})".format(*ends) if name in SECONDS else " [{}, {}]".format(*ends)
    if not pd.isna(spread):
        text += f" ± {_text(name, spread)}"
    return Cell(text, float(value) if isinstance(value, Real) else None)


def _text(name: str, value: Any) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if name == "started":
        when = datetime.fromisoformat(value).astimezone()
        return f"{when:%d %b %H:%M}" if when.year == datetime.now().year else f"{when:%d %b %Y}"
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if isinstance(value, Mapping):  # a completion's rewards
        return ", ".join(f"{name} {_text(name, each) or 'none'}" for name, each in value.items())
    if not isinstance(value, Real):
        return printable(str(value))
    number = float(value)
    if name in SECONDS:
        return duration(number * SECONDS[name])
    if "usd" in name.split("_"):
        return dollars(number)
    if name in TrainConfig.model_fields:
        return f"{number:g}"
    if isinstance(value, Integral) or abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:+.2f}" if name in GAINS else f"{number:.2f}"


def _are_numbers(cells: list[Cell]) -> bool:
    return all(NUMBER.fullmatch(cell.text) for cell in cells if cell.text)


def _td(cell: Cell, side: str) -> str:
    text, order = escape(cell.text), "" if cell.order is None else f' data-order="{cell.order:g}"'
    if len(cell.text) > LONG:
        text = f"<details><summary>{escape(on_a_line(cell.text, LONG - 20))}</summary>{text}</details>"
    return f"<td{side}{order}{' nowrap' * (len(cell.text) <= SHORT)}>{text}</td>"
