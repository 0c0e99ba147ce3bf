"""Samples: what the model is asked, what a person answered, and what a good answer must do.

A prepared data set is two files of samples, train.jsonl and eval.jsonl, one JSON object a line.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec
import orjson

from grpo_kit.errors import BadTrace

T = TypeVar("T")
Text = Annotated[str, msgspec.Meta(min_length=1)]
BOM = b"\xef\xbb\xbf"  # some editors begin a UTF-8 file with it


class Message(TypedDict):
    """A message of a chat; `role` is user, assistant or system."""

    role: str
    content: Text


Messages = Annotated[list[Message], msgspec.Meta(min_length=1)]


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

    id: Text
    prompt: Messages | Text
    ground_truth: Text
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
    return msgspec.json.Encoder().encode_lines(samples)


def read_samples(path: Path | str) -> Iterator[Sample]:
    """The samples of a train.jsonl or eval.jsonl, one in memory at a time.

    Raises BadTrace, naming file and line, at the first line that is no sample.
    """
    path = Path(path)
    if not path.exists():
        fix = "`grpo-kit prepare TRACES --out DIR` makes train.jsonl and eval.jsonl"
        raise BadTrace("no such file", fix, where=str(path))
    for number, line in numbered_lines(path):
        try:
            yield sample_from(line, default_id=f"{path.stem}-{number}")
        except ValueError as problem:
            raise BadTrace(str(problem), "Mend it, or prepare the data again", f"{path}:{number}") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields number (from 1) and content of each line that is not blank."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line := line.removeprefix(BOM).strip():
                yield number, line


def parse(line: bytes, kind: type[T], **defaults: str) -> T:
    """A JSON object as `kind`; a field that is null counts as missing. Raises ValueError naming the field."""
    row = orjson.loads(line)
    if isinstance(row, dict):
        row = defaults | {name: value for name, value in row.items() if value is not None}
    return msgspec.convert(row, kind)


def sample_from(line: bytes, default_id: str) -> Sample:
    """A Sample from a line of a file. Only `prompt` and `ground_truth` must be there. Raises ValueError."""
    sample = parse(line, Sample, id=default_id)
    if not isinstance(sample.prompt, str):
        check_turns(sample.prompt)
        if sample.prompt[-1]["role"] != "user":
            raise ValueError("the prompt must end with the user's message")
    return sample


def check_turns(messages: list[Message]) -> None:
    """Raises ValueError naming the message (numbered from 1) that is out of turn."""
    first = 1 if messages[0]["role"] == "system" else 0
    for number, message in enumerate(messages[first:], first):
        due = "user" if (number - first) % 2 == 0 else "assistant"
        if message["role"] != due:
            rule = "user and assistant speak in turn, after at most one system message"
            raise ValueError(f"message {number + 1} has the role {message['role']!r} where {due!r} should be: {rule}")


def fingerprint(paths: Iterable[Path | str]) -> str:
    """16 hexadecimal digits that stand for the content of the files (SHA-256), whatever their names."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]
