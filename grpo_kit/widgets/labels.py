"""`labels(samples, answers)`: people score answers, or choose between two, and see how far judges agree with them."""

import getpass
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ipywidgets
import pandas as pd

from grpo_kit.data.thoughts import answer_in
from grpo_kit.evaluation import labelling
from grpo_kit.evaluation.labelling import CHOICES, OTHERS, SCORES, Answers, Item, Labelling, Samples, Scores
from grpo_kit.judges.labels import Label, LabelFile
from grpo_kit.plots.tables import table as shown
from grpo_kit.widgets.keys import Keys
from grpo_kit.widgets.parts import NUMBER, Panel, button, error_html, note_html, shows_errors, table_html, text_html
from grpo_kit.widgets.samples import prompt_html

KEYS_HELP = "the key that a button names, or <kbd>n</kbd> to write a note, from which <kbd>Enter</kbd> comes back."
BOX = "border: 1px solid var(--jp-border-color1, #9e9e9e); border-radius: 4px; padding: 8px 12px; flex: 1 1 0"


class LabelPanel(Panel):
    """Asks for one label at a time, by key or button, without saying who wrote an answer or what a judge said of it.

    Each label is in the CSV file at `path` before the next answer is shown. `labels` are all that are there,
    `agreement()` the table below. `labeller` is who labels, at first the name of this machine's user.
    """

    def __init__(
        self,
        samples: Samples,
        answers: Answers,
        path: str | Path = "labels.csv",
        scores: Scores | None = None,
        choose: bool = False,
        labeller: str | None = None,
        seed: int = 0,
        interactive: bool | None = None,
    ):
        """`samples` are the kit's, or the path of a data folder or file. `answers` are an Evaluation, or texts by the
        sample's id, to which `scores` has judges' scores from 0 to 1, by judge, then by (sample's id, answer).

        `choose` asks at first which of two answers is better. Where `interactive` is False, in a batch, the panel
        prints how many labels there are and the agreement; None: unless this is JupyterLab.

        Raises ConfigError for answers without a sample, and for a file of labels that can't be used.
        """
        super().__init__()
        self.labelling, self.file, self._seed = Labelling.of(samples, answers, scores), LabelFile(path), seed
        self._items = {choosing: self.labelling.items(choosing, seed) for choosing in (False, True)}
        self._item: Item | None = None
        self._worker = ThreadPoolExecutor(1)
        kinds = [("score answers", False), ("choose a or b", True)]
        self.kind = ipywidgets.ToggleButtons(options=kinds, value=choose, style={"button_width": "150px"})
        self.labeller = ipywidgets.Text(labeller or getpass.getuser(), description="labeller", continuous_update=False)
        self.bar = ipywidgets.IntProgress(layout={"flex": "1 1 auto"})
        self.message, self.count, self.figures = (ipywidgets.HTML(layout={"margin": "0"}) for _ in range(3))
        self.count.layout.margin, self.figures.layout.margin = "0 0 0 10px", "8px 0 0 0"
        self.count.add_class("grpo-kit-count")
        self.figures.add_class("grpo-kit-agreement")
        look = {"flex": "1 1 200px", "width": "auto"}
        self.note = ipywidgets.Text(placeholder="note, saved with the label", continuous_update=False, layout=look)
        self.buttons = {
            key: button(what if what.startswith(f"{key} ") else f"{key} {what}", f"or press {key}", width="auto")
            for key, what in (SCORES | CHOICES | OTHERS).items()
        }
        self.keyboard = Keys(self, self.press, KEYS_HELP, self.buttons, self.note)
        row = {"flex_flow": "row wrap", "align_items": "center"}
        self._verbs = ipywidgets.HBox(layout=row)
        heading = ipywidgets.HBox([self.kind, self.labeller], layout={**row, "justify_content": "space-between"})
        walk = ipywidgets.HBox([self.bar, self.count], layout={"align_items": "center"})
        self.children = [heading, walk, self.keyboard, self._verbs, self.message, self.figures]
        self.on_change([self.kind, self.labeller], shows_errors(self.message, self._begin))
        if not ("JPY_SESSION_NAME" in os.environ if interactive is None else interactive):
            print(self.summary())
        self._begin()

    @property
    def _choosing(self) -> bool:
        return bool(self.kind.value)

    @property
    def labels(self) -> list[Label]:
        """All labels in the file, of all people, skips left out."""
        return [label for label in self.file.read() if not label.is_skip]

    def agreement(self) -> pd.DataFrame:
        """A row per judge, and per two people who labelled the same, with 95% intervals, of what is asked now: scores
        or choices."""
        found = self.labelling.agreement(self.labels, self._choosing, self._seed)
        return labelling.agreement_table(found, self._choosing)

    def summary(self) -> str:
        """How many labels there are, and the agreement, as text."""
        people = ", ".join(sorted({label.labeller or "no name" for label in self.labels})) or "nobody"
        said = f"{len(self.labels)} labels in {self.file.path}, by {people}"
        table = self.agreement()
        return f"{said}\n{shown(table)}" if len(self.labels) and len(table) else said

    def press(self, key: str) -> None:
        """Does what the key means, if anything: a label, undo or skip. Errors are shown."""
        if key in self.keyboard.heard:
            shows_errors(self.message, lambda: self._answer(key))()

    def _begin(self) -> None:
        """Shows what fits the kind of question and the labeller."""
        meanings = CHOICES if self._choosing else SCORES
        self._verbs.children = [self.buttons[key] for key in meanings | OTHERS] + [self.note]
        self.keyboard.heard = list(meanings | OTHERS)
        self._show()

    def _answer(self, key: str) -> None:
        items, who = self._items[self._choosing], self.labeller.value.strip()
        if key == "u":
            undone = self.file.undo(who, [item.question for item in items])
            self.note.value = undone.note if undone else ""
        elif self._item:
            label = labelling.label_of(self._item, key, who, time.monotonic() - self._since, self.note.value.strip())
            self.file.save(label)
            self.note.value = ""
        self._show()

    def _show(self) -> None:
        """Shows the next question, how far this person is, and soon the agreement."""
        items, who, rows = self._items[self._choosing], self.labeller.value.strip(), self.file.read()
        self._item, self._since = labelling.next_item(items, rows, who), time.monotonic()
        self.keyboard.show(item_html(self._item) if self._item else note_html("Nothing is left to label."))
        done, skipped = labelling.progress(items, rows, who)
        self.bar.max, self.bar.value = len(items), done
        self.count.value = f"{done} of {len(items)} labelled" + f", {skipped} skipped" * bool(skipped)
        self._worker.submit(self._measure, self.keyboard.number)  # which takes a second

    def _measure(self, number: int) -> None:
        if number == self.keyboard.number:  # else a newer one follows
            try:
                self.figures.value = agreement_html(self.agreement(), self._choosing, str(self.file.path))
            except Exception as error:  # in a thread nobody else would show it
                self.figures.value = error_html(error)


