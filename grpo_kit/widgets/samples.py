"""`samples(run)`: what a run's model wrote, group by group as it was trained, and against the base model."""

from collections.abc import Sequence

import ipywidgets
import pandas as pd

from grpo_kit.backends.run import Run
from grpo_kit.data.samples import Message, messages_of
from grpo_kit.evaluation.result import BASE, Evaluation
from grpo_kit.widgets import parts, tables
from grpo_kit.widgets.parts import FAINT, Panel, button, note_html, number, offer, shows_errors, text_html

ANY = 0  # steps begin at 1; None would be no choice at all
LISTED = 200  # groups or prompts; the browser is slow with longer lists


def samples(run: Run) -> "SampleBrowser":
    """The completions that `run` was trained on and, once it is evaluated, base and trained model side by side."""
    return SampleBrowser(run)


class SampleBrowser(Panel):
    """Two tabs: groups of completions as they were trained on, and the answers of an evaluation."""

    def __init__(self, run: Run):
        self.run, self.message = run, parts.message_line()
        self.refresh_button = button("Refresh", "Read the run's files again", width="auto", icon="refresh")
        self.groups, self.answers = GroupView(run, self.message), AnswerView(run, self.message)
        titles = ["While it trained", "Base against trained"]
        self.tabs = ipywidgets.Tab([self.groups, self.answers], titles=titles, layout={"width": "100%"})
        super().__init__([ipywidgets.HBox([self.refresh_button]), self.message, self.tabs])
        self.refresh_button.on_click(lambda _: self.refresh())
        self.refresh()

    @shows_errors
    def refresh(self) -> None:
        """Reads the run's files again."""
        self.groups.read()
        self.answers.read()


class _View(Panel):
    """Some controls, what they find as a list, Previous and Next, and a page of what is chosen.

    A subclass reads its files in `read`, finds rows in `find_rows`, and writes a page of one in `page_of`.
    """

    orders: dict[str, tuple[str, bool]]

    def __init__(self, run: Run, message: ipywidgets.HTML, controls: Sequence[ipywidgets.ValueWidget]):
        self.run, self.message, self.rows = run, message, pd.DataFrame()
        self.sort = ipywidgets.Dropdown(options=list(self.orders), description="sort", layout={"width": "260px"})
        self.find = ipywidgets.Text(
            placeholder="find in any text, Enter", continuous_update=False, layout={"width": "200px"}
        )
        self.choice = ipywidgets.Dropdown(options=[], layout={"width": "auto", "flex": "1 1 auto"})
        self.previous = button("", "Previous", width="40px", icon="chevron-left")
        self.next = button("", "Next", width="40px", icon="chevron-right")
        self.position = ipywidgets.HTML(layout={"margin": "0 8px"})
        self.page = ipywidgets.HTML(layout={"margin": "4px 0 0 0"})
        chosen = ipywidgets.HBox([*controls, self.sort, self.find], layout={"flex_flow": "row wrap"})
        walk = ipywidgets.HBox([self.previous, self.next, self.position, self.choice])
        self._all = [chosen, walk, self.page]
        super().__init__(layout={"width": "100%"})
        for control in (*controls, self.sort, self.find):
            self.on_change(control, self.fill)
        self.on_change(self.choice, self._show)
        self.previous.on_click(lambda _: self._move(-1))
        self.next.on_click(lambda _: self._move(1))

    def show_nothing(self, why: str) -> None:
        self.children = [ipywidgets.HTML(note_html(why))]

    @shows_errors
    def fill(self) -> None:
        """Fills the list with what the controls find, and shows the first of it."""
        self.rows = self.find_rows()
        listed = self.rows.head(LISTED).to_dict("records")
        with self.filling():
            self.choice.options = [(self.label_of(row), i) for i, row in enumerate(listed)]
            self.choice.value = 0 if listed else None
        self.children = self._all
        self._show()

    def find_rows(self) -> pd.DataFrame:
        raise NotImplementedError

    def page_of(self, row: pd.Series) -> str:
        raise NotImplementedError

    def label_of(self, row: dict) -> str:
        by, _ = self.orders[str(self.sort.value)]
        line = " ".join(row["asked"].split())
        value = number(row["score" if by == "step" else by], "+.2f" if by == "gain" else ".2f")
        return f"{value}  {line if len(line) <= 100 else f'{line[:99]}…'}"

    def _move(self, by: int) -> None:
        self.choice.value = (self.choice.value or 0) + by

    @shows_errors
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


