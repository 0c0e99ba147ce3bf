"""A table whose rows change while it is looked at. (itables' own widget builds itself anew at each change, which takes
focus, search and scrolling away.)"""

from collections.abc import Sequence
from pathlib import Path

import anywidget
import traitlets

from grpo_kit.plots import tables
from grpo_kit.widgets.still import Still

HERE = Path(__file__)


class LiveTable(Still, anywidget.AnyWidget):
    """Rows to search, sort and tick, with columns to hide, which the browser remembers by `name`. `ticked` are the keys
    of the rows that are selected."""

    _esm = tables.JS + HERE.with_suffix(".js").read_text()
    _css = tables.CSS + HERE.with_suffix(".css").read_text()
    name = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)  # for those who hear the page
    hidden = traitlets.List(traitlets.Unicode()).tag(sync=True)  # columns, at first
    html = traitlets.Unicode().tag(sync=True)
    ticked = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _still = ""

    def show(self, table: tables.Table, keys: Sequence[str]) -> None:
        """Shows the table, whose rows have these keys. Rows that are gone are ticked no more."""
        self._still = table.page(hidden=self.hidden)
        with self.hold_sync():
            self.html, self.ticked = table.html(list(keys)), [key for key in self.ticked if key in keys]

    def still(self) -> str:
        return self._still
