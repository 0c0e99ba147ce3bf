"""`runs()`: a table of all runs to sort, filter and select, with the selected ones overlaid in one figure."""

import contextlib
import html
import io
from pathlib import Path

import ipywidgets
import pandas as pd

from grpo_kit.backends.run import COLUMNS, Run, runs as table_of_runs
from grpo_kit.plots import compare_runs
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.widgets.parts import Panel, button, note_html, search_box, shows_errors
from grpo_kit.widgets.tables import as_text

SELECTED_AT_FIRST = 3
LINES_SHOWN = 12
DRAWN = 24  # more lines than colours and dashes tell apart
WIDEST = 30  # characters of a column
NUMBERS = "step reward minutes quoted_minutes usd quoted_usd learning_rate num_generations seed".split()
HEADINGS = {"model_name": "model", "best_checkpoint": "best", "learning_rate": "rate", "num_generations": "group"}
# The list and the headings above it share one font of fixed width, so that columns stand straight.
LOOK = """<style>
.grpo-runs select, .grpo-runs pre { font: 12px/1.6 var(--jp-code-font-family, monospace); white-space: pre; margin: 0; }
.grpo-runs select { padding: 2px 0; min-width: max-content; }
.grpo-runs select option { padding: 1px 8px; }
</style>"""


class RunTable(Panel):
    """All runs under `runs_dir` and, where an account is set up, on Modal: a table to sort, filter and select, and a
    figure of those that are selected, at first the newest three. Ctrl, Cmd or Shift with a click selects several."""

    def __init__(self, runs_dir: str | Path = RUNS_DIR):
        self.runs_dir = Path(runs_dir)
        self.table = pd.DataFrame()  # of kit.runs()
        self._printed = ""
        self.message, self.note, self.header = (ipywidgets.HTML(layout={"margin": "0"}) for _ in range(3))
        self.find = search_box("find in any column, Enter")
        self.sort = ipywidgets.Dropdown(options=COLUMNS, value="started", description="sort", layout={"width": "240px"})
        self.descending = ipywidgets.Checkbox(True, description="largest first", indent=False, layout={"width": "auto"})
        self.refresh_button = button("Refresh", "Read the runs again", width="auto", icon="refresh")
        self.clear_button = button("Select none", "Then the filter alone decides what is shown", width="auto")
        self.list = ipywidgets.SelectMultiple(layout={"width": "max-content", "min_width": "100%"})
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        lines = ipywidgets.VBox([self.header, self.list], layout={"overflow": "auto", "width": "100%"})
        lines.add_class("grpo-runs")
        controls = [self.find, self.sort, self.descending, self.refresh_button, self.clear_button]
        row = ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"})
        super().__init__([ipywidgets.HTML(LOOK), row, lines, self.note, self.message, self.image])
        self.on_change(controls[:3], shows_errors(self.message, self._fill))
        self.on_change([self.list], shows_errors(self.message, self._draw))
        self.clear_button.on_click(shows_errors(self.message, self._clear))
        refresh = shows_errors(self.message, self.refresh)
        self.refresh_button.on_click(refresh)
        refresh()

    @property
    def selected(self) -> list[Run]:
        """The runs chosen, in the order shown."""
        return [Run(self.runs_dir / name) if where == "here" else _on_volume(name) for name, where in self.list.value]

    def refresh(self) -> None:
        """Reads the runs again; the same ones stay selected."""
        is_first = self.table.empty
        with contextlib.redirect_stdout(io.StringIO()) as printed:  # a print in a callback would be lost
            self.table = table_of_runs(self.runs_dir)
        self._printed = printed.getvalue().strip()
        self._fill()
        if is_first:
            newest = self.table.tail(SELECTED_AT_FIRST)
            with self.filling():
                self.list.value = list(zip(newest["run"], newest["where"], strict=True))
        self._draw()

    def _fill(self) -> None:
        """Lists the runs that hold every word of the filter in some column, and those that are selected."""
        by, table = str(self.sort.value), self.table.set_index(["run", "where"], drop=False)
        key = pd.to_numeric(table["step"].str.split("/").str[0]) if by == "step" else table[by]
        order = key.sort_values(ascending=not self.descending.value, kind="stable", na_position="last").index
        texts = as_text(table.loc[order])
        words = self.find.value.lower().split()
        held = [all(word in " ".join(row).lower() for word in words) for row in texts.to_numpy()]
        texts = texts[texts.index.isin(self.list.value) | pd.Series(held, texts.index, dtype=bool)]
        heading, *lines = _in_columns(texts)
        self.header.value = f"<pre>  {html.escape(heading)}</pre>"
        with self.filling():
            kept = [key for key in texts.index if key in self.list.value]
            self.list.options = list(zip(lines, texts.index, strict=True))
            self.list.value = kept
        self.list.rows = max(2, min(LINES_SHOWN, len(lines)))

    def _clear(self) -> None:
        self.list.value = ()
        self._fill()

    def _draw(self) -> None:
        text = f"{len(self.table)} runs. Ctrl, Cmd or Shift with a click selects several, at most {DRAWN} to be drawn."
        if self.table.empty:
            text = f"No runs under {self.runs_dir} yet. kit.train.remote(config) makes one; then Refresh."
        self.note.value = note_html(f"{text}\n{self._printed}".strip())
        if self.list.value:
            self.image.value = compare_runs(self.selected[:DRAWN])._repr_png_()
        self.image.layout.display = None if self.list.value else "none"


runs = RunTable


def _on_volume(name: str) -> Run:
    from grpo_kit.backends.modal.storage import VolumeStorage  # Modal's library takes half a second to load

    return Run.at(VolumeStorage(name))


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
