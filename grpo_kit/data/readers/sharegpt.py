"""ShareGPT's chats: a row has `conversations`, of turns from human, gpt, function_call, observation, tool."""

from typing import Any

from grpo_kit.data.readers.chat import ChatReader
from grpo_kit.data.readers.messages import from_json, messages_in
from grpo_kit.data.repair import Found
from grpo_kit.data.samples import Message

_CALLS = ("function_call", "tool_call")


class ShareGPTReader(ChatReader):
    fields = ("conversations", "conversation")
    systems = ("system", "system_prompt")

    def messages_in(self, raw: Any, found: Found) -> list[Message]:
        if isinstance(raw, dict):
            raw = {"role": raw.get("from"), "content": raw.get("value"), **raw}
            called = from_json(raw["content"]) if raw["role"] in _CALLS else None
            if isinstance(called, dict | list):
                raw |= {"content": None, "tool_calls": called if isinstance(called, list) else [called]}
        return messages_in(raw, found)
