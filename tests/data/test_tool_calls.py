"""Whether an answer makes the calls of the trace, in whatever form a model writes them."""

import json
from pathlib import Path

import pytest
import trl
from transformers.utils.chat_template_utils import render_jinja_template

from grpo_kit.data.samples import Sample, call_text
from grpo_kit.data.tool_calls import call_score, calls_made, is_to_call, words_before_calls
from grpo_kit.judges.base import make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.rewards.ready import READY

FIND = {"name": "FindCafes", "arguments": {"city": "Oslo", "open": True, "seats": 2, "near": {"at": [1, 2.5]}}}
HOURS = {"name": "Hours", "arguments": {}}
CALLS = [FIND, HOURS]
TEXT = call_text(CALLS)
PYTHON = 'FindCafes(city="Oslo", open=True, seats=2.0, near={"at": [1, 2.5]})'

RIGHT = {
    "canonical": TEXT,
    "in another order": "\n".join(reversed(TEXT.splitlines())),
    "Qwen's and Hermes's tags": "".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>\n" for call in CALLS),
    "a fence, and words before it": f"One moment.\n```json\n{json.dumps(CALLS, indent=2)}\n```",
    "Llama's parameters": "; ".join(json.dumps({"name": c["name"], "parameters": c["arguments"]}) for c in CALLS),
    "OpenAI's form, arguments as text": json.dumps(
        {"tool_calls": [{"function": {"name": c["name"], "arguments": json.dumps(c["arguments"])}} for c in CALLS]}
    ),
    "whole numbers as floats": TEXT.replace(":2}", ":2.0}").replace("[1,", "[1.0,"),
    "after a thought of another call": f'<think>{{"name": "Hours", "arguments": {{}}}}</think>{TEXT}',
    "Qwen3.5's tags": """<tool_call>
<function=FindCafes>
<parameter=city>
Oslo
</parameter>
<parameter=open>true</parameter> <parameter=seats>2</parameter>
<parameter=near>
{"at": [1, 2.5]}
</parameter>
</function>
</tool_call>
<tool_call><function=Hours></function></tool_call>""",
    "Mistral's": '[TOOL_CALLS]FindCafes[ARGS]{"city": "Oslo", "open": true, "seats": 2, "near": {"at": [1, 2.5]}}'
    "[TOOL_CALLS]Hours[CALL_ID]a1b2c3d4e[ARGS]{}",
    "Mistral's older": f"[TOOL_CALLS]{json.dumps(CALLS)}",
    "FunctionGemma's": "<start_function_call>call:FindCafes{city:<escape>Oslo<escape>,near:{at:[1,2.5]},open:true,"
    "seats:2}<end_function_call><start_function_call>call:Hours{}<end_function_call>",
    "Gemma 3's code": f"Let me look.\n```tool_code\nprint({PYTHON})\nHours()\n```",
    "Llama's list": f"[{PYTHON}, Hours()]",
    "Llama's own functions": f"<|python_tag|>{PYTHON.replace('(', '.call(', 1)}; Hours.call()",
    "SmolLM3's code": f"<code>\n{PYTHON}\nHours()\n</code>",
    "Granite's and Phi's": f"<|tool_call|>{json.dumps(CALLS)}<|/tool_call|>",
}
WRONG = {
    "nothing": "",
    "words": "I can find cafes in Oslo.",
    "one of two": call_text([FIND]),
    "one twice": call_text([*CALLS, HOURS]),
    "another value": TEXT.replace("Oslo", "oslo"),
    "a number for a truth": TEXT.replace("true", "1"),
    "a text for a number": TEXT.replace('"seats":2', '"seats":"2"'),
    "one argument more": TEXT.replace('"open"', '"when":"now","open"'),
    "cut short": TEXT[:-3],
    "braces without end": '{"a":' * 3000,
    "brackets without end": f"[f(a={'[' * 3000})]",
    "arguments without names": "[FindCafes('Oslo'), Hours()]",
    "code in words": "I call FindCafes(city='Oslo') and Hours() for you.",
    "no constants": f"[{PYTHON.replace('2.0', 'f(2)')}, Hours()]",
}


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_the_same_calls_in_every_form(answer):
    assert call_score(answer, CALLS) == 1


TEMPLATES = "gemma4_v5 lfm2_v2 lfm2_2_5 llama3_2 qwen2_5 qwen3_instruct_2507 qwen3_5_nothink".split()


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_family_s_calls_are_read_as_its_template_writes_them(family):
    """As TRL ships it, with words before the calls where the family has any."""
    calls = CALLS[:1] if "llama" in family else CALLS  # all that its template takes
    made = [{"type": "function", "function": call} for call in calls]
    said = {"role": "assistant", "content": "" if "llama" in family else "One moment.", "tool_calls": made}
    template = (Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja").read_text()
    (text,), _ = render_jinja_template(
        [[{"role": "user", "content": "Hi."}, said]], chat_template=template, bos_token=""
    )
    answer = text[text.index("FindCafes") - 50 :]
    assert call_score(answer, calls) == 1 and [name for name, _ in calls_made(answer)] == [c["name"] for c in calls]
    assert "FindCafes" not in words_before_calls(text)


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_other_calls(answer):
    assert call_score(answer, CALLS) == 0


@pytest.mark.parametrize("value", ['"\\ud83d"', "1e30", "9" * 20, "9" * 5000, '{"a":' * 300 + "1" + "}" * 300])
def test_what_could_not_be_kept_is_no_call(value):
    assert calls_made(f'{{"name": "Hours", "arguments": {{"day": {value}}}}}') == []
    assert calls_made(f"{TEXT}<function=Hours><parameter=day>{value}</parameter></function>"), "a text is a text"


def test_the_ready_reward_judges_samples_with_calls_and_the_others_leave_them():
    parsed = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": HOURS}]}
    completions = [[parsed], [{"role": "assistant", "content": call_text([HOURS])}], "Hello there.", "Hello there."]
    columns = {"completions": completions, "tool_calls": [[HOURS], [FIND], [], None], "ground_truth": ["Hi you."] * 4}
    assert READY["tool_call"](**columns) == [1, 0, None, None]
    for name in ("length", "format", "repetition"):
        scores = READY[name](**columns)
        assert scores[:2] == [None, None] and None not in scores[2:]


@pytest.mark.parametrize("judge", ["offline", "reference"])
def test_every_judge_compares_a_call_and_judges_a_reply(judge):
    call = Sample("1", "Find a cafe.", TEXT, columns={"tool_calls": CALLS})
    reply = Sample("2", "Hello.", "Hello there, what can I do?", columns={"tool_calls": []})
    beside = Sample("3", "Hello.", "Hello there, what can I do?", columns={"tool_calls": CALLS})  # a reply in words
    answers = [RIGHT["Llama's parameters"], WRONG["one of two"], *[reply.ground_truth] * 2]
    verdicts = run_async(judge_batch(make_judge(judge), None, [call, call, reply, beside], answers)).verdicts
    assert [verdict.score for verdict in verdicts] == [1, 0, 1, 1]
    assert [verdict.criteria.get("call") for verdict in verdicts] == [1, 0, None, None]
    assert not any(is_to_call(reply.replace(columns={"tool_calls": other})) for other in (3, "none", ["search"]))
