"""Chats: a line is {"messages": [{"role", "content"}, …]}, and every assistant message becomes a sample."""

from grpo_kit.data.json_files import need
from grpo_kit.data.readers.base import Piece, Reader, Trace, opening
from grpo_kit.data.samples import Sample, messages_from


class ChatReader(Reader):
    """A line may have "dialogue_id" or "id", "rubric" and "task_description" too."""

    field = "messages"

    def trace(self, piece: Piece) -> Trace:
        row = piece.content
        messages = messages_from(need(row, "messages", list))
        rubric, task = ((row.get(key) and need(row, key, str)) or "" for key in ("rubric", "task_description"))
        name = next((str(row[key]) for key in ("dialogue_id", "id") if row.get(key) not in (None, "")), piece.name)
        samples = [
            Sample(f"{name}:{i}", messages[:i], message["content"], name, i, rubric, task)
            for i, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        if not samples:
            raise ValueError("no assistant message, so there is no answer to learn from")
        return Trace(name, samples, opening(samples[0]))
