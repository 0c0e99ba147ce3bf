"""`samples(run)`: what a run's model wrote, group by group as it was trained, and against the base model."""

import html
from collections.abc import Sequence

import ipywidgets
import pandas as pd

from grpo_kit.backends.run import Run
from grpo_kit.evaluation.result import BASE, Evaluation
from grpo_kit.widgets import tables as browsing
from grpo_kit.widgets.parts import BORDER, FAINT, SHADE, message_line, shows_errors, text_html

ANY = 0  # steps begin at 1; None would be no choice at all
LISTED = 200  # groups; the browser is slow with longer lists
CELL = f"padding: 6px 10px; border-top: 1px solid {BORDER}; vertical-align: top; text-align: left"
NUMBER = f"{CELL}; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums"
FILL = {"width": "auto", "flex": "1 1 auto"}
FIT = {"width": "auto"}


def samples(run: Run) -> "SampleBrowser":
    """The completions that `run` was trained on and, once it is evaluated, base and trained model side by side."""
    return SampleBrowser(run)


class SampleBrowser(ipywidgets.VBox):
    """Two tabs: groups of completions as they were trained on, and the answers of an evaluation."""

    def __init__(self, run: Run):
        self.run = run
        self.message = message_line()
        self.refresh_button = ipywidgets.Button(
            description="Refresh", icon="refresh", tooltip="Read the run's files again", layout=FIT
        )
        self.groups, self.answers = GroupView(run, self.message), AnswerView(run, self.message)
        self.tabs = ipywidgets.Tab(
            [self.groups, self.answers], titles=["While it trained", "Base against trained"], layout={"width": "100%"}
        )
        super().__init__([ipywidgets.HBox([self.refresh_button]), self.message, self.tabs])
        self.refresh_button.on_click(self.refresh)
        self.refresh()

    @shows_errors
    def refresh(self, _=None) -> None:
        """Reads the run's files again."""
        self.groups.read()
        self.answers.read()


class _View(ipywidgets.VBox):
    """Some controls, what they choose from, Previous and Next, and what is chosen."""

    def __init__(self, run: Run, message: ipywidgets.HTML, orders: Sequence[str]):
        self.run, self.message = run, message
        self._is_filling = False
        self.sort = ipywidgets.Dropdown(options=orders, description="sort", layout={"width": "260px"})
        self.find = ipywidgets.Text(
            placeholder="find in any text, Enter", continuous_update=False, layout={"width": "200px"}
        )
        self.choice = ipywidgets.Dropdown(options=[], layout=FILL)
        self.previous = ipywidgets.Button(icon="chevron-left", tooltip="Previous", layout={"width": "40px"})
        self.next = ipywidgets.Button(icon="chevron-right", tooltip="Next", layout={"width": "40px"})
        self.position = ipywidgets.HTML(layout={"margin": "0 8px"})
        self.page = ipywidgets.HTML(layout={"margin": "4px 0 0 0"})
        self.walk = ipywidgets.HBox([self.previous, self.next, self.position, self.choice])
        super().__init__(layout={"width": "100%"})
        self.sort.observe(self._fill, "value")
        self.find.observe(self._fill, "value")
        self.choice.observe(self._show, "value")
        self.previous.on_click(lambda _: self._move(-1))
        self.next.on_click(lambda _: self._move(1))

    def _offer(self, labels: Sequence[str], in_all: int) -> None:
        """Fills the list with what was found, and shows the first of it."""
        self._in_all = in_all
        self._is_filling = True
        try:
            self.choice.options = [(label, i) for i, label in enumerate(labels)]
            self.choice.value = 0 if labels else None
        finally:
            self._is_filling = False
        self._show()

    def _move(self, by: int) -> None:
        self.choice.value = self.choice.value + by

    @shows_errors
    def _show(self, _=None) -> None:
        if self._is_filling:
            return
        here, listed = self.choice.value, len(self.choice.options)
        self.previous.disabled = here in (None, 0)
        self.next.disabled = here in (None, listed - 1)
        if here is None:
            self.position.value, self.page.value = "none", _note("Nothing here holds that text.")
            return
        of = f"{listed} (of {self._in_all:,})" if listed < self._in_all else f"{listed}"
        self.position.value = f"{here + 1} / {of}"
        self.page.value = self._page(here)


