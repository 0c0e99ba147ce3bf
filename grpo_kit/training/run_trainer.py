# pyright: basic
"""What both of a run's trainers, the warm start's and GRPO's, have in common: steps whose gradient is no number are
skipped, so that they do not spoil the weights; checkpoints are whole or absent, and adapters name their base."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from grpo_kit.errors import RunError
from grpo_kit.models.load import copy_processor, loading
from grpo_kit.runs.checkpoints import write_manifest
from grpo_kit.training.progress import RunProgress
from grpo_kit.utils.files import write_json

MOST_SKIPPED = 3  # steps in a row
REFERENCE = "ref"  # TRL's copy of an adapter that is trained on, for the KL penalty


class RunTrainer:
    """Mixed into one of TRL's trainers, whose args and model it uses; `progress` is the run's."""

    _skipped = 0  # steps in a row
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

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Trainer's, asked before each update, which would make every weight NaN; verl skips the step too. Raises
        RunError where MOST_SKIPPED steps in a row have to be skipped."""
        norm = super()._get_grad_norm(model, grad_norm)  # pyright: ignore[reportAttributeAccessIssue]
        if math.isfinite(float(norm)):
            self._skipped = 0
            return norm
        model.zero_grad()  # to None, which optimisers pass over
        self._skipped += 1
        step = self.state.global_step + 1
        if self._skipped == MOST_SKIPPED:
            what = f"the gradients of steps {step + 1 - MOST_SKIPPED} to {step} are not numbers, so nothing is learnt"
            raise RunError(what, "Try a smaller learning_rate, or bf16=false. Its checkpoints are sound")
        self._progress.say(f"Step {step} is skipped: its gradient is not a number")
        return norm

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
