"""Threads for the code of others, which may hang, and may have what belongs to one thread."""

import asyncio
import inspect
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, redirect_stdout
from functools import partial
from typing import Any

AT_ONCE = 32  # so many servers of tools start on 2 busy cores within the time that one may take


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


def side_by_side(act: Callable[[Any], Any], each: Sequence[Any]) -> list[Any]:
    """What `act` returns for each, in order, or the first error. What is printed meanwhile goes to stderr."""
    threads = [Apart() for _ in each[:AT_ONCE]]
    with redirect_stdout(sys.stderr):
        answers = [threads[i % AT_ONCE].begin(partial(act, one)) for i, one in enumerate(each)]
        for thread in threads:
            thread.close()
        return [answer.result() for answer in answers]
