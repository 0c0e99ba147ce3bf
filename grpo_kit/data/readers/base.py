"""How a trace format is read: a Reader splits a file into pieces and makes each piece a Trace of samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from grpo_kit.data.samples import Sample, messages_of, numbered_lines
from grpo_kit.errors import BadTrace

OnBad = Callable[[BadTrace], None]  # is told of each bad piece; raises it, or notes it so that reading continues


class Piece(NamedTuple):
    """A dialogue or a line of a file, not yet checked."""

    where: str  # for messages: "path:line"
    name: str  # for samples that have no id of their own
    content: Any  # the bytes of its JSON, or what a reader has made of them


class Trace(NamedTuple):
    """The content of one piece: the samples of a dialogue, or a single ready-made one."""

    name: str  # may stand in the input only once
    samples: list[Sample]  # at least one, in order
    split_key: str  # decides the split; a dialogue's is its opening: equal prompts open alike, so they share a split
    # Where the whole input is dialogues, the other split can't hold any of this one, so no prompt has to be remembered.
    is_apart: bool = False
    faults: tuple[str, ...] = ()  # what is wrong with turns that are left out


GROUNDS = ("results", "history", "acts")  # what a prompt holds beside what is said; "acts" has the results too


class ReadOptions(msgspec.Struct, frozen=True):
    """What a reader makes of traces, as far as its format has it; the settings of `grpo_kit.prepare`."""

    strict: bool = False
    learn: str = "answers"
    ground: str = "results"
    max_results: int = 3


class Reader(ABC):
    """Reads one trace format. The lines of *.jsonl files are its pieces, unless it says otherwise."""

    files: ClassVar[str] = "*.jsonl"  # the names of its files in a folder
    field: ClassVar[str]  # every piece of this format has it, and no piece of another format with the same files

    def __init__(self, folder: Path, options: ReadOptions):
        """`folder` has the files. Raises BadTrace where something is missing beside them."""
        self.folder, self.options = folder, options

    def pieces(self, path: Path, on_bad: OnBad) -> Iterator[Piece]:
        """The pieces of a file, in order. A file that can't be split into pieces goes to `on_bad`."""
        for number, line in numbered_lines(path):
            yield Piece(f"{path}:{number}", f"{path.stem}-{number}", line)

    @abstractmethod
    def trace(self, piece: Piece) -> Trace:
        """The piece as samples. Raises ValueError that says what is wrong with it, but not where."""


def opening(sample: Sample) -> str:
    """The first thing the user says, in lower case and with single spaces."""
    first = next(message["content"] for message in messages_of(sample.prompt) if message["role"] == "user")
    return " ".join(first.lower().split())
