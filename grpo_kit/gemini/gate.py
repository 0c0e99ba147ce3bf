"""The gate that every call passes: how many are under way, and how many in a minute, over all runs of a process."""

import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import TypeVar

T = TypeVar("T")
MINUTE = 60.0
# Threads beyond the calls under way. The SDKs take some milliseconds to make a request and to read its answer; done
# beside the calls that wait for the network, that costs them no time.
SPARE_THREADS = 16

_sent: dict[str, deque[float]] = defaultdict(deque)  # by model: when the calls of the last minute were or will be made
_sending = threading.Lock()


class Gate:
    """Lets at most `in_flight` calls to a model be under way and, of all the process makes, `per_minute` in any minute.

    A thread enters when its request is ready to be sent and leaves when the answer begins to arrive.
    """

    def __init__(self, model: str, in_flight: int, per_minute: int | None):
        self._model, self._per_minute = model, per_minute
        self._places = _places(in_flight)
        self._mine = threading.local()
        self.threads = _threads(in_flight + SPARE_THREADS)

    def enter(self) -> None:
        """Blocks until it is this call's turn."""
        self._places.acquire()
        self._mine.inside = True
        time.sleep(self._seconds_to_turn())

    def leave(self) -> None:
        """Makes room, where this thread is inside."""
        if getattr(self._mine, "inside", False):
            self._mine.inside = False
            self._places.release()

    def _seconds_to_turn(self) -> float:
        with _sending:
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

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        future: Future = Future()
        self._work.put((future, call))
        return future

    def _run(self) -> None:
        while True:
            future, call = self._work.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)


@cache
def _places(in_flight: int) -> threading.Semaphore:
    return threading.Semaphore(in_flight)


@cache
def _threads(count: int) -> Threads:
    return Threads(count)
