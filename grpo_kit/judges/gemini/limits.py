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

# All of these by model, and touched on the loop only.
_inside: dict[str, int] = defaultdict(int)  # how many calls are under way
_waiting: dict[str, deque[tuple[int, asyncio.Future]]] = defaultdict(deque)  # for room, with the limit that each keeps
_sent: dict[str, deque[float]] = defaultdict(deque)  # when the calls of the last minute were or will be made


def in_loop(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Starts async work on the loop that all calls are made on. To cancel the future cancels the work."""
    return asyncio.run_coroutine_threadsafe(work, _loop())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="gemini").start()
    return loop


class Gate:
    """A context for one call to a model: it waits until fewer than `in_flight` are under way, and fewer than
    `per_minute` were made in the minute before, by all of the process."""

    def __init__(self, model: str, in_flight: int, per_minute: int | None):
        self._model, self._in_flight, self._per_minute = model, in_flight, per_minute

    async def __aenter__(self) -> None:
        await self._room()
        turn = self._turn()
        try:
            await asyncio.sleep(turn - time.monotonic())
        except asyncio.CancelledError:
            _sent[self._model].remove(turn)
            await self.__aexit__()
            raise

    async def __aexit__(self, *_) -> None:
        """Hands the room to the first that waits and whose limit allows it."""
        _inside[self._model] -= 1
        waiting = _waiting[self._model]
        for place, (limit, called) in enumerate(waiting):
            if _inside[self._model] < limit and not called.done():  # done: cancelled just now
                _inside[self._model] += 1
                called.set_result(None)
                del waiting[place]
                return

    async def _room(self) -> None:
        if _inside[self._model] < self._in_flight:
            _inside[self._model] += 1
            return
        waiter = self._in_flight, asyncio.get_running_loop().create_future()
        _waiting[self._model].append(waiter)
        try:
            await waiter[1]
        except asyncio.CancelledError:
            if waiter in _waiting[self._model]:
                _waiting[self._model].remove(waiter)
            else:
                await self.__aexit__()  # the room had been handed over already
            raise

    def _turn(self) -> float:
        sent, now = _sent[self._model], time.monotonic()
        while sent and sent[0] <= now - MINUTE:
            sent.popleft()
        turn = now
        if self._per_minute is not None and len(sent) >= self._per_minute:
            turn = max(now, sent[-self._per_minute] + MINUTE)
        sent.append(turn)
        return turn


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
