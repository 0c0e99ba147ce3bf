"""Schema-Guided Dialogue as it is read: fields are checked on the way; where one is not right, it is said in words."""

from pathlib import Path

import msgspec
import orjson
from msgspec import Struct

from grpo_kit.data.samples import BadTrace, act_from, json_problem, need

BOM = b"\xef\xbb\xbf"  # with which some editors begin a file


class _Action(Struct, gc=False, frozen=True):
    act: str
    slot: str
    values: tuple[str, ...]


class SystemFrame(Struct, gc=False, frozen=True):
    service: str
    actions: tuple[_Action, ...]


class _State(Struct, gc=False):
    active_intent: str


class _UserFrame(Struct, gc=False):
    state: _State
    service: str = ""


class _SystemTurn(Struct, gc=False, tag_field="speaker", tag="SYSTEM"):
    utterance: str
    frames: tuple[SystemFrame, ...]


class UserTurn(Struct, gc=False, tag_field="speaker", tag="USER"):
    utterance: str
    frames: list[_UserFrame]


class Dialogue(Struct, gc=False):
    """What is used of one; the rest is not read."""

    dialogue_id: str
    services: list[str]
    turns: list[UserTurn | _SystemTurn]


_DIALOGUES = msgspec.json.Decoder(list[Dialogue])


def load_dialogues(path: Path) -> object:
    """The file's content: dialogues whose fields were all there when it was read, or, to say which is not, objects."""
    try:
        return _DIALOGUES.decode(path.read_bytes().removeprefix(BOM))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return load_json(path)


def checked(dialogue: dict) -> Dialogue:
    """The dialogue of an object. Raises ValueError, in words, for the first field that is not as it should be."""
    for service in need(dialogue, "services", list):
        if type(service) is not str:
            raise ValueError(f"service {service!r} is no text")
    for index, turn in enumerate(need(dialogue, "turns", list)):
        try:
            speaker, _ = need(turn, "speaker", str), need(turn, "utterance", str)
            frames = need(turn, "frames", list, empty_ok=True)
            check_speaker(speaker, index)
            for frame in frames:
                if speaker == "USER":
                    intent = need(need(frame, "state", dict), "active_intent", str)
                    if intent != "NONE":
                        need(frame, "service", str)
                else:
                    need(frame, "service", str)
                    for action in need(frame, "actions", list, empty_ok=True):
                        act_from("", action)
        except ValueError as problem:
            raise ValueError(f"turn {index}: {problem}") from None
    try:
        return msgspec.convert(dialogue, Dialogue)
    except msgspec.ValidationError as problem:
        raise ValueError(str(problem)) from None


def refuse_empty(name: str, value: str | list) -> None:
    if not value or (type(value) is str and value.isspace()):
        raise ValueError(f"field {name!r} is empty")


def check_speaker(speaker: str, index: int) -> None:
    expected = "SYSTEM" if index % 2 else "USER"
    if speaker != expected:
        raise ValueError(f"the speaker is {speaker!r} where {expected!r} should be: USER begins and they take turns")


def load_json(path: Path) -> object:
    raw = path.read_bytes().removeprefix(BOM)
    if not raw.strip():
        raise BadTrace(path, "", "the file is empty")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        line, column, problem = json_problem(raw, error)
        raise BadTrace(path, f":{line}:{column}", problem) from None
