"""Chats: a line is {"messages": [{"role", "content"}, …]}, and every assistant message becomes a sample."""

import msgspec

from grpo_kit.data.readers.base import Piece, Reader, Trace, opening
from grpo_kit.data.samples import Messages, Sample, check_turns, parse


class _Chat(msgspec.Struct):
    messages: Messages
    dialogue_id: str | int = ""
    id: str | int = ""
    rubric: str = ""
    task_description: str = ""


class ChatReader(Reader):
    """A line may have "dialogue_id" or "id", "rubric" and "task_description" too."""

    field = "messages"

    def trace(self, piece: Piece) -> Trace:
        chat = parse(piece.content, _Chat)
        check_turns(chat.messages)
        name = next((str(given) for given in (chat.dialogue_id, chat.id) if given != ""), piece.name)
        samples = [
            Sample(f"{name}:{i}", chat.messages[:i], message["content"], name, i, chat.rubric, chat.task_description)
            for i, message in enumerate(chat.messages)
            if message["role"] == "assistant"
        ]
        if not samples:
            raise ValueError("no assistant message, so there is no answer to learn from")
        return Trace(name, samples, opening(samples[0]))
