"""A checkpoint made a model of its own: its adapter merged into the base, checked, and saved whole."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from grpo_kit.errors import RunError
from grpo_kit.models.load import download_model, load_model, load_tokenizer, torch_threads
from grpo_kit.models.target import adapted, is_adapter, subject_of
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory, is_run
from grpo_kit.utils.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBES = (
    "Hello, could you help me book a table for two?",
    "No, Friday at 7 pm instead.",
    "What is the weather like in Paris today? I will be there for 3 nights.",
)
# Largest difference of a logit, as a share of the largest logit. The merge itself is made in float32; what a smaller
# number keeps of the merged weights differs by its own rounding.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 2e-2}


def merge(
    target: RunDirectory | str | Path,
    to: str | Path,
    *,
    checkpoint: str | int | None = None,
    base_model: str | None = None,
    runs_dir: str | Path = RUNS_DIR,
) -> Path:
    """Saves one checkpoint as a whole model in the new folder `to`, which plain transformers loads; returns the folder.

    `target` is a run (or its name, or its folder) or the folder of one model; `checkpoint` its name or step, the
    newest by default. An adapter is merged in float32 and saved in its base's own number format; a whole model is saved
    as it is. Logits on some prompts are compared before and after the merge and once more from the saved files: they
    agree within TOLERANCE of the format, or RunError is raised and nothing is left behind.

    Raises RunError where `to` is there already or the run is on Modal (run.download fetches it), ConfigError for a
    model that can't be loaded.
    """
    subject, to = subject_of(target, base_model, Path(runs_dir)), Path(to)
    folder = subject.folder(checkpoint)
    if to.exists():
        raise RunError(f"{to} is there already: name a new folder to merge into")
    tokenizer = load_tokenizer(str(folder) if (folder / "tokenizer_config.json").exists() else str(subject.base))
    source = subject.base if is_adapter(folder) else str(folder)
    kept = _number_format(source)
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with torch_threads(subject.settings.torch_threads):
            model = load_model(source, bf16=False)
            if is_adapter(folder):
                model = adapted(model, folder)
                before = _logits(model, tokenizer)
                model = model.merge_and_unload()
                _agree(before, _logits(model, tokenizer), "float32", f"merging {folder}")
            before = _logits(model, tokenizer)
            _end_as_here(model, tokenizer)
            model.to(getattr(torch, kept)).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            if is_run(partial):  # a run's own folder has its settings in the model's config.json
                config = json.loads((partial / "config.json").read_text())
                write_json(partial / "config.json", {k: v for k, v in config.items() if k not in subject.run.about})
            del model
            _agree(before, _logits(load_model(str(partial), bf16=False), tokenizer), kept, f"saving {folder} as {kept}")
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return to


def _number_format(name: str) -> str:
    """What the model's files hold: "float32", "bfloat16" or "float16"."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(str(download_model(name))).dtype
    name = str(dtype or "float32").removeprefix("torch.")
    return name if name in TOLERANCE else "float32"


def _logits(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> torch.Tensor:
    """For every token of the probes, shape (tokens, vocabulary)."""
    model.eval()
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt").to(model.device)).logits[0].float() for text in PROBES]
    return torch.cat(rows)


def _agree(before: torch.Tensor, after: torch.Tensor, number_format: str, what: str) -> None:
    share = float((before - after).abs().max() / before.abs().max())
    if not share <= TOLERANCE[number_format]:  # NaN is no agreement
        raise RunError(
            f"{what} changes what the model says: a logit differs by {share:.2g} of the largest, more than "
            f"{TOLERANCE[number_format]:g}. Nothing was saved. Evaluate that checkpoint, or take another"
        )


def _end_as_here(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Has plain `generate` end an answer where the kit's own does: at the model's end tokens and the tokenizer's."""
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    model.generation_config.eos_token_id = sorted(ends)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
