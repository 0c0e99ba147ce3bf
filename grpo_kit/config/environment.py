"""The settings of agents: what a model that calls tools talks to while it trains, and for how long."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, PositiveInt

from grpo_kit.config.base import Settings, reward
from grpo_kit.errors import ConfigError

# The scores of a finished dialogue and their weights, where reward_funcs gives none.
ENVIRONMENT_REWARDS = {"replay": {"call": 1.0, "grounded": 1.0}, "user": {"goal": 1.0, "turns": 0.2, "grounded": 0.5}}
OTHERS = {"environment": 1.0}
ALONE = "offline=0"  # the judge beside an environment of another's, whose own reward is what is learnt from
SCORES = {*OTHERS}.union(*ENVIRONMENT_REWARDS.values())


def _checked(name: str | None) -> str | None:
    if name is None or re.fullmatch(r"replay|user|[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        return name
    raise ValueError("replay, user, or an environment by its import path, module:Class")


class EnvironmentConfig(Settings):
    """What answers the model's calls."""

    environment: Annotated[str | None, AfterValidator(_checked)] = reward(
        None,
        "Who answers the model's tool calls: replay (the trace's own results), user (a simulated user, whole "
        "dialogues), or module:Class; None: nobody.",
        "step",
        "scale",
        suggested=["replay", "user"],
    )
    max_tool_calling_iterations: PositiveInt = reward(
        12, "Most messages of the model in one dialogue with an environment.", le=1000
    )


def in_environment(environment: Any) -> dict[str, Any]:
    """The settings that hold in the environment where none are given: its rewards, and another's own samples."""
    if not environment:
        return {}
    if environment in ENVIRONMENT_REWARDS:
        return {"reward_funcs": dict(ENVIRONMENT_REWARDS[environment])}
    return {"reward_funcs": dict(OTHERS), "judge": ALONE, "data": str(environment)}


def check_environment(
    environment: str | None, reward_funcs: Mapping[Any, float], max_staleness: int, filter_difficulty: bool
) -> None:
    """Raises ConfigError for settings that don't go with the environment, or with none."""
    known = in_environment(environment).get("reward_funcs", {})
    if other := next((name for name in reward_funcs if name in SCORES and name not in known), None):
        has = f"environment={environment} has {', '.join(known)}" if known else "there is no environment"
        raise ConfigError(f"reward_funcs={other} is a score of another environment: {has}", "Leave it out")
    if environment and max_staleness:
        what = f"max_staleness={max_staleness} does not work with environment={environment}, whose dialogues are "
        raise ConfigError(f"{what}judged once they have ended", "Use max_staleness=0")
    if environment and filter_difficulty:
        what = f"filter_difficulty does not work with environment={environment}: it measures single answers"
        raise ConfigError(what, "Leave one out")
