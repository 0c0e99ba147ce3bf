"""Gemini's chats: a row has `contents`, whose roles are user and model, and whose parts are text, calls and results."""

from typing import Any

from grpo_kit.data.readers.chat import ChatReader
from grpo_kit.data.readers.messages import messages_in
from grpo_kit.data.repair import Found
from grpo_kit.data.samples import Message


class GeminiReader(ChatReader):
    fields = ("contents",)
    systems = ("systemInstruction", "system_instruction")

    def messages_in(self, raw: Any, found: Found) -> list[Message]:
        if not isinstance(raw, dict):
            raise ValueError("it is not an object with a role and parts")
        content = raw.get("parts", raw.get("content"))  # the system instruction's is a text or a message
        parts = content.get("parts") if isinstance(content, dict) else content
        role = "user" if raw.get("role") in (None, "function") else raw["role"]
        content = [_part(part) for part in parts] if isinstance(parts, list) else parts
        return messages_in({"role": role, "content": content}, found)


def _part(part: Any) -> Any:
    """A part as one of Anthropic's blocks, where text alone doesn't do."""
    if not isinstance(part, dict):
        return part
    if call := part.get("functionCall") or part.get("function_call"):
        return {**call, "type": "tool_use"}
    if answer := part.get("functionResponse") or part.get("function_response"):
        known = {"tool_use_id": answer.get("id"), "name": answer.get("name")}
        return {"type": "tool_result", "content": answer.get("response"), **known}
    return {"type": "thinking"} if part.get("thought") else part
