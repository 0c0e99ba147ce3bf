"""One Schema-Guided dialogue, turn by turn: what its file holds of it, and the samples that it makes."""

from datetime import date
from typing import Any, Literal

import msgspec
from msgspec import Struct

from grpo_kit.data.readers.base import ReadOptions
from grpo_kit.data.readers.grounding import RELATIVE_DAYS, Services, result_text, today_by
from grpo_kit.data.rubrics import SYSTEM_ACTS, rubric_from_acts, task_description
from grpo_kit.data.samples import Act, CalledFunction, Message, Sample, Text, call_text


class Action(Struct, gc=False):
    """A dialogue act. `canonical_values` are the values as the service has them: "2019-03-02" for "tomorrow"."""

    act: str
    slot: str = ""
    values: tuple[str, ...] = ()
    canonical_values: tuple[str, ...] = ()


class Call(Struct, gc=False):
    method: Text
    parameters: dict[str, Any] = {}


class State(Struct, gc=False):
    active_intent: Text = "NONE"
    slot_values: msgspec.Raw = msgspec.Raw(b"{}")  # seldom needed


class Frame(Struct, gc=False):
    """A service's part in a turn: the user's has a state, the assistant's may have a call."""

    service: Text
    actions: list[Action] = []
    state: State | None = None
    service_call: Call | None = None
    service_results: list[msgspec.Raw] = []


class Turn(Struct, gc=False):
    """One struct for both speakers: to choose between two by a field, msgspec would read each turn twice."""

    speaker: Literal["USER", "SYSTEM"]
    utterance: Text
    frames: list[Frame] = []


class Dialogue(Struct, gc=False):
    """The fields of a dialogue that are used; the rest is not read."""

    dialogue_id: Text
    services: list[str]
    turns: list[Turn]


_SLOT_VALUES = msgspec.json.Decoder(dict[str, list[str]])


