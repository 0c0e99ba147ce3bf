"""Calls to Gemini, many at once: how many in flight and in a minute, what is tried again, what it costs."""

import asyncio
import math
import os
import random
import re
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import Usage
from grpo_kit.judges.gemini.limits import in_loop, room_for_call
from grpo_kit.judges.gemini.prices import judge_price
from grpo_kit.judges.gemini.sdk import CallFailed, Reply, generation_config, open_sdk

T = TypeVar("T")
KEY_PAGE = "https://aistudio.google.com/apikey"
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the first and, doubling, before later retries
MOST_OUTPUT_TOKENS = 65_536  # what present models can write at most
LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more has given this call up, and so do we
_NO_LIMIT = CapacityLimiter(math.inf)  # of threads: calls under way are limited already
_chance = random.SystemRandom()  # jitter is truly random, and leaves the seeded generators alone


class Gemini:
    """Asks one model. All instances of a process share one loop and its limits (limits.py)."""

    def __init__(self, config: JudgeConfig):
        """Raises ConfigError where GEMINI_API_KEY is not set, before anything is sent."""
        key = SecretStr(os.environ.get("GEMINI_API_KEY", "").strip())  # which a verbose traceback shows as stars
        if not key:
            fix = f"Get a key at {KEY_PAGE} and `export GEMINI_API_KEY=…`, or use the offline judge, which needs none"
            raise ConfigError("GEMINI_API_KEY is not set", fix)
        if not re.fullmatch("[!-~]+", key.get_secret_value()):
            raise ConfigError("GEMINI_API_KEY holds characters that are in no key, such as a line break", "Set it anew")
        endpoint = os.environ.get("GOOGLE_GEMINI_BASE_URL") or None
        self._place = re.sub("//[^/]*@", "//", endpoint) if endpoint else "Google's endpoint"  # without a password
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"GOOGLE_GEMINI_BASE_URL={self._place} should begin with https:// (or http://)")
        self.model, self._config = config.gemini_model.removeprefix("models/"), config
        self._sdk = open_sdk(config.gemini_sdk, key, endpoint, config.gemini_max_in_flight)
        self.usage = Usage()
        self._asked: set[Future] = set()
        self.price = judge_price(config)

    def check(self) -> None:
        """Asks for the list of models, which is free. Raises ConfigError for a wrong key, a model that is not there,
        or an endpoint that can't be reached. An endpoint that keeps no list passes: the first question will tell."""
        try:
            there = in_loop(self._list_models(max_retries=1)).result()
        except CallFailed as failed:
            self._check_key(failed)
            if failed.code is None:
                what = f"Gemini can't be reached at {self._place} ({failed})"
                raise ConfigError(what, "Try again with a connection to it") from None
            return
        if there and "/" not in self.model and self.model not in there:
            raise self._missing_model(there)

    async def ask(
        self, prompt: Callable[[], str], schema: dict, parse: Callable[[str], T], *, temperature: float, max_tokens: int
    ) -> tuple[T, int]:
        """The parsed answer to one prompt, and the tokens it took without those of failed tries. `prompt` is called
        when its turn has come; `max_tokens` limits what is written.

        Temporary failures (429, 5xx, no connection, a time-out, nothing written, text that `parse` can't read) are
        tried again. Raises CallFailed where that did not help or can't, and ConfigError where every
        further call would fail too: a wrong key, a model that is gone.
        """
        asked = in_loop(self._ask(prompt, schema, parse, temperature, max_tokens))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return await asyncio.wrap_future(asked)

    def close(self) -> None:
        """Gives up all that is asked and not answered yet."""
        for asked in list(self._asked):
            asked.cancel()

    async def _ask(self, prompt, schema, parse: Callable[[str], T], temperature: float, limit: int) -> tuple[T, int]:
        async def attempt() -> tuple[T, int]:
            nonlocal limit
            reply = await self._send(prompt, generation_config(schema, temperature, limit))
            if reply.finish_reason == "MAX_TOKENS":
                limit = min(2 * limit, MOST_OUTPUT_TOKENS)
                raise CallFailed("the answer was cut by its token limit", retry=True)
            try:
                content = parse(reply.text)
            except Exception as problem:  # whatever a malformed answer makes of it, JSON within JSON included
                said = str(problem) if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
                raise CallFailed(f"not the JSON that was asked for: {said}"[:300], retry=True) from None
            return content, sum(reply.tokens)

        try:
            return await self._retrying(self._config.gemini_max_retries)(attempt)
        except CallFailed as failed:
            self.usage.failures += 1
            self._check_key(failed)
            if failed.code == 404:
                there = []
                with suppress(CallFailed):
                    there = await self._list_models()
                raise self._missing_model(there) from None
            raise

    async def _send(self, prompt: Callable[[], str], generation: str) -> Reply:
        config = self._config
        async with room_for_call(self.model, config.gemini_max_in_flight, config.gemini_requests_per_minute):
            self.usage.calls += 1
            try:
                request = self.model, prompt(), generation, config.gemini_timeout
                reply = await self._in_time(partial(self._sdk.generate, *request))
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
            return isinstance(error, CallFailed) and error.retry and (error.wait or 0) <= LONGEST_RETRY_AFTER

        def count(_: RetryCallState) -> None:
            self.usage.retries += 1

        stop, retry = stop_after_attempt(1 + max_retries), retry_if_exception(may_help)
        return AsyncRetrying(stop=stop, retry=retry, wait=_pause, before_sleep=count, reraise=True)

    def _check_key(self, failed: CallFailed) -> None:
        """Raises ConfigError where the key is what failed, so that no further call can succeed."""
        if failed.code in (401, 403) or (failed.code == 400 and "api key" in failed.problem.lower()):
            raise ConfigError(f"Gemini refuses the key in GEMINI_API_KEY ({failed})", f"{KEY_PAGE} makes one") from None

    async def _list_models(self, max_retries: int = 0) -> list[str]:
        ask = partial(self._sdk.models, self._config.gemini_timeout)
        return await self._retrying(max_retries)(self._in_time, ask)

    async def _in_time(self, call: Callable[[], T]) -> T:
        """The result of an SDK's call. Raises CallFailed where it has not ended a second after its own time-out, which
        some servers and proxies get round."""
        try:
            async with asyncio.timeout(self._config.gemini_timeout + 1):
                return await to_thread.run_sync(call, abandon_on_cancel=True, limiter=_NO_LIMIT)
        except TimeoutError:
            said = f"no whole answer within gemini_timeout={self._config.gemini_timeout:g} s"
            raise CallFailed(said, retry=True) from None

    def _missing_model(self, there: list[str]) -> ConfigError:
        models = f"There are: {', '.join(there)}" if there else f"{self._place} does not say which ones there are"
        return ConfigError(f"there is no model gemini_model={self.model!r}", models)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: what the server asked for, or twice as long each time; up to half as much again,
    at random, so that calls which failed together do not come back together."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, CallFailed) else None
    seconds = min(FIRST_WAIT * 2 ** (state.attempt_number - 1), LONGEST_WAIT) if asked is None else asked
    return seconds * _chance.uniform(1, 1.5)
