"""The formats of dialogue traces: Schema-Guided Dialogue (SGD) folders, and chat messages or samples as JSON lines.

Each reader goes through its files one at a time and yields one `Trace` after another, checked.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import orjson

from grpo_kit.data.readers.sgd import (
    Dialogue,
    SystemFrame,
    UserTurn,
    check_speaker,
    checked,
    load_dialogues,
    load_json,
    refuse_empty,
)
from grpo_kit.data.rubrics import SYSTEM_ACTS, Schema, rubric_from_acts, schema_from, task_description
from grpo_kit.data.samples import (
    Act,
    BadTrace,
    Message,
    OnBad,
    Sample,
    did_you_mean,
    json_lines,
    messages_from,
    need,
    sample_from,
)

TURNS_KEPT = 4096  # of those read last: every second turn of SGD has the annotation of an earlier one
Format = Literal["auto", "sgd", "chat", "samples"]


@dataclass(frozen=True)
class Trace:
    """What one place in the input holds: the samples of a dialogue, or a single ready-made one.

    `name` may stand in the input only once. `split_key` decides the split. For a dialogue that is its opening
    message, not its id: equal prompts open alike, so they share a split. Where all that is read is dialogues, each with
    a name of its own, a trace `is_apart`: the other split can't hold any of it, and no prompt has to be remembered.
    """

    path: Path
    where: str
    name: str
    split_key: str
    samples: list[Sample]
    is_apart: bool = False


class _Annotation(NamedTuple):
    """What the frames of a system turn say of it."""

    services: tuple[str, ...]
    acts: list[Act]
    rubric: str


_Annotator = Callable[[tuple[SystemFrame, ...]], _Annotation]  # raises ValueError


def read_traces(traces: Path, format: Format, on_bad: OnBad) -> Iterator[Trace]:
    """The traces in a folder or file, in the order of the files' names; see `traces.prepare` for what it holds.

    Raises BadTrace at once where nothing can be read; what is bad further in goes to `on_bad`, piece by piece.
    """
    if not traces.exists():
        raise BadTrace(traces, "", "there is no such file or folder")
    if traces.is_file():
        if traces.suffix == ".jsonl" and format != "sgd":
            return _jsonl_traces([traces], format, on_bad)
        raise BadTrace(traces, "", "give a .jsonl file, or the folder that holds dialogues_*.json and schema.json")
    dialogues, lines = sorted(traces.glob("dialogues_*.json")), sorted(traces.glob("*.jsonl"))
    if dialogues and format in ("auto", "sgd"):
        return _sgd_traces(dialogues, _read_schema(traces / "schema.json"), on_bad)
    if lines and format != "sgd":
        return _jsonl_traces(lines, format, on_bad)
    wanted = {"auto": "dialogues_*.json or *.jsonl", "sgd": "dialogues_*.json"}.get(format, "*.jsonl")
    nearby = sorted({str(p.parent) for pattern in wanted.split(" or ") for p in traces.glob(f"*/{pattern}")})
    holds = ", ".join(sorted(p.name for p in traces.iterdir())[:8]) or "nothing"
    hint = f"; did you mean {' or '.join(nearby[:4])}?" if nearby else "; give the folder that has them"
    raise BadTrace(traces, "", f"no {wanted} in this folder (it holds: {holds}){hint}")


def _read_schema(path: Path) -> Schema:
    if not path.exists():
        raise BadTrace(path, "", "missing; copy the schema.json of these dialogues here")
    entries = load_json(path)
    try:
        schema = schema_from(entries if isinstance(entries, list) else [entries])
    except ValueError as problem:
        raise BadTrace(path, "", str(problem)) from None
    if not schema:
        raise BadTrace(path, "", "lists no service")
    return schema


def _sgd_traces(files: list[Path], schema: Schema, on_bad: OnBad) -> Iterator[Trace]:
    @lru_cache(TURNS_KEPT)
    def annotated(frames: tuple[SystemFrame, ...]) -> _Annotation:
        acts, services = _sgd_acts(frames, schema), dict.fromkeys(frame.service for frame in frames)
        return _Annotation(tuple(services), acts, rubric_from_acts(acts, schema))

    for path in files:
        yield from _sgd_file(path, schema, annotated, on_bad)  # what it holds is freed before the next file is loaded


def _sgd_file(path: Path, schema: Schema, annotated: _Annotator, on_bad: OnBad) -> Iterator[Trace]:
    try:
        dialogues = load_dialogues(path)
        if not isinstance(dialogues, list) or not dialogues:
            raise BadTrace(path, "", "must be a list of dialogues, with at least one")
    except BadTrace as error:
        on_bad(error)
        return
    for number, dialogue in enumerate(dialogues, 1):
        where = f", dialogue number {number}"
        try:
            if not isinstance(dialogue, Dialogue):
                need(dialogue, "dialogue_id", str)
                where = f", dialogue {dialogue['dialogue_id']} (number {number})"
                dialogue = checked(dialogue)
            name = dialogue.dialogue_id
            refuse_empty("dialogue_id", name)
            where = f", dialogue {name} (number {number})"
            samples = _sgd_samples(dialogue, schema, annotated)
        except ValueError as problem:
            on_bad(BadTrace(path, where, str(problem)))
        else:
            yield Trace(path, where, name, _opening(samples[0]), samples, is_apart=True)


def _sgd_samples(dialogue: Dialogue, schema: Schema, annotated: _Annotator) -> list[Sample]:
    name, services = dialogue.dialogue_id, dialogue.services
    refuse_empty("services", services)
    refuse_empty("turns", dialogue.turns)
    for service in services:
        _check_service(service, schema)
    samples: list[Sample] = []
    history: list[Message] = []
    intents: dict[str, str] = {}
    for index, turn in enumerate(dialogue.turns):
        utterance = turn.utterance
        try:
            refuse_empty("utterance", utterance)
            is_users = type(turn) is UserTurn
            if is_users is bool(index % 2):
                check_speaker("USER" if is_users else "SYSTEM", index)
            if is_users:
                for frame in turn.frames:
                    intent = frame.state.active_intent
                    refuse_empty("active_intent", intent)
                    if intent != "NONE":  # after "NONE" the last one still says what the dialogue is about
                        refuse_empty("service", frame.service)
                        intents[frame.service] = intent
                history.append({"role": "user", "content": utterance})
                continue
            said = annotated(turn.frames)
        except ValueError as problem:
            raise ValueError(f"turn {index}: {problem}") from None
        spoken_of = list(said.services or services)
        samples.append(
            Sample(
                id=f"{name}:{index}",
                prompt=history[:],
                ground_truth=utterance,
                dialogue_id=name,
                turn_index=index,
                rubric=said.rubric,
                task_description=task_description(spoken_of, intents, schema),
                services=spoken_of,
                acts=said.acts[:],
            )
        )
        history.append({"role": "assistant", "content": utterance})
    if not samples:
        raise ValueError("no SYSTEM turn, so there is no answer to learn from")
    return samples


def _sgd_acts(frames: tuple[SystemFrame, ...], schema: Schema) -> list[Act]:
    acts = []
    for frame in frames:
        service = frame.service
        _check_service(service, schema)
        for action in frame.actions:
            if action.act not in SYSTEM_ACTS:
                refuse_empty("act", action.act)
                raise ValueError(f"{action.act!r} is no act of a SYSTEM turn{did_you_mean(action.act, SYSTEM_ACTS)}")
            acts.append(Act(service, action.act, action.slot, action.values))
    return acts


def _check_service(service: object, schema: Schema) -> None:
    if not isinstance(service, str) or service not in schema:
        raise ValueError(f"service {service!r} is not in schema.json{did_you_mean(str(service), schema)}")


def _opening(sample: Sample) -> str:
    """The first thing the user says, in lower case and with single spaces."""
    first = next(message["content"] for message in sample.prompt if message["role"] == "user")
    return " ".join(first.lower().split())


def _jsonl_traces(files: list[Path], format: Format, on_bad: OnBad) -> Iterator[Trace]:
    for path in files:
        for number, row in json_lines(path, on_bad):
            where, default_id = f":{number}", f"{path.stem}-{number}"
            try:
                if _is_chat(row, format):
                    trace = _chat_trace(path, where, row, default_id)
                else:
                    sample = sample_from(row, default_id)
                    key = sample.dialogue_id or orjson.dumps(sample.prompt).decode()
                    trace = Trace(path, where, sample.id, key, [sample])
            except ValueError as problem:
                on_bad(BadTrace(path, where, str(problem)))
            else:
                yield trace


def _is_chat(row: object, format: Format) -> bool:
    if format != "auto" or not isinstance(row, dict):
        return format == "chat"
    if "messages" not in row and "prompt" not in row:
        raise ValueError(f"neither 'messages' (a chat) nor 'prompt' (a sample); it has: {', '.join(row) or 'nothing'}")
    return "messages" in row


def _chat_trace(path: Path, where: str, row: object, default_id: str) -> Trace:
    messages = messages_from(need(row, "messages", list))
    given = {name: need(row, name, str) for name in ("rubric", "task_description") if row.get(name) is not None}
    name = next((str(row[key]) for key in ("dialogue_id", "id") if row.get(key) not in (None, "")), default_id)
    samples = [
        Sample(f"{name}:{i}", messages[:i], message["content"], name, i, **given)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    if not samples:
        raise ValueError("no assistant message, so there is no answer to learn from")
    return Trace(path, where, name, _opening(samples[0]), samples)
