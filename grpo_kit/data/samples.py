"""Samples: what the model is asked, what a person answered, and what a good answer must do.

A prepared data set is two files of samples, train.jsonl and eval.jsonl, one JSON object a line. This module says what a
sample is, writes such files and reads them strictly, and proves that two of them share nothing. Where samples come from
is traces.py's business.
"""

import difflib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import orjson

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
    reply that the trace holds; `rubric` says in words what a good reply does; `acts` says it for a machine.
    """

    id: str
    prompt: list[Message] | str
    ground_truth: str
    dialogue_id: str = ""
    turn_index: int = 0
    rubric: str = ""
    task_description: str = ""
    services: list[str] = []
    acts: list[Act] = []

    @property
    def conversation(self) -> str:
        return conversation_text(self.prompt)

    def to_dict(self) -> dict:
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


_ENCODER = msgspec.json.Encoder()


def to_lines(samples: list[Sample]) -> bytes:
    """Lines of a train.jsonl, one for each sample."""
    return _ENCODER.encode_lines(samples)


class BadTrace(ValueError):
    """Data that cannot be used. Its text is "file:line: what is wrong" or "file, dialogue ID: what is wrong"."""

    def __init__(self, path: Path | str, where: str, problem: str):
        self.path, self.where, self.problem = Path(path), where, problem
        super().__init__(f"{path}{where}: {problem}")

    @property
    def short(self) -> str:
        """The same text with the file's name in place of its path, for files that travel."""
        return f"{self.path.name}{self.where}: {self.problem}"


OnBad = Callable[[BadTrace], None]  # told of each bad piece: raises it, or notes it so that reading goes on

_JSON_NAMES = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


