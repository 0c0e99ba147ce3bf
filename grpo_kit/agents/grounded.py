"""Values that nobody gave: those of a reply that stand neither in the prompt nor in a result."""

from collections.abc import Sequence

from grpo_kit.data.samples import Message, Sample, messages_of
from grpo_kit.data.tool_calls import WORLD
from grpo_kit.judges.offline.sources import Sources
from grpo_kit.judges.offline.wording import Text, words_of


def made_up(sample: Sample, told: Sequence[Message]) -> list[str]:
    """The numbers, times, days and names in the replies among `told` that were known to nobody when they were said.
    Those in calls are no matter of this: a call with them finds nothing. What the trace's reply says too is not made
    up, unless it comes from a result, which must be asked for."""
    found: list[str] = []
    results = words_of(" ".join(call["result"] for call in sample.columns.get(WORLD, ())))
    allowed = frozenset(words_of(sample.ground_truth)).difference(results)
    for place, message in enumerate(told):
        if message["role"] == "assistant" and message["content"] and not message.get("tool_calls"):
            known = sample.replace(prompt=[*messages_of(sample.prompt), *told[:place]], task_description="", rubric="")
            found += Sources(known, Text("", []), allowed).made_up(Text(message["content"], []))
    return found
