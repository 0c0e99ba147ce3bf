"""`samples(run)`: what a run's model wrote, group by group as it was trained, and against the base model; and
`data(folder)`: the samples of a prepared folder, to be searched, filtered and read, each with what will be cut of it
and what its prompt does not say."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from grpo_kit.backends.run import Run
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Message, messages_of
from grpo_kit.evaluation.result import BASE
from grpo_kit.preflight.prepared import REPLY_CUT, Prepared
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.utils.text import on_a_line
from grpo_kit.widgets import parts, tables
from grpo_kit.widgets.parts import FAINT, Panel, button, note_html, number, offer, search_box, shows_errors, text_html

ANY = 0  # steps begin at 1; None would be no choice at all
LISTED = 200  # groups or prompts; the browser is slow with longer lists
CUT = f"color: {FAINT}; text-decoration: line-through"  # the look of what the model does not get


class SampleBrowser(Panel):
    """Two tabs: the groups of completions that `run`, or the one of that name, was trained on and, once it is
    evaluated, the answers of base and trained model side by side."""

    def __init__(self, run: Run | str | Path, runs_dir: str | Path = RUNS_DIR):
        self.run = run = Run.of(run, runs_dir)
        self.message = ipywidgets.HTML(layout={"margin": "0"})
        self.refresh_button = button("Refresh", "Read the run's files again", width="auto", icon="refresh")
        self.groups, self.answers = GroupView(run, self.message), AnswerView(run, self.message)
        titles = ["While it trained", "Base against trained"]
        self.tabs = ipywidgets.Tab([self.groups, self.answers], titles=titles)
        super().__init__([ipywidgets.HBox([self.refresh_button]), self.message, self.tabs])
        refresh = shows_errors(self.message, self.refresh)
        self.refresh_button.on_click(refresh)
        refresh()

    def refresh(self) -> None:
        self.groups.read()
        self.answers.read()


samples = SampleBrowser


class Pages(Panel):
    """Rows to walk through: controls that find them, their list, Previous and Next, and a page of the one chosen."""

    orders: dict[str, tuple[str, bool]]  # the table's own
    find_rows: Callable[[], pd.DataFrame]  # as the controls are set
    page_of: Callable[[pd.Series], str]  # as HTML

    def __init__(self, controls: list[ipywidgets.ValueWidget], message: ipywidgets.HTML):
        self.rows = pd.DataFrame()
        self.sort = ipywidgets.Dropdown(options=list(self.orders), description="sort", layout={"width": "260px"})
        self.find = search_box("find in any text, Enter")
        self.choice = ipywidgets.Dropdown(options=[], layout={"width": "auto", "flex": "1 1 240px"})
        self.previous = button("", "Previous", width="40px", icon="chevron-left")
        self.next = button("", "Next", width="40px", icon="chevron-right")
        self.position = ipywidgets.HTML(layout={"margin": "0 8px", "flex": "0 0 auto"})
        self.page = ipywidgets.HTML(layout={"margin": "4px 0 0 0"})
        filters = [*controls, self.sort, self.find]
        walk, row = [self.previous, self.next, self.position, self.choice], {"flex_flow": "row wrap"}
        self._all = [ipywidgets.HBox(filters, layout=row), ipywidgets.HBox(walk, layout=row), self.page]
        super().__init__(layout={"width": "100%"})
        self.on_change(filters, shows_errors(message, self.fill))
        self.on_change([self.choice], shows_errors(message, self._show))
        self.previous.on_click(lambda _: self.walk(self.choice, -1))
        self.next.on_click(lambda _: self.walk(self.choice, 1))

    def show_nothing(self, why: str) -> None:
        self.children = [ipywidgets.HTML(note_html(why))]

    def fill(self) -> None:
        """Fills the list with what the controls find, and shows the first of it."""
        self.rows = self.find_rows()
        listed = self.rows.head(LISTED).to_dict("records")
        with self.filling():
            self.choice.options = [(self._label(row), i) for i, row in enumerate(listed)]
            self.choice.value = 0 if listed else None
        self.children = self._all
        self._show()

    def _label(self, row: dict) -> str:
        """A row by its step, the number that it is sorted by, and what was asked."""
        by, _ = self.orders[str(self.sort.value)]
        at = f"step {row['step']}: " if "step" in row else ""
        value = number(row["score" if by == "step" else by], "+.2f" if by == "gain" else ".2f")
        return f"{at}{value}  {on_a_line(row['asked'])}"

    def walk(self, control: ipywidgets.Dropdown, by: int) -> None:
        if control.value is not None and 0 <= control.value + by < len(control.options):
            control.value += by

    def _show(self) -> None:
        here, listed = self.choice.value, len(self.choice.options)
        self.previous.disabled = here in (None, 0)
        self.next.disabled = here in (None, listed - 1)
        if here is None:
            self.position.value, self.page.value = "none", note_html("Nothing here holds that text.")
            return
        of = f"{listed} (of {len(self.rows):,})" if listed < len(self.rows) else f"{listed}"
        self.position.value = f"{here + 1} / {of}"
        self.page.value = self.page_of(self.rows.iloc[here])


class GroupView(Pages):
    """The completions of a step and prompt with their scores, best first."""

    orders = tables.GROUP_ORDERS

    def __init__(self, run: Run, message: ipywidgets.HTML):
        self.step = ipywidgets.SelectionSlider(
            options=[("any", ANY)], description="step", continuous_update=False, layout={"width": "380px"}
        )
        self.run = run
        super().__init__([self.step], message)

    def read(self) -> None:
        self.table = tables.completions(self.run)
        if self.table.empty:
            return self.show_nothing(f"Run {self.run.id} has no completions yet.")
        steps = [("any", ANY), *((str(step), step) for step in sorted(set(self.table["step"])))]
        follows = self.step.value == self.step.options[-1][1]  # the last step is shown, as at first
        with self.filling():
            offer(self.step, steps, steps[-1][1])
            if follows:
                self.step.value = steps[-1][1]
        self.fill()

    def find_rows(self) -> pd.DataFrame:
        return tables.groups(self.table, self.step.value or None, self.find.value, str(self.sort.value))

    def page_of(self, row: pd.Series) -> str:
        rows = tables.group(self.table, row["step"], row["sample_id"])
        title = f"{row['sample_id']}, step {row['step']}"
        return prompt_html(rows["prompt"].iloc[0], title) + parts.completions_html(rows)


class AnswerView(Pages):
    """The base model's answer and a checkpoint's to the same held-out prompt, with scores and reasons."""

    orders = tables.ANSWER_ORDERS

    def __init__(self, run: Run, message: ipywidgets.HTML):
        self.evaluation: Any = ipywidgets.Dropdown(description="evaluation", layout={"width": "320px"})
        self.checkpoint = ipywidgets.Dropdown(description="checkpoint", layout={"width": "260px"})
        self.run = run
        super().__init__([self.evaluation, self.checkpoint], message)

    def read(self) -> None:
        found = self.run.evaluations()[::-1]
        if not found:
            return self.show_nothing(f"Run {self.run.id} is not evaluated yet; kit.evaluate.remote(run) does it.")
        with self.filling():
            main = tables.main_evaluation(found[::-1]) or found[0]
            offer(self.evaluation, [(each.path.stem, each) for each in found], main)
        self.fill()

    def find_rows(self) -> pd.DataFrame:
        evaluation = self.evaluation.value
        models, orders = [model["name"] for model in evaluation.checkpoints], tables.answer_orders(evaluation)
        with self.filling():  # another evaluation may have others
            offer(self.checkpoint, models, evaluation.trained["name"])
            offer(self.sort, orders, orders[0])
        return tables.answers(evaluation, self.checkpoint.value, self.sort.value, self.find.value)

    def page_of(self, row: pd.Series) -> str:
        evaluation, title = self.evaluation.value, row["id"]
        sides = {"": str(self.checkpoint.value)}  # the start of its columns' names, and its heading
        if evaluation.base:
            sides = {f"{BASE} ": "base model", **sides}
            title += f", gain {number(row['gain'], '+.2f')}"
        judges = {"": evaluation.judge}
        if evaluation.second_judge:
            judges["second "] = f"{evaluation.second_judge} (second judge)"
        rows = [["answer", *(text_html(row[side.strip() or "answer"]) for side in sides)]]
        for judge, name in judges.items():
            said = [(row[f"{side}{judge}score"], row[f"{side}{judge}reason"] or "") for side in sides]
            rows.append([name, *(f"<b>{number(score)}</b>{note_html(reason)}" for score, reason in said)])
        looks = [f"width: 110px; color: {FAINT}", *[f"width: {90 // len(sides)}%"] * len(sides)]
        trace = note_html("the trace’s own reply") + text_html(row["ground_truth"])
        return prompt_html(row["prompt"], title) + parts.table_html(["", *sides.values()], looks, rows) + trace


class DataBrowser(Pages):
    """Walks through the samples of a prepared folder: by text, service, act, what was repaired, what will be cut, and
    the prompt's length in tokens of the model. Filters that could find nothing are left out."""

    orders = tables.SAMPLE_ORDERS

    def __init__(self, data: Prepared | str | Path, config: TrainConfig | None = None):
        """`data` is kit.prepared(…), or a folder, whose samples `config` would train on."""
        self.data, message = data if isinstance(data, Prepared) else Prepared(data, config), ipywidgets.HTML()
        table = self.data.table
        filters = {name: names_filter(table, name) for name in ("services", "acts", "repairs", "cut")}
        self.filters = {name: control for name, control in filters.items() if len(control.options) > 1}
        longest, look = int(table["tokens"].max()), {"description": "tokens", "layout": {"width": "320px"}}
        self.tokens = ipywidgets.IntRangeSlider(value=(0, longest), max=longest, continuous_update=False, **look)
        super().__init__([*self.filters.values(), self.tokens], message)
        self.fill()

    def find_rows(self) -> pd.DataFrame:
        names = {name: str(control.value) for name, control in self.filters.items()}
        table = self.data.table[self.data.table["tokens"].between(*self.tokens.value)]
        return tables.narrowed(table, self.orders[str(self.sort.value)], self.find.value, **names)

    def _label(self, row: dict) -> str:
        return f"{row['file']}:{row['line']}  {on_a_line(row['asked'])}"

    def page_of(self, row: pd.Series) -> str:
        reply, kept = row["ground_truth"], row["kept"]
        rest = text_html(reply[len(kept) :], CUT) if REPLY_CUT in row["cut"] else ""
        lines = [["reply", text_html(kept if rest else reply) + rest]]
        lines += [["not in the prompt", text_html(row["unknown"], f"color: {parts.WARN}")]] * bool(row["unknown"])
        told = {"rubric": row["rubric"], "repaired": ", ".join(row["repairs"])}
        told = {name: text for name, text in told.items() if text} | row["columns"]
        lines += [[html.escape(name), text_html(str(text))] for name, text in told.items()]
        title = f"{row['id']} ({row['file']}, line {row['line']}), {row['tokens']:,} tokens"
        title += f" and {row['reply tokens']:,} of its reply"
        title += f": {'; '.join(row['cut'])}" if row["cut"] else ""
        looks = [f"color: {FAINT}", "width: 100%"]
        return prompt_html(row["sample"].prompt, title, row["fitted"]) + parts.table_html(["", ""], looks, lines)


data = DataBrowser


def names_filter(table: pd.DataFrame, column: str) -> ipywidgets.Dropdown:
    """Any, or one of the names in a column of lists of names."""
    names = sorted({name for each in table.get(column, ()) for name in each})
    options, layout = [("any", ""), *((name, name) for name in names)], {"width": "240px"}
    return ipywidgets.Dropdown(options=options, description=column.removesuffix("s"), layout=layout)


def prompt_html(prompt: str | list[Message], title: str, kept: str | list[Message] | None = None) -> str:
    """The prompt in a box that scrolls where it is long, and at first shows its end, which is what is answered.
    Messages that are not among those `kept` are struck out; None: all are kept."""
    left = [id(turn) for turn in kept] if isinstance(kept, list) else None
    lines = parts.turns_html(messages_of(prompt), lambda turn: CUT * (left is not None and id(turn) not in left))
    return (
        f'{note_html(title)}<div tabindex="0" style="display: flex; flex-direction: column-reverse; max-height: 180px; '
        f'overflow-y: auto; background: {parts.SHADE}; padding: 6px 10px; margin-bottom: 8px"><div>{lines}</div></div>'
    )
