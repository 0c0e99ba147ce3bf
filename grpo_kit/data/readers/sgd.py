"""Schema-Guided Dialogue: a folder of dialogues_*.json and schema.json; every system turn becomes a sample.

MultiWOZ 2.2 has the same layout, less the acts and calls; there the splits share the schema.json of the folder above.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from grpo_kit.data.readers.base import OnBad, Piece, Reader, ReadOptions, Trace, opening
from grpo_kit.data.readers.grounding import RELATIVE_DAYS, briefing, functions, result_text, today_by
from grpo_kit.data.rubrics import SYSTEM_ACTS, Schema, load_schema, rubric_from_acts, task_description
from grpo_kit.data.samples import BOM, Act, CalledFunction, Message, Sample, Text, call_text
from grpo_kit.errors import BadTrace
from grpo_kit.utils.text import did_you_mean


class _Action(Struct, gc=False):
    act: str
    slot: str
    values: tuple[str, ...]
    canonical_values: tuple[str, ...] = ()


class _Call(Struct, gc=False):
    method: Text
    parameters: dict[str, Any]


class _State(Struct, gc=False):
    active_intent: Text
    slot_values: msgspec.Raw = msgspec.Raw(b"{}")  # seldom needed


class _Frame(Struct, gc=False):
    """A service's part in a turn: the user's has a state, the assistant's may have a call."""

    service: Text
    actions: list[_Action] = []
    state: _State | None = None
    service_call: _Call | None = None
    service_results: list[msgspec.Raw] = []


class _Turn(Struct, gc=False):
    """One struct for both speakers: to tell two apart by a field, msgspec would read each turn twice."""

    speaker: Literal["USER", "SYSTEM"]
    utterance: Text
    frames: list[_Frame]


class _Dialogue(Struct, gc=False):
    """The fields of a dialogue that are used; the rest is not read."""

    dialogue_id: Text
    services: list[str]
    turns: list[_Turn]


class _RawDialogue(Struct, gc=False):
    dialogue_id: Text
    services: list[str]
    turns: list[msgspec.Raw]


_DIALOGUES = msgspec.json.Decoder(list[_Dialogue])
_UNCHECKED = msgspec.json.Decoder(list[msgspec.Raw])
_SLOT_VALUES = msgspec.json.Decoder(dict[str, list[str]])
_TURN = msgspec.json.Decoder(_Turn)


class SGDReader(Reader):
    files = "dialogues_*.json"
    field = "turns"

    def __init__(self, folder: Path, options: ReadOptions):
        super().__init__(folder, options)
        shared = folder.parent / "schema.json"
        is_shared = shared.exists() and not (folder / "schema.json").exists()
        self.schema = load_schema(shared if is_shared else folder / "schema.json")
        self._briefings: dict[tuple, str] = {}
        self._functions: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def briefing(self, services: tuple[str, ...], today: date | None) -> str:
        """The text of the system message, made once for the same services and day."""
        if (services, today) not in self._briefings:
            self._briefings[services, today] = briefing([self.schema[name] for name in services], today)
        return self._briefings[services, today]

    def functions(self, services: tuple[str, ...]) -> list[dict[str, Any]]:
        """The services' functions, made once."""
        if services not in self._functions:
            self._functions[services] = functions(self.schema[name] for name in services)
        return self._functions[services]

    def pieces(self, path: Path, on_bad: OnBad) -> Iterator[Piece]:
        content = path.read_bytes().removeprefix(BOM)
        try:
            dialogues = _DIALOGUES.decode(content)
        except (ValueError, RecursionError):
            try:
                dialogues = _UNCHECKED.decode(content)  # so that trace() finds the one that is wrong
            except (ValueError, RecursionError) as problem:
                return on_bad(BadTrace(f"not a list of dialogues in JSON, or cut short ({problem})", where=str(path)))
        for number, dialogue in enumerate(dialogues, 1):
            yield Piece(f"{path}, dialogue number {number}", f"{path.stem}-{number}", dialogue)

    def trace(self, piece: Piece) -> Trace:
        dialogue, faults = piece.content, []
        if not isinstance(dialogue, _Dialogue):
            dialogue, faults = _as_far_as_it_goes(dialogue)
        for service in dialogue.services:
            if service not in self.schema:
                raise ValueError(_no_service(service, self.schema))
        walk = _Walk(dialogue, self)
        faults = walk.faults + faults
        if not walk.samples:
            raise ValueError(faults[0] if faults else "no SYSTEM turn, so there is no answer to learn from")
        return Trace(dialogue.dialogue_id, walk.samples, opening(walk.samples[-1]), is_apart=True, faults=tuple(faults))


