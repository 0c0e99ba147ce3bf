"""The samples of a data set as dialogues to have: each with the calls that its world knows."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from grpo_kit.agents.outside import try_out, world_outside
from grpo_kit.agents.replay import Replay
from grpo_kit.agents.user import SAID, SimulatedUser
from grpo_kit.agents.world import World
from grpo_kit.data.samples import Message, Sample, messages_of
from grpo_kit.data.tool_calls import TOOL_CALLS, WORLD, is_to_call
from grpo_kit.errors import ConfigError
from grpo_kit.rewards.replies import TURNS, as_reference

REPLAY, USER = "replay", "user"


def episodes(samples: Sequence[Sample], environment: str | None, data: str, judge_replies: Any = "all") -> list[Sample]:
    """What the model is asked in the environment; without one, the samples. Raises ConfigError where those of `data`
    have no tools."""
    if environment is None:
        return list(samples)
    if environment not in (REPLAY, USER):
        schemas = try_out(environment, samples[0]) if samples else []
        return [sample.replace(tools=schemas) for sample in samples]
    found = _turns(samples)
    if not any(sample.columns[WORLD] for sample in found):
        what = f"environment={environment} needs samples with `tools` and calls, and {data} has none"
        raise ConfigError(what, "`grpo-kit prepare TRACES --learn calls` makes them from traces with calls")
    return found if environment == REPLAY else _dialogues(found, judge_replies == "all")


def world_of(sample: Sample, environment: str, is_asked: bool = False) -> World:
    """The sample's world, new. `is_asked`: a model speaks for the user."""
    if environment == REPLAY:
        return Replay(sample)
    return SimulatedUser(sample, is_asked) if environment == USER else world_outside(sample, environment)


def _turns(samples: Sequence[Sample]) -> list[Sample]:
    """One for each reply: from what the user said last on, the calls are for the model to make. Where the call has a
    sample of its own, its prompt is taken, which still has the results of older calls."""
    asked = {(each.dialogue_id, each.turn_index): each.prompt for each in samples if is_to_call(each)}
    turns = []
    for sample in samples:
        if is_to_call(sample) or not sample.tools:
            continue
        messages = messages_of(sample.prompt)
        user = max(i for i, message in enumerate(messages) if message["role"] == "user")
        columns = {name: value for name, value in sample.columns.items() if name != TOOL_CALLS}
        recorded = _recorded(messages[user + 1 :])
        before = asked.get((sample.dialogue_id, sample.turn_index), messages[: user + 1])
        turns.append(sample.replace(prompt=before, columns=columns | {WORLD: recorded}))
    return turns


def _dialogues(turns: Sequence[Sample], has_all_judged: bool) -> list[Sample]:
    """One for each dialogue with calls: from what the user says first on. Its reference is the reply to the last call,
    after which nothing is left to do; where all its replies are judged, it has those of the trace besides."""
    of_each: dict[str, list[Sample]] = {}
    for turn in turns:
        of_each.setdefault(turn.dialogue_id or turn.id, []).append(turn)
    dialogues = []
    for name, own in of_each.items():
        calling = [turn for turn in own if turn.columns[WORLD]]
        if not calling:
            continue
        until = [turn for turn in own if turn.turn_index <= calling[-1].turn_index]
        tools = {str(tool): tool for turn in own for tool in turn.tools}
        opening = messages_of(own[0].prompt)
        user = next(i for i, message in enumerate(opening) if message["role"] == "user")
        columns = {
            WORLD: [call for turn in calling for call in turn.columns[WORLD]],
            SAID: [messages_of(turn.prompt)[-1]["content"] for turn in until],
        }
        if has_all_judged:
            read = accumulate(len(turn.columns[WORLD]) for turn in until)
            columns[TURNS] = [as_reference(*each) for each in zip(until, read, strict=True)]
        fields = {"id": name, "prompt": opening[: user + 1], "tools": list(tools.values()), "columns": columns}
        dialogues.append(calling[-1].replace(**fields))
    return dialogues


def _recorded(messages: Sequence[Message]) -> list[dict]:
    """Calls with their results: {"name", "arguments", "result"}."""
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    results = [message["content"] for message in messages if message["role"] == "tool"]
    return [{**call, "result": result} for call, result in zip(calls, results, strict=False)]