class GroupView(_View):
    """The completions of a step and prompt with their scores, best first."""

    def __init__(self, run: Run, message: ipywidgets.HTML):
        super().__init__(run, message, list(browsing.GROUP_ORDERS))
        self.table = pd.DataFrame()
        self.step = ipywidgets.SelectionSlider(
            options=[("any", ANY)], description="step", continuous_update=False, layout={"width": "380px"}
        )
        self.step.observe(self._fill, "value")

    def read(self) -> None:
        steps_before, step = self.step.options, self.step.value
        self.table = browsing.completions(self.run)
        if self.table.empty:
            self.children = [ipywidgets.HTML(_note(f"Run {self.run.id} has no completions yet."))]
            return
        several = self.table["disagreement"].notna().any()
        self._is_filling = True
        try:
            self.sort.options = [name for name in browsing.GROUP_ORDERS if several or name != "rewards disagree most"]
            self.step.options = [("any", ANY), *((str(step), step) for step in sorted(set(self.table["step"])))]
            was_last = step == steps_before[-1][1]  # as at first, where there is only "any"
            is_there = not was_last and step in [
                each for _, each in self.step.options
            ]  # a resumed run makes steps anew
            self.step.value = step if is_there else self.step.options[-1][1]
        finally:
            self._is_filling = False
        self.children = [ipywidgets.HBox([self.step, self.sort, self.find]), self.walk, self.page]
        self._fill()

    @shows_errors
    def _fill(self, _=None) -> None:
        if self._is_filling:
            return
        step = None if self.step.value == ANY else self.step.value
        self._found = browsing.groups(self.table, step, self.find.value, self.sort.value)
        by, _ = browsing.GROUP_ORDERS[self.sort.value]
        listed = self._found.head(LISTED)
        numbers = listed["score" if by == "step" else by]
        labels = [
            f"{f'step {at}: ' if step is None else ''}{_number(number)}  {_brief(asked)}"
            for at, number, asked in zip(listed["step"], numbers, listed["asked"], strict=True)
        ]
        self._offer(labels, len(self._found))

    def _page(self, here: int) -> str:
        of_group = self._found.iloc[here]
        rows = browsing.group(self.table, of_group["step"], of_group["sample_id"])
        names = list(rows["rewards"].iloc[0])
        numbers = [*names, "sum", "advantage"] if len(names) > 1 else [*names, "advantage"]
        head = "".join(f'<th style="{NUMBER}">{html.escape(name)}</th>' for name in numbers)
        body = ""
        for row in rows.itertuples():
            given = [_number(row.rewards[name]) for name in names]
            given += [f"<b>{_number(row.score)}</b>"] if len(names) > 1 else []
            cells = "".join(f'<td style="{NUMBER}">{cell}</td>' for cell in [*given, _number(row.advantage, "+.2f")])
            body += (
                f'<tr>{cells}<td style="{CELL}">{text_html(row.completion)}</td>'
                f'<td style="{CELL}; color: {FAINT}">{text_html(row.reason)}</td></tr>'
            )
        head += f'<th style="{CELL}; width: 46%">completion</th><th style="{CELL}; width: 34%">reason</th>'
        return (
            _prompt_html(rows["prompt"].iloc[0], f"{of_group['sample_id']}, step {of_group['step']}")
            + f'<table style="width: 100%; border-collapse: collapse; line-height: 1.4"><tr>{head}</tr>{body}</table>'
        )