def _as_far_as_it_goes(content: msgspec.Raw) -> tuple[_Dialogue, list[str]]:
    """A dialogue up to its first turn that can't be read, and what is wrong with that."""
    raw, turns = msgspec.json.decode(content, type=_RawDialogue), []
    for index, turn in enumerate(raw.turns):
        try:
            turns.append(_TURN.decode(turn))
        except ValueError as problem:
            fault = f"turn {index} and what follows: {problem}"
            return _Dialogue(raw.dialogue_id, raw.services, turns), [fault]
    return _Dialogue(raw.dialogue_id, raw.services, turns), []


class _Walk:
    """Goes through the turns of a dialogue and makes a sample of each reply, and of each turn's calls if they are learnt.

    `faults` say what is wrong with turns. A reply whose acts can't be used is heard, but not learnt; where somebody
    speaks out of turn the walk ends.
    """

    def __init__(self, dialogue: _Dialogue, reader: SGDReader):
        self.dialogue, self.reader, self.schema, options = dialogue, reader, reader.schema, reader.options
        self.is_grounded, self.learns_calls = options.ground != "history", options.learn == "calls"
        self.samples: list[Sample] = []
        self.faults: list[str] = []
        self.history: list[Message] = []  # what is said, and the newest call of each service with what it gave
        self.calls: dict[str, tuple[Message, Message]] = {}  # those two messages, by service
        self.given: dict[str, msgspec.Raw] = {}  # the values that the user has given to slots, by service
        self.intents: dict[str, str] = {}  # what the user is after, by service; after "NONE" that is still the last one
        self.known = dialogue.services  # those that the user speaks of, as soon as it is known
        self.about: tuple[list[str], dict[str, str]] = [], {}  # what `task` is told by
        self.task = ""
        self.today: date | None = None
        self.seeks_day = self.is_grounded
        self.briefs: list[tuple[Message, list[str]]] = []
        self.system: list[Message] = self.brief()
        for index, turn in enumerate(dialogue.turns):
            is_users = turn.speaker == "USER"
            try:
                if is_users is bool(index % 2):
                    raise ValueError("two turns of one speaker, or SYSTEM begins; USER begins, and they take turns")
                if is_users:
                    self.hear(turn)
                else:
                    self.answer(index, turn)
            except ValueError as problem:
                self.faults.append(f"turn {index}: {problem}")
                if is_users or not index % 2:
                    break
            self.history.append({"role": "user" if is_users else "assistant", "content": turn.utterance})
        for message, services in self.briefs:  # whether there is a day to tell is known only now
            message["content"] = reader.briefing(tuple(services), self.today) + message["content"]

    def brief(self, more: str = "") -> list[Message]:
        """The system message, if there is one; its text is put before `more` when the walk ends."""
        if not (self.is_grounded and self.known):
            return []
        message: Message = {"role": "system", "content": more}
        self.briefs.append((message, self.known))
        return [message]

    def hear(self, turn: _Turn) -> None:
        known: list[str] = []
        for frame in turn.frames:
            service, state = frame.service, frame.state
            if state is None:
                raise ValueError(f"the USER's frame of {service!r} has no `state`")
            self.given[service] = state.slot_values
            if state.active_intent != "NONE" and service in self.schema:
                self.intents[service] = state.active_intent
                known.append(service)
            if self.seeks_day:
                for action in frame.actions:
                    if action.canonical_values != action.values:
                        self.look_for_day(action)
        if known and known != self.known:
            self.known = known
            self.system = self.brief()

    def look_for_day(self, action: _Action) -> None:
        if not RELATIVE_DAYS.keys().isdisjoint(action.values):
            self.today = today_by(zip(action.values, action.canonical_values, strict=False))
            self.seeks_day = self.today is None

    def answer(self, index: int, turn: _Turn) -> None:
        services: list[str] = []
        for frame in turn.frames:
            if frame.service not in self.schema:
                raise ValueError(_no_service(frame.service, self.schema))
            if frame.service not in services:
                services.append(frame.service)
        services = services or self.dialogue.services
        if (services, self.intents) != self.about:
            self.about = services, self.intents.copy()
            self.task = task_description(services, self.intents, self.schema)
        tools = self.reader.functions(tuple(self.known)) if self.learns_calls else []
        dialogue, task = self.dialogue.dialogue_id, self.task
        if self.learns_calls and (calls := [call for frame in turn.frames if (call := frame.service_call)]):
            called = [{"name": call.method, "arguments": call.parameters} for call in calls]
            rubric, columns = f"call {' and '.join(call.method for call in calls)}", {"tool_calls": called}
            prompt, answer = self.prompt(rubric), call_text(called)
            name = f"{dialogue}:{index}:call"
            sample = Sample(name, prompt, answer, dialogue, index, rubric, task, services, [], tools, columns)
            self.samples.append(sample)
        if self.is_grounded:
            for frame in turn.frames:
                if frame.service_call:
                    self.note(frame, frame.service_call)
        acts = self.acts(turn)
        rubric = rubric_from_acts(acts, self.schema)
        prompt, answer, name = self.prompt(rubric), turn.utterance, f"{dialogue}:{index}"
        self.samples.append(Sample(name, prompt, answer, dialogue, index, rubric, task, services, acts, tools))

    def note(self, frame: _Frame, call: _Call) -> None:
        """Puts a call and what it gave into the history, and takes the service's earlier ones out."""
        for message in self.calls.get(frame.service, ()):
            self.history.remove(message)
        intent = self.schema[frame.service].intent.get(call.method)
        is_transaction = intent is not None and intent.is_transactional
        has_failed = any(action.act == "NOTIFY_FAILURE" for action in frame.actions)
        gave = result_text(frame.service_results, self.reader.options.max_results, is_transaction, has_failed)
        function: CalledFunction = {"name": call.method, "arguments": call.parameters}
        messages: tuple[Message, Message] = (
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "name": call.method, "content": gave},
        )
        self.calls[frame.service] = messages
        self.history += messages

    def prompt(self, to_do: str) -> list[Message]:
        system = self.brief(f"\nNow: {to_do}") if self.reader.options.ground == "acts" else self.system
        return system + self.history

    def note(self, frame: _Frame, call: _Call) -> None:
        """Puts a call and what it gave into the history, and takes the service's earlier ones out."""
        if earlier := self.calls.get(frame.service):
            call_before, gave_before = earlier
            self.history = [m for m in self.history if m is not call_before and m is not gave_before]
        intent = self.schema[frame.service].intent.get(call.method)
        is_transaction = intent is not None and intent.is_transactional
        has_failed = any([action.act == "NOTIFY_FAILURE" for action in frame.actions])
        gave = result_text(frame.service_results, self.reader.options.max_results, is_transaction, has_failed)
        function: CalledFunction = {"name": call.method, "arguments": call.parameters}
        self.calls[frame.service] = messages = (
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "name": call.method, "content": gave},
        )
        self.history += messages
        if self.today is None:
            given = self.given_to(frame.service)
            self.today = today_by(
                [(said, meant) for slot, meant in call.parameters.items() for said in given.get(slot, ())]
            )

    def acts(self, turn: _Turn) -> list[Act]:
        acts = []
        for frame in turn.frames:
            needed = None
            for action in frame.actions:
                if action.act not in SYSTEM_ACTS:
                    raise ValueError(f"{action.act!r} is no act of a SYSTEM turn; there are: {', '.join(SYSTEM_ACTS)}")
                own, others = (), ()
                if action.canonical_values != action.values:
                    own = action.canonical_values if len(action.canonical_values) == len(action.values) else ()
                    if self.seeks_day:
                        self.look_for_day(action)
                if action.act == "REQUEST":
                    others = needed = self.still_needed(frame) if needed is None else needed
                acts.append(Act(frame.service, action.act, action.slot, action.values, own, others))
        return acts

    def still_needed(self, frame: _Frame) -> tuple[str, ...]:
        """The slots without which the user's intent can't be called, less those that are given, or asked for here."""
        intent = self.schema[frame.service].intent.get(self.intents.get(frame.service, ""))
        if intent is None:
            return ()
        asked = [action.slot for action in frame.actions]
        needed = [slot for slot in intent.required_slots if slot not in asked]
        given = self.given_to(frame.service) if needed else ()
        return tuple([slot for slot in needed if slot not in given])

    def given_to(self, service: str) -> dict[str, list[str]]:
        return _SLOT_VALUES.decode(self.given.get(service, b"{}"))


def _no_service(service: str, schema: Schema) -> str:
    near = did_you_mean(service, schema) or f" It has: {', '.join(schema)}"
    return f"service {service!r} is not in schema.json.{near}"
