"""`runs()`: a table of all runs to sort, filter and select, with the selected ones overlaid in one figure."""

import contextlib
import io
from pathlib import Path

import ipywidgets
import pandas as pd

from grpo_kit.backends.run import Run
from grpo_kit.backends.run import runs as table_of_runs
from grpo_kit.plots import compare_runs
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.widgets import tables
from grpo_kit.widgets.parts import Panel, button, message_line, note_html, offer, shows_errors

SELECTED_AT_FIRST = 3
LINES_SHOWN = 12
DRAWN = 24  # more lines than colours and dashes tell apart
WIDEST = 30  # characters of a column
NUMBERS = "step reward minutes quoted_minutes usd quoted_usd learning_rate num_generations seed".split()
HEADINGS = {"model_name": "model", "learning_rate": "rate", "num_generations": "group"}
HEADINGS |= {"quoted_minutes": "quoted", "quoted_usd": "quoted"}  # beside what it was in the end
# The list and the headings above it share one font of fixed width, so that columns stand straight.
LOOK = """<style>
.grpo-runs select, .grpo-runs button { font: 12px/1.6 var(--jp-code-font-family, monospace); white-space: pre; }
.grpo-runs select { margin: 0; padding: 2px 0; min-width: max-content; }
.grpo-runs select option { padding: 1px 8px; }
.grpo-runs button { padding: 0; text-align: left; overflow: visible; }
</style>"""


def runs(runs_dir: str | Path = RUNS_DIR) -> "RunTable":
    """A table of all runs under `runs_dir` and, where an account is set up, on Modal. `.selected` are the runs chosen.

    The newest three are selected at first. Ctrl, Cmd or Shift with a click selects several.
    """
    return RunTable(runs_dir)


