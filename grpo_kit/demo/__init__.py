"""The embedded default: tiny dialogue traces and a tiny model, so that the whole loop runs with no account or GPU.

`world.py` invents the dialogues, `build.py` makes them and trains the model; `python -m grpo_kit.demo.build`
remakes both, and what it makes is shipped beside these files.
"""

from pathlib import Path

from grpo_kit.config import CACHE

TRACES = Path(__file__).parent / "traces"  # a Schema-Guided Dialogue folder
TINY_MODEL = Path(__file__).parent / "tiny"  # a model that transformers loads
EVAL_FRACTION = 0.3  # of the demo's dialogues, so that enough prompts are held out to measure with
DEFAULT_DATA = "data/processed"
DATA_FILES = ("train.jsonl", "eval.jsonl")  # in a folder of prepared samples


def data_folder(data: str) -> Path:
    """The folder of prepared samples that `data` names; where the default folder has none, the demo's, made now."""
    folder = Path(data)
    if data == DEFAULT_DATA and not (folder / "train.jsonl").exists():
        from grpo_kit.traces import prepare

        folder = CACHE / "demo"
        prepare(TRACES, folder, eval_fraction=EVAL_FRACTION)
    return folder
