"""Schema-Guided Dialogue: a folder of dialogues_*.json and schema.json; every system turn becomes a sample."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Struct

from grpo_kit.data.readers.base import OnBad, Piece, Reader, Trace, opening
from grpo_kit.data.rubrics import SYSTEM_ACTS, Schema, load_schema, rubric_from_acts, task_description
from grpo_kit.data.samples import BOM, Act, Message, Sample, Text
from grpo_kit.errors import BadTrace
from grpo_kit.utils.text import did_you_mean


class _Action(Struct, gc=False):
    act: str
    slot: str
    values: tuple[str, ...]


class _SystemFrame(Struct, gc=False):
    service: str
    actions: list[_Action]


class _State(Struct, gc=False):
    active_intent: Text


class _UserFrame(Struct, gc=False):
    state: _State
    service: Text


class _SystemTurn(Struct, gc=False, tag_field="speaker", tag="SYSTEM"):
    utterance: Text
    frames: list[_SystemFrame]


class _UserTurn(Struct, gc=False, tag_field="speaker", tag="USER"):
    utterance: Text
    frames: list[_UserFrame]


class _Dialogue(Struct, gc=False):
    """The fields of a dialogue that are used; the rest is not read."""

    dialogue_id: Text
    services: Annotated[list[str], msgspec.Meta(min_length=1)]
    turns: list[_UserTurn | _SystemTurn]


_DIALOGUES = msgspec.json.Decoder(list[_Dialogue])
_UNCHECKED = msgspec.json.Decoder(list[msgspec.Raw])


class SGDReader(Reader):
    files = "dialogues_*.json"
    field = "turns"

    def __init__(self, folder: Path):
        self._schema = load_schema(folder / "schema.json")

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
        dialogue = piece.content
        if not isinstance(dialogue, _Dialogue):
            dialogue = msgspec.json.decode(dialogue, type=_Dialogue)
        for service in dialogue.services:
            _check_service(service, self._schema)
        samples = _samples(dialogue, self._schema)
        if not samples:
            raise ValueError("no SYSTEM turn, so there is no answer to learn from")
        return Trace(dialogue.dialogue_id, samples, opening(samples[0]), is_apart=True)


def _samples(dialogue: _Dialogue, schema: Schema) -> list[Sample]:
    samples: list[Sample] = []
    history: list[Message] = []
    intents: dict[str, str] = {}  # what the user is after, by service; after "NONE" that is still the last one
    for index, turn in enumerate(dialogue.turns):
        is_users = isinstance(turn, _UserTurn)
        try:
            if is_users is bool(index % 2):
                raise ValueError("two turns of one speaker, or SYSTEM begins; USER begins, and they take turns")
            if is_users:
                states = {frame.service: frame.state.active_intent for frame in turn.frames}
                intents |= {service: intent for service, intent in states.items() if intent != "NONE"}
                history.append({"role": "user", "content": turn.utterance})
                continue
            acts = _acts(turn, schema)
        except ValueError as problem:
            raise ValueError(f"turn {index}: {problem}") from None
        services = list(dict.fromkeys(frame.service for frame in turn.frames)) or dialogue.services
        samples.append(
            Sample(
                id=f"{dialogue.dialogue_id}:{index}",
                prompt=history[:],
                ground_truth=turn.utterance,
                dialogue_id=dialogue.dialogue_id,
                turn_index=index,
                rubric=rubric_from_acts(acts, schema),
                task_description=task_description(services, intents, schema),
                services=services,
                acts=acts,
            )
        )
        history.append({"role": "assistant", "content": turn.utterance})
    return samples


def _acts(turn: _SystemTurn, schema: Schema) -> list[Act]:
    acts = []
    for frame in turn.frames:
        _check_service(frame.service, schema)
        for action in frame.actions:
            if action.act not in SYSTEM_ACTS:
                raise ValueError(f"{action.act!r} is no act of a SYSTEM turn; there are: {', '.join(SYSTEM_ACTS)}")
            acts.append(Act(frame.service, action.act, action.slot, action.values))
    return acts


def _check_service(service: str, schema: Schema) -> None:
    if service not in schema:
        near = did_you_mean(service, schema) or f" It has: {', '.join(schema)}"
        raise ValueError(f"service {service!r} is not in schema.json.{near}")
