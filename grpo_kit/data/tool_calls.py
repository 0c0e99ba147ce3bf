"""The tool calls that a model's answer makes, and whether they are those of the trace."""

import json
import re
from typing import Any

from grpo_kit.data.samples import Sample
from grpo_kit.data.thoughts import answer_in

TOOL_CALLS = "tool_calls"  # the column that holds the calls to make, [{"name", "arguments"}]
WORLD = "world"  # the column that has the calls which a dialogue's world knows, each with its result
# The form of Qwen3.5 and Qwen3-Coder, in which every argument is text.
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def is_to_call(sample: Sample) -> bool:
    """Whether the sample's reference is the text of its calls; it may also hold calls beside a reply in words."""
    calls = sample.columns.get(TOOL_CALLS)
    return bool(calls and calls_in(sample.ground_truth)) and call_score(sample.ground_truth, calls) == 1


def call_score(answer: str, calls: Any) -> float:
    """1 where the answer makes these calls and no others, else 0.

    The order of calls and of arguments, spaces, words beside the calls and 1 for 1.0 make no difference. A call is a
    JSON object with a name and arguments (or parameters), wherever it stands: in <tool_call> tags, a code fence, a line
    of its own; or Qwen3.5's <function=name>. A thought does not count. `calls` are such objects, or their text.
    """
    answer = answer_in(answer) or ""
    wanted = calls_in(calls if isinstance(calls, str) else json.dumps(calls))
    if made := _tagged(answer):
        wanted = [(name, {key: _as_text(value) for key, value in arguments.items()}) for name, arguments in wanted]
    return float(_canonical(made or calls_in(answer)) == _canonical(wanted))


def calls_made(answer: str) -> list[tuple[str, dict]]:
    """Names and arguments of the calls that an answer without its thought makes, in any of these forms."""
    return _tagged(answer) or calls_in(answer)


def _tagged(answer: str) -> list[tuple[str, dict]]:
    return [(name, dict(_PARAMETER.findall(body))) for name, body in _FUNCTION.findall(answer)]


def calls_in(text: str) -> list[tuple[str, dict]]:
    """Names and arguments of the calls that are JSON in a text."""
    found, at = [], text.find("{")
    while at >= 0:
        try:
            value, end = _JSON.raw_decode(text, at)
            arguments = value.get("arguments", value.get("parameters"))
            arguments = _JSON.decode(arguments) if isinstance(arguments, str) else arguments
            if isinstance(arguments, dict) and isinstance(value.get("name"), str):
                found.append((value["name"], arguments))
                at = end - 1
        except (ValueError, RecursionError):  # no JSON, or braces without end
            pass
        at = text.find("{", at + 1)
    return found


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


_JSON = json.JSONDecoder(parse_float=_number)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _canonical(calls: list[tuple[str, dict]]) -> list[str]:
    return sorted(json.dumps(call, sort_keys=True) for call in calls)
