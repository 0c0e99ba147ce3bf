"""Where a run on Modal starts from, if from another run: that lies on the runs' volume, under the same name."""

import re
from pathlib import Path

from grpo_kit.backends.modal.client import RUNS_VOLUME
from grpo_kit.backends.modal.storage import known_on_modal
from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.epochs import in_steps
from grpo_kit.errors import ConfigError
from grpo_kit.models.start import as_it_started, from_adapter
from grpo_kit.runs.directory import RUNS_DIR, is_run


def started_on_modal(config: TrainConfig) -> TrainConfig:
    """The settings with the run that model_name or adapter names taken apart, as `models.start.started` does it here.

    Raises ConfigError for a run that is not on the volume or has no weights yet, and for an adapter of this machine.
    """
    config = in_steps(config)
    asked = config.adapter or config.model_name
    name = asked.removeprefix("runs/")
    run_id, _, checkpoint = name.partition("/")
    may_be_run = re.fullmatch(r"[^/]+(/checkpoint-(sft-)?\d+)?", name) and name not in RECIPES
    if may_be_run and (known := known_on_modal(config.run_id)) and (resumed := as_it_started(config, known, [name])):
        return resumed
    if may_be_run and (run := known_on_modal(run_id)):
        there = [path.name for path in [*run.sft_checkpoints, *run.checkpoints]]
        if checkpoint not in there if checkpoint else not there:
            told = f"has no {checkpoint}, but {', '.join(there) or 'none'}" if checkpoint else "has no checkpoint"
            raise ConfigError(
                f"run {run_id} on the volume {RUNS_VOLUME} {told} to start from", "Name a run that has one"
            )
        own = run.config
        if not own.use_lora and not config.adapter:
            return config.replace(model_name=name)
        about = {"r": own.lora_r, "lora_alpha": own.lora_alpha, "lora_dropout": own.lora_dropout}
        return from_adapter(config, name, own.model_name, about)
    is_here = any(is_run(each) or (each / "adapter_config.json").is_file() for each in (RUNS_DIR / name, Path(asked)))
    if config.adapter or name != asked or (is_here and name not in RECIPES):
        what = f"{asked} is not a run on the volume {RUNS_VOLUME}, and containers see only that volume"
        put = f"modal volume put {RUNS_VOLUME} runs/{run_id} runs/{run_id}"
        raise ConfigError(what, f"Train it there, or upload the run's folder: {put}")
    return config
