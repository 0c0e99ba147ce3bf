"""The demo's dialogues, which scripts/demo makes, and where a run's samples are."""

import filecmp
from pathlib import Path

from grpo_kit.utils.files import CACHE

TRACES = Path(__file__).parent / "demo_traces"  # a Schema-Guided Dialogue folder
EVAL_FRACTION = 0.3  # of the demo's dialogues, so that enough prompts are held out to measure with
DEFAULT_DATA = "data/processed"  # where own samples go, and are looked for
DEMO_CALLS = "demo-calls"  # the same dialogues with the calls to make, whatever folder one is in
KITS_OWN = (DEFAULT_DATA, DEMO_CALLS)  # made where there is no such folder
DATA_FILES = ("train.jsonl", "eval.jsonl")  # in a folder of prepared samples
_made = set[Path]()  # by this process: a quote asks for the folder at every click


def is_made(data: str) -> bool:
    """Whether `data` names samples that are made where they are needed: the kit's own, or an environment's."""
    return data in KITS_OWN or ":" in data


def data_folder(data: str) -> Path:
    """The folder of prepared samples that `data` names; where the default folder has none, the demo's. The import path
    of an environment names its own samples, and raises ConfigError where it has none."""
    folder = Path(data)
    if ":" in data and not folder.exists():
        from grpo_kit.data.environments import folder_of

        return folder_of(data)
    if data in KITS_OWN and not (folder / "train.jsonl").exists():
        from grpo_kit.data.prepare import prepare

        folder, learn = (CACHE / "demo", "answers") if data == DEFAULT_DATA else (CACHE / DEMO_CALLS, "calls")
        if not (folder in _made and (folder / "train.jsonl").exists()):
            prepare(TRACES, folder, eval_fraction=EVAL_FRACTION, learn=learn)
            _made.add(folder)
    return folder


def where_found(folder: str | Path) -> str:
    """Says whether the samples in `folder` are what 02, 03, 05 and `grpo-kit train` take, or what to set."""
    taken, readers = data_folder(DEFAULT_DATA), "02, 03, 05 and `grpo-kit train`, started in the same folder,"
    if filecmp.cmpfiles(taken, folder, DATA_FILES, shallow=False)[0] == [*DATA_FILES]:
        return f"{readers} take these samples."
    theirs = f"those in {DEFAULT_DATA}" if taken == Path(DEFAULT_DATA) else "the samples that come with the kit"
    return f'{readers} take {theirs}. For these set data = "{folder}" there, --data in a shell.'
