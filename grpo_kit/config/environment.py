"""The settings of agents: what a model that calls tools talks to while it trains, and for how long."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PositiveInt

from grpo_kit.config.base import Settings, reward
from grpo_kit.errors import ConfigError

# The scores of a finished dialogue and their weights, where reward_funcs gives none.
ENVIRONMENT_REWARDS = {"replay": {"call": 1.0, "grounded": 1.0}, "user": {"goal": 1.0, "turns": 0.2, "grounded": 0.5}}
OTHERS = {"environment": 1.0}
ALONE = "offline=0"  # the judge beside an environment of another's, whose own reward is what is learnt from
SCORES = {*OTHERS}.union(*ENVIRONMENT_REWARDS.values())
RULES = "rules"
Speaker = Literal["rules", "gemini", "openai", "anthropic"]  # the others are those of CLOUD in config/judge.py
Replies = Literal["all", "last"]


def _checked(name: str | None) -> str | None:
    if name is None or re.fullmatch(r"replay|user|[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        return name
    raise ValueError("replay, user, or an environment by its import path, module:Class")


Environment = Annotated[str | None, AfterValidator(_checked)]


class EnvironmentConfig(Settings):
    """What answers the model's calls."""

    environment: Environment = reward(
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
    simulated_user: Speaker = reward(
        RULES, "Who speaks as the simulated user: rules, or a model that is asked as a judge is.", "step", "scale"
    )
    simulated_user_model: str | None = reward(
        None, "The model that speaks as the user; None: the one that a judge of that name asks.", "step", "scale"
    )
    judge_replies: Replies = reward(
        "all", "Which replies of a dialogue with a user are judged: all (their mean) or the last.", "step", "scale"
    )


def in_environment(environment: Any) -> dict[str, Any]:
    """The settings that hold in the environment where none are given: its rewards, and another's own samples."""
    if not environment:
        return {}
    if environment in ENVIRONMENT_REWARDS:
        return {"reward_funcs": dict(ENVIRONMENT_REWARDS[environment])}
    return {"reward_funcs": dict(OTHERS), "judge": ALONE, "data": str(environment)}


def as_user(config: Any) -> Any:
    """The settings by which the simulated user's model is asked: the judge's, but for the model."""
    model = config.simulated_user_model
    return config.model_copy(update={"judge_model": f"{config.simulated_user}={model}"}) if model else config


def spoken_in(evaluation: Any, trained: Any) -> dict[str, Any]:
    """What an evaluation leaves open of its environment, and of who speaks in it, as the run was `trained`."""
    environment = evaluation.environment or trained.environment
    names = ["simulated_user", "judge_replies"] if environment == "user" else []
    names += ["simulated_user_model"] if names and evaluation.simulated_user is None else []
    open_names = [name for name in names if getattr(evaluation, name) is None]
    return {"environment": environment} | {name: getattr(trained, name) for name in open_names}


def check_user(config: Any) -> None:
    """Raises ConfigError for a simulated user that there is not, or whose model is not named."""
    user, model = config.simulated_user, config.simulated_user_model
    for name, usual in {"simulated_user": RULES, "simulated_user_model": None, "judge_replies": "all"}.items():
        if config.environment != "user" and (value := getattr(config, name)) not in (usual, None):
            raise ConfigError(f"{name}={value} is for environment=user", "Set that too, or leave it out")
    if user in (RULES, None):
        if model:
            what = f"simulated_user_model={model} is not asked: simulated_user=rules speaks"
            raise ConfigError(what, "Set simulated_user too: gemini, openai or anthropic")
        return
    try:
        as_user(config).model_of(user)
    except ConfigError:
        raise ConfigError(f"simulated_user={user} needs the name of a model", "Give simulated_user_model") from None


def engines(config: Any) -> dict[str, str]:
    """All of CLOUD that a run asks, each with the setting that says so."""
    user = config.simulated_user
    named = {} if user == RULES else {user: f"simulated_user={user}"}
    return named | {name: f"judge={name}" for name in config.cloud_judges}


def check_environment(config: Any) -> None:
    """Raises ConfigError for settings that don't go with the environment, or with none."""
    check_user(config)
    environment = config.environment
    known = in_environment(environment).get("reward_funcs", {})
    if other := next((name for name in config.reward_funcs if name in SCORES and name not in known), None):
        has = f"environment={environment} has {', '.join(known)}" if known else "there is no environment"
        raise ConfigError(f"reward_funcs={other} is a score of another environment: {has}", "Leave it out")
    if environment and config.max_staleness:
        what = f"max_staleness={config.max_staleness} does not work with environment={environment}"
        raise ConfigError(f"{what}: dialogues are judged once they have ended", "Use max_staleness=0")
    if environment and config.filter_difficulty:
        what = f"filter_difficulty does not work with environment={environment}: it measures single answers"
        raise ConfigError(what, "Leave one out")
