"""How a sweep goes on, in one table: in a terminal, in a notebook, or a line for each run that ends."""

import html
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from grpo_kit.sweeps.costs import spent_on
from grpo_kit.sweeps.plan import EVALUATION_FILE, PlannedRun, read_json
from grpo_kit.utils.environment import in_notebook
from grpo_kit.utils.text import dollars, duration

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = "run state step reward score seconds usd".split()
NOT_RUN = "not run: budget"


class Display(Protocol):
    """Shows rows of text under COLUMNS, again and again."""

    def show(self, rows: Sequence[dict[str, str]]) -> None: ...

    def close(self) -> None: ...


def row_of(run: PlannedRun, seconds: float = 0.0) -> dict[str, str]:
    """A run as it stands, in words. `seconds` is how long it has been under way now."""
    record, status = run.record, run.status() if run.config else {}
    step = f"{status['step']}/{status['max_steps']}" if status else ""
    state, evaluated = record["state"], read_json(run.folder / EVALUATION_FILE)
    if state != "running":
        seconds = 0.0
    elif run.config:
        state = "evaluating" if run.stages[0].name in record["finished"] else "training" if step else "starting"
    reward = status.get("reward")
    return {
        "run": run.name,
        "state": f"{state}: {record['error']}" if state == "failed" else state,
        "step": step,
        "reward": "" if reward is None else f"{reward:.2f}",
        "score": score_in_words(evaluated) if evaluated and state == "complete" else "",
        "seconds": f"{record['seconds'] + seconds:.0f}" if record["seconds"] + seconds else "",
        "usd": dollars(usd) if (usd := spent_on(run, status)) else "",
    }


def score_in_words(evaluated: dict[str, Any]) -> str:
    """`0.64 (+0.30 [+0.22, +0.39])`: the held-out score, and its difference to the base model's."""
    trained = evaluated["trained"]
    if not (versus := trained["versus_base"]):
        return f"{trained['mean']:.2f}"
    low, high = versus["interval"]
    return f"{trained['mean']:.2f} ({versus['difference']:+.2f} [{low:+.2f}, {high:+.2f}])"


def display() -> Display:
    """The display that suits where the sweep runs."""
    if in_notebook():
        return _InNotebook()
    return _InTerminal() if sys.stdout.isatty() else _Lines()


def html_table(rows: Sequence[dict[str, str]]) -> str:
    cells = [[html.escape(row[name]) for name in COLUMNS] for row in rows]
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align: left">{cell}</td>' for cell in row) + "</tr>" for row in cells
    )
    head = "".join(f'<th style="text-align: left">{name}</th>' for name in COLUMNS)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class _InNotebook:
    """A widget while it goes on, which outlives a reload of the page; in the end a plain table, which is kept."""

    def __init__(self):
        import ipywidgets
        from IPython.display import DisplayHandle

        self._widget, self._handle = ipywidgets.HTML(), DisplayHandle()
        self._handle.display(self._widget)

    def show(self, rows: Sequence[dict[str, str]]) -> None:
        self._widget.value = html_table(rows)

    def close(self) -> None:
        from IPython.display import HTML

        self._handle.update(HTML(self._widget.value))


class _InTerminal:
    def __init__(self):
        from rich.live import Live

        self._live = Live(auto_refresh=False)
        self._live.start()

    def show(self, rows: Sequence[dict[str, str]]) -> None:
        self._live.update(_rich_table(rows), refresh=True)

    def close(self) -> None:
        self._live.stop()


def _rich_table(rows: Sequence[dict[str, str]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, overflow="fold", justify="right" if name in ("step", "seconds", "usd") else "left")
    for row in rows:
        table.add_row(*(Text(row[name]) for name in COLUMNS))  # as it is: nothing in it is markup
    return table


class _Lines:
    """Where nobody looks: a line when a run's state changes."""

    def __init__(self):
        self._states: dict[str, str] = {}

    def show(self, rows: Sequence[dict[str, str]]) -> None:
        for row in rows:
            changed = self._states.get(row["run"], "waiting") != row["state"]
            self._states[row["run"]] = row["state"]
            if changed and row["state"] != "starting":
                seconds = duration(float(row["seconds"] or 0))
                told = [row["score"], seconds if row["state"] == "complete" else "", row["usd"]]
                print(f"{row['run']}: {', '.join([row['state'], *filter(None, told)])}", flush=True)

    def close(self) -> None:
        pass
