"""How a trace format is read: a Reader makes each piece of the input a Trace of samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from grpo_kit.data.samples import Message, Sample, call_text, messages_of, said_in
from grpo_kit.errors import BadTrace

OnBad = Callable[[BadTrace], None]  # is told of each bad piece; raises it, or notes it so that reading continues
Learn = Literal["answers", "calls"]
Ground = Literal["results", "history", "acts"]  # what a prompt holds beside what is said; "acts" has the results too


class ReadOptions(msgspec.Struct, frozen=True):
    """What a reader makes of traces, as far as its format has it; the settings of `grpo_kit.prepare`."""

    strict: bool = False
    learn: Learn = "answers"
    ground: Ground = "results"
    max_results: int = 3


class Piece(NamedTuple):
    """A dialogue or a row of a file, not yet checked."""

    where: str  # for messages: "path:line"
    name: str  # for samples that have no id of their own
    content: Any  # a row, the bytes of its JSON, or what a reader has made of them


class Trace(NamedTuple):
    """The content of one piece: the samples of a dialogue, or a single ready-made one."""

    name: str  # its own id, which may stand in the input only once; "" where it has none
    samples: list[Sample]  # at least one, in order
    split_key: str  # decides the split; a dialogue's is its opening: equal prompts open alike, so they share a split
    # Where the whole input is dialogues, the other split can't hold any of this one, so no prompt has to be remembered.
    is_apart: bool = False
    faults: Sequence[str] = ()  # what is wrong with what is left out
    repairs: Mapping[str, int] = {}  # how often each was made
    is_by_id: bool = False  # whether its split_key is no opening, so that an equal prompt may be in the other split


class Reader(ABC):
    fields: ClassVar[tuple[str, ...]] = ()  # a row of this format has one of them

    def __init__(self, folder: Path, options: ReadOptions):
        """`folder` has the files. Raises BadTrace where something is missing beside them."""
        self.folder, self.options = folder, options

    @abstractmethod
    def trace(self, piece: Piece) -> Trace:
        """The piece as samples. Raises ValueError that says what is wrong with it, but not where."""


def opening(sample: Sample) -> str:
    """The first thing the user says, in lower case and with single spaces; the first message where no user speaks."""
    messages = messages_of(sample.prompt)
    first = next((message for message in messages if message["role"] == "user"), messages[0])
    return " ".join(said_in(first).lower().split())


def sample_at(
    messages: list[Message], index: int, name: str, learn: Learn, columns: dict[str, Any] | None = None, **fields: Any
) -> Sample | None:
    """The sample whose reference is message `index` of the dialogue `name`, and whose prompt is what comes before.

    None where there is nothing to learn: it is not the assistant's, has OpenAI's weight 0, answers neither a user nor a
    tool, or only calls tools. With `learn` "calls" the reference of a message that calls tools is `call_text` of its
    calls, which the column `tool_calls` has as a list; that list is empty for other messages.
    """
    message = messages[index]
    is_learnt = message["role"] == "assistant" and message.get("weight") != 0
    if not (is_learnt and index and messages[index - 1]["role"] in ("user", "tool")):
        return None
    columns, calls = columns or {}, list[Any]()
    if learn == "calls":
        calls = [{**call["function"]} for call in message.get("tool_calls", ())]
        columns = columns | {"tool_calls": calls}
    answer = call_text(calls) if calls else message["content"]
    if not answer:
        return None
    return Sample(f"{name}:{index}", messages[:index], answer, name, index, columns=columns, **fields)
