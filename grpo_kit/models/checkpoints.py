"""The checkpoints to evaluate, merge or talk to: a run's, or the folder of one model, with their base model."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.cache import CACHE_FILE
from grpo_kit.models.load import device_can_bf16, download_model, load_model
from grpo_kit.models.vllm_engine import VllmModel, vllm_model
from grpo_kit.runs.directory import START, RunDirectory, is_run

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BASE = "base"  # the name of the model that the others are compared with


@dataclass(frozen=True)
class Checkpoints:
    """A base model and the folders of what was trained from it, oldest first."""

    run: RunDirectory | None  # None: not known
    home: Path  # the folder that gets eval/
    cache: Path
    base: str | None
    folders: list[Path]
    start: Path | None = None  # an adapter of the base, with which the run started: together they are the base model

    @property
    def settings(self) -> TrainConfig:
        """The run's settings; without a run, those that would train the model."""
        return self.run.config if self.run else TrainConfig(model_name=self.base or str(self.folders[0]))

    @property
    def source(self) -> str:
        """The base model, or without one the first folder. Raises ConfigError for a base that can't be had here."""
        if self.base is None:
            return str(self.folders[0])
        try:
            download_model(self.base, weights=False)
        except ConfigError as error:
            what = f"{self.folders[-1]} was trained from {self.base}, which can't be loaded here: {error.problem.what}"
            here = "Give the name or folder that it has here: base_model (--base-model)"
            raise ConfigError(what, f"{here}. Or: {error.problem.fix}" if error.problem.fix else here) from error
        return self.base

    @property
    def names(self) -> list[str]:
        """As `models` gives them."""
        return [*[BASE] * (self.base is not None), *map(_name, self.folders)]

    def folder(self, checkpoint: str | int | None) -> Path:
        """The checkpoint of that name or step; None: the newest. Raises RunError if it does not exist."""
        if checkpoint is None:
            return self.folders[-1]
        name = checkpoint_name(checkpoint)
        for folder in self.folders:
            if folder.resolve().name == name:
                return folder
        there = ", ".join(folder.name for folder in self.folders)
        raise RunError(f"there is no {name} in {self.home}", f"Choose one of: {there}")

    def models(
        self, longest: int | None = None, note: Callable[[str], None] = lambda text: None
    ) -> Iterator[tuple[str, str, Any]]:
        """Name, source and weights of each in turn. The base is loaded once: adapters are put on and taken off.

        With `longest`, the tokens of the longest prompt with its answer, they are vLLM's; where it can't take the first
        of them, or an adapter, `note` is told and all are transformers'. Raises ConfigError where one can't be loaded.
        """
        bf16 = device_can_bf16() if self.settings.bf16 == "auto" else self.settings.bf16
        if longest is not None:
            by_vllm = self._models_of_vllm(bf16, longest)
            try:
                first = next(by_vllm)
            except ConfigError as error:
                note(f"transformers generates: {error.problem.what}")
            else:
                yield from chain([first], by_vllm)
                return
        base: Any = None
        if self.base is not None:
            base = load_model(self.base, bf16)
            if not self.start:
                yield BASE, self.base, base
        started = [(BASE, self.start)] if self.start else []
        for name, folder in [*started, *((_name(folder), folder) for folder in self.folders)]:
            if is_adapter(folder):
                model = adapted(base, folder)
                yield name, str(folder), model
                base = model.unload()
            else:
                base = None  # makes room
                yield name, str(folder), load_model(str(folder), bf16)

    def _models_of_vllm(self, bf16: bool, longest: int) -> Iterator[tuple[str, str, VllmModel]]:
        """One engine has the base and all adapters; each whole model has its own, one after the other."""
        adapters = [folder for folder in self.folders if is_adapter(folder)]
        if self.base is not None:
            with vllm_model(self.base, bf16, longest, [*adapters, *filter(None, [self.start])]) as base:
                if self.start:
                    yield BASE, str(self.start), base.with_adapter(self.start)
                else:
                    yield BASE, self.base, base
                for folder in adapters:
                    yield _name(folder), str(folder), base.with_adapter(folder)
        for folder in self.folders:
            if folder not in adapters:
                with vllm_model(str(folder), bf16, longest) as model:
                    yield _name(folder), str(folder), model


def checkpoints_of(target: RunDirectory | str | Path, base_model: str | None, runs_dir: Path) -> Checkpoints:
    """The checkpoints of `target`: a run, its name or its folder, or the folder of one model. Their base is what the
    run started from, its warm start not included, unless `base_model` names another. Raises ConfigError for a folder
    that holds no model, RunError for a run that does not exist, is on Modal or has no checkpoint yet."""
    if isinstance(target, RunDirectory):
        run = target
    elif not is_run(runs_dir / target) and not is_run(Path(target)) and Path(target).is_dir():
        return _lone_model(Path(target), base_model)
    else:
        run = RunDirectory(target, runs_dir)
    home, found = run.path, [*run.sft_checkpoints, *run.checkpoints]
    folders = [run.path / checkpoint.name for checkpoint in found]
    if not folders and holds_model(home):  # a copy of a run may lack the checkpoints
        folders = [home]
    if not folders:
        status = run.status
        where = f"{status['state']}, step {status['step']} of {status['max_steps']}"
        raise RunError(f"run {run.id} has no checkpoint yet ({where})", "Train it first")
    base = base_model or run.config.model_name
    return Checkpoints(run, home, home / CACHE_FILE, base, folders, None if base_model else _start_of(run))


def _start_of(run: RunDirectory) -> Path | None:
    return run.path / START if run.config.adapter else None


def _lone_model(folder: Path, base_model: str | None) -> Checkpoints:
    if not holds_model(folder):
        fix = "It should hold adapter_config.json and its weights, or config.json and *.safetensors"
        raise ConfigError(f"no model in {folder}", fix)
    run = RunDirectory(folder.resolve().parent) if is_run(folder.resolve().parent) else None
    base = base_model or (run.config.model_name if run else None)
    if base is None and is_adapter(folder):
        base = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
        if not base:
            raise ConfigError(f"the adapter in {folder} names no base model", "Give base_model (--base-model)")
    start = _start_of(run) if run and not base_model else None
    return Checkpoints(run, folder, folder / "eval" / CACHE_FILE, base, [folder], start)


def checkpoint_name(checkpoint: str | int | None) -> str | None:
    """The name of a checkpoint that may be given by its step, as a number or as a shell types it."""
    return f"checkpoint-{checkpoint}" if str(checkpoint).isdecimal() else checkpoint  # pyright: ignore[reportReturnType]


def _name(folder: Path) -> str:
    name = folder.resolve().name
    return name if name != BASE else "trained"


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def holds_model(folder: Path) -> bool:
    has_config = is_adapter(folder) or (folder / "config.json").exists()
    return has_config and any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*model*.bin"))


def adapted(base: "PreTrainedModel", folder: Path, is_trainable: bool = False) -> "PeftModel":
    """`base` with the adapter in `folder`, frozen unless `is_trainable`. Raises ConfigError for an adapter that can't
    be read or does not fit."""
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=is_trainable)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the adapter in {folder} can't be read, or does not fit {base.name_or_path}: {str(error).splitlines()[0]}",
            "Use another checkpoint, or give the model it was trained from: base_model (--base-model)",
        ) from error
    # Where it lies here: PEFT looks for it when it saves, and would ask the hub for the kit's own names.
    model.peft_config["default"].base_model_name_or_path = base.name_or_path
    return model
