"""Where training starts from, if not from a plain model: a run of the kit, or the folder of an adapter.

An adapter is copied into the new run's folder, so that the run can be resumed and evaluated whatever becomes of the
one that it goes on from. A run that trained all weights is a model folder like any other.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.epochs import in_steps
from grpo_kit.errors import ConfigError
from grpo_kit.models.files import read_object
from grpo_kit.runs.checkpoints import newest_whole
from grpo_kit.runs.directory import RUNS_DIR, START, RunDirectory, find_run, is_run
from grpo_kit.utils.files import replacing

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
LORA = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}  # settings, as PEFT calls them


def started(config: TrainConfig, runs_dir: str | Path) -> TrainConfig:
    """The settings with the run or adapter that model_name or adapter names taken apart: `adapter` is its name under
    `runs_dir` or its folder, model_name its base, and LoRA's settings are its own. Others are returned as they are.
    Where the run is there already and started from that, what it started from is taken, whatever became of it since.

    num_train_epochs become steps: see `in_steps`. Raises ConfigError for settings that contradict the adapter, for one
    that names no base, and for a run without weights.
    """
    config = in_steps(config)
    name, runs_dir = config.adapter or config.model_name, Path(runs_dir)
    if name in RECIPES and not config.adapter:  # the kit's own models, whatever runs are called
        return config
    if known := find_run(config.run_id, runs_dir):
        named = [_known_as(folder, runs_dir) for folder in (runs_dir / name, Path(name))]
        if resumed := as_it_started(config, known, named):
            return resumed
        whole, checkpoints = known.config.model_name, tuple(f"{each}/checkpoint-" for each in named)
        if (own := _known_as(Path(whole), runs_dir)) in named or own.startswith(checkpoints):
            return config.replace(model_name=whole)  # of a run that has trained on since, too
    if (folder := _folder_of(name, runs_dir)) is None:
        if config.adapter or name.startswith(f"{RUNS_DIR}/"):
            what = f"{name} is neither a run under {runs_dir} nor a folder with an adapter_config.json"
            raise ConfigError(what, "Name a run or such a folder")
        return config
    weights = weights_in(folder)
    if not (about := read_object(weights / "adapter_config.json")):
        if config.adapter:
            raise ConfigError(f"adapter={name!r} is a whole model, not an adapter", f"Set model_name={name!r}")
        return config.replace(model_name=str(weights.absolute()))
    return from_adapter(config, _known_as(folder, runs_dir), about.get("base_model_name_or_path"), about)


def as_it_started(config: TrainConfig, known: RunDirectory, named: Sequence[str]) -> TrainConfig | None:
    """The settings as a `known` run was started with, where it goes on from an adapter of one of these names: a copy
    lies in its folder. None elsewhere. Raises ConfigError where they contradict the adapter."""
    own = known.config
    if not own.adapter or own.adapter not in named or START not in known.storage.names():
        return None
    about = {theirs: getattr(own, setting) for setting, theirs in LORA.items()}
    return from_adapter(config, own.adapter, own.model_name, about)


def from_adapter(config: TrainConfig, name: str, base: str | None, about: dict[str, Any]) -> TrainConfig:
    """The settings for going on with an adapter; `about` is what its adapter_config.json says, `base` what it was made
    for, in whose place model_name is taken where it is given beside it. Raises ConfigError where they contradict the
    adapter, or no base is known."""
    if config.adapter and "model_name" in config.given:
        base = config.model_name
    if not base:
        fix = "Give it as adapter, and its base as model_name"
        raise ConfigError(f"the adapter {name} names no base model", fix)
    if about.get("peft_type", "LORA") != "LORA":
        fix = "Merge it into its base, and train from that model"
        raise ConfigError(
            f"{name} is an adapter of kind {about['peft_type']}, and only LoRA adapters can be trained", fix
        )
    if not config.use_lora:
        fix = "Leave use_lora out, or name the whole model that kit.merge makes of it"
        raise ConfigError(f"use_lora=False, and {name} is an adapter", fix)
    own = {setting: about[theirs] for setting, theirs in LORA.items() if theirs in about}
    differing = [f"{n}={config.given[n]} (it has {own[n]})" for n in own if config.given.get(n, own[n]) != own[n]]
    if differing:
        raise ConfigError(f"the adapter {name} was made with other settings: {', '.join(differing)}", "Leave them out")
    return config.replace(adapter=name, model_name=base, **own)


def weights_in(folder: Path) -> Path:
    """The folder that holds the weights of a run, or of one checkpoint or model: of a run that is not complete, its
    newest whole checkpoint. Raises ConfigError for a run that has none."""
    if not is_run(folder) or _is_checkpoint(folder):
        return folder
    run = RunDirectory(folder)
    if run.status["state"] == "complete":
        return folder
    whole = newest_whole(run)[0] or newest_whole(run, run.sft_checkpoints)[0]
    if whole is None:
        raise ConfigError(f"run {run.id} has no checkpoint to start from", "Train it first")
    return whole


def keep_start(run: RunDirectory, adapter: str, runs_dir: str | Path) -> None:
    """Copies the adapter that a new run goes on from into its folder."""
    if (run.path / START).exists():
        return
    weights = adapter_weights(adapter, runs_dir)
    with replacing(run.path / START) as partial:
        partial.mkdir()
        for name in ADAPTER_FILES:
            if (weights / name).exists():
                shutil.copyfile(weights / name, partial / name)


def _folder_of(name: str, runs_dir: Path) -> Path | None:
    """The folder of a run, of a checkpoint in one, or of an adapter; None where `name` is another model's."""
    for folder in (runs_dir / name, Path(name)):
        if is_run(folder) or (folder / "adapter_config.json").is_file():
            return folder
        if _is_checkpoint(folder) and folder.is_dir():
            return folder
    return None


def _known_as(folder: Path, runs_dir: Path) -> str:
    """What settings call a folder, there or not: its name under `runs_dir`, or its whole path."""
    folder, inside = folder.resolve(), runs_dir.resolve()
    return str(folder.relative_to(inside) if folder.is_relative_to(inside) else folder)


def _is_checkpoint(folder: Path) -> bool:
    return folder.name.startswith("checkpoint-") and is_run(folder.parent)


def adapter_weights(adapter: str, runs_dir: str | Path) -> Path:
    """The folder of weights that `adapter` names, which `started` gave. Raises ConfigError as weights_in does."""
    return weights_in(_folder_of(adapter, Path(runs_dir)) or Path(adapter))
