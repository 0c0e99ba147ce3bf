"""One message of a trace, in OpenAI's or Anthropic's form, in the kit's form; other forms become one of these first."""

import ast
import re
from typing import Any

import orjson

from grpo_kit.data.repair import Found
from grpo_kit.data.samples import Message, ToolCall
from grpo_kit.data.thoughts import answer_in, has_thought

_REASONING = ("thinking", "redacted_thinking", "reasoning", "reasoning_content")  # kinds of parts, and fields
_TEXTS = ("content", "refusal", "text")  # fields of a message, of which the first that says something is taken
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>\s*", re.DOTALL)  # as Qwen's and Hermes' templates write it


def messages_in(raw: Any, found: Found) -> list[Message]:
    """What one message of OpenAI's or Anthropic's says: the results of tools, then the message itself.

    Raises ValueError where it is no message, or has nothing that can be used.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is not an object with a role and content")
    content = next((raw[name] for name in _TEXTS if raw.get(name)), raw.get("content"))
    role, faults = found.role(raw.get("role")), len(found.faults)
    called = [raw["function_call"]] if raw.get("function_call") else from_json(raw.get("tool_calls")) or []
    calls = [call_in(call) for call in (called if isinstance(called, list) else [called])]
    texts, results = [], []
    for _ in filter(raw.get, _REASONING):
        found.repaired("reasoning_left_out")
    if role == "tool" and not _is_parts(content):
        content = as_text(content)
    for part in content if isinstance(content, list) else [content]:
        block: dict[str, Any] = part if isinstance(part, dict) else {}
        kind = block.get("type")
        if kind == "tool_use":
            calls.append(call_in(block))
        elif kind == "tool_result":
            results += messages_in({**block, "role": "tool", "tool_call_id": block.get("tool_use_id")}, found)
        elif kind in _REASONING:
            found.repaired("reasoning_left_out")
        else:
            texts.append(_text_of(part, found))
    text = "\n".join(filter(None, texts))
    if role == "assistant":
        text = without_reasoning(text, found)
        calls += [call_in(from_json(call)) for call in _CALL.findall(text)]
        text = _CALL.sub("", text).strip() if calls else text
    if len(found.faults) > faults and not (text or calls or results):
        raise ValueError(found.faults.pop())
    message: Any = {"role": role, "content": text}
    message |= {name: str(raw[name]) for name in ("name", "tool_call_id") if raw.get(name)}
    message |= {"weight": 0} if raw.get("weight") == 0 else {}
    message |= {"tool_calls": calls} if calls else {}
    return results + [message] * (bool(text) or not results)


def without_reasoning(text: str, found: Found) -> str:
    if not has_thought(text):
        return text
    found.repaired("reasoning_left_out")
    return answer_in(text) or ""


def call_in(raw: Any) -> ToolCall:
    """A tool call in OpenAI's form, also its older and flat one, Anthropic's or Gemini's. Raises ValueError."""
    inner = _function_of(raw)
    given = [inner[name] for name in ("arguments", "input", "args", "parameters") if inner.get(name) is not None]
    arguments = from_json(given[0] or {}) if given else {}
    if not isinstance(inner.get("name"), str) or not isinstance(arguments, dict):
        raise ValueError(f"it calls a tool without a name, or its arguments are not a JSON object: {str(raw)[:80]}")
    call: ToolCall = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
    if raw.get("id"):
        call["id"] = str(raw["id"])
    return call


def tools_in(value: Any, found: Found) -> list[dict[str, Any]]:
    """The functions that an assistant may call, in OpenAI's form. Takes its older form, Anthropic's and Gemini's too,
    and the JSON text of each. Raises ValueError where it is none of these."""
    tools, value = [], from_json(value or [])
    for each in value if isinstance(value, list) else [value]:
        function = _function_of(each)
        if declared := function.get("functionDeclarations", function.get("function_declarations")):
            tools += tools_in(declared, found)
            continue
        if not isinstance(function.get("name"), str):
            if "type" in function or {type(value) for value in function.values()} == {dict}:  # {"googleSearch": {}}
                found.repaired("hosted_tools_left_out")
                continue
            raise ValueError(f"`tools` has one without a name: {str(each)[:80]}. Rename the field if it is no function")
        schemas = [function[name] for name in ("parameters", "input_schema", "inputSchema") if function.get(name)]
        told = {"description": function["description"]} if function.get("description") else {}
        if schemas:  # with types as JSON schema has them: Gemini's are "OBJECT" and "STRING"
            schema = orjson.dumps(from_json(schemas[0]))
            told["parameters"] = orjson.loads(re.sub(rb'"type":"[A-Z]+"', lambda found: found[0].lower(), schema))
        tools.append({"type": "function", "function": {"name": function["name"], **told}})
    return tools


def _function_of(raw: Any) -> dict[str, Any]:
    inner = raw.get("function") or raw if isinstance(raw, dict) else {}
    return inner if isinstance(inner, dict) else {}


def from_json(value: Any) -> Any:
    """What a text that is an object or array in JSON, or as Python prints it, stands for; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    for read in (orjson.loads, ast.literal_eval):
        try:
            return read(value.strip())
        except (ValueError, SyntaxError):
            continue
    return value


def as_text(value: Any) -> str:
    """A text as it is, nothing as "", a number as text, and an object or array as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value, default=str).decode() if isinstance(value, dict | list | bool) else str(value)


def _is_parts(content: Any) -> bool:
    kinds = [isinstance(part, str) or (isinstance(part, dict) and "type" in part) for part in content or ()]
    return isinstance(content, list) and bool(kinds) and all(kinds)


def _text_of(part: Any, found: Found) -> str:
    match part:
        case {"text": str(text)} | {"refusal": str(text)}:
            return text
        case {"type": "text"}:
            return ""
        case dict():
            kind = part.get("type") or ", ".join(part)
            found.faults.append(f"message {found.number} holds {kind!r}, and only text can be learnt from")
            return ""
    return as_text(part)
