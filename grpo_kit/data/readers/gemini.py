"""Gemini's chats: a row has `contents`, whose roles are user and model, and whose parts are text, calls and results."""

from typing import Any

from grpo_kit.data.readers.chat import ChatReader
from grpo_kit.data.readers.messages import messages_in
from grpo_kit.data.repair import Found
from grpo_kit.data.samples import Message


class GeminiReader(ChatReader):
    fields = ("contents",)
    systems = ("systemInstruction", "system_instruction")

    def system_message(self, system: Any) -> dict[str, Any]:
        return {"parts": [], **(system if isinstance(system, dict) else {"parts": [system]}), "role": "system"}

    def messages_in(self, raw: Any, found: Found) -> list[Message]:
        if not isinstance(raw, dict) or not isinstance(raw.get("parts"), list):
            raise ValueError("it is no object with a role and a list of parts")
        role = "user" if raw.get("role") in (None, "function") else raw["role"]
        return messages_in({"role": role, "content": [_part(part) for part in raw["parts"]]}, found)


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
