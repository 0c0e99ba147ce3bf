"""`grpo-kit label RUN`: people score a run's answers in a terminal, as in the panel of notebook 02."""

import time
from collections.abc import Sequence
from pathlib import Path

from grpo_kit.backends.run import Run
from grpo_kit.data.samples import conversation_text
from grpo_kit.data.thoughts import answer_in
from grpo_kit.errors import RunError
from grpo_kit.evaluation.labelling import (
    CHOICES,
    OTHERS,
    SCORES,
    Item,
    Labelling,
    agreement_table,
    label_of,
    next_item,
    progress,
)
from grpo_kit.judges.labels import LabelFile
from grpo_kit.utils.text import printable


def label_answers(found: Run, to: Path, choose: bool, who: str) -> None:
    """Asks about the answers of the run's newest evaluation. Raises RunError where it has none here."""
    if not (evaluations := found.evaluations()):
        raise RunError(f"run {found.id} has no evaluation here", f"`grpo-kit eval {found.id}` makes one")
    labelling = Labelling.of(evaluations[-1].results["data"]["file"], evaluations[-1])
    items, file = labelling.items(choose), LabelFile(to)
    _ask(items, file, who, (CHOICES if choose else SCORES) | OTHERS | {"q": "quit"})
    labels = [each for each in file.read() if not each.is_skip]
    print(f"{len(labels)} labels are in {to}")
    if labels and len(table := agreement_table(labelling.agreement(labels, choose), choose)):
        print(table.to_string(index=False))


def _ask(items: Sequence[Item], file: LabelFile, who: str, keys: dict[str, str]) -> None:
    """One after the other, until none is left, or `q`, or the end of what is typed."""
    verbs = ", ".join(f"{key} {what}" if not what.startswith(f"{key} ") else what for key, what in keys.items())
    while item := next_item(items, file.read(), who):
        done, _ = progress(items, file.read(), who)
        heads = ["answer"] if len(item.answers) == 1 else ["a", "b"]
        said = [f"{head}: {answer_in(text) or '(no answer)'}" for head, text in zip(heads, item.answers, strict=True)]
        rubric = [f"A good reply: {item.sample.rubric}"] * bool(item.sample.rubric)
        lines = [f"\n{done + 1} of {len(items)}", conversation_text(item.sample.prompt), *rubric, *said]
        print(printable("\n".join(lines)))
        since, key = time.monotonic(), ""
        try:
            while key not in keys:
                key = input(f"{verbs}: ").strip().lower()
        except EOFError:
            key = "q"
            print()
        if key == "q":
            return
        if key == "u":
            file.undo(who, [each.question for each in items])
        else:
            file.save(label_of(item, key, who, time.monotonic() - since))
    print("Nothing is left to label.")
