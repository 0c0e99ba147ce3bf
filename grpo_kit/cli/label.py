"""`grpo-kit label RUN`: people score a run's answers in a terminal, as in the panel of notebook 02."""

import time
from collections.abc import Sequence
from pathlib import Path

from grpo_kit.backends.run import Run
from grpo_kit.data.samples import conversation_text
from grpo_kit.data.thoughts import answer_in
from grpo_kit.errors import RunError
from grpo_kit.evaluation import labelling
from grpo_kit.evaluation.result import main_evaluation
from grpo_kit.judges.labels import LabelFile
from grpo_kit.plots.tables import table as shown
from grpo_kit.utils.text import printable


def label_answers(found: Run, to: Path, choose: bool, who: str) -> None:
    """Asks about the answers of the evaluation that speaks for the run. Raises RunError where it has none here."""
    if not (evaluation := main_evaluation(found.evaluations())):
        raise RunError(f"run {found.id} has no evaluation here", f"`grpo-kit eval {found.id}` makes one")
    asked = labelling.Labelling.of(evaluation.results["data"]["file"], evaluation)
    items, file = asked.items(choose), LabelFile(to)
    _ask(items, file, who, (labelling.CHOICES if choose else labelling.SCORES) | labelling.OTHERS | {"q": "quit"})
    labels = [each for each in file.read() if not each.is_skip]
    print(f"{len(labels)} labels are in {to}")
    if labels and len(table := labelling.agreement_table(asked.agreement(labels, choose), choose)):
        print(shown(table))


def _ask(items: Sequence[labelling.Item], file: LabelFile, who: str, keys: dict[str, str]) -> None:
    """One after the other, until none is left, or `q`, or the end of what is typed."""
    verbs = ", ".join(f"{key} {what}" if not what.startswith(f"{key} ") else what for key, what in keys.items())
    while item := labelling.next_item(items, file.read(), who):
        done, _ = labelling.progress(items, file.read(), who)
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
            file.save(labelling.label_of(item, key, who, time.monotonic() - since))
    print("Nothing is left to label.")