class RunTable(Panel):
    """All runs to sort, filter and select, and a figure of those that are selected."""

    def __init__(self, runs_dir: str | Path = RUNS_DIR):
        self.runs_dir = Path(runs_dir)
        self.table = pd.DataFrame()
        self._chosen: list[int] = []  # rows of the table, also while a filter hides them
        self._by, self._descending, self._printed = "started", True, ""
        self.message, self.note = message_line(), ipywidgets.HTML(layout={"margin": "0"})
        self.find = ipywidgets.Text(placeholder="find in any column", layout={"width": "220px"})
        self.state = ipywidgets.Dropdown(options=[("any state", "")], layout={"width": "140px"})
        self.refresh_button = button("Refresh", "Read the runs again", width="auto", icon="refresh")
        self.clear_button = button("Select none", "Also those that the filter hides", width="auto")
        self.header = ipywidgets.HBox(layout={"margin": "0 0 0 11px", "overflow": "visible"})
        self.list = ipywidgets.SelectMultiple(layout={"width": "max-content", "min_width": "100%"})
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        self._lines = ipywidgets.VBox([self.header, self.list], layout={"overflow": "auto", "width": "100%"})
        self._lines.add_class("grpo-runs")
        controls = ipywidgets.HBox([self.find, self.state, self.refresh_button, self.clear_button])
        super().__init__([ipywidgets.HTML(LOOK), controls, self._lines, self.note, self.message, self.image])
        self.on_change(self.find, self._fill)
        self.on_change(self.state, self._fill)
        self.on_change(self.list, self._choose)
        self.refresh_button.on_click(lambda _: self.refresh())
        self.clear_button.on_click(lambda _: self._clear())
        self.refresh()

    @property
    def selected(self) -> list[Run]:
        """The runs chosen, in the order in which they were, whether or not the filter shows them now."""
        return [tables.run_in(self.table, row, self.runs_dir) for row in self._chosen]

    @property
    def shown(self) -> pd.DataFrame:
        """The rows of kit.runs() that the filter lets through, in the order shown."""
        return tables.find_runs(self.table, self.find.value, self.state.value or None, self._by, self._descending)

    @shows_errors
    def refresh(self) -> None:
        """Reads the runs again; the same ones stay selected."""
        chosen, is_first = {self._key(row) for row in self._chosen}, self.table.empty
        with contextlib.redirect_stdout(io.StringIO()) as printed:  # a print in a callback would be lost
            self.table = table_of_runs(self.runs_dir)
        self._printed = printed.getvalue().strip()
        self._chosen = [row for row in self.table.index if self._key(row) in chosen]
        if is_first:
            self._chosen = list(self.table.index[-SELECTED_AT_FIRST:])
        with self.filling():
            offer(self.state, [("any state", ""), *((state, state) for state in sorted(set(self.table["state"])))], "")
        self._fill()
        self._draw()

    def _key(self, row: int) -> tuple[str, str]:
        return str(self.table.at[row, "run"]), str(self.table.at[row, "where"])

    @shows_errors
    def _fill(self) -> None:
        shown = self.shown
        is_all_here = (self.table["where"] == "here").all()
        texts = tables.as_text(shown)
        widths, lines = _in_columns(texts.drop(columns="where") if is_all_here else texts)
        self.header.children = [self._heading(name, width) for name, width in widths.items()]
        with self.filling():
            self.list.options = list(zip(lines, shown.index, strict=True))
            self.list.value = [row for row in shown.index if row in self._chosen]
        self.list.rows = max(2, min(LINES_SHOWN, len(shown)))
        self._lines.layout.display = "none" if self.table.empty else None
        self._say()

    def _heading(self, name: str, width: int) -> ipywidgets.Button:
        arrow = ("▼" if self._descending else "▲") if name == self._by else " "
        heading = HEADINGS.get(name, name)
        text = f"{arrow}{heading}".rjust(width) if name in NUMBERS else f"{heading}{arrow}".ljust(width)
        heading = ipywidgets.Button(
            description=(text + "  ").replace(" ", "\xa0"),
            tooltip=f"Sort by {name}",
            layout={"width": "max-content", "flex": "0 0 auto", "margin": "0", "height": "26px"},
            style={"button_color": "transparent", "font_weight": "bold" if name == self._by else "normal"},
        )
        heading.on_click(lambda _: self.sort(name))
        return heading

    @shows_errors
    def sort(self, by: str, descending: bool | None = None) -> None:
        """Sorts by a column: the largest first, or the other way round when it is sorted so already."""
        tables.find_runs(self.table, by=by)  # raises RunError where there is no such column
        is_again = by == self._by and self._descending
        self._by, self._descending = by, (not is_again if descending is None else descending)
        self._fill()

    @shows_errors
    def _choose(self) -> None:
        picked, hidden = self.list.value, self._hidden
        kept = [row for row in self._chosen if row in hidden or row in picked]
        self._chosen = kept + [row for row in picked if row not in kept]
        self._say()
        self._draw()

    @shows_errors
    def _clear(self) -> None:
        self._chosen = []
        self._fill()
        self._draw()

    @property
    def _hidden(self) -> set[int]:
        """The chosen rows that the filter hides."""
        return set(self._chosen) - {row for _, row in self.list.options}

    def _say(self) -> None:
        if self.table.empty:
            text = f"No runs under {self.runs_dir} yet. kit.train.remote(config) makes one; then Refresh."
        else:
            text = f"{len(self.list.options)} of {len(self.table)} runs shown, {len(self._chosen)} selected"
            text += f" ({len(self._hidden)} of them hidden by the filter)" if self._hidden else ""
            text += f", the first {DRAWN} of them drawn" if len(self._chosen) > DRAWN else ""
            text += ". Click a heading to sort; Ctrl, Cmd or Shift with a click selects several."
        self.note.value = note_html(f"{text}\n{self._printed}".strip())

    def _draw(self) -> None:
        if self._chosen:
            self.image.value = compare_runs(self.selected[:DRAWN])._repr_png_()
        self.image.layout.display = None if self._chosen else "none"


def _in_columns(table: pd.DataFrame) -> tuple[dict[str, int], list[str]]:
    """How wide each column of texts is, in characters, and the rows as lines of such columns."""
    widths, columns = {}, []
    for name in map(str, table):
        cells = [text if len(text) <= WIDEST else f"{text[:14]}…{text[-15:]}" for text in table[name]]
        widths[name] = max([len(HEADINGS.get(name, name)) + 1, *map(len, cells)])
        columns.append([(cell.rjust if name in NUMBERS else cell.ljust)(widths[name]) for cell in cells])
    # Plain spaces would be drawn as one.
    return widths, ["  ".join(cells).replace(" ", "\xa0") for cells in zip(*columns, strict=True)]
