"""`kit.merge`: a checkpoint saved as a whole model, its adapter merged into the base by PEFT."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from grpo_kit.errors import ConfigError
from grpo_kit.models.checkpoints import adapted, checkpoints_of, is_adapter
from grpo_kit.models.generate import end_tokens
from grpo_kit.models.load import copy_processor, download_model, load_model, load_tokenizer
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory, is_run
from grpo_kit.utils.files import check_new_folder, replacing, write_json


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
    as it is.

    Raises RunError where `to` exists or the run is on Modal (run.download fetches it), ConfigError for a model that
    can't be loaded or an adapter with weights that are no numbers. Nothing is left behind then.
    """
    checkpoints, to = checkpoints_of(target, base_model, Path(runs_dir)), Path(to)
    folder = checkpoints.folder(checkpoint)
    check_new_folder(to)
    source = checkpoints.source if is_adapter(folder) else str(folder)
    tokenizer = load_tokenizer(str(folder) if (folder / "tokenizer_config.json").exists() else checkpoints.source)
    model: Any = load_model(source, bf16=False)
    if is_adapter(folder):
        try:
            model = adapted(model, folder).merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise ConfigError(f"the adapter in {folder} can't be merged: {error}", "Take another checkpoint") from error
    # Plain `generate` ends an answer where the kit's own does.
    model.generation_config.eos_token_id = end_tokens(model, tokenizer)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    dtype = AutoConfig.from_pretrained(str(download_model(source))).dtype or torch.float32
    with replacing(to) as partial:
        model.to(dtype).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        copy_processor(model, partial)
        if checkpoints.run and is_run(partial):  # a run's own folder has its settings in the model's config.json
            config = json.loads((partial / "config.json").read_text())
            write_json(partial / "config.json", {k: v for k, v in config.items() if k not in checkpoints.run.about})
    return to
