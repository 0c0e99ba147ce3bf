"""What can be told of a run's model before one is made: what it starts from, its files, room for its thoughts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import KitError, Problem
from grpo_kit.models.load import SMOLLM2, check_model, model_problem, thinks
from grpo_kit.models.start import started

LONG_ENOUGH = 512  # tokens of a completion that is thought and answer


def thinking_problems(config: TrainConfig) -> Iterator[Problem]:
    if thinks(config) and config.max_completion_length < LONG_ENOUGH:
        what = f"The model thinks first, and max_completion_length={config.max_completion_length} may cut the thought, "
        yield Problem(f"{what}which leaves no answer and scores 0", f"Use max_completion_length={2 * LONG_ENOUGH}")


def model_problems(config: TrainConfig, runs_dir: Path, on_modal: bool) -> Iterator[Problem]:
    """Where what it starts from can't be taken apart, that alone: the rest would be about a folder that is no model. A
    folder of this machine is nothing that a container on Modal sees."""
    name = config.model_name
    try:
        if on_modal and Path(name).is_dir():
            return
        if not on_modal:
            started(config, runs_dir)
        check_model(name, config)
    except KitError as error:
        yield replace(error.problem, where="model")
        return
    if name == SMOLLM2 and not on_modal and (problem := model_problem(name)):
        yield replace(problem, where="model")
    elif not on_modal and name not in ("tiny", SMOLLM2) and "/" not in name and not Path(name).is_dir():
        what = f"There is no folder {name}, and models on the hub are called owner/name"
        yield Problem(what, "Set model_name to one of them", "model")
