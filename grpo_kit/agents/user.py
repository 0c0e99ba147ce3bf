"""The simulated user: whole dialogues with someone who wants what the trace's user wanted, told by rules.

Its goal are the calls of the trace, whose arguments are the values in the trace's states. It opens with the trace's own
words, answers what it is asked for, takes the offer that the trace's user took, corrects what is confirmed wrongly, and
leaves once all is done, or the assistant says goodbye. The same replies always get the same answers. Where a model
speaks in place of the rules (asked_user.py), this user knows what it is to say, and still tells what is reached.
"""

import re
from collections.abc import Sequence
from typing import Any

from grpo_kit.agents.grounded import made_up
from grpo_kit.agents.world import KnownCalls, World, is_search, same
from grpo_kit.data.samples import Act, CalledFunction, Message, Sample, messages_of
from grpo_kit.data.tool_calls import WORLD
from grpo_kit.judges.offline.acts import check_for
from grpo_kit.judges.offline.phrases import confirms, performs
from grpo_kit.judges.offline.wording import Text, line_of, words_of

SAID = "said"  # the column that has what the trace's user said, turn by turn
GOAL = "goal"  # the column by which a model is told what is left to do


class SimulatedUser(World):
    def __init__(self, sample: Sample, is_asked: bool = False):
        """`is_asked`: a model speaks."""
        super().__init__(sample)
        self._is_asked = is_asked
        self._known = KnownCalls(sample.columns[WORLD], sample.tools)
        self._left = list(sample.columns[WORLD])  # the calls of the goal that were not made yet
        self._told = {line_of(words_of(messages_of(sample.prompt)[-1]["content"]))}  # what this user has said
        trace = " ".join(line_of(words_of(each)) for each in sample.columns[SAID])
        # What a search found, and the trace's user never said, is chosen when it is offered.
        found = " ".join(call["result"] for call in self._left if is_search(call["name"]))
        values = {str(value) for call in self._left for value in call["arguments"].values() if f'"{value}"' in found}
        self._chosen = {value for value in values if line_of(words_of(value)) not in trace}
        self._accepted = set[str]()

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        self.made.append(CalledFunction(name=name, arguments=arguments))
        result = self._known.result(name, arguments)
        for each in self._left:
            if each["name"] == name and same(each["arguments"], arguments):
                self._left.remove(each)
                break
        return result

    def hear(self, reply: str) -> str | Sample | None:
        """The user's answer; None where it leaves. Where a model speaks, what it is to know."""
        if self._left and self._is_asked:
            columns = {GOAL: "\n".join(map(self._wish, self._left)), SAID: self.sample.columns[SAID]}
            return self.sample.replace(ground_truth="", rubric="", acts=[], tools=[], columns=columns)
        text = Text(reply)
        if not self._left or (performs("GOODBYE", text) and not confirms(text)):
            return None
        said = self._answer(text)
        self._told.add(line_of(words_of(said)))
        return said

    def _wish(self, call: dict[str, Any]) -> str:
        """ "- find cafes: city = Oslo; name = Olive (once it is offered)"."""
        values = [
            f"{slot} = {value}{' (once it is offered)' * (str(value) in self._chosen)}"
            for slot, value in call["arguments"].items()
        ]
        return f"- {re.sub(r'_|(?<=[a-z])(?=[A-Z])', ' ', call['name']).lower()}: {'; '.join(values)}"

    def _answer(self, text: Text) -> str:
        wanted = {slot: str(value) for slot, value in self._left[0]["arguments"].items()}
        everything = {slot: str(value) for call in self._left for slot, value in call["arguments"].items()}
        if asked := [value for slot, value in (everything | wanted).items() if _asks_for(slot, text)]:
            return f"{', '.join(asked)}, please."
        stated = [value for value in wanted.values() if line_of(words_of(value)) in text.line]
        offers = self._chosen - self._accepted
        if taken := [value for value in stated if value in offers]:
            self._accepted.update(taken)
            return "I take it."
        if stated and confirms(text):
            missing = [value for value in wanted.values() if value not in stated]
            return f"No, {', '.join(missing)} instead." if missing else "Yes, please."
        if self.made and offers.intersection(wanted.values()) and not performs("NOTIFY_FAILURE", text):
            return "Is there another one?"
        told = "\n".join(self._told)
        unsaid = [each for each in wanted.values() if each not in self._chosen and line_of(words_of(each)) not in told]
        return f"{unsaid[0]}, please." if unsaid else "Yes, please."

    def scores(self, told: Sequence[Message], ended: str) -> dict[str, float | None]:
        """`goal`: the share of the trace's calls that were made; `turns`: 1 for as many messages as the trace's,
        falling to 0 at three times as many, where the goal is reached; `grounded`: 1 where no reply makes a value up.
        It is a success where the goal is reached."""
        wanted, used = len(self.sample.columns[WORLD]), sum(each["role"] == "assistant" for each in told)
        goal, usual = 1 - len(self._left) / wanted, len(self.sample.columns[SAID]) + wanted
        turns = min(1.0, max(0.0, (3 - used / usual) / 2)) * (goal == 1)
        grounded, success = float(not made_up(self.sample, told)), float(goal == 1 and ended == "reply")
        return {"goal": goal, "turns": turns, "grounded": grounded, "success": success}


def _asks_for(slot: str, text: Text) -> bool:
    act = Act("", "REQUEST", slot)
    return check_for(act, [act], Text(""))[1](text) > 0.5
