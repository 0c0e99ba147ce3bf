"""How calls are made: on one event loop, whose limits hold for all runs of a process; where a library waits, on threads
with a connection each; and with answers within bounds of size and time."""

import asyncio
import math
import threading
import time
import zlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")
MINUTE = 60.0
MOST_BYTES = 2**22  # of an answer; the longest that a model writes has a quarter of it
GZIP = "gzip, deflate"  # what body_of unpacks; libraries ask for more where Brotli or Zstandard is installed
_NO_LIMIT = CapacityLimiter(math.inf)  # of threads: calls under way are limited already

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


async def on_thread(call: Callable[[], T]) -> T:
    return await to_thread.run_sync(call, abandon_on_cancel=True, limiter=_NO_LIMIT)


@cache
def thread_transport() -> type:
    """The transport, a class of httpx2's, which takes its time to import."""
    import httpx2
    from requests.utils import get_environ_proxies

    class ThreadTransport(httpx2.BaseTransport):
        """Connections of each thread's own: a shared pool looks at every one of them before every call."""

        def __init__(self, address: str):
            self._secure, self._own = httpx2.create_ssl_context(), threading.local()
            self._proxy = get_environ_proxies(address).get(urlsplit(address).scheme)

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            own = self._own
            if not hasattr(own, "transport"):
                own.transport = httpx2.HTTPTransport(verify=self._secure, proxy=self._proxy)
            request.headers["Accept-Encoding"] = GZIP
            answer = own.transport.handle_request(request)
            with closing(answer):
                content = body_of(answer.iter_raw(), answer.headers, request.extensions["timeout"]["read"])
            answer.headers.pop("Content-Encoding", None)
            return httpx2.Response(answer.status_code, headers=answer.headers, content=content)

    return ThreadTransport


def body_of(parts: Iterable[bytes], headers: Mapping[str, str], seconds: float) -> bytes:
    """An answer's body, unpacked. Raises OSError for one too long or too slow: a library's own time-out is for each
    read."""
    body, deadline = bytearray(), time.monotonic() + seconds
    unpack = zlib.decompressobj(wbits=47) if headers.get("Content-Encoding") in ("gzip", "deflate") else None
    for part in parts:
        body += unpack.decompress(part, MOST_BYTES) if unpack else part
        if len(body) > MOST_BYTES or (unpack and unpack.unconsumed_tail):
            raise OSError(f"the answer is longer than {MOST_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the answer was not whole after {seconds:g} s")
    return bytes(body)
