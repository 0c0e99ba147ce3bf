"""Repairs: messages as people record them become a dialogue in the kit's form, and what was changed is counted."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from grpo_kit.data.samples import Message, ToolCall

REPAIRS = {  # as data_card.json counts them
    "roles_renamed": "its role has another name or other letters, such as bot or User",
    "turns_joined": "the same side speaks twice in a row",
    "greetings_first": "the assistant opens the dialogue",
    "empty_turns_dropped": "it is empty",
    "put_in_users_words": "a system message comes in the middle, or a tool's result without a call",
    "reasoning_left_out": "it holds reasoning",
    "hosted_tools_left_out": "`tools` has one that the provider runs, such as its own search",
    "fields_renamed": "a field name has other letters, such as Question for question",
    "columns_renamed": "a column has a name that the kit or TRL uses for something else",
}
# The roles of the formats that are read, and what others call them.
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "model", "gpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
_SYNONYMS = _ROLES | {
    **dict.fromkeys(("customer", "client", "caller", "person", "prompter", "usr"), "user"),
    **dict.fromkeys(("bot", "ai", "agent", "chatbot", "chatgpt", "sys_agent", "tool_call"), "assistant"),
    **dict.fromkeys(("tool_response", "tool_result", "function_response", "function_result", "ipython"), "tool"),
}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def plain_name(name: str) -> str:
    """A field's name in small letters, with underscores for blanks: "system_prompt" for " System Prompt"."""
    return re.sub(r"[\s_-]+", "_", name.strip()).lower()


class Found:
    """What was repaired in a piece, and what is wrong with what was left out of it."""

    def __init__(self, strict: bool):
        self.strict, self.number, self.is_cut = strict, 0, False  # of the message that is being read; see read_dialogue
        self.repairs, self.faults = Counter[str](), list[str]()

    def repaired(self, name: str) -> None:
        """Counts a repair, one of REPAIRS. Raises ValueError instead where `strict`."""
        if self.strict:
            raise ValueError(f"it needs a repair, which strict (--strict) refuses: {REPAIRS[name]} ({name})")
        self.repairs[name] += 1

    def role(self, name: Any) -> str:
        """The kit's role of that name. Raises ValueError where there is none."""
        if role := _ROLES.get(str(name)):
            return role
        if not (role := _SYNONYMS.get(str(name).strip().lower())):
            raise ValueError(f"it has the role {name!r}; there are: system, user, assistant, tool")
        self.repaired("roles_renamed")
        return role


def read_dialogue(
    raw: Iterable[Any], messages_in: Callable[[Any, Found], list[Message]], found: Found, first: int = 1
) -> list[Message]:
    """The messages of a dialogue, which `messages_in` makes of each of the raw ones, with what is odd repaired.

    A raw message that can't be used ends the dialogue before it: `found.faults` tells its number, counted from `first`.
    """
    dialogue: list[Message] = []
    waiting: list[ToolCall] = []  # calls that no tool has answered
    for found.number, each in enumerate(raw, first):
        try:
            for message in messages_in(each, found):
                _add(message, dialogue, waiting, found)
        except ValueError as problem:
            found.faults.append(f"message {found.number} and what follows is left out: {problem}")
            found.is_cut = True
            break
    return dialogue


def _add(message: Message, dialogue: list[Message], waiting: list[ToolCall], found: Found) -> None:
    last: Message = dialogue[-1] if dialogue else {"role": "", "content": ""}
    role, calls = message["role"], message.get("tool_calls", [])
    is_stray = role == "tool" and last["role"] != "tool" and "tool_calls" not in last
    if (is_stray or role != "tool") and not message["content"].strip():
        if not calls:
            return found.repaired("empty_turns_dropped")
        message["content"] = ""
    if is_stray or (role == "system" and last["role"] not in ("", "system")):
        found.repaired("put_in_users_words")
        role = "user"
        message = {"role": role, "content": message["content"]}
    if role == "tool":
        answered = next((call for call in waiting if message.get("tool_call_id") in (None, call.get("id"))), None)
        if answered:
            waiting.remove(answered)
            message.setdefault("name", answered["function"]["name"])
    elif role == last["role"] and (calls or "tool_calls" not in last):
        found.repaired("turns_joined")
        last["content"] = "\n".join(filter(None, (last["content"], message["content"])))
        if calls:
            last["tool_calls"] = last.get("tool_calls", []) + calls
            waiting += calls
        return
    elif role == "assistant":
        if last["role"] in ("", "system"):
            found.repaired("greetings_first")
        waiting[:] = calls
    dialogue.append(message)
