"""The tool calls that a model's answer makes, in its family's form, and whether they are those of the trace.

A tokenizer's own `parse_response` reads the form of its template alone, and judges have no tokenizer.
"""

import ast
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

from grpo_kit.data.samples import Sample
from grpo_kit.data.thoughts import answer_in

TOOL_CALLS = "tool_calls"  # the column that holds the calls to make, [{"name", "arguments"}]
WORLD = "world"  # the column that has the calls which a dialogue's world knows, each with its result
# Special tokens that calls are read by: those of Gemma 4, FunctionGemma, Mistral, LFM2 and Llama 3.
CALL_MARKS = """<|tool_call> <tool_call|> <|"|> <start_function_call> <end_function_call> <escape> [TOOL_CALLS] [ARGS]
    <|tool_call_start|> <|tool_call_end|> <|python_tag|>""".split()
_BEGIN = re.compile(r"```|<\|?(?:tool_call|python_tag)|<(?:function=|start_function_call|code>)|[\[{]")


def is_to_call(sample: Sample) -> bool:
    """Whether the sample's reference is the text of its calls; it may also hold calls beside a reply in words."""
    calls = sample.columns.get(TOOL_CALLS)
    return bool(calls and calls_in(sample.ground_truth)) and call_score(sample.ground_truth, calls) == 1


def call_score(answer: str, calls: Any) -> float:
    """1 where the answer makes these calls and no others, else 0.

    The order of calls and of arguments, spaces, words beside the calls and 1 for 1.0 make no difference, nor does the
    form, of those that docs/agents.md lists. A thought does not count. `calls` are JSON objects with a name and
    arguments (or parameters), or their text.
    """
    answer = answer_in(answer) or ""
    made, wanted = calls_made(answer), calls_in(calls if isinstance(calls, str) else json.dumps(calls))
    if _TAGS.search(answer):  # which have text alone
        texts = [{key: v if isinstance(v, str) else json.dumps(v) for key, v in each.items()} for _, each in wanted]
        wanted = [(name, text) for (name, _), text in zip(wanted, texts, strict=True)]
    return float(_canonical(made) == _canonical(wanted))


def calls_made(answer: str) -> list[tuple[str, dict]]:
    """Names and arguments of the calls that an answer without its thought makes, in any form."""
    calls = []
    for form, arguments_in in _FORMS.items():
        for name, text in form.findall(answer):
            with suppress(ValueError, RecursionError):  # no arguments
                calls.append((name, arguments_in(text)))
    return list(filter(_can_be_kept, calls or calls_in(answer) or _in_python(answer)))


def _can_be_kept(call: tuple[str, dict]) -> bool:
    """Whether JSON has its letters and numbers: no half of a surrogate pair, no 1e30 as a whole number."""
    try:
        return bool(orjson.dumps(call))
    except TypeError:
        return False


def words_before_calls(text: str) -> str:
    """What is said before the calls that a text has."""
    return _BEGIN.split(text, maxsplit=1)[0].strip()


def calls_in(text: str) -> list[tuple[str, dict]]:
    """Names and arguments of the calls that are JSON in a text, in tags or not: the form of most families."""
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


def _tagged(text: str) -> dict:
    found = re.findall(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", text, re.DOTALL)
    return {name: {"True": "true", "False": "false", "None": "null"}.get(value, value) for name, value in found}


def _escaped(text: str) -> dict:
    """JSON but for its quotation marks: {city:<escape>Oslo<escape>,seats:2}."""
    parts = re.split(r'<escape>|<\|"\|>', text)
    parts[::2] = [re.sub(r"([^\s{},:]+):", r'"\1":', part) for part in parts[::2]]
    parts[1::2] = map(json.dumps, parts[1::2])
    return _object("".join(parts))


def _object(text: str) -> dict:
    return _JSON.raw_decode(text)[0]


def _in_python(answer: str) -> list[tuple[str, dict]]:
    """Calls with named arguments alone."""
    calls = []
    for code in map("".join, _PYTHON.findall(answer)):
        try:
            for node in ast.walk(ast.parse(code.strip())):
                if isinstance(node, ast.Call) and not node.args:
                    named = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
                    calls.append((ast.unparse(node.func).removesuffix(".call"), _object(json.dumps(named))))
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # no Python, or no constants
            pass
    return calls


_JSON = json.JSONDecoder(parse_float=lambda text: int(value) if (value := float(text)).is_integer() else value)


def _canonical(calls: list[tuple[str, dict]]) -> list[str]:
    return sorted(json.dumps(call, sort_keys=True) for call in calls)


# Forms that are no JSON objects with a name: name and arguments of a call, and how the arguments are read.
_TAGS = re.compile(r"<function=([^>\s]+)>(.*?)</function>", re.DOTALL)
_FORMS: dict[re.Pattern, Callable[[str], dict]] = {
    _TAGS: _tagged,  # Qwen3.5 and Qwen3-Coder: every argument is text
    re.compile(r"call:([\w.-]+)(\{.*?\})(?:<tool_call\||<end_function_call)>", re.DOTALL): _escaped,  # Gemma's
    re.compile(r"([\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\]\s*(\{.*?)(?=\[TOOL_CALLS\]|$)", re.DOTALL): _object,  # Mistral's
}
# Where Python stands: the code of Gemma 3 and SmolLM3, LFM2's and Llama's tags, or the whole answer.
_PYTHON = re.compile(
    r"```(?:tool_code|python)\n(.*?)```|<code>(.*?)</code>|<\|tool_call_start\|>(.*?)<\|tool_call_end\|>"
    r"|<\|python_tag\|>(.*)|^\s*(\[\s*[\w.]+\(.*\)\s*\])\s*$",
    re.DOTALL,
)
