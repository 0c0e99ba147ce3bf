"""Calls on threads: a connection for each, and answers within bounds of size and time."""

import math
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import cache
from typing import TypeVar
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")
MOST_BYTES = 2**22  # of an answer; the longest that a model writes has a quarter of it
GZIP = "gzip, deflate"  # what body_of unpacks; libraries ask for more where Brotli or Zstandard is installed
_NO_LIMIT = CapacityLimiter(math.inf)  # of threads: calls under way are limited already


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
