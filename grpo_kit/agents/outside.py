"""Environments of others, by their import path: those of `verifiers`, and a class as TRL's `environment_factory` takes;
and the threads on which they live and wait side by side.

Such a class has `reset(**row)`, which may return text to add to the prompt; its other public methods are the tools;
`get_reward()` is what the dialogue is worth.
"""

import asyncio
import inspect
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, redirect_stdout
from functools import partial
from typing import Any

from grpo_kit.agents import tasksets, verifiers
from grpo_kit.agents.verifiers import Led
from grpo_kit.agents.world import OWN_SECONDS, ToolError, World, worth
from grpo_kit.data.environments import fault, imported, of_verifiers
from grpo_kit.data.samples import Message, Sample, messages_of
from grpo_kit.errors import ConfigError
from grpo_kit.models.prompts import Prompt

OWN = ("reset", "get_reward")  # methods that are no tools
AT_ONCE = 32  # so many servers of tools start on 2 busy cores within the time that one may take
TOOL_SECONDS = 30.0  # a tool that has not answered by then counts as one that hangs


def world_outside(sample: Sample, path: str) -> World:
    """The sample's dialogue in the environment at the path. Raises ConfigError where there is none."""
    if (found := of_verifiers(path)) is None:
        return Outside(sample, path)
    return Led(sample, path, tasksets.lead if hasattr(found, "task_type") else verifiers.lead)


_tried = dict[str, list[dict[str, Any]]]()


def try_out(path: str, sample: Sample) -> list[dict[str, Any]]:
    """The tools that the environment at the path has. It begins a dialogue about the sample, once in this process, so
    that what fails there does so before anything is spent. Raises ConfigError."""
    if path not in _tried:
        with redirect_stdout(sys.stderr):
            world = world_outside(sample.replace(tools=[]), path)
            world.begin()
        _tried[path] = world.tools
    return _tried[path]


class Outside(World):
    """A dialogue in an environment of another's, which lives on a thread of its own: it may hang, and may have what
    belongs to one thread."""

    waits = True

    def __init__(self, sample: Sample, path: str):
        super().__init__(sample)
        self._kind, self._do = environment_class(path), Apart()
        self._name = self._kind.__name__

    @property
    def environment(self) -> Any:
        return self._made

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self.sample.tools or _schemas(self._name, self._tools)

    def begin(self) -> Prompt:
        self._made = self._own(self._kind, "__init__")
        methods = [name for name, _ in inspect.getmembers(self._kind, inspect.isfunction) if not name.startswith("_")]
        self._tools = {name: getattr(self._made, name) for name in methods if name not in OWN}
        self.caveat = "" if self._tools else "has no tools: the model answers once"
        more = self._own(partial(self._made.reset, **self.sample.to_dict()), "reset")
        if more is not None and not isinstance(more, str):
            what = f"the environment's {self._name}.reset returned {type(more).__name__}"
            raise ConfigError(what, "It should return text, or None")
        *before, last = messages_of(self.sample.prompt)
        return [*before, {**last, "content": last["content"] + more}] if more else self.sample.prompt

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        if name not in self._tools:
            raise ToolError(f"there is no tool {name}")
        try:
            return str(self._do(partial(self._tools[name], **arguments), TOOL_SECONDS, name))
        except Hung:
            self._do.close()
            self._do = Apart()  # the next call needs another thread
            raise

    def scores(self, told: Sequence[Message], ended: str) -> dict[str, float | None]:
        """`environment` is its own reward; it is a success from 0.5 on. Raises ConfigError where that is no number."""
        reward = self._own(self._made.get_reward, "get_reward") if hasattr(self._made, "get_reward") else None
        self._do.close()
        return worth(reward, f"the environment's {self._name}.get_reward")

    def _own(self, work: Callable[[], Any], method: str) -> Any:
        """What a method gives that the model has no part in. Raises ConfigError where it raises or hangs."""
        try:
            return self._do(work, OWN_SECONDS, "it")
        except Hung as error:
            raise ConfigError(f"the environment's {self._name}.{method} failed: {error}", "Correct that") from None
        except Exception as error:  # whatever it raises
            raise fault(f"the environment's {self._name}.{method} failed:", error) from None


class Hung(TimeoutError):
    """What was asked did not answer in time."""


class Apart:
    """A thread, with an event loop, on which another's code runs."""

    def __init__(self):
        self._asked = queue.SimpleQueue[tuple[Callable[[], Any], Future] | None]()
        threading.Thread(target=self._work, daemon=True).start()  # one that hangs must not keep the process from ending

    def _work(self) -> None:
        with closing(asyncio.Runner()) as runner:  # which has a loop once it runs something
            while asked := self._asked.get():
                work, answer = asked
                try:
                    value = work()
                    answer.set_result(runner.run(_awaited(value)) if inspect.isawaitable(value) else value)
                except BaseException as error:  # whatever it raises; sys.exit is to end neither run nor thread
                    is_usual, place = isinstance(error, Exception), error.__traceback__
                    answer.set_exception(error if is_usual else RuntimeError(repr(error)).with_traceback(place))

    def begin(self, work: Callable[[], Any]) -> Future:
        """What `work` will return, awaited, or raise, once all that was asked before has."""
        answer = Future[Any]()
        self._asked.put((work, answer))
        return answer

    def __call__(self, work: Callable[[], Any], seconds: float, name: str) -> Any:
        """What `work` returns, or raises. Raises Hung where that takes longer."""
        answer = self.begin(work)
        if not wait([answer], seconds).done:
            raise Hung(f"{name} did not answer within {seconds:g} s")
        return answer.result()

    def close(self) -> None:
        self._asked.put(None)


async def _awaited(value: Any) -> Any:
    return await value


def side_by_side(act: Callable[[Any], Any], each: Sequence[Any], waits: bool) -> list[Any]:
    """What `act` returns for each, in order, or the first error: at once where it `waits`, and what is printed then
    goes to stderr."""
    if not waits:
        return [*map(act, each)]
    threads = [Apart() for _ in each[:AT_ONCE]]
    with redirect_stdout(sys.stderr):
        answers = [threads[i % AT_ONCE].begin(partial(act, one)) for i, one in enumerate(each)]
        for thread in threads:
            thread.close()
        return [answer.result() for answer in answers]


def environment_class(path: str) -> type:
    """The class at the path. Raises ConfigError where it is no environment."""
    found = imported(path)
    if not callable(getattr(found, "reset", None)):
        what = f"environment={path} is no environment: it has no `reset`, and is none of verifiers"
        raise ConfigError(what, "Give it reset(self, **row), tools as methods, and get_reward(self)")
    if all(each.kind is not each.VAR_KEYWORD for each in inspect.signature(found.reset).parameters.values()):
        raise ConfigError(f"environment={path} does not take a sample's columns", "Give it reset(self, **row)")
    return found


def _schemas(kind: str, tools: Mapping[str, Callable]) -> list[dict[str, Any]]:
    """JSON schemas. Raises ConfigError for a tool without the docstring that transformers asks for."""
    from transformers.utils.chat_template_utils import get_json_schema

    schemas = []
    for name, tool in tools.items():
        try:
            schemas.append(get_json_schema(tool))
        except Exception as error:  # of transformers' own kinds
            fix = "Give it type hints, and a docstring with Args"
            raise ConfigError(f"the environment {kind}'s tool {name} can't be described: {error}", fix) from None
    return schemas
