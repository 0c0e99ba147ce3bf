"""`data(folder)`: the samples of a prepared folder, to be searched and read, each with what its prompt does not say."""

import html
from pathlib import Path

import ipywidgets
import pandas as pd

from grpo_kit.utils.text import on_a_line
from grpo_kit.widgets import parts, tables
from grpo_kit.widgets.parts import FAINT, WARN, text_html
from grpo_kit.widgets.samples import Pages, prompt_html


class DataBrowser(Pages):
    """Walks through the samples of train.jsonl and eval.jsonl in `folder`."""

    orders = tables.SAMPLE_ORDERS

    def __init__(self, folder: str | Path):
        self.folder, message = folder, ipywidgets.HTML(layout={"margin": "0"})
        super().__init__([], message)
        self.fill()

    def find_rows(self) -> pd.DataFrame:
        return tables.samples(self.folder, self.find.value, str(self.sort.value))

    def _label(self, row: dict) -> str:
        return f"{row['file']}:{row['line']}  {on_a_line(row['asked'])}"

    def page_of(self, row: pd.Series) -> str:
        told = {"reply": row["ground_truth"], "rubric": row["rubric"], **row["columns"]}
        lines = [[html.escape(name), text_html(str(told[name]))] for name in told]
        if row["unknown"]:
            lines.insert(1, ["not in the prompt", text_html(row["unknown"], f"color: {WARN}")])
        title = f"{row['id']} ({row['file']}, line {row['line']})"
        return prompt_html(row["prompt"], title) + parts.table_html(["", ""], [f"color: {FAINT}", "width: 100%"], lines)


data = DataBrowser
