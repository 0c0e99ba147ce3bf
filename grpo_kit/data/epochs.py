"""num_train_epochs, in steps."""

import math

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import data_folder
from grpo_kit.data.samples import numbered_lines
from grpo_kit.errors import ConfigError


def in_steps(config: TrainConfig) -> TrainConfig:
    """The settings with the max_steps that num_train_epochs come to: a step takes `prompts_per_step` prompts that the
    epoch has not had yet, and num_iterations steps share them. Other settings are returned as they are.

    Raises ConfigError for max_steps beside it, and in an environment, which makes dialogues of the data; BadTrace where
    the data is not here.
    """
    if not (epochs := config.num_train_epochs):
        return config
    if "max_steps" in config.given:
        raise ConfigError(f"num_train_epochs={epochs:g} and max_steps={config.max_steps} contradict", "Leave one out")
    if config.environment:
        what = f"num_train_epochs counts samples, and environment={config.environment} makes dialogues of them"
        raise ConfigError(what, "Use max_steps")
    samples = sum(1 for _ in numbered_lines(data_folder(config.data) / "train.jsonl"))
    steps = math.ceil(epochs * samples / config.prompts_per_step) * config.num_iterations
    return config.replace(max_steps=max(1, steps), num_train_epochs=None)
