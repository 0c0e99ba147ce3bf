"""A batch of answers and a judge: nothing is judged twice, everything missing at once, failures stay failures."""

import asyncio
import hashlib
import json
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from grpo_kit.cache import RewardCache
from grpo_kit.judges import Judge, Verdict
from grpo_kit.samples import Sample

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """The result of async work, from plain code: a notebook's own thread has an event loop running already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@dataclass
class Judged:
    """What came of a batch: a verdict for each answer, how many of them needed no judging, and what was judged now."""

    verdicts: list[Verdict]
    hits: int
    fresh: list[Verdict]


async def judge_batch(
    judge: Judge, cache: RewardCache | None, samples: Sequence[Sample], answers: Sequence[str], repeats: int = 0
) -> Judged:
    """Verdicts in order, each asked for only if neither the cache nor an equal answer of this batch has it.

    All that is missing is asked for at once; how much of it is under way at a time is the judge's business. Each call's
    verdicts are kept as soon as they are there, so that a kill loses no more than the calls under way. `repeats` asks
    that many times in place of the judge's own number. Raises what the judge raises.
    """
    repeats = repeats or judge.samples
    questions = _questions(judge, samples, answers, repeats)
    keys = [key for question in questions for key in question.keys]
    known = cache.get(keys) if cache else {}
    missing = [question for question in questions if not known.keys() >= set(question.keys)]
    hits = sum(known.keys() >= set(own) for own in _keys_by_answer(questions, len(answers)))
    fresh: list[Verdict] = []

    async def ask(question: _Question) -> None:
        verdicts = await judge.judge(question.sample, question.answers, question.repeat)
        new = dict(zip(question.keys, verdicts, strict=True))
        if cache:
            cache.put(judge, new)
        known.update(new)
        fresh.extend(verdicts)

    try:
        async with asyncio.TaskGroup() as group:
            for question in missing:
                group.create_task(ask(question))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first cancelled the others
    by_answer = _keys_by_answer(questions, len(answers))
    return Judged([_mean([known[key] for key in own]) for own in by_answer], hits, fresh)


@dataclass
class _Question:
    """One call of the judge: answers to one prompt, each with its key and the places in the batch that it stands at."""

    sample: Sample
    repeat: int
    answers: list[str]
    keys: list[str]
    places: list[list[int]]


def _questions(judge: Judge, samples: Sequence[Sample], answers: Sequence[str], repeats: int) -> list[_Question]:
    digests: dict[int, str] = {}  # by the sample's id(): a batch holds few samples, many times each
    places: dict[tuple[str, str], list[int]] = {}
    for place, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        digest = digests.get(id(sample)) or digests.setdefault(id(sample), _digest_of(sample))
        places.setdefault((digest, answer), []).append(place)
    together: dict[object, list[tuple[str, str]]] = {}
    for unit in places:
        together.setdefault(unit[0] if judge.compares else unit, []).append(unit)
    questions = []
    for units in together.values():
        distinct = sorted(answer for _, answer in units)
        company = distinct if judge.compares else None
        for repeat in range(repeats):
            questions.append(
                _Question(
                    sample=samples[places[units[0]][0]],
                    repeat=repeat,
                    answers=distinct,
                    keys=[_key(judge, units[0][0], answer, company, repeat) for answer in distinct],
                    places=[places[units[0][0], answer] for answer in distinct],
                )
            )
    return questions


def _digest_of(sample: Sample) -> str:
    content = sample.to_dict()
    del content["id"], content["dialogue_id"], content["turn_index"]
    return _hash(content)


def _key(judge: Judge, sample_digest: str, answer: str, company: list[str] | None, repeat: int) -> str:
    """A hash of all that the judgement depends on: judge, version (model, prompt, mode and temperature for Gemini), the
    sample's content, the answer, the answers it is compared with, and which repetition it is."""
    return _hash([judge.name, judge.version, sample_digest, answer, company, repeat])


def _hash(content: object) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=20).hexdigest()


def _keys_by_answer(questions: list[_Question], count: int) -> list[list[str]]:
    """The keys of each answer's judgements, one for each repetition, in the batch's order."""
    by_answer: list[list[str]] = [[] for _ in range(count)]
    for question in questions:
        for key, places in zip(question.keys, question.places, strict=True):
            for place in places:
                by_answer[place].append(key)
    return by_answer


def _mean(verdicts: list[Verdict]) -> Verdict:
    """The mean of repeated judgements, of those that were made; the first one's reason."""
    made = [verdict for verdict in verdicts if verdict.score is not None]
    if len(verdicts) == 1 or not made:
        return verdicts[0]
    names = dict.fromkeys(name for verdict in made for name in verdict.criteria)
    criteria = {name: fmean(v.criteria[name] for v in made if name in v.criteria) for name in names}
    scores = ", ".join(f"{verdict.score:.2f}" for verdict in made)
    return Verdict(
        fmean(verdict.score for verdict in made),
        f"{made[0].reason} (mean of {scores})",
        criteria,
        sum(verdict.tokens for verdict in made),
    )
