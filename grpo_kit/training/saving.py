# pyright: basic
"""How a run's trainers save: checkpoints that are whole or absent, adapters that name their base."""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from grpo_kit.models.load import copy_processor, loading
from grpo_kit.runs.checkpoints import write_manifest
from grpo_kit.training.progress import RunProgress
from grpo_kit.utils.files import write_json

REFERENCE = "ref"  # TRL's copy of an adapter that is trained on, for the KL penalty


class SavesWhole:
    """Mixed into one of TRL's trainers, whose args and model it uses; `progress` is the run's."""

    _prefix = "checkpoint-"  # of the names of its checkpoints, before their step
    args: Any
    state: Any
    model: Any
    accelerator: Any
    is_world_process_zero: Any

    def __init__(self, *args, progress: RunProgress, **kwargs):
        with loading(progress.config.model_name):
            super().__init__(*args, **kwargs)
        self._progress, self._config, self._run = progress, progress.config, progress.run
        if self._config.load_in_4bit:  # TRL makes the adapter bfloat16, in which small updates are lost
            for weight in self.model.parameters():
                weight.data = weight.data.float() if weight.requires_grad else weight.data
        progress.agree = lambda value: broadcast_object_list([value])[0]

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)  # pyright: ignore[reportAttributeAccessIssue]
        folder = Path(output_dir or self._run.path)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        shutil.rmtree(folder / REFERENCE, ignore_errors=True)  # with it there, Trainer would resume without the other
        adapter = folder / "adapter_config.json"
        if not adapter.exists():
            copy_processor(self.model, folder)
        else:  # a name that holds on other machines, where a shipped model lies elsewhere
            write_json(adapter, {**json.loads(adapter.read_text()), "base_model_name_or_path": self._config.model_name})

    def _save_checkpoint(self, model, trial) -> None:
        """A checkpoint is written aside and moved into place whole, so that a kill leaves it complete or absent."""
        run, step = self._run, self.state.global_step
        super()._save_checkpoint(model, trial)  # pyright: ignore[reportAttributeAccessIssue]
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            partial, name = Path(self._get_output_dir()), f"{self._prefix}{step}"
            write_manifest(partial / f"checkpoint-{step}")
            shutil.rmtree(run.path / name, ignore_errors=True)
            (partial / f"checkpoint-{step}").rename(run.path / name)
            for old in self._superseded():
                old.rename(partial / old.name)
            shutil.rmtree(partial)
        self.accelerator.wait_for_everyone()

    def _superseded(self) -> list[Path]:
        """The checkpoints that are not kept beside the one that was just saved."""
        limit = self.args.save_total_limit
        return [Path(old) for old in self._run.checkpoints[:-limit]] if limit else []

    def _get_output_dir(self, trial=None) -> str:
        return str(self._run.path / ".partial")

    def create_model_card(self, *args, **kwargs) -> None:
        """No model card: config.json says how the model was made, and TRL's card would ask the hub."""
