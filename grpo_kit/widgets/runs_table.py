"""`runs()`: a table of all runs to sort, filter and select, with the selected ones overlaid in one figure."""

import contextlib
import html
import io
from pathlib import Path

import ipywidgets
import pandas as pd

from grpo_kit.backends.run import COLUMNS, Run
from grpo_kit.backends.run import runs as table_of_runs
from grpo_kit.plots import compare_runs
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.widgets import tables
from grpo_kit.widgets.parts import Panel, button, note_html, offer, search_box, shows_errors

SELECTED_AT_FIRST = 3
LINES_SHOWN = 12
DRAWN = 24  # more lines than colours and dashes tell apart
WIDEST = 30  # characters of a column
NUMBERS = "step reward minutes quoted_minutes usd quoted_usd learning_rate num_generations seed".split()
HEADINGS = {"model_name": "model", "learning_rate": "rate", "num_generations": "group"}
# The list and the headings above it share one font of fixed width, so that columns stand straight.
LOOK = """<style>
.grpo-runs select, .grpo-runs pre { font: 12px/1.6 var(--jp-code-font-family, monospace); white-space: pre; margin: 0; }
.grpo-runs select { padding: 2px 0; min-width: max-content; }
.grpo-runs select option { padding: 1px 8px; }
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
        self._printed = ""
        self.message, self.note, self.header = (ipywidgets.HTML(layout={"margin": "0"}) for _ in range(3))
        self.find = search_box("find in any column, Enter")
        self.state = ipywidgets.Dropdown(options=[("any state", "")], layout={"width": "140px"})
        self.sort = ipywidgets.Dropdown(options=COLUMNS, value="started", description="sort", layout={"width": "240px"})
        self.descending = ipywidgets.Checkbox(True, description="largest first", indent=False, layout={"width": "auto"})
        self.refresh_button = button("Refresh", "Read the runs again", width="auto", icon="refresh")
        self.clear_button = button("Select none", "Also those that the filter hides", width="auto")
        self.list = ipywidgets.SelectMultiple(layout={"width": "max-content", "min_width": "100%"})
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        self._lines = ipywidgets.VBox([self.header, self.list], layout={"overflow": "auto", "width": "100%"})
        self._lines.add_class("grpo-runs")
        filters = [self.find, self.state, self.sort, self.descending]
        controls = ipywidgets.HBox([*filters, self.refresh_button, self.clear_button], layout={"flex_flow": "row wrap"})
        super().__init__([ipywidgets.HTML(LOOK), controls, self._lines, self.note, self.message, self.image])
        self.on_change(filters, shows_errors(self.message, self._fill))
        self.on_change([self.list], shows_errors(self.message, self._choose))
        self.clear_button.on_click(shows_errors(self.message, self._clear))
        refresh = shows_errors(self.message, self.refresh)
        self.refresh_button.on_click(refresh)
        refresh()

    @property
    def selected(self) -> list[Run]:
        """The runs chosen, in the order in which they were, whether or not the filter shows them now."""
        return [tables.run_in(self.table, row, self.runs_dir) for row in self._chosen]

    @property
    def shown(self) -> pd.DataFrame:
        """The rows of kit.runs() that the filter lets through, in the order shown."""
        by, descending = str(self.sort.value), self.descending.value
        return tables.find_runs(self.table, self.find.value, self.state.value or None, by, descending)

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

    def _fill(self) -> None:
        shown = self.shown
        texts = tables.as_text(shown)
        if (self.table["where"] == "here").all():
            texts = texts.drop(columns="where")
        heading, *lines = _in_columns(texts)
        self.header.value = f"<pre>  {html.escape(heading)}</pre>"
        with self.filling():
            self.list.options = list(zip(lines, shown.index, strict=True))
            self.list.value = [row for row in shown.index if row in self._chosen]
        self.list.rows = max(2, min(LINES_SHOWN, len(shown)))
        self._lines.layout.display = "none" if self.table.empty else None
        self._say()

    def _choose(self) -> None:
        picked, hidden = self.list.value, self._hidden
        kept = [row for row in self._chosen if row in hidden or row in picked]
        self._chosen = kept + [row for row in picked if row not in kept]
        self._say()
        self._draw()

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
            text += ". Ctrl, Cmd or Shift with a click selects several."
        self.note.value = note_html(f"{text}\n{self._printed}".strip())

    def _draw(self) -> None:
        if self._chosen:
            self.image.value = compare_runs(self.selected[:DRAWN])._repr_png_()
        self.image.layout.display = None if self._chosen else "none"


def _in_columns(table: pd.DataFrame) -> list[str]:
    """The headings and the rows of a table of texts as lines of equal length."""
    columns = []
    for name in map(str, table):
        cells = [text if len(text) <= WIDEST else f"{text[:14]}…{text[-15:]}" for text in table[name]]
        cells = [HEADINGS.get(name, name), *cells]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) if name in NUMBERS else cell.ljust(width) for cell in cells])
    # Plain spaces would be drawn as one.
    return ["  ".join(cells).replace(" ", "\xa0") for cells in zip(*columns, strict=True)]
