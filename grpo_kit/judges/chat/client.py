"""Calls to a chat model, many at once: how many in flight and in a minute, what is tried again, what it costs."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from grpo_kit.config.judge import CLOUD, JudgeConfig
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import Usage
from grpo_kit.judges.chat.calls import in_loop, room_for_call
from grpo_kit.judges.chat.prices import judge_price
from grpo_kit.judges.chat.provider import CallFailed, Provider, Question, Reply

T = TypeVar("T")
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the first and, doubling, before later retries
MOST_OUTPUT_TOKENS = 65_536  # what present models can write at most
LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more has given this call up, and so do we
_chance = random.SystemRandom()  # jitter is truly random, and leaves the seeded generators alone


class ChatModel:
    """Asks one model. All instances of a process share one loop and its limits (calls.py)."""

    def __init__(self, name: str, provider: Provider, config: JudgeConfig, setting: str = ""):
        """`name` is the judge's, `setting` names the model where the judge's own does not. Raises ConfigError where
        the settings name no model."""
        self._setting = setting or ("gemini_model" if name == "gemini" else "judge_model")
        self.name, self.model = name, config.model_of(name)
        self._provider, self._config = provider, config
        self.schema = provider.schema
        self.usage = Usage()
        self._asked: set[Future] = set()
        self.price = judge_price(config, name)

    def check(self) -> None:
        """Asks whether the model is there, which is free. Raises ConfigError for a wrong key, a model that is not
        there, or an endpoint that can't be reached. One that keeps no list passes: the first question will tell."""
        try:
            there = in_loop(self._lacks(max_retries=1)).result()
        except CallFailed as failed:
            self._check_usable(failed)
            if failed.code is None:
                what = f"{self.name} can't be reached at {self._provider.place} ({failed})"
                raise ConfigError(what, "Try again when it can be reached") from None
            return
        if there:
            self._refuse_model(there)

    async def ask(
        self,
        prompt: Callable[[], str],
        schema: dict[str, Any],
        parse: Callable[[str], T],
        *,
        temperature: float,
        max_tokens: int,
        seed: int | None = None,
    ) -> tuple[T, int]:
        """The parsed answer to one prompt, and the tokens it took without those of failed tries. `prompt` is called
        when its turn has come; `schema` is as the provider takes it, `max_tokens` limits what is written.

        Temporary failures (429, 5xx, no connection, a time-out, nothing written, text that `parse` can't read) are
        tried again. Raises CallFailed where that did not help or can't, and ConfigError where every further call would
        fail too: a wrong key, a model that is gone, a quota that is used up for the day.
        """
        asked = in_loop(self._ask(prompt, schema, parse, temperature, max_tokens, seed))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return await asyncio.wrap_future(asked)

    def close(self) -> None:
        """Gives up all that is asked and not answered yet."""
        for asked in list(self._asked):
            asked.cancel()

    async def _ask(
        self, prompt, schema, parse: Callable[[str], T], temperature: float, limit: int, seed: int | None
    ) -> tuple[T, int]:
        async def attempt() -> tuple[T, int]:
            nonlocal limit
            reply = await self._send(lambda: Question(prompt(), schema, temperature, limit, seed))
            if reply.is_cut:
                limit = min(2 * limit, MOST_OUTPUT_TOKENS)
                raise CallFailed("the answer was cut by its token limit", retry=True)
            try:
                content = parse(reply.text)
            except Exception as problem:  # whatever a malformed answer makes of it, JSON within JSON included
                said = str(problem) if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
                raise CallFailed(f"not the JSON that was asked for: {said}"[:300], retry=True) from None
            return content, sum(reply.tokens)

        try:
            return await self._retrying(self._config.judge_max_retries)(attempt)
        except CallFailed as failed:
            self.usage.failures += 1
            self._check_usable(failed)
            if failed.code == 404:
                there = []
                with suppress(CallFailed):
                    there = await self._lacks() or []
                self._refuse_model(there)
            raise

    async def _send(self, question: Callable[[], Question]) -> Reply:
        config = self._config
        place = f"{self._provider.place} {self.model}"
        async with room_for_call(place, config.judge_max_in_flight, config.judge_requests_per_minute):
            self.usage.calls += 1
            try:
                asked = self._provider.generate(self.model, question(), config.judge_timeout)
                reply = await self._in_time(asked)
            except CallFailed as failed:
                self._count(*failed.tokens)
                raise
        self._count(*reply.tokens)
        return reply

    def _count(self, input_tokens: int, output_tokens: int) -> None:
        self.usage.input_tokens += input_tokens
        self.usage.output_tokens += output_tokens
        read, written = self.price
        if read is None or written is None or self.usage.usd is None:
            self.usage.usd = None
        else:
            self.usage.usd += (input_tokens * read + output_tokens * written) / 1e6

    def _retrying(self, max_retries: int) -> AsyncRetrying:
        def may_help(error: BaseException) -> bool:
            if not isinstance(error, CallFailed):
                return False
            return error.retry and not error.quota and (error.wait or 0) <= LONGEST_RETRY_AFTER

        def count(_: RetryCallState) -> None:
            self.usage.retries += 1

        stop = stop_after_attempt(max_retries + 1)
        return AsyncRetrying(
            retry=retry_if_exception(may_help), wait=_pause, stop=stop, before_sleep=count, reraise=True
        )

    def _check_usable(self, failed: CallFailed) -> None:
        """Raises ConfigError where no further call could succeed: the key is refused, or its quota is used up."""
        if failed.quota:
            what = f"{failed.quota} of judge={self.name} is used up ({failed})"
            fix = "Resume with the same run_id when there is more; judgements that were made are kept"
            raise ConfigError(what, fix) from None
        said = str(failed).lower()
        is_refused = failed.code in (401, 403) and "flagged" not in said  # which OpenRouter says of a prompt
        if is_refused or (failed.code == 400 and "api key" in said):
            keys, page = CLOUD[self.name]
            what = f"{self._provider.place} refuses the key in {' or '.join(keys)} ({failed})"
            raise ConfigError(what, f"Make one at {page}") from None

    async def _lacks(self, max_retries: int = 0) -> list[str] | None:
        async def ask() -> list[str] | None:
            return await self._in_time(self._provider.lacks(self.model, self._config.judge_timeout))

        return await self._retrying(max_retries)(ask)

    async def _in_time(self, call: Awaitable[T]) -> T:
        """The result of a call. Raises CallFailed where it has not ended a second after its own time-out, which some
        servers and proxies get round."""
        try:
            async with asyncio.timeout(self._config.judge_timeout + 1):
                return await call
        except TimeoutError:
            said = f"no whole answer within judge_timeout={self._config.judge_timeout:g} s"
            raise CallFailed(said, retry=True) from None

    def _refuse_model(self, there: list[str]) -> NoReturn:
        unsaid = f"{self._provider.place} does not say which ones there are"
        models = f"There are: {', '.join(there)}" if there else unsaid
        raise ConfigError(f"there is no model {self._setting}={self.model!r}", models) from None


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: what the server asked for, or twice as long each time; up to half as much again,
    at random, so that calls which failed together do not come back together."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, CallFailed) else None
    seconds = min(FIRST_WAIT * 2 ** (state.attempt_number - 1), LONGEST_WAIT) if asked is None else asked
    return seconds * _chance.uniform(1, 1.5)
