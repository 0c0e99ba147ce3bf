"""`runs()`: a table of all runs to sort, filter and select, with the selected ones overlaid in one figure."""

import contextlib
import html
import io
from pathlib import Path

import ipywidgets
import pandas as pd

from grpo_kit.backends.run import Run
from grpo_kit.backends.run import runs as table_of_runs
from grpo_kit.plots import compare_runs
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.widgets import tables as browsing
from grpo_kit.widgets.parts import FAINT, message_line, shows_errors

SELECTED_AT_FIRST = 3
LINES_SHOWN = 12
DRAWN = 24  # more lines than colours and dashes tell apart
WIDEST = 30  # characters of a column
GAP = "\xa0\xa0"  # plain spaces would be drawn as one
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

    The newest three are selected at first; several are with Ctrl, Cmd or Shift.
    """
    return RunTable(runs_dir)


class RunTable(ipywidgets.VBox):
    """All runs to sort, filter and select, and a figure of those that are selected."""

    def __init__(self, runs_dir: str | Path = RUNS_DIR):
        self.runs_dir = Path(runs_dir)
        self.table = pd.DataFrame()
        self._chosen: list[int] = []  # rows of the table, also while a filter hides them
        self._by, self._descending = "started", True
        self._is_filling = False
        self.message = message_line()
        self.note = ipywidgets.HTML(layout={"margin": "0"})
        self.find = ipywidgets.Text(placeholder="find in any column", layout={"width": "220px"})
        self.state = ipywidgets.Dropdown(options=[("any state", "")], layout={"width": "140px"})
        self.refresh_button = ipywidgets.Button(
            description="Refresh", icon="refresh", tooltip="Read the runs again", layout={"width": "auto"}
        )
        self.clear_button = ipywidgets.Button(
            description="Select none", tooltip="Also those that the filter hides", layout={"width": "auto"}
        )
        self.header = ipywidgets.HBox(layout={"margin": "0 0 0 11px", "overflow": "visible"})
        self.list = ipywidgets.SelectMultiple(layout={"width": "max-content", "min_width": "100%"})
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        self._lines = ipywidgets.VBox([self.header, self.list], layout={"overflow": "auto", "width": "100%"})
        self._lines.add_class("grpo-runs")
        controls = [self.find, self.state, self.refresh_button, self.clear_button]
        super().__init__(
            [ipywidgets.HTML(LOOK), ipywidgets.HBox(controls), self._lines, self.note, self.message, self.image]
        )
        for control in (self.find, self.state):
            control.observe(self._fill, "value")
        self.list.observe(self._choose, "value")
        self.refresh_button.on_click(self.refresh)
        self.clear_button.on_click(self._clear)
        self.refresh()

    @property
    def selected(self) -> list[Run]:
        """The runs chosen, in the order in which they were, whether or not the filter shows them now."""
        return [browsing.run_in(self.table.loc[row], self.runs_dir) for row in self._chosen]

    @property
    def shown(self) -> pd.DataFrame:
        """The rows of kit.runs() that the filter lets through, in the order shown."""
        return browsing.find_runs(self.table, self.find.value, self.state.value or None, self._by, self._descending)

    @shows_errors
    def refresh(self, _=None) -> None:
        """Reads the runs again; the same ones stay selected."""
        chosen = {self._key(row) for row in self._chosen}
        is_first = self.table.empty
        with contextlib.redirect_stdout(io.StringIO()) as said:  # a print in a callback would be lost
            self.table = table_of_runs(self.runs_dir)
        self._said = said.getvalue().strip()
        self._chosen = [row for row in self.table.index if self._key(row) in chosen]
        if is_first:
            self._chosen = list(self.table.index[-SELECTED_AT_FIRST:])
        states = [("any state", ""), *((state, state) for state in sorted(set(self.table["state"])))]
        if self.state.options != tuple(states):
            before = self.state.value
            self.state.options = states
            self.state.value = before if (before, before) in states else ""
        self._fill()
        self._draw()

    def _key(self, row: int) -> tuple[str, str]:
        return self.table.loc[row, "run"], self.table.loc[row, "where"]

    @shows_errors
    def _fill(self, _=None) -> None:
        shown = self.shown
        is_all_here = (self.table["where"] == "here").all()
        texts = browsing.as_text(shown)
        widths, lines = _in_columns(texts.drop(columns="where") if is_all_here else texts)
        self.header.children = [self._heading(name, width) for name, width in widths.items()]
        self._is_filling = True
        try:
            self.list.options = list(zip(lines, shown.index, strict=True))
            self.list.value = [row for row in shown.index if row in self._chosen]
        finally:
            self._is_filling = False
        self.list.rows = max(2, min(LINES_SHOWN, len(shown)))
        self._lines.layout.display = "none" if self.table.empty else None
        self._say(len(shown))

    def _heading(self, name: str, width: int) -> ipywidgets.Button:
        arrow = ("▼" if self._descending else "▲") if name == self._by else " "
        heading = HEADINGS.get(name, name)
        words = f"{arrow}{heading}".rjust(width) if name in NUMBERS else f"{heading}{arrow}".ljust(width)
        button = ipywidgets.Button(
            description=(words + "  ").replace(" ", "\xa0"),
            tooltip=f"Sort by {name}",
            layout={"width": "max-content", "flex": "0 0 auto", "margin": "0", "height": "26px"},
            style={"button_color": "transparent", "font_weight": "bold" if name == self._by else "normal"},
        )
        button.on_click(lambda _: self.sort(name))
        return button

    @shows_errors
    def sort(self, by: str, descending: bool | None = None) -> None:
        """Sorts by a column: the largest first, and when it is asked for again the other way round."""
        browsing.find_runs(self.table, by=by)  # refuses a column that is not there
        is_again = by == self._by and self._descending
        self._by, self._descending = by, (not is_again if descending is None else descending)
        self._fill()

    @shows_errors
    def _choose(self, change) -> None:
        if self._is_filling:
            return
        hidden = set(self._chosen) - {row for _, row in self.list.options}
        kept = [row for row in self._chosen if row in hidden or row in change.new]
        self._chosen = kept + [row for row in change.new if row not in kept]
        self._say(len(self.list.options))
        self._draw()

    @shows_errors
    def _clear(self, _) -> None:
        self._chosen = []
        self._fill()
        self._draw()

    def _say(self, shown: int) -> None:
        if self.table.empty:
            words = f"No runs under {self.runs_dir} yet. kit.train.remote(config) makes one; then Refresh."
        else:
            words = f"{shown} of {len(self.table)} runs shown, {len(self._chosen)} selected"
            if hidden := len(set(self._chosen) - {row for _, row in self.list.options}):
                words += f" ({hidden} of them hidden by the filter)"
            if len(self._chosen) > DRAWN:
                words += f", the first {DRAWN} of them drawn"
            words += ". Click a heading to sort; Ctrl, Cmd or Shift with a click selects several."
        self.note.value = "".join(
            f'<div style="color: {FAINT}; line-height: 1.5">{html.escape(line)}</div>'
            for line in [words, *self._said.splitlines()]
        )

    def _draw(self) -> None:
        if self._chosen:
            self.image.value = compare_runs(self.selected[:DRAWN])._repr_png_()
        self.image.layout.display = None if self._chosen else "none"


def _in_columns(table: pd.DataFrame) -> tuple[dict[str, int], list[str]]:
    """How wide each column of texts is, in characters, and the rows as lines of such columns."""
    widths, columns = {}, []
    for name in table:
        cells = [text if len(text) <= WIDEST else f"{text[:14]}…{text[-15:]}" for text in table[name]]
        widths[name] = max([len(HEADINGS.get(name, name)) + 1, *map(len, cells)])
        columns.append([(cell.rjust if name in NUMBERS else cell.ljust)(widths[name], "\xa0") for cell in cells])
    return widths, [GAP.join(cells).replace(" ", "\xa0") for cells in zip(*columns, strict=True)]
