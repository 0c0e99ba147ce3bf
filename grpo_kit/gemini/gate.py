"""Where calls are made: one event loop on a thread of its own, whose limits hold for all runs of a process."""

import asyncio
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
MINUTE = 60.0

_room, _inside = asyncio.Condition(), 0  # how many calls are under way
_sent: dict[str, deque[float]] = defaultdict(deque)  # by model: when the calls of the last minute were or will be made


def in_loop(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Starts async work on the loop that all calls are made on. To cancel the future cancels the work."""
    return asyncio.run_coroutine_threadsafe(work, _loop())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="gemini").start()
    return loop


class Gate:
    """A context for one call: it waits until fewer than `in_flight` calls are under way, and fewer than `per_minute`
    were made to the model in the minute before, by all of the process."""

    def __init__(self, model: str, in_flight: int, per_minute: int | None):
        self._model, self._in_flight, self._per_minute = model, in_flight, per_minute

    async def __aenter__(self) -> None:
        global _inside
        async with _room:
            await _room.wait_for(lambda: _inside < self._in_flight)
            _inside += 1
        try:
            await asyncio.sleep(self._seconds_to_turn())
        except asyncio.CancelledError:
            await self.__aexit__()
            raise

    async def __aexit__(self, *_) -> None:
        global _inside
        async with _room:
            _inside -= 1
            _room.notify()

    def _seconds_to_turn(self) -> float:
        sent, now = _sent[self._model], time.monotonic()
        while sent and sent[0] <= now - MINUTE:
            sent.popleft()
        turn = now
        if self._per_minute is not None and len(sent) >= self._per_minute:
            turn = max(now, sent[-self._per_minute] + MINUTE)
        sent.append(turn)
        return turn - now


class Threads:
    """Threads that die with the process: after Ctrl-C nobody waits for answers that nobody will read."""

    def __init__(self, count: int):
        self._work: queue.SimpleQueue[tuple[Future, Callable]] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._run, daemon=True, name=f"gemini-{number}").start()

    async def run(self, call: Callable[[], T]) -> T:
        future: Future = Future()
        self._work.put((future, call))
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        while True:
            future, call = self._work.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)


@cache
def threads(count: int) -> Threads:
    """`count` threads, the same ones for all who ask for as many."""
    return Threads(count)
