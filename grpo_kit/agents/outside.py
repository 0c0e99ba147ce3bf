"""Environments of others: a class as TRL's `environment_factory` takes it, by its import path.

It has `reset(**row)`, which may return text to add to the prompt; its other public methods are the tools;
`get_reward()` is what the dialogue is worth.
"""

import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from grpo_kit.agents.world import GOOD, ToolError, World
from grpo_kit.data.samples import Message, Sample
from grpo_kit.errors import ConfigError

OWN = ("reset", "get_reward")  # methods that are no tools


class Outside(World):
    """A dialogue in an environment of another's. Its tools may hang, so that each has a time limit."""

    may_hang = True

    def __init__(self, sample: Sample, path: str):
        super().__init__(sample)
        self._made = environment_class(path)()
        self._tools = {name: getattr(self._made, name) for name in tool_names(type(self._made))}

    @property
    def environment(self) -> Any:
        return self._made

    def begin(self) -> str:
        observation = _waited(self._made.reset(**self.sample.to_dict()))
        if observation is not None and not isinstance(observation, str):
            what = f"{type(self._made).__name__}.reset returned {type(observation).__name__}"
            raise ConfigError(what, "It should return text, or None")
        return observation or ""

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        if name not in self._tools:
            raise ToolError(f"there is no tool {name}")
        return str(_waited(self._tools[name](**arguments)))

    def scores(self, told: Sequence[Message], ended: str) -> dict[str, float | None]:
        """`environment` is its own reward; it is a success from 0.5 on."""
        reward = _waited(self._made.get_reward()) if hasattr(self._made, "get_reward") else None
        return {"environment": reward, "success": float(reward is not None and reward >= GOOD)}


@cache
def environment_class(path: str) -> type:
    """The class at "module:Class", of a package or of the folder that this runs in. Raises ConfigError where there is
    none, or it is no environment."""
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        fix = "Give module:Class as Python imports it, from here or from a package that is installed"
        raise ConfigError(f"environment={path} can't be imported: {error}", fix) from None
    if not callable(getattr(found, "reset", None)):
        what = f"environment={path} is no environment of TRL's: it has no `reset`"
        raise ConfigError(what, "Give it reset(self, **row), tools as methods, and get_reward(self)")
    return found


def tool_names(kind: type) -> list[str]:
    members = inspect.getmembers(kind, predicate=inspect.isfunction)
    return [name for name, _ in members if name not in OWN and not name.startswith("_")]


@cache
def tool_schemas(path: str) -> list[dict[str, Any]]:
    """Its tools as JSON schemas. Raises ConfigError for a tool without the docstring that transformers asks for."""
    from transformers.utils.chat_template_utils import get_json_schema

    kind, schemas = environment_class(path), []
    for name in tool_names(kind):
        try:
            schemas.append(get_json_schema(getattr(kind(), name)))
        except Exception as error:  # of transformers' own kinds
            fix = "Give it type hints, and a docstring with Args"
            raise ConfigError(f"environment={path}: the tool {name} can't be described: {error}", fix) from None
    return schemas


def _waited(value: Any) -> Any:
    """What an async method gives, or the value."""
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Any) -> Any:
    return await value
