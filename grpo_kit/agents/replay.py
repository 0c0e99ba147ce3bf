"""The replay world: one turn of a trace, whose own calls and results are all there is.

A call that the trace has gets the recorded result, another an honest empty answer. The turn ends with the reply.
"""

from collections.abc import Sequence
from typing import Any

from grpo_kit.agents.grounded import made_up
from grpo_kit.agents.world import KnownCalls, World, calls_right
from grpo_kit.data.samples import CalledFunction, Message, Sample
from grpo_kit.data.tool_calls import WORLD


class Replay(World):
    needs_good_reply = True

    def __init__(self, sample: Sample):
        super().__init__(sample)
        self._known = KnownCalls(sample.columns[WORLD], sample.tools)

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        self.made.append(CalledFunction(name=name, arguments=arguments))
        return self._known.result(name, arguments)

    def scores(self, told: Sequence[Message], ended: str) -> dict[str, float | None]:
        """`call`: the share of its calls that are the trace's; `grounded`: 1 where the reply makes no value up. It is a
        success where both are 1 and the judge finds that reply good."""
        has_reply = ended == "reply"
        call = calls_right(self.made, self._known.recorded)
        grounded = float(has_reply and not made_up(self.sample, told))
        return {"call": call, "grounded": grounded, "success": float(call == grounded == 1)}
