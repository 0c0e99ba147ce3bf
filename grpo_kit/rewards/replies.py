"""Which replies of a completion a judge is asked about, and beside what.

A completion is one answer. Of a dialogue with a user each reply is judged, with the conversation before it and the
results in view. Its reference is, of the trace's replies that were given with as many results known, the one that it is
most like: a free dialogue asks and offers in an order of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grpo_kit.data.samples import Act, Message, Sample, messages_of
from grpo_kit.data.thoughts import answer_in
from grpo_kit.data.tool_calls import WORLD
from grpo_kit.judges.base import Judge, Judged, Verdict
from grpo_kit.judges.batch import judge_batch, mean_of
from grpo_kit.judges.cache import RewardCache
from grpo_kit.judges.reference import compared
from grpo_kit.rewards.ready import text_of

TURNS = "turns"  # the column that has the trace's replies, where all of a dialogue's are judged


async def judge_completions(
    judge: Judge,
    cache: RewardCache | None,
    samples: Sequence[Sample],
    completions: Sequence[str | list[Message]],
    problems: Sequence[str] = (),
) -> Judged:
    """As judge_batch, but that a completion's verdict is the mean of its replies'; the other lists have an entry for
    each reply. One with a problem, by which its dialogue could not go on, is not judged."""
    problems = problems or [""] * len(samples)
    each = zip(samples, completions, problems, strict=True)
    replies = [[] if problem else _to_judge(sample, completion) for sample, completion, problem in each]
    asked, answers = zip(*(reply for own in replies for reply in own), strict=True) if any(replies) else ((), ())
    judged = await judge_batch(judge, cache, asked, answers)
    found = iter(judged.verdicts)
    verdicts = [
        Verdict(None, problem) if problem else _together([next(found) for _ in own])
        for own, problem in zip(replies, problems, strict=True)
    ]
    return replace(judged, verdicts=verdicts)


def as_reference(turn: Sample, results: int) -> dict[str, Any]:
    """An entry of TURNS: a turn of the trace, with as many results known to it."""
    found = turn.to_dict()
    return {"results": results} | {name: found[name] for name in ("ground_truth", "rubric", "acts")}


def _to_judge(sample: Sample, completion: str | list[Message]) -> list[tuple[Sample, str]]:
    """The replies, each with the sample as it saw it."""
    if isinstance(completion, str):
        return [(sample, completion)]
    if TURNS not in sample.columns:
        return [(_seen(sample, completion[:-1]), text_of(completion))]
    own = [i for i, each in enumerate(completion) if each["role"] == "assistant" and not each.get("tool_calls")]
    return [(_beside(sample, completion[:i], completion[i]["content"]), completion[i]["content"]) for i in own]


def _seen(sample: Sample, told: list[Message]) -> Sample:
    return sample.replace(prompt=[*messages_of(sample.prompt), *told]) if told else sample


def _beside(sample: Sample, told: list[Message], reply: str) -> Sample:
    turns, read = sample.columns[TURNS], {each["content"] for each in told if each["role"] == "tool"}
    results = sum(call["result"] in read for call in sample.columns[WORLD])
    nearest = min(abs(turn["results"] - results) for turn in turns)
    alike = [turn for turn in turns if abs(turn["results"] - results) == nearest]
    best = max(alike, key=lambda turn: compared(turn["ground_truth"], answer_in(reply) or "").score or 0.0)
    fields = best | {"acts": [Act(**act) for act in best["acts"]]}
    del fields["results"]
    columns = {name: value for name, value in sample.columns.items() if name != TURNS}
    return _seen(sample, told).replace(**fields, columns=columns)


def _together(verdicts: list[Verdict]) -> Verdict:
    if not verdicts:
        return Verdict(0.0, "there is no reply, only calls")
    if len(verdicts) == 1:
        return verdicts[0]
    told = [
        f"reply {n} of {len(verdicts)}, {'not judged' if each.score is None else f'{each.score:.2f}'}: {each.reason}"
        for n, each in enumerate(verdicts, 1)
    ]
    return replace(mean_of(verdicts), reason="\n".join(told))
