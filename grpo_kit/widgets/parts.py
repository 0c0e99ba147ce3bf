"""Parts that the widgets share: errors shown as text, where Jupyter would lose them, buttons, tables and colours."""

import html
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from grpo_kit.data.samples import Message, said_in
from grpo_kit.errors import KitError
from grpo_kit.utils.text import printable
from grpo_kit.widgets.still import Still

# JupyterLab's own colours, light or dark as its theme is; elsewhere a grey that is legible on both.
BORDER = "var(--jp-border-color2, #9e9e9e)"
FAINT = "var(--jp-ui-font-color2, #808080)"
SHADE = "var(--jp-layout-color2, rgba(128, 128, 128, 0.12))"
ERROR = "var(--jp-error-color1, #d32f2f)"
WARN = "var(--jp-warn-color1, #f57c00)"
CELL = f"padding: 6px 10px; border-top: 1px solid {BORDER}; vertical-align: top; text-align: left"
LONGEST = 20_000  # characters of a text that a browser is given
NUMBER = "text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums"


class Panel(Still, ipywidgets.VBox):
    """A widget whose controls call back when the user changes them, and not when the code does. JupyterLab tells of
    changes on several threads: one has to wait for what another has called back."""

    def __init__(self, *args: Any, **options: Any):
        self._changing, self._filler = threading.RLock(), 0
        super().__init__(*args, **options)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Controls that the code changes meanwhile, on this thread, call nothing back."""
        with self._changing:
            before, self._filler = self._filler, threading.get_ident()
            try:
                yield
            finally:
                self._filler = before

    def on_change(self, controls: Iterable[ipywidgets.ValueWidget], action: Callable[[], Any]) -> None:
        def changed(_: Any) -> None:
            if self._filler != threading.get_ident():
                with self._changing:
                    action()

        for control in controls:
            control.observe(changed, "value")


def offer(control: Any, options: Sequence[Any], default: Any) -> None:
    """Gives a dropdown or slider other options; it keeps its value where that is still one of them."""
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    kept = control.value if control.value in values else default
    control.options = options
    control.value = kept


def button(name: str, help: str, style: str = "", width: str = "7em", icon: str = "") -> ipywidgets.Button:
    return ipywidgets.Button(description=name, tooltip=help, button_style=style, icon=icon, layout={"width": width})


def search_box(help: str) -> ipywidgets.Text:
    """A text that counts once Enter is pressed or it is left."""
    return ipywidgets.Text(placeholder=help, continuous_update=False, layout={"width": "220px"})


def shows_errors(message: ipywidgets.HTML, action: Callable[[], Any]) -> Callable[..., None]:
    """`action` as a callback. An error in it is written to `message`, and stays until the next such callback."""

    def callback(*_: Any) -> None:
        message.value = ""
        try:
            action()
        except Exception as error:  # which Jupyter would lose
            message.value = error_html(error)

    return callback


def in_background(
    message: ipywidgets.HTML, what: str, action: Callable[[], str], afterwards: Callable[[], object] = lambda: None
) -> None:
    """Does `action` on a thread, so that the kernel is free; says `what` it does, then what that returns, or its
    error."""
    message.value = text_html(what)

    def work() -> None:
        try:
            message.value = text_html(action())
        except Exception as error:  # in a thread of a notebook nobody else would show it
            message.value = error_html(error)
        afterwards()

    threading.Thread(target=work, daemon=True).start()


def error_html(error: BaseException) -> str:
    """The kit's own errors say what to do and are shown as they are, others with their type and place."""
    said = str(error)
    if not isinstance(error, KitError):
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {said} ({Path(last.filename).name}, line {last.lineno})"
    return text_html(said, f"color: {ERROR}")


def text_html(text: str, style: str = "") -> str:
    """Somebody else's text, shown as it is: nothing in it is markup, its line breaks are kept."""
    look = f"white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.4; {style}"
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters in all)"
    return f'<div style="{look}">{html.escape(printable(shown))}</div>'


def note_html(text: str) -> str:
    return text_html(text, f"color: {FAINT}")


def table_html(heads: Sequence[str], looks: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. `looks` are the styles of its columns, `heads` plain text, `rows` cells that are HTML already."""

    def line(tag: str, cells: Sequence[str]) -> str:
        columns = zip(cells, looks, strict=True)
        return "<tr>" + "".join(f'<{tag} style="{CELL}; {look}">{cell}</{tag}>' for cell, look in columns) + "</tr>"

    head = line("th", [html.escape(head) for head in heads]) if any(heads) else ""
    lines = head + "".join(line("td", row) for row in rows)
    return (
        f'<table style="width: 100%; table-layout: auto; border-collapse: collapse; line-height: 1.4">{lines}</table>'
    )


def completions_html(completions: pd.DataFrame) -> str:
    """Completions of one prompt as a table: a column for each reward, their sum where that is known, and the reason."""
    names = list(completions["rewards"].iloc[0])
    sums = ["sum"] if len(names) > 1 and "score" in completions else []
    cells = [
        [
            *(number(row["rewards"][name]) for name in names),
            *(f"<b>{number(row['score'])}</b>" for _ in sums),
            number(row["advantage"], "+.2f"),
            turns_html(row["messages"]) if isinstance(row.get("messages"), list) else text_html(row["completion"]),
            text_html(row["reason"] or ""),
        ]
        for row in completions.to_dict("records")
    ]
    heads = [*names, *sums, "advantage", "completion", "reason"]
    return table_html(heads, [*[NUMBER] * (len(heads) - 2), "width: 46%", f"width: 34%; color: {FAINT}"], cells)


def turns_html(messages: Sequence[Message], look: Callable[[Message], str] = lambda turn: "") -> str:
    """Messages as turns, each beside who speaks; `look` gives the style of a turn's text."""
    return "".join(
        f'<div style="display: flex">{text_html(turn["role"], f"flex: 0 0 80px; color: {FAINT}")}'
        f"{text_html(said_in(turn), 'flex: 1; ' + look(turn))}</div>"
        for turn in messages
    )


def number(value: Any, form: str = ".2f") -> str:
    return "–" if pd.isna(value) else format(value, form).replace("-", "−")
