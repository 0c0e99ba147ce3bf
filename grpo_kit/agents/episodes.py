"""The samples of a data set as dialogues to have: each with the calls that its world knows."""

from collections.abc import Sequence

from grpo_kit.agents.replay import Replay
from grpo_kit.agents.world import WORLD, World
from grpo_kit.data.samples import Message, Sample, messages_of
from grpo_kit.data.tool_calls import TOOL_CALLS, is_to_call
from grpo_kit.errors import ConfigError

REPLAY = "replay"


def episodes(samples: Sequence[Sample], environment: str | None, data: str) -> list[Sample]:
    """What the model is asked in the environment; without one, the samples. Raises ConfigError where those of `data`
    have no tools."""
    if environment is None:
        return list(samples)
    found = _turns(samples)
    if not any(sample.columns[WORLD] for sample in found):
        what = f"environment={environment} needs samples with `tools` and calls, and {data} has none"
        raise ConfigError(what, "`grpo-kit prepare TRACES --learn calls` makes them from traces with calls")
    return found


def world_of(sample: Sample, environment: str) -> World:
    """The sample's world, new."""
    return Replay(sample)


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


def _recorded(messages: Sequence[Message]) -> list[dict]:
    """Calls with their results: {"name", "arguments", "result"}."""
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    results = [message["content"] for message in messages if message["role"] == "tool"]
    return [{**call, "result": result} for call, result in zip(calls, results, strict=False)]
