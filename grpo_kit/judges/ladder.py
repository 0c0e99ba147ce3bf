"""A ladder of judges: the cheapest judges every answer, and where it is unsure, the next one does."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from grpo_kit.data.samples import Sample
from grpo_kit.data.tool_calls import is_to_call
from grpo_kit.judges.base import CUT, Judge, Judged, Usage, Verdict
from grpo_kit.judges.cache import digest

Ask = Callable[[Judge, Sequence[Sample], Sequence[str]], Awaitable[Judged]]


class LadderJudge(Judge):
    """Its rungs judge in turn, each what the one before left: scores from `low` to `high`, and failures.

    Nothing is kept under its own name: judge_batch keeps each rung's judgements as that judge's own.
    """

    def __init__(self, rungs: Sequence[Judge], bounds: Sequence[float]):
        self.rungs, (self.low, self.high) = rungs, bounds
        self.name = ">".join(rung.name for rung in rungs)
        self._settled = 0

    @property
    def version(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return digest([[rung.version for rung in self.rungs], self.low, self.high])

    @property
    def usage(self) -> Usage:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of its paid rungs together, and the answers that a rung before the last settled."""
        return replace(Usage.of(self.rungs), settled=self._settled)

    def check(self) -> None:
        for rung in self.rungs:
            rung.check()

    def caveat(self, samples: Sequence[Sample]) -> str:
        return "; ".join(filter(None, (rung.caveat(samples) for rung in self.rungs)))

    def close(self) -> None:
        for rung in self.rungs:
            rung.close()

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        async def ask(rung: Judge, samples: Sequence[Sample], left: Sequence[str]) -> Judged:
            verdicts = await rung.judge(sample, left, repeat) if left else []
            return Judged(verdicts, [False] * len(left), verdicts, [[verdict] for verdict in verdicts])

        return (await self.climb([sample] * len(answers), answers, ask)).verdicts

    async def climb(self, samples: Sequence[Sample], answers: Sequence[str], ask: Ask) -> Judged:
        """The verdicts, each by the first rung that is sure, else by the last, which its reason names. `ask` has one
        rung judge some of the answers. `fresh` are the last rung's judgements, whose failures nobody makes up for."""
        found = Judged([CUT] * len(answers), [True] * len(answers), [], [[CUT]] * len(answers))
        left = list(range(len(answers)))
        for rung in self.rungs:
            judged = await ask(rung, [samples[i] for i in left], [answers[i] for i in left])
            found.fresh, unsure, settled = judged.fresh, [], set()
            for place, i in enumerate(left):
                verdict = judged.verdicts[place]
                found.known[i] &= judged.known[place]
                found.verdicts[i], found.each[i] = verdict, judged.each[place]
                if verdict is CUT or is_to_call(samples[i]):  # no judge was asked
                    continue
                found.verdicts[i] = replace(verdict, reason=f"{rung.name}: {verdict.reason}", by=rung.name)
                if rung is not self.rungs[-1] and self.is_unsure(verdict.score):
                    unsure.append(i)
                elif rung is not self.rungs[-1] and not found.known[i]:
                    settled.add((id(samples[i]), answers[i]))  # equal answers would be one question to the next rung
            self._settled += len(settled)
            left = unsure
        return found

    def is_unsure(self, score: float | None) -> bool:
        return score is None or self.low <= score <= self.high
