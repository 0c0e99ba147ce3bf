"""A batch of answers and a judge: nothing is judged twice, everything missing at once, failures stay failures."""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal

from grpo_kit.data.samples import Sample
from grpo_kit.data.thoughts import answer_in
from grpo_kit.data.tool_calls import TOOL_CALLS, call_score, is_to_call
from grpo_kit.judges.base import CUT, Judge, Judged, Verdict
from grpo_kit.judges.cache import RewardCache, digest
from grpo_kit.judges.ladder import LadderJudge

T = TypeVar("T")
_REASONS = {1.0: "makes the trace's call", 0.0: "does not make the trace's call"}


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """The result of async work, from plain code: a notebook's own thread has an event loop running already. Ctrl-C
    cancels the work."""
    with start_blocking_portal() as portal:
        return portal.call(lambda: work)


async def all_of(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Does all of it at the same time. The first error cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def judge_batch(
    judge: Judge, cache: RewardCache | None, samples: Sequence[Sample], answers: Sequence[str], repeats: int = 0
) -> Judged:
    """Verdicts in order, each asked for only if neither the cache nor an equal answer of this batch has it.

    All that is missing is asked for at once; how much of it is under way at a time is the judge's business. Each call's
    verdicts are kept as soon as they are there, so that a kill loses no more than the calls under way. `repeats` asks
    that many times in place of the judge's own number. A sample whose reference is a tool call is not given to the
    judge, but compared: 1 where the answer makes that call, else 0. Of a model that thinks, only what follows its
    thought is judged; a thought that was cut is no answer, which scores 0. A ladder's rungs are asked in turn, and what
    they judge is theirs, as if each had been asked alone. Raises what the judge raises.
    """
    if isinstance(judge, LadderJudge):

        async def ask_rung(rung: Judge, samples: Sequence[Sample], answers: Sequence[str]) -> Judged:
            return await judge_batch(rung, cache, samples, answers, repeats)

        return await judge.climb(samples, answers, ask_rung)
    questions, keys = _questions(judge, samples, [answer_in(text) for text in answers], repeats or judge.samples)
    known = cache.get(key for own in keys for key in own) if cache else {}
    missing = [question for question in questions if any(key not in known for key in question.keys)]
    were_known = [all(key in known for key in own) for own in keys]
    fresh: list[Verdict] = []

    async def ask(question: _Question) -> None:
        is_call = is_to_call(question.sample)
        if is_call:  # there is nothing to judge: a call is right or it is not
            scores = [call_score(answer, question.sample.columns[TOOL_CALLS]) for answer in question.answers]
            verdicts = [Verdict(score, _REASONS[score], {"call": score}) for score in scores]
        else:
            verdicts = await judge.judge(question.sample, question.answers, question.repeat)
        new = dict(zip(question.keys, verdicts, strict=True))
        if cache and not is_call:
            cache.put(judge, new)
        known.update(new)
        fresh.extend(verdicts)

    await all_of(map(ask, missing))
    each = [[known[key] for key in own] or [CUT] for own in keys]
    return Judged([mean_of(own) for own in each], were_known, fresh, each)


@dataclass
class _Question:
    """One call of the judge: answers to one prompt, each with its key."""

    sample: Sample
    repeat: int
    answers: list[str]
    keys: list[str]


def _questions(
    judge: Judge, samples: Sequence[Sample], answers: Sequence[str | None], repeats: int
) -> tuple[list[_Question], list[list[str]]]:
    """The calls that a batch takes, and for each of its answers the keys of its judgements, one a repetition; none
    where there is no answer."""
    digests: dict[int, str] = {}  # by the sample's id(): a batch holds few samples, many times each
    places: dict[tuple[str, str], list[int]] = {}  # where each answer to each prompt stands
    for place, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        content = digests.get(id(sample)) or digests.setdefault(id(sample), _digest_of(sample))
        if answer is not None:
            places.setdefault((content, answer), []).append(place)
    together: dict[object, list[tuple[str, str]]] = {}
    for unit in places:
        together.setdefault(unit[0] if judge.compares else unit, []).append(unit)
    questions, keys = [], [[] for _ in answers]
    for units in together.values():
        units.sort()
        distinct = [answer for _, answer in units]
        company = digest(distinct, size=20) if judge.compares else ""
        for repeat in range(repeats):
            question = _Question(samples[places[units[0]][0]], repeat, distinct, keys=[])
            questions.append(question)
            for content, answer in units:
                question.keys.append(_key(judge, content, answer, company, repeat))
                for place in places[content, answer]:
                    keys[place].append(question.keys[-1])
    return questions, keys


def _digest_of(sample: Sample) -> str:
    content = sample.to_dict()
    del content["id"], content["dialogue_id"], content["turn_index"]
    return digest(content, size=20)


def _key(judge: Judge, sample_digest: str, answer: str, company: str, repeat: int) -> str:
    """A hash of all that the judgement depends on: judge, version (a chat model's name, prompt, mode and
    temperature), the sample's content, which repetition it is, the answers it is compared with, and the answer."""
    content = "\0".join([judge.name, judge.version, sample_digest, str(repeat), company, answer])
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def mean_of(verdicts: list[Verdict]) -> Verdict:
    """The mean of judgements, of those that were made; the first one's reason."""
    made = [verdict for verdict in verdicts if verdict.score is not None]
    if len(verdicts) == 1 or not made:
        return verdicts[0]
    scores = [verdict.score for verdict in made if verdict.score is not None]
    names = dict.fromkeys(name for verdict in made for name in verdict.criteria)
    criteria = {name: fmean(v.criteria[name] for v in made if name in v.criteria) for name in names}
    reason = f"{made[0].reason} (mean of {', '.join(f'{score:.2f}' for score in scores)})"
    return Verdict(fmean(scores), reason, criteria, sum(verdict.tokens for verdict in made))
