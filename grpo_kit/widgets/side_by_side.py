"""The answers of several runs to the same prompts, a column for each run or checkpoint."""

from collections.abc import Sequence

import ipywidgets
import pandas as pd

from grpo_kit.backends.run import Run
from grpo_kit.widgets import parts, tables
from grpo_kit.widgets.parts import note_html, number, text_html
from grpo_kit.widgets.samples import Pages, prompt_html


class SideBySide(Pages):
    """Walks through the prompts that all runs shown have answered, those first whose scores differ most. The answers
    are those of the evaluations that speak for them where all have one, else the newest that they were trained on. A
    prompt that is pinned stays on top."""

    orders = tables.COMMON_ORDERS

    def __init__(self, message: ipywidgets.HTML):
        self.columns = ipywidgets.HBox(layout={"flex_flow": "row wrap"})  # a tick for each
        look = {"tooltip": "How far the best and the worst score of a prompt lie apart", "layout": {"width": "170px"}}
        self.least = ipywidgets.BoundedFloatText(0, min=0, max=1, step=0.1, description="differ by", **look)
        self.pin = ipywidgets.ToggleButton(description="Pin", tooltip="Keep this prompt on top", icon="thumb-tack")
        self.pin.layout.width = "auto"
        self.pinned: list[str] = []  # ids
        super().__init__([self.least], message)
        self.choice.description = "prompt"
        walk = self._all[1]
        walk.children = [*walk.children[:3], self.pin, *walk.children[3:]]
        self._all.insert(0, self.columns)
        self.on_change([self.pin], self._pin)

    def show(self, runs: Sequence[Run]) -> None:
        """Shows what these runs answered, of each the newest checkpoint at first."""
        if len(runs) < 2:
            return self.show_nothing("Select two runs or more to read their answers side by side.")
        self.table, names = tables.in_common(runs)
        if self.table.empty:
            return self.show_nothing("These runs have answered no prompt in common.")
        newest = {name.partition(":")[0]: name for name in names}.values()
        ticks = [ipywidgets.Checkbox(name in newest, description=name, indent=False) for name in names]
        self.columns.children = ticks
        self.on_change(ticks, self.fill)
        self.fill()

    @property
    def names(self) -> list[str]:
        """The columns that are shown."""
        return [tick.description for tick in self.columns.children if tick.value]

    def find_rows(self) -> pd.DataFrame:
        return tables.with_spread(self.table, self.names, self.least.value, self.find.value, str(self.sort.value))

    def _pin(self) -> None:
        name = self.rows.to_dict("records")[self.choice.value or 0]["id"]
        self.pinned = [*self.pinned, name] if self.pin.value else [each for each in self.pinned if each != name]
        self._show()

    def _show(self) -> None:
        super()._show()
        here = self.choice.value
        self.pin.disabled = here is None
        with self.filling():
            self.pin.value = here is not None and self.rows["id"].iloc[here] in self.pinned

    def page_of(self, row: pd.Series) -> str:
        pinned = self.table[self.table["id"].isin(self.pinned) & (self.table["id"] != row["id"])]
        return "".join(self._answers(each) for each in [*(row for _, row in pinned.iterrows()), row])

    def _answers(self, row: pd.Series) -> str:
        names, title = self.names, f"{row['id']}{', pinned' * (row['id'] in self.pinned)}"
        cells = [
            f"<b>{number(row[f'{name} score'])}</b>{text_html(row[name])}{note_html(row[f'{name} reason'] or '')}"
            for name in names
        ]
        looks = [f"width: {100 // max(1, len(names))}%; min-width: 150px"] * len(names)
        body = f'<div style="overflow-x: auto">{parts.table_html(names, looks, [cells])}</div>'
        trace = note_html(f"the trace’s own reply: {row['ground_truth']}") if row["ground_truth"] else ""
        return f'<div style="margin-bottom: 1.5em">{prompt_html(row["prompt"], title)}{body}{trace}</div>'
