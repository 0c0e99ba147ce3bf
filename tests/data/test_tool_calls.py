"""Whether an answer makes the calls of the trace, in whatever form a model writes them."""

import json

import pytest

from grpo_kit.data.samples import Sample, call_text
from grpo_kit.data.tool_calls import call_score, is_to_call
from grpo_kit.judges.base import make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.rewards.ready import READY

FIND = {"name": "FindCafes", "arguments": {"city": "Oslo", "open": True, "seats": 2, "near": {"at": [1, 2.5]}}}
HOURS = {"name": "Hours", "arguments": {}}
CALLS = [FIND, HOURS]
TEXT = call_text(CALLS)

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
}


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_the_same_calls_in_every_form(answer):
    assert call_score(answer, CALLS) == 1


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_other_calls(answer):
    assert call_score(answer, CALLS) == 0


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
