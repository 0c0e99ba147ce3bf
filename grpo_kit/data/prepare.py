"""Traces in, samples out: `prepare` turns dialogue traces into a data set, split in two, with a card to describe it."""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import orjson
from filelock import FileLock
from tqdm import tqdm

from grpo_kit.data.answerable import CHECKED, STATING, unknown_acts
from grpo_kit.data.readers import FORMATS, read_traces
from grpo_kit.data.readers.base import Ground, Learn, ReadOptions
from grpo_kit.data.readers.containers import hub_name
from grpo_kit.data.samples import fingerprint, messages_of, read_samples, to_lines
from grpo_kit.data.splits import Allotted, allot
from grpo_kit.errors import BadTrace, ConfigError
from grpo_kit.utils.files import CACHE, check_folder, replacing
from grpo_kit.utils.garbage import without_collector
from grpo_kit.utils.text import did_you_mean

TRAIN, EVAL, CARD = "train.jsonl", "eval.jsonl", "data_card.json"
REASONS_KEPT = 20  # how many of the skipped pieces the card names
REPAIRED_KEPT = 1000  # and of the dialogues that had a repair, of each repair


def prepare(
    traces: Path | str,
    out: Path | str,
    *,
    eval_fraction: float = 0.1,
    seed: int = 0,
    skip_bad: bool = False,
    format: str = "auto",
    strict: bool = False,
    learn: Learn = "answers",
    ground: Ground = "results",
    max_results: int = 3,
    rewrite_rubrics: Callable[[Iterable[Path]], dict] | None = None,
) -> dict:
    """Writes train.jsonl, eval.jsonl and data_card.json into the folder `out`; returns the card's content.

    `traces` is a file or folder of dialogues or of prompts with answers, or `hf://owner/name[/config][:split]`:
    docs/data.md lists formats, columns and repairs, which `strict` refuses; `format` "auto" finds out by the content.
    `learn` "calls" has the assistant's tool calls learnt as well as its answers. docs/dialogues.md tells what SGD's
    prompts hold by `ground` and `max_results` (of a call), and what the card counts as "answerable".

    About `eval_fraction` of the dialogues go to eval.jsonl. A hash of `seed` and a dialogue's opening message
    (a ready-made sample's dialogue_id, or prompt) decides, so nothing moves when files are added. No dialogue
    and no prompt ever stands in both files; the card counts the samples turned away for it as left_out_as_duplicate.

    Each sample has the rubric that its acts and the schema, or its trace, give it; a chat may have none.
    `rewrite_rubrics` writes others into the files that it is given, and returns what the card says of them.

    Holds one file in memory at a time. The same input gives the same bytes.

    Raises BadTrace for input that cannot be used, naming the place; with `skip_bad` a bad dialogue, line or
    unreadable file is left out instead, and the card counts them and names the first. Raises ConfigError
    for settings that cannot work. Whatever is raised, `out` stays as it was, but for rubrics that were paid for.
    """
    traces, out = Path(traces), Path(out)
    if not 0 < eval_fraction < 1:
        raise ConfigError(f"eval_fraction must lie between 0 and 1, and is {eval_fraction}", "Use for example 0.1")
    check_choice("format", format, FORMATS)
    check_choice("learn", learn, get_args(Learn))
    check_choice("ground", ground, get_args(Ground))
    if max_results < 1:
        raise ConfigError(f"max_results={max_results} is below 1", "Use --ground history to show no results")
    check_folder(out)
    if out.resolve() == traces.resolve() or traces.resolve() in (out.resolve() / TRAIN, out.resolve() / EVAL):
        raise ConfigError(f"preparing {traces} into {out} would overwrite {traces}", "Choose another folder")
    tally = _Tally()

    def on_bad(error: BadTrace) -> None:
        if not skip_bad:
            fix = f"{error.problem.fix or 'Correct it'}, or leave out bad rows with skip_bad (--skip-bad)"
            raise BadTrace(error.problem.what, fix, error.problem.where) from None
        tally.skip(error, f"{traces if traces.is_dir() else traces.parent}/")

    reader = read_traces(traces, format, on_bad, ReadOptions(strict, learn, ground, max_results))
    reader = tqdm(reader, desc=f"preparing {traces.name}", unit=" traces", delay=2, mininterval=1, leave=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        names = {"train": Path(scratch, TRAIN), "eval": Path(scratch, EVAL)}
        opened = [path.open("wb", buffering=1 << 20) for path in names.values()]
        with opened[0] as train, opened[1] as held_out, without_collector():
            files = {"train": train, "eval": held_out}
            for allotted in allot(reader, eval_fraction, seed, on_bad):
                files[allotted.split].write(to_lines(allotted.samples))
                tally.add(allotted)
        tally.check_both_splits(traces, eval_fraction)
        if len(tally.forms) > 1:
            if strict:
                what = "some prompts are texts and others are messages"
                raise BadTrace(what, "Without --strict, all of them become messages", str(traces))
            tally.repairs["prompts_made_messages"] = sum(map(_make_messages, names.values()))
        rubrics = rewrite_rubrics(names.values()) if rewrite_rubrics else {"by": "schema"}
        card = {
            "source": hub_name(traces) or Path(*(traces if traces.name else traces.resolve()).parts[-2:]).as_posix(),
            "eval_fraction": eval_fraction,
            "seed": seed,
            "rubrics": rubrics,
            "fingerprint": fingerprint(names.values()),
            **tally.summary(),
        }
        Path(scratch, CARD).write_bytes(orjson.dumps(card, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        out.mkdir(exist_ok=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(CACHE / "prepare.lock"):  # so that the three files are always those of one call
            for name in (TRAIN, EVAL, CARD):
                shutil.move(Path(scratch, name), out / name)
    return card


def _make_messages(path: Path) -> int:
    """Makes the file's prompts messages, since a model is asked in one form; returns how many were texts."""
    texts = 0
    with replacing(path) as partial, partial.open("wb") as file:
        for sample in read_samples(path):
            texts += isinstance(sample.prompt, str)
            file.write(to_lines([sample.replace(prompt=messages_of(sample.prompt))]))
    return texts


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"no {name} {value!r}; there are: {', '.join(known)}", did_you_mean(value, known).strip())


class _Tally:
    def __init__(self):
        self.dialogues, self.samples = {"train": 0, "eval": 0}, {"train": 0, "eval": 0}
        self.services, self.acts = Counter[str](), Counter[str]()
        self.stating = 0  # how many samples offer, inform or count
        self.answerable = 0  # how many of those can be answered from their prompts
        self.unknown_acts = Counter[str]()  # how many samples have such an act, or an outcome without a result
        self.repairs, self.columns = Counter[str](), dict[str, None]()
        self.repaired: dict[str, list[str]] = {}  # the dialogues that had a repair
        self.left_out = self.skipped = 0
        self.forms = set[type]()  # of prompts: texts, messages
        self.first_skipped: list[str] = []
        self.reasons: dict[str, tuple[str, int]] = {}  # without names and numbers: the first one, and how many

    def skip(self, error: BadTrace, folder: str) -> None:
        self.skipped += 1
        if len(self.first_skipped) < REASONS_KEPT:
            self.first_skipped.append(str(error).replace(folder, ""))
        reason = re.sub(r"\d+|'[^']*'", "", error.problem.what)
        if reason in self.reasons or len(self.reasons) < REASONS_KEPT:
            first, count = self.reasons.get(reason, (error.problem.what, 0))
            self.reasons[reason] = (first, count + 1)

    def add(self, allotted: Allotted) -> None:
        self.left_out += allotted.left_out
        samples = allotted.samples
        if not samples:
            return
        if allotted.repairs:
            self.repairs.update(allotted.repairs)
            for name in allotted.repairs:
                if len(named := self.repaired.setdefault(name, [])) < REPAIRED_KEPT:
                    named.append(samples[0].dialogue_id or samples[0].id)
        self.forms.add(type(samples[0].prompt))
        self.columns |= dict.fromkeys(samples[0].columns)
        self.dialogues[allotted.split] += allotted.is_new
        self.samples[allotted.split] += len(samples)
        for sample in samples:
            self.services.update(sample.services)
            acts = [act.act for act in sample.acts]
            self.acts.update(acts)
            if not CHECKED.isdisjoint(acts):
                states, unknown = not STATING.isdisjoint(acts), {act.act for act in unknown_acts(sample)}
                self.stating += states
                self.answerable += states and unknown.isdisjoint(STATING)
                self.unknown_acts.update(unknown)

    def check_both_splits(self, traces: Path, eval_fraction: float) -> None:
        if not any(self.samples.values()):
            skipped = "; ".join(f"{count} times {reason}" for reason, count in self.reasons.values())
            what = f"no sample is left. Skipped: {skipped}" if skipped else "it is empty"
            raise BadTrace(what, "Correct the traces" if skipped else "Name what holds your traces", str(traces))
        if not all(self.samples.values()):
            problem = f"the input has {sum(self.dialogues.values())} dialogue(s), and none of them goes to "
            problem += f"{TRAIN if self.samples['eval'] else EVAL} with eval_fraction {eval_fraction}"
            fix = "Choose another fraction or seed, or give more dialogues; those with the same beginning stay together"
            fix += ", unless each has a dialogue_id of its own"
            raise BadTrace(problem, fix, str(traces))

    def summary(self) -> dict:
        return {
            "dialogues": self.dialogues,
            "samples": self.samples,
            "samples_per_service": dict(sorted(self.services.items())),
            "acts": dict(sorted(self.acts.items())),
            "answerable": {
                "turns": self.stating,
                "from_prompt": self.answerable,
                "not_by_act": dict(sorted(self.unknown_acts.items())),
            },
            "left_out_as_duplicate": self.left_out,
            "columns": list(self.columns),
            "repairs": dict(self.repairs),
            "repaired": self.repaired,
            "skipped": {"count": self.skipped, "first": self.first_skipped, "reasons": dict(self.reasons.values())},
        }