labels = LabelPanel


def item_html(item: Item) -> str:
    """The conversation, its rubric, and the answer, or two side by side."""
    heads = [""] if len(item.answers) == 1 else [note_html("a"), note_html("b")]
    boxes = "".join(
        f'<div style="{BOX}">{head}{text_html(answer_in(text) or "(no answer)", "font-size: 14px")}</div>'
        for head, text in zip(heads, item.answers, strict=True)
    )
    rubric = note_html(f"A good reply: {item.sample.rubric}") if item.sample.rubric else ""
    answers = f'<div style="display: flex; gap: 12px; margin: 8px 0">{boxes}</div>'
    return prompt_html(item.sample.prompt, "") + rubric + answers


def agreement_html(table: pd.DataFrame, choose: bool, path: str) -> str:
    """The agreement as a table, and how to read it."""
    name, *numbers, problem = table.columns
    rows = [
        [text_html(row[name]) + note_html(row[problem]) * bool(row[problem]), *(row[each] for each in numbers)]
        for row in table.astype(str).replace("not defined", "–").to_dict("records")
    ]
    shown = table_html([name, *numbers], ["", *[NUMBER] * len(numbers)], rows) if rows else ""
    kappa = "is Cohen’s" if choose else "compares the five scores, with quadratic weights"
    same = "prefer the same answer" if choose else "find an answer good enough, 3 or 0.5 and more, or both don’t"
    return shown + note_html(
        f"Kappa {kappa}. Accuracy: how often both {same}; a constant guess says what people say most. In brackets 95% "
        f"intervals. What judges differ on comes first, so that the first labels agree less than all would. "
        f"Saved in {path}."
    )