def _brief(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 40 else f"{text[:40]}…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean …?)' where `known` holds something close to `name`, else ''."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def need(row: object, name: str, kind: type, *, empty_ok: bool = False):
    """row[name], if row is an object that has it and it is a `kind` and, unless empty_ok, not empty.

    Raises ValueError, saying what is wrong but not where: the caller knows the place.
    """
    value = row.get(name) if type(row) is dict else None
    if type(value) is kind and (empty_ok or (value and not (kind is str and value.isspace()))):
        return value
    if type(row) is not dict:
        raise ValueError(f"expected an object with a field {name!r}, found {_brief(row)}")
    if name not in row:
        raise ValueError(f"no field {name!r}{did_you_mean(name, row)}; it has: {', '.join(row) or 'nothing'}")
    if type(value) is not kind:
        raise ValueError(f"field {name!r} must be {_JSON_NAMES[kind]}, not {_brief(value)}")
    raise ValueError(f"field {name!r} is empty")


def json_problem(raw: bytes, error: orjson.JSONDecodeError) -> tuple[int, int, str]:
    """Line, column (both from 1) and a description of what keeps `raw` from being UTF-8 JSON."""
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        line, column = raw.count(b"\n", 0, wrong.start) + 1, wrong.start - raw.rfind(b"\n", 0, wrong.start)
        return line, column, f"not UTF-8 (byte 0x{raw[wrong.start]:02x}); save the file as UTF-8"
    return error.lineno, error.colno, f"not valid JSON, or cut short ({error.msg})"


def json_lines(path: Path, on_bad: OnBad) -> Iterator[tuple[int, object]]:
    """Line number (from 1) and content of each line that is not blank, one in memory at a time."""
    blank = True
    if not path.exists():
        raise BadTrace(path, "", "no such file; `grpo-kit prepare TRACES --out DIR` makes train.jsonl and eval.jsonl")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            raw = raw.removeprefix(b"\xef\xbb\xbf").strip()  # some editors open UTF-8 with a byte order mark
            if not raw:
                continue
            blank = False
            try:
                row = orjson.loads(raw)
            except orjson.JSONDecodeError as error:
                _, column, problem = json_problem(raw, error)
                on_bad(BadTrace(path, f":{number}:{column}", problem))
                continue
            yield number, row
    if blank:
        on_bad(BadTrace(path, "", "the file is empty"))


def messages_from(value: list) -> list[Message]:
    """Chat messages, checked: an optional system message, then user and assistant in turn, none of them empty.

    Raises ValueError naming the message (numbered from 1).
    """
    messages = []
    expected = "user"
    for number, message in enumerate(value, 1):
        try:
            role, content = need(message, "role", str), need(message, "content", str)
        except ValueError as problem:
            raise ValueError(f"message {number}: {problem}") from None
        if role == "system" and number == 1:
            pass
        elif role != expected:
            raise ValueError(
                f"message {number} has the role {role!r} where {expected!r} should be: "
                "user and assistant speak in turn, after at most one system message"
            )
        else:
            expected = "assistant" if role == "user" else "user"
        messages.append({"role": role, "content": content})
    return messages


def sample_from(row: object, default_id: str) -> Sample:
    """A Sample from a line's object. Only `prompt` and `ground_truth` must be there. Raises ValueError."""
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if isinstance(prompt, list):
        prompt = messages_from(need(row, "prompt", list))
        if prompt[-1]["role"] != "user":
            raise ValueError("the prompt must end with the user's message")
    else:
        prompt = need(row, "prompt", str)

    def optional(name: str, kind: type, default):
        return default if row.get(name) is None else need(row, name, kind, empty_ok=True)

    services, acts = optional("services", list, []), optional("acts", list, [])
    if not all(isinstance(service, str) for service in services):
        raise ValueError("field 'services' must be a list of texts")
    turn_index = optional("turn_index", int, 0)
    if turn_index < 0:
        raise ValueError("field 'turn_index' must not be negative")
    return Sample(
        id=optional("id", str, "") or default_id,
        prompt=prompt,
        ground_truth=need(row, "ground_truth", str),
        dialogue_id=optional("dialogue_id", str, ""),
        turn_index=turn_index,
        rubric=optional("rubric", str, ""),
        task_description=optional("task_description", str, ""),
        services=services,
        acts=[act_from(need(act, "service", str, empty_ok=True), act) for act in acts],
    )


def act_from(service: str, row: object) -> Act:
    """The Act of a service that SGD's annotation, or a sample's line, describes. Raises ValueError."""
    act, slot = need(row, "act", str), need(row, "slot", str, empty_ok=True)
    values = need(row, "values", list, empty_ok=True)
    if not all(isinstance(value, str) for value in values):
        raise ValueError("field 'values' must be a list of texts")
    return Act(service, act, slot, tuple(values))


def read_samples(path: Path | str) -> Iterator[Sample]:
    """The samples of a train.jsonl or eval.jsonl, one in memory at a time.

    Raises BadTrace, naming file and line, at the first line that is no sample.
    """
    path = Path(path)

    def refuse(error: BadTrace) -> None:
        raise BadTrace(error.path, error.where, f"{error.problem}; mend it, or prepare the data again")

    for number, row in json_lines(path, refuse):
        try:
            sample = sample_from(row, default_id=f"{path.stem}-{number}")
        except ValueError as problem:
            refuse(BadTrace(path, f":{number}", str(problem)))
        yield sample


def fingerprint(paths: Iterable[Path | str]) -> str:
    """16 hexadecimal digits that stand for the content of the files (SHA-256), whatever their names."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


def digests(samples: Iterable[Sample]) -> Iterator[tuple[Sample, bytes]]:
    """Each sample with its prompt's hash (16 bytes); a text and the one user message that says it are one prompt."""
    hasher = hashlib.blake2b(digest_size=16)
    for sample, is_longer, messages in _grown(samples):
        if not is_longer:
            hasher = hashlib.blake2b(digest_size=16)
        for message in messages:
            content = message["content"]
            hasher.update(f"{message['role']} {len(content)} {content}".encode())
        yield sample, hasher.copy().digest()


def prompt_words(samples: Iterable[Sample]) -> Iterator[int]:
    """The length of each sample's prompt in words."""
    words = 0
    for _, is_longer, messages in _grown(samples):
        words *= is_longer
        for message in messages:
            words += len(message["content"].split())
        yield words


def _grown(samples: Iterable[Sample]) -> Iterator[tuple[Sample, bool, list[Message]]]:
    """Each sample, whether its prompt goes on from the one before, as in a dialogue, and the messages that are new."""
    before: list[Message] = []
    for sample in samples:
        messages = messages_of(sample.prompt)
        is_longer = bool(before) and messages[: len(before)] == before
        yield sample, is_longer, messages[len(before) :] if is_longer else messages
        before = messages


class Ledger:
    """Remembers where each key was first seen, in a temporary file: memory stays flat however many there are."""

    def __init__(self):
        self._db = sqlite3.connect("", isolation_level=None)  # "" is a private file, gone when closed
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE seen (key BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID; BEGIN"
        )

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_) -> None:
        self._db.close()

    def first(self, key: bytes, place: str) -> str | None:
        """The place where `key` was seen first, or None if that is here and now."""
        if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, place)).rowcount:
            return None
        return self._db.execute("SELECT place FROM seen WHERE key = ?", (key,)).fetchone()[0]


def check_splits(train: Path | str, eval: Path | str) -> None:
    """Prove that no dialogue and no prompt stands in both files. Raises BadTrace naming the first that does."""
    with Ledger() as ledger:
        for split in map(str, (train, eval)):
            for sample, digest in digests(read_samples(split)):
                keys = {"prompt": b"p" + digest}
                if sample.dialogue_id:
                    keys["dialogue"] = b"d" + sample.dialogue_id.encode()
                for what, key in keys.items():
                    if ledger.first(key, split) not in (None, split):
                        problem = f"its {what} stands in {train} too; prepare the data again"
                        raise BadTrace(split, f", sample {sample.id}", problem)
