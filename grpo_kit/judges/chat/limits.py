"""Where calls are made: one event loop on a thread of its own, whose limits hold for all runs of a process."""

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
MINUTE = 60.0

# Both by model, and touched on the loop only.
_room: dict[str, dict[int, asyncio.Semaphore]] = defaultdict(dict)  # for calls under way, by the limit that is kept
_sent: dict[str, deque[float]] = defaultdict(deque)  # when the calls of the last minute were or will be made


def in_loop(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Starts async work on the loop that all calls are made on. Cancelling the future cancels the work."""
    return asyncio.run_coroutine_threadsafe(work, _loop())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """A daemon's loop, whose worker threads are daemons too: after Ctrl-C the process does not wait for answers."""
    loop, forever = asyncio.new_event_loop(), asyncio.Event().wait()  # anyio keeps its threads as long as this lasts
    threading.Thread(target=loop.run_until_complete, args=[forever], daemon=True, name="judges").start()
    return loop


@asynccontextmanager
async def room_for_call(model: str, in_flight: int, per_minute: int | None) -> AsyncIterator[None]:
    """Waits until fewer than `in_flight` calls to the model are under way that keep this limit or a lower one, and
    fewer than `per_minute` were made in the minute before, by all of the process."""
    room = _room[model]
    room.setdefault(in_flight, asyncio.Semaphore(in_flight))
    async with AsyncExitStack() as stack:
        for limit in sorted(limit for limit in room if limit >= in_flight):  # a higher limit counts this call too
            await stack.enter_async_context(room[limit])
        sent, now = _sent[model], time.monotonic()
        while sent and sent[0] <= now - MINUTE:
            sent.popleft()
        turn = max(now, sent[-per_minute] + MINUTE) if per_minute and len(sent) >= per_minute else now
        sent.append(turn)
        try:
            await asyncio.sleep(turn - now)
        except asyncio.CancelledError:
            sent.remove(turn)
            raise
        yield
