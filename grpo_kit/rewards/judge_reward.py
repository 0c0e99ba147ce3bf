"""Judges and plain Python functions -> the weighted reward functions that TRL calls."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from typing import Any

from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Judge, Verdict
from grpo_kit.judges.batch import Judged
from grpo_kit.judges.cache import RewardCache
from grpo_kit.rewards.replies import judge_completions


class TooManyFailures(RuntimeError):
    """More judgements failed than max_failure_rate allows."""


class FailureWatch:
    """Counts how many of each judge's last `window` judgements failed."""

    def __init__(self, max_failure_rate: float, window: int):
        self._rate, self._window = max_failure_rate, window
        self._last: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=window))

    def see(self, judge_name: str, verdicts: Sequence[Verdict]) -> None:
        """Raises TooManyFailures as soon as it is certain that more than that share of a whole window failed."""
        last = self._last[judge_name]
        for verdict in verdicts:
            last.append(verdict.score is None)
            if sum(last) > self._rate * self._window:
                reason = next(v.reason for v in reversed(verdicts) if v.score is None)
                raise TooManyFailures(
                    f"{sum(last)} of the last {len(last)} judgements by {judge_name} failed, more than "
                    f"max_failure_rate={self._rate} of failure_window={self._window} allows. The last: {reason}"
                )


class JudgeReward:
    """The judge as an async TRL reward function, named for the judge in the metrics.

    A prompt's sample is looked up by its id in `samples`. Answers that were judged before come from the cache. A failed
    judgement is None, which TRL leaves out; too many of them raise TooManyFailures.
    """

    def __init__(self, judge: Judge, cache: RewardCache, watch: FailureWatch, samples: Mapping[str, Sample]):
        self.__name__ = judge.name
        self._judge, self._cache, self._watch, self._samples = judge, cache, watch, samples
        self._begun: deque[Future[tuple[Judged, float]]] = deque()
        self._asking: set[asyncio.Task] = set()
        self._told: dict[str, float] | None = None  # the judge's usage when it was last logged

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        rows: Sequence[Mapping[str, Any]],
        completions: Sequence,
        is_next: bool = False,
    ) -> None:
        """Starts to judge completions whose scores are asked for later, in the same order, or before all others."""
        self._told = self._told or usage_of(self._judge)
        asked = self._ask([row["id"] for row in rows], completions)
        add = self._begun.appendleft if is_next else self._begun.append
        add(asyncio.run_coroutine_threadsafe(asked, loop))

    async def __call__(self, completions, id, log_extra, log_metric, problems=(), **_) -> list[float | None]:
        name, told = self.__name__, self._told or usage_of(self._judge)
        if self._begun:
            judged, seconds = await asyncio.wrap_future(self._begun.popleft())
        else:
            judged, seconds = await self._ask(id, completions, problems)
        self._told = usage_of(self._judge)
        log_extra(f"reason/{name}", [verdict.reason for verdict in judged.verdicts])
        failures = sum(verdict.score is None for verdict in judged.verdicts) - sum(map(bool, problems))
        for kind, value in counted(name, seconds, judged.hits, failures, told, self._told).items():
            log_metric(kind, value)
        self._watch.see(name, judged.fresh)
        return [verdict.score for verdict in judged.verdicts]

    async def _ask(
        self, ids: Sequence[str], completions: Sequence, problems: Sequence[str] = ()
    ) -> tuple[Judged, float]:
        """The verdicts, and the seconds that they took."""
        started, task = time.perf_counter(), asyncio.current_task()
        assert task is not None
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        samples = [self._samples[each] for each in ids]
        judged = await judge_completions(self._judge, self._cache, samples, completions, problems)
        return judged, time.perf_counter() - started

    def finish(self) -> None:
        """Waits for judgements that were begun for steps that are not made, so that they are kept. Ignores failures."""
        wait(self._begun)

    def close(self) -> None:
        """Cancels judgements under way, and waits until they have ended: they use the cache."""
        for future in self._begun:
            future.cancel()
        for task in list(self._asking):
            with suppress(CancelledError):
                asyncio.run_coroutine_threadsafe(_cancel(task), task.get_loop()).result()


async def _cancel(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.wait([task])


def counted(
    name: str, seconds: float, hits: int, failures: int, told: Mapping[str, float], now: Mapping[str, float]
) -> dict[str, float]:
    """A judge's entries in metrics.jsonl, where it had used `told` when it last had one, and `now` since."""
    used = {kind: spent - told[kind] for kind, spent in now.items()}
    found = {"seconds": seconds, "cache_hits": hits, "failures": failures, **used}
    return {f"judge/{name}/{kind}": value for kind, value in found.items()}


def usage_of(judge: Judge) -> dict[str, float]:
    """The calls, retries, tokens and dollars of a paid judge so far, dollars only where their price is known; of a
    ladder also the answers that its last rung was spared."""
    used = {kind: getattr(judge.usage, kind, None) for kind in ("calls", "retries", "tokens", "usd", "settled")}
    return {kind: value for kind, value in used.items() if value is not None}
