"""Environments of others: a class as TRL's `environment_factory` takes it, by its import path.

It has `reset(**row)`, which may return text to add to the prompt; its other public methods are the tools;
`get_reward()` is what the dialogue is worth.
"""

import asyncio
import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        self._made = _made(path)
        self._tools = {name: getattr(self._made, name) for name in tool_names(type(self._made))}

    @property
    def environment(self) -> Any:
        return self._made

    def begin(self) -> str:
        with _its_own(self._made, "reset"):
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
        """`environment` is its own reward; it is a success from 0.5 on. Raises ConfigError where that is no number."""
        with _its_own(self._made, "get_reward"):
            reward = _waited(self._made.get_reward()) if hasattr(self._made, "get_reward") else None
            if reward is not None and not math.isfinite(reward := float(reward)):
                raise ValueError(f"it returned {reward}")
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
    except Exception as error:  # whatever a module does while it is imported
        raise _fault(f"environment={path} can't be imported:", error) from error
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

    made, schemas = _made(path), []
    for name in tool_names(type(made)):
        try:
            schemas.append(get_json_schema(getattr(made, name)))
        except Exception as error:  # of transformers' own kinds
            fix = "Give it type hints, and a docstring with Args"
            raise ConfigError(f"environment={path}: the tool {name} can't be described: {error}", fix) from None
    return schemas


def _made(path: str) -> Any:
    kind = environment_class(path)
    with _its_own(kind, "__init__"):
        return kind()


@contextmanager
def _its_own(made: Any, method: str) -> Iterator[None]:
    """Turns what a method raises that the model has no part in into a ConfigError."""
    try:
        yield
    except Exception as error:  # whatever it raises
        name = (made if inspect.isclass(made) else type(made)).__name__
        raise _fault(f"the environment's {name}.{method} failed:", error) from error


def _fault(what: str, error: Exception) -> ConfigError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    file, line = place.filename, place.lineno
    if isinstance(error, SyntaxError):
        file, line = error.filename or "", error.lineno
    where = f" ({os.path.relpath(file)}:{line})" if os.path.exists(file) and file != __file__ else ""
    said = traceback.format_exception_only(error)[-1].strip()
    return ConfigError(f"{what} {said}{where}", "Correct that")


def _waited(value: Any) -> Any:
    """What an async method gives, or the value."""
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Any) -> Any:
    return await value
