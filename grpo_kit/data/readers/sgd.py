"""Schema-Guided Dialogue: a folder of dialogues_*.json and schema.json; every system turn becomes a sample."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from grpo_kit.data.json_files import BOM, OnBad, check_filled, load_json
from grpo_kit.data.readers.base import Piece, Reader, Trace, opening
from grpo_kit.data.rubrics import SYSTEM_ACTS, Schema, load_schema, rubric_from_acts, task_description
from grpo_kit.data.samples import Act, Message, Sample
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
    active_intent: str


class _UserFrame(Struct, gc=False):
    state: _State
    service: str = ""


class _SystemTurn(Struct, gc=False, tag_field="speaker", tag="SYSTEM"):
    utterance: str
    frames: list[_SystemFrame]


class _UserTurn(Struct, gc=False, tag_field="speaker", tag="USER"):
    utterance: str
    frames: list[_UserFrame]


class _Dialogue(Struct, gc=False):
    """The fields of a dialogue that are used; the rest is not read."""

    dialogue_id: str
    services: list[str]
    turns: list[_UserTurn | _SystemTurn]


_DIALOGUES = msgspec.json.Decoder(list[_Dialogue])


class SGDReader(Reader):
    files = "dialogues_*.json"
    field = "turns"

    def __init__(self, folder: Path):
        self._schema = load_schema(folder / "schema.json")

    def pieces(self, path: Path, on_bad: OnBad) -> Iterator[Piece]:
        """The dialogues: as structs where the whole file fits them, else as objects, to find the one that does not."""
        try:
            dialogues = _DIALOGUES.decode(path.read_bytes().removeprefix(BOM))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            try:
                dialogues = load_json(path)
            except BadTrace as error:
                return on_bad(error)
        if not isinstance(dialogues, list) or not dialogues:
            return on_bad(BadTrace("must be a list of dialogues, with at least one", where=str(path)))
        for number, dialogue in enumerate(dialogues, 1):
            name = dialogue.get("dialogue_id") if isinstance(dialogue, dict) else dialogue.dialogue_id
            label = f"dialogue {name} (number {number})" if name else f"dialogue number {number}"
            yield Piece(f"{path}, {label}", f"{path.stem}-{number}", dialogue)

    def trace(self, piece: Piece) -> Trace:
        dialogue = piece.content
        if not isinstance(dialogue, _Dialogue):
            dialogue = msgspec.convert(dialogue, _Dialogue)
        check_filled("dialogue_id", dialogue.dialogue_id)
        check_filled("services", dialogue.services)
        check_filled("turns", dialogue.turns)
        for service in dialogue.services:
            _check_service(service, self._schema)
        samples = _samples(dialogue, self._schema)
        if not samples:
            raise ValueError("no SYSTEM turn, so there is no answer to learn from")
        return Trace(dialogue.dialogue_id, samples, opening(samples[0]), is_apart=True)


def _samples(dialogue: _Dialogue, schema: Schema) -> list[Sample]:
    samples: list[Sample] = []
    history: list[Message] = []
    intents: dict[str, str] = {}  # what the user is after, by service
    for index, turn in enumerate(dialogue.turns):
        is_users = isinstance(turn, _UserTurn)
        try:
            check_filled("utterance", turn.utterance)
            if is_users is bool(index % 2):
                raise ValueError("two turns of one speaker, or SYSTEM begins; USER begins, and they take turns")
            if is_users:
                _note_intents(turn, intents)
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


def _note_intents(turn: _UserTurn, intents: dict[str, str]) -> None:
    """Notes the user's intents of this turn. After "NONE" the last one still says what the dialogue is about."""
    for frame in turn.frames:
        check_filled("active_intent", frame.state.active_intent)
        if frame.state.active_intent != "NONE":
            check_filled("service", frame.service)
            intents[frame.service] = frame.state.active_intent


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
