"""Samples: what the model is asked, what a person answered, and what a good answer must do.

A prepared data set is two files of samples, train.jsonl and eval.jsonl, one JSON object a line.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from grpo_kit.data.json_files import json_lines, need
from grpo_kit.errors import BadTrace

Message = dict[str, str]  # {"role": "user" | "assistant" | "system", "content": ...}


class Act(msgspec.Struct, frozen=True, gc=False):
    """One dialogue act of a system turn, as Schema-Guided Dialogue annotates it: CONFIRM date = "March 1st"."""

    service: str
    act: str
    slot: str = ""
    values: tuple[str, ...] = ()


class Sample(msgspec.Struct, frozen=True):
    """One line of train.jsonl: a prompt to answer, and all that is needed to judge the answer.

    `prompt` is a list of chat messages (or one string) that ends with the user's turn; `ground_truth` is the
    reply in the trace; `rubric` describes a good reply for a reader, `acts` for a program.
    """

    id: str
    prompt: list[Message] | str
    ground_truth: str
    dialogue_id: str = ""
    turn_index: Annotated[int, msgspec.Meta(ge=0)] = 0
    rubric: str = ""
    task_description: str = ""
    services: list[str] = []
    acts: list[Act] = []

    @property
    def conversation(self) -> str:
        return conversation_text(self.prompt)

    def to_dict(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)

    def replace(self, **fields) -> "Sample":
        return msgspec.structs.replace(self, **fields)


def messages_of(prompt: list[Message] | str) -> list[Message]:
    """The prompt as chat messages: a text is what the user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def conversation_text(prompt: list[Message] | str) -> str:
    """The prompt as text, a line for each message: "user: …"; a text stays as it is."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def last_turn(prompt: list[Message] | str) -> str:
    """The text of the prompt's last message, which is what the model is to answer."""
    return messages_of(prompt)[-1]["content"]


def to_lines(samples: list[Sample]) -> bytes:
    """Lines of a train.jsonl, one for each sample."""
    return _ENCODER.encode_lines(samples)


_ENCODER = msgspec.json.Encoder()


def read_samples(path: Path | str) -> Iterator[Sample]:
    """The samples of a train.jsonl or eval.jsonl, one in memory at a time.

    Raises BadTrace, naming file and line, at the first line that is no sample.
    """
    path = Path(path)
    if not path.exists():
        fix = "`grpo-kit prepare TRACES --out DIR` makes train.jsonl and eval.jsonl"
        raise BadTrace("no such file", fix, where=str(path))

    def stop(error: BadTrace) -> None:
        raise BadTrace(error.problem.what, "Mend it, or prepare the data again", error.problem.where) from None

    for number, row in json_lines(path, stop):
        try:
            yield sample_from(row, default_id=f"{path.stem}-{number}")
        except ValueError as problem:
            stop(BadTrace(str(problem), where=f"{path}:{number}"))


def sample_from(row: Any, default_id: str) -> Sample:
    """A Sample from a line's object. Only `prompt` and `ground_truth` must be there. Raises ValueError."""
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if isinstance(prompt, list):
        prompt = messages_from(need(row, "prompt", list))
        if prompt[-1]["role"] != "user":
            raise ValueError("the prompt must end with the user's message")
    else:
        prompt = need(row, "prompt", str)
    need(row, "ground_truth", str)
    given = {name: value for name, value in row.items() if value is not None}
    return msgspec.convert({**given, "id": given.get("id") or default_id, "prompt": prompt}, Sample)


def messages_from(value: list) -> list[Message]:
    """Chat messages, checked: an optional system message, then user and assistant in turn, none of them empty.

    Raises ValueError naming the message (numbered from 1).
    """
    messages: list[Message] = []
    due = "user"
    for number, message in enumerate(value, 1):
        try:
            messages.append({"role": need(message, "role", str), "content": need(message, "content", str)})
        except ValueError as problem:
            raise ValueError(f"message {number}: {problem}") from None
        role = messages[-1]["role"]
        if (role, number) == ("system", 1):
            continue
        if role != due:
            rule = "user and assistant speak in turn, after at most one system message"
            raise ValueError(f"message {number} has the role {role!r} where {due!r} should be: {rule}")
        due = "assistant" if role == "user" else "user"
    return messages


def fingerprint(paths: Iterable[Path | str]) -> str:
    """16 hexadecimal digits that stand for the content of the files (SHA-256), whatever their names."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]
