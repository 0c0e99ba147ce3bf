"""Samples: what the model is asked, what a person answered, and what a good answer must do.

A prepared data set is two files of samples, train.jsonl and eval.jsonl, one JSON object a line.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import orjson

from grpo_kit.errors import BadTrace
from grpo_kit.utils.files import opened

Text = Annotated[str, msgspec.Meta(min_length=1)]
BOM = b"\xef\xbb\xbf"  # some editors begin a UTF-8 file with it


class CalledFunction(TypedDict):
    name: Text
    arguments: dict[str, Any]


class ToolCall(TypedDict):
    """A call in OpenAI's form, its arguments decoded, as chat templates take them."""

    type: Literal["function"]
    function: CalledFunction
    id: NotRequired[str]


class Message(TypedDict):
    """A message of a chat; `role` is system, user, assistant or tool.

    `content` is "" only where an assistant's message has nothing but `tool_calls`. A tool's message holds what the tool
    answered, and names it where that is known.
    """

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]
    weight: NotRequired[Literal[0]]  # OpenAI's: it is not learnt


Messages = Annotated[list[Message], msgspec.Meta(min_length=1)]


class Act(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One dialogue act of a system turn, as Schema-Guided Dialogue annotates it: CONFIRM date = "March 1st".

    `canonical` are the values as the service has them, where it says them otherwise: "2019-03-01". `alternatives` are
    other slots that a REQUEST may as well ask for, since the user's intent still needs them.
    """

    service: str
    act: str
    slot: str = ""
    values: tuple[str, ...] = ()
    canonical: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of train.jsonl: a prompt to answer, and all that is needed to judge the answer.

    `prompt` is a list of chat messages (or one string) that ends with the user's turn or a tool's; `ground_truth` is
    the reply in the trace; `rubric` describes a good reply for a reader, `acts` for a program. `tools` are the JSON
    schemas of the functions that the assistant may call, in OpenAI's form. `columns` are the fields of the user's data
    that the kit does not know; in the file and for reward functions they stand beside the others.
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
    tools: list[dict[str, Any]] = []
    columns: dict[str, Any] = {}

    @property
    def conversation(self) -> str:
        return conversation_text(self.prompt)

    def to_dict(self) -> dict[str, Any]:
        """Every field but an empty `tools`, and every column."""
        fields: dict[str, Any] = msgspec.structs.asdict(self)
        fields["acts"] = [msgspec.structs.asdict(act) for act in self.acts]
        columns = fields.pop("columns")
        if not self.tools:
            del fields["tools"]
        return fields | columns

    def replace(self, **fields) -> "Sample":
        return msgspec.structs.replace(self, **fields)


def messages_of(prompt: list[Message] | str) -> list[Message]:
    """The prompt as chat messages: a text is what the user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def conversation_text(prompt: list[Message] | str) -> str:
    """The prompt as text, a line for each message: "user: …"; a text stays as it is."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {said_in(message)}" for message in prompt)


def said_in(message: Message) -> str:
    """The message's text, followed by its tool calls: "calls FindCafes {"city":"Oslo"}"."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    told = [f"calls {call['name']} {orjson.dumps(call['arguments']).decode()}" for call in calls]
    return "\n".join([message["content"]] * bool(message["content"]) + told)


def call_text(calls: list[dict[str, Any]]) -> str:
    """Calls as a line of JSON each, keys in order: {"arguments":{…},"name":"FindCafes"}."""
    told = ({"arguments": call["arguments"], "name": call["name"]} for call in calls)
    return "\n".join(orjson.dumps(each, option=orjson.OPT_SORT_KEYS).decode() for each in told)


def last_turn(prompt: list[Message] | str) -> str:
    """What the user said last, or the last message where no user speaks."""
    messages = messages_of(prompt)
    return next((each["content"] for each in reversed(messages) if each["role"] == "user"), said_in(messages[-1]))


def to_lines(samples: list[Sample]) -> bytes:
    """Lines of a train.jsonl, one for each sample, its columns beside its fields."""
    return msgspec.json.Encoder().encode_lines([_row(sample) if sample.columns else sample for sample in samples])


def _row(sample: Sample) -> dict[str, Any]:
    fields = msgspec.to_builtins(sample)
    return fields | fields.pop("columns")


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
            raise BadTrace(str(problem), "Correct it, or prepare the data again", f"{path}:{number}") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields number (from 1) and content of each line that is not blank."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line := line.removeprefix(BOM).strip():
                yield number, line


def sample_from(line: bytes, default_id: str) -> Sample:
    """A Sample from a line of a file. Only `prompt` and `ground_truth` must be there. Raises ValueError."""
    row = orjson.loads(line)
    if isinstance(row, dict):
        known = {name: row[name] for name in _FIELDS & row.keys() if row[name] is not None}
        row = {"id": default_id, **known, "columns": {name: row[name] for name in row if name not in _FIELDS}}
    sample = msgspec.convert(row, Sample)
    if not isinstance(sample.prompt, str):
        check_turns(sample.prompt)
        if sample.prompt[-1]["role"] not in ("user", "tool"):
            raise ValueError("the prompt must end with the user's message, or a tool's")
    return sample


_FIELDS = set(Sample.__struct_fields__) - {"columns"}


def check_turns(messages: list[Message]) -> None:
    """Raises ValueError naming the message (numbered from 1) that is empty or out of turn.

    At most one system message stands first. Nobody speaks twice in a row, but an assistant that has called a tool, and
    tools, which answer only calls.
    """
    before, calls = "", False  # whose message came before, and whether it or the ones that it answers called a tool
    for number, message in enumerate(messages, 1):
        role, is_calling = message["role"], bool(message.get("tool_calls"))
        may_follow = {"system": not before, "user": before != "user", "assistant": before != "assistant" or calls}
        may_follow["tool"] = calls
        if role not in may_follow:
            raise ValueError(f"message {number} has the role {role!r}; there are: {', '.join(may_follow)}")
        if not (message["content"] or role == "tool" or is_calling):
            raise ValueError(f"message {number}, the {role}'s, is empty")
        if not may_follow[role]:
            rule = "a system message comes first, user and assistant speak in turn, a tool answers a call before it"
            raise ValueError(f"message {number}, the {role}'s, is out of turn: {rule}")
        before, calls = role, is_calling or (role == "tool" and calls)


def fingerprint(paths: Iterable[Path | str]) -> str:
    """16 hexadecimal digits that stand for the content of the files (SHA-256), whatever their names."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


@lru_cache(8)
def fingerprint_of(path: Path, modified: int) -> str:
    """That of one file, read anew where it was `modified` since (nanoseconds)."""
    return fingerprint([path])
