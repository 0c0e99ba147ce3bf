"""All settings in the order to show them, with defaults in words and values as flags take them."""

import json
from typing import Any

from pydantic.fields import FieldInfo

from grpo_kit.config.base import Settings
from grpo_kit.config.environment import EnvironmentConfig
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.modal import ModalConfig
from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.train import TrainConfig


def fields_of(model: type[Settings]) -> dict[str, FieldInfo]:
    """A model's settings in the order to show them: its own first, then those of an environment, Modal's, and those of
    how a judge is asked."""
    mixed_in = (EnvironmentConfig, ModalConfig, JudgeConfig)
    places = {name: place for place, config in enumerate(mixed_in, 1) for name in config.model_fields}
    return dict(sorted(model.model_fields.items(), key=lambda field: places.get(field[0], 0)))


def defaults_of(model: type[Settings], name: str) -> str:
    """A setting's default in words, with what recipes put in its place: "40; tiny: 60"."""
    field = model.model_fields[name]
    plain = "none" if field.default in (None, [], {}) else str(field.default).strip("[]")
    plain = plain.lower() if field.annotation is bool else plain
    recipes = RECIPES.items() if model is TrainConfig else ()
    return "; ".join([plain, *(f"{model_name}: {recipe[name]}" for model_name, recipe in recipes if name in recipe)])


def as_typed(value: Any) -> str:
    """A setting's value as a flag takes it."""
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        are_weights = all(isinstance(each, float) for each in value.values())
        return ",".join(f"{name}={each}" for name, each in value.items()) if are_weights else json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