class GroupView(_View):
    """The completions of a step and prompt with their scores, best first."""

    orders = tables.GROUP_ORDERS

    def __init__(self, run: Run, message: ipywidgets.HTML):
        self.table = pd.DataFrame()
        self.step = ipywidgets.SelectionSlider(
            options=[("any", ANY)], description="step", continuous_update=False, layout={"width": "380px"}
        )
        super().__init__(run, message, [self.step])

    def read(self) -> None:
        self.table = tables.completions(self.run)
        if self.table.empty:
            return self.show_nothing(f"Run {self.run.id} has no completions yet.")
        orders = list(self.orders)
        if self.table["disagreement"].isna().all():
            orders.remove("rewards disagree most")
        steps = [("any", ANY), *((str(step), step) for step in sorted(set(self.table["step"])))]
        with self.filling():
            offer(self.sort, orders, orders[0])
            if self.step.value == self.step.options[-1][1]:  # the last step, as at first: follows the run
                self.step.options, self.step.value = steps, steps[-1][1]
            offer(self.step, steps, steps[-1][1])
        self.fill()

    def find_rows(self) -> pd.DataFrame:
        step = None if self.step.value == ANY else self.step.value
        return tables.groups(self.table, step, self.find.value, str(self.sort.value))

    def label_of(self, row: dict) -> str:
        at = f"step {row['step']}: " if self.step.value == ANY else ""
        return at + super().label_of(row)

    def page_of(self, row: pd.Series) -> str:
        rows = tables.group(self.table, row["step"], row["sample_id"])
        title = f"{row['sample_id']}, step {row['step']}"
        return _prompt_html(rows["prompt"].iloc[0], title) + parts.completions_html(rows)


class AnswerView(_View):
    """The base model's answer and a checkpoint's to the same held-out prompt, with scores and reasons."""

    orders = tables.ANSWER_ORDERS

    def __init__(self, run: Run, message: ipywidgets.HTML):
        self.evaluation = ipywidgets.Dropdown(description="evaluation", layout={"width": "320px"})
        self.checkpoint = ipywidgets.Dropdown(description="checkpoint", layout={"width": "260px"})
        super().__init__(run, message, [self.evaluation, self.checkpoint])

    def read(self) -> None:
        self._evaluations = {found.path.stem: found for found in reversed(tables.evaluations(self.run))}
        if not self._evaluations:
            return self.show_nothing(f"Run {self.run.id} is not evaluated yet; kit.evaluate.remote(run) does it.")
        with self.filling():
            offer(self.evaluation, list(self._evaluations), next(iter(self._evaluations)))
        self.fill()

    @property
    def _chosen(self) -> Evaluation:
        return self._evaluations[str(self.evaluation.value)]

    def find_rows(self) -> pd.DataFrame:
        orders = tables.answer_orders(self._chosen)
        models = [model["name"] for model in self._chosen.models if model is not self._chosen.base]
        with self.filling():  # another evaluation may have others
            offer(self.checkpoint, models, models[-1])
            offer(self.sort, orders, orders[0])
        return tables.answers(self._chosen, self.checkpoint.value, self.sort.value, self.find.value)

    def page_of(self, row: pd.Series) -> str:
        evaluation, title = self._chosen, row["id"]
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
        return _prompt_html(row["prompt"], title) + parts.table_html(["", *sides.values()], looks, rows) + trace


def _prompt_html(prompt: str | list[Message], title: str) -> str:
    """The prompt in a box that scrolls where it is long, and at first shows its end, which is what is answered."""
    lines = "".join(
        f'<div style="display: flex">{text_html(turn["role"], f"flex: 0 0 80px; color: {FAINT}")}'
        f"{text_html(turn['content'], 'flex: 1')}</div>"
        for turn in messages_of(prompt)
    )
    return (
        f'{note_html(title)}<div style="display: flex; flex-direction: column-reverse; max-height: 180px; '
        f'overflow-y: auto; background: {parts.SHADE}; padding: 6px 10px; margin-bottom: 8px"><div>{lines}</div></div>'
    )
