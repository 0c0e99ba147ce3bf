# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Environments of `verifiers`, which lead the dialogue themselves: their rollouts ask, and the model answers.

Each rollout is a coroutine in a loop on a thread. Where it would ask an endpoint, its request is put in a queue, and
the reply comes with the dialogue's next turn.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any

import orjson

from grpo_kit.agents.world import OWN_SECONDS, World, worth
from grpo_kit.data.environments import fault, of_verifiers, plain, row_of
from grpo_kit.data.samples import Message, Sample
from grpo_kit.errors import ConfigError
from grpo_kit.models.prompts import Prompt

# Answers messages, with their tools or None, as OpenAI's protocol has all of these. Raises NoRoom.
Ask = Callable[[Any, Any], Awaitable[dict[str, Any]]]
# Has a rollout of an environment about a sample, and gives its reward, metrics, and error or None.
Lead = Callable[[Any, Sample, Ask], Awaitable[dict[str, Any]]]
CUT = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": ""}}


class NoRoom(Exception):
    """The dialogue has ended before its rollout has."""


class Led(World):
    """A dialogue that an environment of verifiers leads."""

    waits = True

    def __init__(self, sample: Sample, path: str, lead: Lead):
        super().__init__(sample)
        self._lead, self._path, self._loop = lead, path, _loop()
        self._said, self._asked_tools = list[Any](), list[dict[str, Any]]()
        self._events = queue.SimpleQueue[Any]()  # the rollout's requests, then what it came to
        self._reply: asyncio.Future[dict[str, Any]] | None = None  # what the last request waits for
        self._output: dict[str, Any] | None = None  # once it has ended

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self._asked_tools

    def begin(self) -> Prompt:
        asyncio.run_coroutine_threadsafe(self._run(), self._loop)
        if self._next() is None:
            why = self._output and (self._output.get("error") or self._output.get("stop_condition"))
            raise ConfigError(f"environment={self._path} ended before it asked the model: {why}", "Correct that")
        return self._said

    async def _run(self) -> None:
        try:
            self._events.put(await self._lead(of_verifiers(self._path), self.sample, self._ask))
        except Exception as error:  # whatever it raises
            self._events.put(error)

    async def _ask(self, messages: Any, tools: Any) -> dict[str, Any]:
        if self._reply:
            error = ConfigError(f"environment={self._path} asks the model twice at once", "Use one that asks in turn")
            self._events.put(error)
            raise error
        self._reply = asyncio.get_running_loop().create_future()
        self._events.put((messages, tools))
        return await self._reply

    def _next(self) -> list[Message] | None:
        """The messages that its next request has beyond those that were said; None where it has ended."""
        try:
            event = self._events.get(timeout=OWN_SECONDS)
        except queue.Empty:
            what = f"environment={self._path} neither asked the model nor ended within {OWN_SECONDS:g} s"
            raise ConfigError(what, "Correct that") from None
        if isinstance(event, Exception):
            raise event if isinstance(event, ConfigError) else fault(f"environment={self._path} failed:", event)
        if isinstance(event, dict):
            self._output = event
            return None
        messages, self._asked_tools = plain(event[0]), event[1] or []
        before, self._said = self._said, messages
        if any(map(_differ, before, messages)) or len(before) > len(messages):
            what = f"environment={self._path} changes messages that the model has read or written"
            raise ConfigError(what, "Use one that only adds messages: the model's tokens are learnt as they were drawn")
        return messages[len(before) :]

    def answers(self, said: Message, is_cut: bool) -> Callable[[], list[Message]]:
        message: dict[str, Any] = {**said}
        if calls := [call["function"] for call in said.get("tool_calls", ())]:
            functions = [{**each, "arguments": orjson.dumps(each["arguments"]).decode()} for each in calls]
            ids = [f"call_{len(self._said)}_{place}" for place in range(len(calls))]
            message["tool_calls"] = [
                {"id": name, "type": "function", "function": each} for name, each in zip(ids, functions, strict=True)
            ]
        self._said = [*self._said, said]
        self._give({"index": 0, "finish_reason": "length" if is_cut else "stop", "message": message})
        return lambda: self._next() or []

    def _give(self, choice: dict[str, Any] | None) -> None:
        reply, self._reply = self._reply, None
        assert reply
        answer: Any = (reply.set_result, completion(choice)) if choice else (reply.set_exception, NoRoom())
        self._loop.call_soon_threadsafe(*answer)

    def scores(self, told: Sequence[Message], ended: str) -> dict[str, float | None]:
        """`environment` is its rubric's reward, None where its rollout failed, and each of its metrics has its name; it
        is a success from 0.5 on. Raises ConfigError where the reward is no number."""
        if self._output is None:
            self._give(None)
            if self._next() is not None:
                what = f"environment={self._path} asks on in a dialogue that has no room left"
                raise ConfigError(what, "Let it end where the model raises an error")
        output = self._output or {}
        reward = None if output.get("error") else output.get("reward")
        return {**(output.get("metrics") or {}), **worth(reward, f"environment={self._path}")}


def completion(choice: dict[str, Any]) -> dict[str, Any]:
    """An answer of OpenAI's protocol."""
    about = {"id": "grpo_kit", "object": "chat.completion", "created": int(time.time()), "model": "model"}
    return about | {"choices": [choice], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}


def _differ(one: Message, other: Message) -> bool:
    calls = [[call["function"] for call in each.get("tool_calls", ())] for each in (one, other)]
    return calls[0] != calls[1] or (one["role"], one["content"].strip()) != (other["role"], other["content"].strip())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # what is under way when the process ends is no news
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


async def lead(environment: Any, sample: Sample, ask: Ask) -> dict[str, Any]:
    """Has a rollout of an environment up to 0.3."""
    import verifiers
    from openai.types.chat import ChatCompletion

    class Client(verifiers.OpenAIChatCompletionsClient):
        async def get_native_response(self, prompt, model, sampling_args, tools=None, **_):
            try:
                return ChatCompletion.model_validate(await ask(prompt, tools))
            except NoRoom:
                raise verifiers.OverlongPromptError from None

        async def raise_from_native_response(self, response):
            """An empty reply is a reply."""

    row = {"example_id": 0, **row_of(sample), "prompt": sample.prompt}  # which was shortened to fit
    return await environment.run_rollout(row, Client(object()), "model", {})