class Walk:
    """Goes through a dialogue's turns and makes `samples` of the replies, and of calls where they are learnt.

    `faults` say what is wrong with turns. A reply whose acts can't be used is heard, but not learnt, nor is a greeting
    before the user speaks; a turn of the user's that can't be used, or a speaker out of turn, ends the walk.
    """

    def __init__(self, dialogue: Dialogue, services: Services, options: ReadOptions):
        self.dialogue, self.services, self.options = dialogue, services, options
        self.is_grounded, self.learns_calls = options.ground != "history", options.learn == "calls"
        self.samples: list[Sample] = []
        self.faults: list[str] = []
        self.history: list[Message] = []  # what is said, and the newest call of each service with what it gave
        self.calls: dict[str, tuple[Message, Message]] = {}  # those two messages, by service
        self.given: dict[str, msgspec.Raw] = {}  # the slots that the user has given values to, by service
        self.intents: dict[str, str] = {}  # what the user is after, by service; after "NONE" that is still the last one
        self.known = dialogue.services  # those that the model is told of: the user's present ones, once there are any
        self.about: tuple[list[str], dict[str, str]] = [], {}  # the services and intents that `task` tells
        self.task = ""
        self.today: date | None = None
        self.seeks_day = self.is_grounded
        self.briefs: list[tuple[Message, list[str]]] = []  # system messages without their text, and their services
        self.system = self.brief()
        before = ""
        for index, turn in enumerate(dialogue.turns):
            is_users = turn.speaker == "USER"
            try:
                if turn.speaker == before:
                    raise ValueError("two turns of one speaker; USER and SYSTEM take turns")
                if is_users:
                    self.hear(turn)
                elif index:
                    self.answer(index, turn)
            except ValueError as problem:
                self.faults.append(f"turn {index}: {problem}")
                if is_users or turn.speaker == before:
                    break
            before = turn.speaker
            self.history.append({"role": "user" if is_users else "assistant", "content": turn.utterance})
        for message, names in self.briefs:  # only now is it known which day it is
            message["content"] = services.briefing(names, self.today) + message["content"]

    def brief(self, more: str = "") -> list[Message]:
        """The system message, where there is one. The end of the walk puts its text before `more`."""
        if not (self.is_grounded and self.known):
            return []
        message: Message = {"role": "system", "content": more}
        self.briefs.append((message, self.known))
        return [message]

    def hear(self, turn: Turn) -> None:
        present: list[str] = []
        for frame in turn.frames:
            name, state = frame.service, frame.state
            if state is None:
                raise ValueError(f"the USER's frame of {name!r} has no `state`")
            self.given[name] = state.slot_values
            if state.active_intent != "NONE" and name in self.services.schema:
                self.intents[name] = state.active_intent
                present.append(name)
            if self.seeks_day:
                for action in frame.actions:
                    if action.canonical_values != action.values:
                        self.look_for_day(action)
        if present and present != self.known:
            self.known = present
            self.system = self.brief()

    def look_for_day(self, action: Action) -> None:
        if not RELATIVE_DAYS.keys().isdisjoint(action.values):
            self.today = today_by(zip(action.values, action.canonical_values, strict=False))
            self.seeks_day = self.today is None

    def answer(self, index: int, turn: Turn) -> None:
        names: list[str] = []
        for frame in turn.frames:
            self.services.check(frame.service)
            if frame.service not in names:
                names.append(frame.service)
        names = names or self.dialogue.services
        if (names, self.intents) != self.about:
            self.about = names, self.intents.copy()
            self.task = task_description(names, self.intents, self.services.schema)
        tools = self.services.functions(self.known) if self.learns_calls else []
        name, task = self.dialogue.dialogue_id, self.task
        if self.learns_calls and (calls := [frame.service_call for frame in turn.frames if frame.service_call]):
            called = [{"name": call.method, "arguments": call.parameters} for call in calls]
            rubric, columns = f"call {' and '.join(call.method for call in calls)}", {"tool_calls": called}
            prompt, text = self.prompt(rubric), call_text(called)
            sample = Sample(f"{name}:{index}:call", prompt, text, name, index, rubric, task, names, [], tools, columns)
            self.samples.append(sample)
        if self.is_grounded:
            for frame in turn.frames:
                if frame.service_call:
                    self.note(frame, frame.service_call)
        acts = self.acts(turn)
        rubric = rubric_from_acts(acts, self.services.schema)
        prompt, text = self.prompt(rubric), turn.utterance
        self.samples.append(Sample(f"{name}:{index}", prompt, text, name, index, rubric, task, names, acts, tools))

    def prompt(self, to_do: str) -> list[Message]:
        tells = self.options.ground == "acts" and to_do
        return (self.brief(f"\nNow: {to_do}") if tells else self.system) + self.history

    def note(self, frame: Frame, call: Call) -> None:
        """Puts a call and what it gave into the history, and takes the service's earlier ones out."""
        for message in self.calls.get(frame.service, ()):
            self.history.remove(message)
        intent = self.services.schema[frame.service].intent.get(call.method)
        is_transaction = intent is not None and intent.is_transactional
        has_failed = any(action.act == "NOTIFY_FAILURE" for action in frame.actions)
        gave = result_text(frame.service_results, self.options.max_results, is_transaction, has_failed)
        function: CalledFunction = {"name": call.method, "arguments": call.parameters}
        messages: tuple[Message, Message] = (
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "name": call.method, "content": gave},
        )
        self.calls[frame.service] = messages
        self.history += messages

    def acts(self, turn: Turn) -> list[Act]:
        acts = []
        for frame in turn.frames:
            needed = None
            for action in frame.actions:
                if action.act not in SYSTEM_ACTS:
                    raise ValueError(f"{action.act!r} is not an act of SYSTEM's; there are: {', '.join(SYSTEM_ACTS)}")
                own, others = (), ()
                if action.canonical_values != action.values:
                    own = action.canonical_values if len(action.canonical_values) == len(action.values) else ()
                    if self.seeks_day:
                        self.look_for_day(action)
                if action.act == "REQUEST":
                    others = needed = self.still_needed(frame) if needed is None else needed
                acts.append(Act(frame.service, action.act, action.slot, action.values, own, others))
        return acts

    def still_needed(self, frame: Frame) -> tuple[str, ...]:
        """The slots without which the user's intent can't be called, less those that are given, or asked for here."""
        intent = self.services.schema[frame.service].intent.get(self.intents.get(frame.service, ""))
        asked = [action.slot for action in frame.actions]
        needed = [slot for slot in intent.required_slots if slot not in asked] if intent else []
        given = _SLOT_VALUES.decode(self.given.get(frame.service, b"{}")) if needed else {}
        return tuple([slot for slot in needed if slot not in given])
