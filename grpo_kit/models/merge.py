"""`kit.merge`: a checkpoint saved as a whole model, its adapter merged into the base and checked."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from grpo_kit.errors import RunError
from grpo_kit.models.checkpoints import adapted, checkpoints_of, is_adapter
from grpo_kit.models.generate import end_tokens
from grpo_kit.models.load import download_model, load_model, load_tokenizer, torch_threads
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory, is_run
from grpo_kit.utils.files import write_json

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBES = (
    "Hello, could you help me book a table for two?",
    "No, Friday at 7 pm instead.",
    "What is the weather like in Paris today? I will be there for 3 nights.",
)
# Largest difference of a logit, as a share of the largest logit. The merge is made in float32; a smaller format rounds.
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
    as it is. Logits on some prompts are compared before and after the merge and once more from the saved files.

    Raises RunError where the logits differ by more than TOLERANCE (nothing is left behind), `to` exists or the run is
    on Modal (run.download fetches it), ConfigError for a model that can't be loaded.
    """
    checkpoints, to = checkpoints_of(target, base_model, Path(runs_dir)), Path(to)
    folder = checkpoints.folder(checkpoint)
    if to.exists():
        raise RunError(f"{to} is there already: name a new folder to merge into")
    tokenizer = load_tokenizer(str(folder) if (folder / "tokenizer_config.json").exists() else str(checkpoints.base))
    source = str(checkpoints.base if is_adapter(folder) else folder)
    kept = _number_format(source)
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with torch_threads(checkpoints.settings.torch_threads):
            model = load_model(source, bf16=False)
            if is_adapter(folder):
                model = adapted(model, folder)
                before = _logits(model, tokenizer)
                model = model.merge_and_unload()
                _agree(before, _logits(model, tokenizer), "float32", f"merging {folder}")
            before = _logits(model, tokenizer)
            # Plain `generate` ends an answer where the kit's own does.
            model.generation_config.eos_token_id = end_tokens(model, tokenizer)
            model.generation_config.pad_token_id = tokenizer.pad_token_id
            model.to(getattr(torch, kept)).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            if checkpoints.run and is_run(partial):  # a run's own folder has its settings in the model's config.json
                config = json.loads((partial / "config.json").read_text())
                write_json(partial / "config.json", {k: v for k, v in config.items() if k not in checkpoints.run.about})
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


def _logits(model: "PreTrainedModel | PeftModel", tokenizer: "PreTrainedTokenizerBase") -> torch.Tensor:
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