class AnswerView(_View):
    """The base model's answer and a checkpoint's to the same held-out prompt, with scores and reasons."""

    def __init__(self, run: Run, message: ipywidgets.HTML):
        super().__init__(run, message, list(browsing.ANSWER_ORDERS))
        self.evaluation = ipywidgets.Dropdown(description="evaluation", layout={"width": "320px"})
        self.checkpoint = ipywidgets.Dropdown(description="checkpoint", layout={"width": "260px"})
        self.evaluation.observe(self._choose_evaluation, "value")
        self.checkpoint.observe(self._fill, "value")

    def read(self) -> None:
        found = browsing.evaluations(self.run)[::-1]
        if not found:
            self.children = [
                ipywidgets.HTML(_note(f"Run {self.run.id} is not evaluated yet; kit.evaluate.remote(run) does it."))
            ]
            return
        self._is_filling = True
        try:
            before, self._evaluations = self.evaluation.value, {each.path.stem: each for each in found}
            self.evaluation.options = list(self._evaluations)
            self.evaluation.value = before if before in self._evaluations else self.evaluation.options[0]
        finally:
            self._is_filling = False
        self.children = [
            ipywidgets.HBox([self.evaluation, self.checkpoint]),
            ipywidgets.HBox([self.sort, self.find]),
            self.walk,
            self.page,
        ]
        self._choose_evaluation()

    @shows_errors
    def _choose_evaluation(self, _=None) -> None:
        if self._is_filling:
            return
        evaluation = self._chosen
        models = [model["name"] for model in evaluation.models if model is not evaluation.base]
        orders = browsing.answer_orders(evaluation)
        self._is_filling = True
        try:
            before = self.checkpoint.value, self.sort.value
            self.checkpoint.options, self.sort.options = models, orders
            self.checkpoint.value = before[0] if before[0] in models else models[-1]
            self.sort.value = before[1] if before[1] in orders else orders[0]
        finally:
            self._is_filling = False
        self._fill()

    @property
    def _chosen(self) -> Evaluation:
        return self._evaluations[self.evaluation.value]

    @shows_errors
    def _fill(self, _=None) -> None:
        if self._is_filling:
            return
        self._found = browsing.answers(self._chosen, self.checkpoint.value, self.sort.value, self.find.value)
        by, _ = browsing.ANSWER_ORDERS[self.sort.value]
        form = "+.2f" if by == "gain" else ".2f"
        labels = [
            f"{_number(value, form)}  {_brief(asked)}"
            for value, asked in zip(self._found[by], self._found["asked"], strict=True)
        ]
        self._offer(labels[:LISTED], len(labels))

    def _page(self, here: int) -> str:
        row, evaluation = self._found.iloc[here], self._chosen
        sides = {"": self.checkpoint.value}
        title = f"{row['id']}"
        if evaluation.base:
            sides = {f"{BASE} ": "base model", **sides}
            title += f", gain {_number(row['gain'], '+.2f')}"
        judges = {"": evaluation.judge}
        if evaluation.second_judge:
            judges["second "] = f"{evaluation.second_judge} (second judge)"
        head = "".join(f'<th style="{CELL}">{html.escape(name)}</th>' for name in sides.values())
        said = "".join(f'<td style="{CELL}">{text_html(row[side.strip() or "answer"])}</td>' for side in sides)
        rows = [f"<tr>{_side('answer')}{said}</tr>"]
        for prefix, judge in judges.items():
            cells = "".join(
                f'<td style="{CELL}"><b>{_number(row[f"{side}{prefix}score"])}</b>'
                f"{text_html(row[f'{side}{prefix}reason'] or '', f'color: {FAINT}')}</td>"
                for side in sides
            )
            rows.append(f"<tr>{_side(judge)}{cells}</tr>")
        trace = f'<td style="{CELL}" colspan="{len(sides)}">{text_html(row["ground_truth"])}</td>'
        rows.append(f"<tr>{_side('the trace’s own reply')}{trace}</tr>")
        return (
            f"{_prompt_html(row['prompt'], title)}"
            f'<table style="width: 100%; table-layout: fixed; border-collapse: collapse; line-height: 1.4">'
            f'<tr><th style="{CELL}; width: 110px"></th>{head}</tr>{"".join(rows)}</table>'
        )


def _prompt_html(prompt: str | list[dict[str, str]], title: str) -> str:
    """The prompt in a box that scrolls where it is long, and at first shows its end, which is what is answered."""
    turns = [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else prompt
    lines = "".join(
        f'<div style="display: flex"><div style="flex: 0 0 80px; color: {FAINT}">{html.escape(turn["role"])}</div>'
        f"{text_html(turn['content'], 'flex: 1')}</div>"
        for turn in turns
    )
    return (
        f'<div style="color: {FAINT}; line-height: 1.5">{html.escape(title)}</div>'
        f'<div style="display: flex; flex-direction: column-reverse; max-height: 180px; overflow-y: auto; '
        f'background: {SHADE}; padding: 6px 10px; margin-bottom: 8px; line-height: 1.4"><div>{lines}</div></div>'
    )


def _side(name: str) -> str:
    return f'<td style="{CELL}; color: {FAINT}">{html.escape(name)}</td>'


def _note(text: str) -> str:
    return f'<div style="color: {FAINT}; line-height: 1.5">{html.escape(text)}</div>'


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if pd.isna(value) else format(value, form).replace("-", "−")


def _brief(text: str, longest: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
