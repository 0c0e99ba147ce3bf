"""Chats: a row has OpenAI's or Anthropic's `messages`, and every assistant message becomes a sample."""

from typing import Any, ClassVar

from grpo_kit.data.readers.base import Piece, Reader, Trace, opening, sample_at
from grpo_kit.data.readers.messages import as_text, from_json, messages_in, tools_in
from grpo_kit.data.repair import Found, read_dialogue
from grpo_kit.data.samples import Message, Sample
from grpo_kit.data.tool_calls import TOOL_CALLS, calls_in

TAKEN_BY_TRL = {"prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
_MEDIA = {"image", "images", "audio", "audios", "video", "videos"}
_KNOWN = ("dialogue_id", "id", "rubric", "task_description")
RESERVED = (set(Sample.__struct_fields__) - {"columns"}) | TAKEN_BY_TRL | {"self"}


class ChatReader(Reader):
    """A row may have "dialogue_id" or "id", "rubric", "task_description", "system" and "tools" too."""

    fields = ("messages",)
    systems: ClassVar[tuple[str, ...]] = ("system",)  # fields with a system text beside the messages

    def trace(self, piece: Piece) -> Trace:
        row, found = piece.content, Found(self.options.strict)
        field = next(name for name in self.fields if row.get(name) is not None)
        raw = from_json(row[field])
        if not isinstance(raw, list):
            raise ValueError(f"{field!r} is not a list of messages")
        system = next((row[name] for name in self.systems if row.get(name)), None)
        if system:
            raw = [{"role": "system", "content": system}, *raw]
        dialogue = read_dialogue(raw, self.messages_in, found, first=0 if system else 1)
        learn, used = self.options.learn, {field, *self.systems, "tools", "functions", *_KNOWN}
        columns = columns_of(row, used, found, learns_calls=learn == "calls")
        return chat_trace(piece, dialogue, columns, found, learn)

    def messages_in(self, raw: Any, found: Found) -> list[Message]:
        """One of the row's messages as messages of the kit's. Raises ValueError where it can't be used."""
        return messages_in(raw, found)


def chat_trace(
    piece: Piece, dialogue: list[Message], columns: dict[str, Any], found: Found, learn: Any, begin: int = 0
) -> Trace:
    """The trace of a row's dialogue, whose messages from `begin` on are to be learnt.

    Raises ValueError where there is nothing to learn.
    """
    row = piece.content
    given = next((str(row[name]) for name in ("dialogue_id", "id") if row.get(name) not in (None, "")), "")
    name = given or piece.name
    texts = {field: as_text(row.get(field)) for field in ("rubric", "task_description")}
    tools = tools_in(row.get("tools") or row.get("functions"), found)
    samples = [
        sample
        for index in range(begin, len(dialogue))
        if (sample := sample_at(dialogue, index, name, learn, columns, tools=tools, **texts))
    ]
    if not samples:
        fix = "Where another field has it, rename the messages' to 'prompt'"
        fix = "--learn calls learns the calls" if any("tool_calls" in each for each in dialogue) else fix
        wrong = f"no assistant message that answers in words, so there is no answer to learn from. {fix}"
        raise ValueError("; ".join(found.faults) or wrong)
    return Trace(given, samples, opening(samples[0]), faults=found.faults, repairs=found.repairs)


def columns_of(row: dict[str, Any], used: set[str], found: Found, learns_calls: bool) -> dict[str, Any]:
    """The fields of a row that are not `used`, for reward functions. One whose name the kit or TRL uses otherwise gets
    an underscore behind it, `tool_calls` also where a chat's calls are learnt; pictures and sounds are left out."""
    columns, reserved = {}, RESERVED | {TOOL_CALLS} if learns_calls else RESERVED
    for name, value in row.items():
        if name in used or (value is None and name in reserved):
            continue
        if name in _MEDIA:
            if value:
                found.faults.append(f"the column {name!r} is left out: only text can be learnt from")
            continue
        if name in reserved or (name == TOOL_CALLS and value and not calls_in(as_text(value))):
            found.repaired("columns_renamed")
            while name in row:
                name += "_"
        columns[name] = value
    return columns
