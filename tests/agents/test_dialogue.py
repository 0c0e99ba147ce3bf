"""Dialogues: what is between the model's own tokens, how they end, and what goes wrong in them."""

from pathlib import Path

import pytest
import trl

from grpo_kit import ConfigError, Sample
from grpo_kit.agents import outside
from grpo_kit.agents.dialogue import begun, converse, measured
from grpo_kit.agents.episodes import episodes
from grpo_kit.agents.outside import environment_class
from grpo_kit.models.chat_template import chat_template_of, text_between
from grpo_kit.models.load import load_tokenizer
from grpo_kit.models.prompts import prompt_tokens

SHOP = "shop:Shop"
TOOLS = ("wait", "no", "leave")  # which hang, are not there, and end Python
CALL = '{"name": "stock", "arguments": {"item": "%s"}}'
FAMILIES = {  # a template of TRL's, and the token that ends its turns
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5_nothink": "<|im_end|>",
    "llama3_1": "<|eot_id|>",
    "gemma3": "<end_of_turn>",
    "gemma": "<end_of_turn>",
    "phi3": "<|end|>",
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


def talk(tokenizer, *turns, environment=SHOP, room=400, longest=None, most_turns=8, prompt="Is there tea?"):
    """The dialogue in which the model says these turns."""
    [sample] = episodes([Sample("7", [{"role": "user", "content": prompt}], "Yes.")], environment, "data")
    [led], said, end = begun([sample], environment, tokenizer), iter(turns), tokenizer.eos_token_id

    def generate(asked, group):
        asked_for.append(asked[0])
        text = next(said)
        tokens = tokenizer(text.removesuffix("…"), add_special_tokens=False)["input_ids"]
        tokens += [] if text.endswith("…") else [end]
        return [tokens], [[-0.5] * len(tokens)]

    asked_for = []
    converse([led], tokenizer, generate, [end], room=room, longest=longest, most_turns=most_turns)
    led.asked = asked_for
    return led


def test_only_what_the_model_wrote_is_its_own(tokenizer):
    led = talk(tokenizer, CALL % "tea", "Yes, 4 are left.")
    own = [token for token, is_own in zip(led.ids, led.own, strict=True) if is_own]
    others = [token for token, is_own in zip(led.ids, led.own, strict=True) if not is_own]
    assert tokenizer.decode(own) == CALL % "tea" + "<end_of_turn>Yes, 4 are left.<end_of_turn>"
    text = "\n<start_of_turn>user\nTool result: 4<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.decode(others) == text, "as the template writes it"
    assert [p == 0 for p in led.logprobs] == [not each for each in led.own]
    assert led.asked[1] == led.prompt_ids + led.ids[: len(led.asked[1]) - len(led.prompt_ids)], "nothing is rewritten"
    assert [message["role"] for message in led.messages] == ["assistant", "tool", "assistant"]
    assert led.messages[0]["tool_calls"][0]["function"] == {"name": "stock", "arguments": {"item": "tea"}}
    assert (led.ended, led.calls, led.errors, led.scores) == ("reply", 1, 0, {"environment": 1, "success": 1})
    assert led.prompt[-1]["content"] == "Is there tea? (order 7)" and led.world.environment.order == "7"


def test_words_and_several_calls_in_one_turn(tokenizer):
    led = talk(tokenizer, f"I look. {CALL % 'tea'}\n{(CALL % 'tea').replace('stock', 'price')}", "4 at $3.")
    assert led.messages[0]["content"] == "I look." and led.calls == 2
    assert [message["content"] for message in led.messages[1:3]] == ["4", "$3"], "an async tool too"


def test_a_tool_that_raises_or_hangs_or_is_not_there_is_an_error_that_the_model_reads(tokenizer, monkeypatch):
    monkeypatch.setattr(outside, "TOOL_SECONDS", 0.2)
    led = talk(tokenizer, CALL % "milk", *(f'{{"name": "{name}", "arguments": {{}}}}' for name in TOOLS), "Sorry.")
    told = [message["content"] for message in led.messages if message["role"] == "tool"]
    hung = '{"error":"wait did not answer within 0.2 s"}'
    left = '{"error":"SystemExit(1)"}'
    assert told == ['{"error":"\'milk\'"}', hung, '{"error":"there is no tool no"}', left]
    assert (led.errors, led.calls, led.ended) == (4, 4, "reply")
    assert measured([led], [None])["agent/errors"] == 1


@pytest.mark.parametrize(
    ("turns", "limits", "ended", "messages"),
    [
        ([CALL % "tea", "Yes."], {"room": 20}, "length", 1),  # the result has no room
        ([CALL % "tea", "Yes, there are …"], {}, "length", 3),  # the reply is cut
        ([CALL % "tea", "Yes."], {"longest": 60}, "length", 1),  # the model can't read more
        ([CALL % "tea"] * 3, {"most_turns": 3}, "turns", 5),
        ([""], {}, "reply", 1),
    ],
)
def test_a_dialogue_without_room_or_turns_left_ends_in_order(tokenizer, turns, limits, ended, messages):
    led = talk(tokenizer, *turns, **limits)
    assert (led.ended, len(led.messages)) == (ended, messages)
    assert len(led.ids) == len(led.own) == len(led.logprobs) <= limits.get("room", 400)
    assert led.messages[-1]["role"] == "assistant", "what it never read is no part of it"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_between_turns_is_as_the_template_writes_it(tokenizer, family):
    """A tool's result and a user's words, by the templates of several families: the same text as if the whole
    conversation were written anew."""
    own, end = load_tokenizer("tiny"), FAMILIES[family]
    own.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja").read_text()
    template = chat_template_of(own)
    asks = {"role": "user", "content": "Is there tea?"}
    says, more = {"role": "assistant", "content": "What kind?"}, {"role": "user", "content": "Green."}
    between = text_between(template, [more], [end])
    assert template.render([asks, says, more]).endswith(f"What kind?{end}{between}")
    result = {"role": "tool", "name": "stock", "content": "4 left"}
    between = text_between(template, [result], [end])
    assert "4 left" in between and "probe" not in between
    if template.call:
        call = {"type": "function", "function": {"name": "stock", "arguments": {"item": "tea"}}}
        calls = {"role": "assistant", "content": "", "tool_calls": [call]}
        assert template.render([asks, calls, result]).endswith(between)


def test_a_template_that_ends_no_turn_is_refused(tokenizer):
    own = load_tokenizer("tiny")
    own.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
    with pytest.raises(ConfigError, match="writes no token that ends the model's turn"):
        text_between(chat_template_of(own), [{"role": "user", "content": "Hi"}], ["<end_of_turn>"])


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_such_module:Shop", "can't be imported: No module named 'no_such_module'"),
        ("shop:Shopp", "can't be imported"),
        ("shop:NoShop", "it has no `reset`"),
        ("shop:Alone", r"does not take a sample's columns. Give it reset\(self, \*\*row\)"),
        ("shop:Bare", "the environment Bare's tool stock can't be described"),
        ("shop:Closed", r"Closed.__init__ failed: OSError: no till \(.*shop.py:\d+\)"),
    ],
)
def test_what_is_no_environment_is_refused_before_training(path, says):
    with pytest.raises(ConfigError, match=says):
        episodes([Sample("7", "Is there tea?", "Yes.")], path, "data")


def test_its_tools_are_told_to_the_model(tokenizer):
    [sample] = episodes([Sample("7", [{"role": "user", "content": "Is there tea?"}], "Yes.")], SHOP, "data")
    assert [tool["function"]["name"] for tool in sample.tools] == ["leave", "price", "stock", "wait"]
    assert "How much is left" in tokenizer.decode(prompt_tokens(tokenizer, sample.prompt, sample.tools))
    assert environment_class(SHOP) is environment_class(SHOP)


def test_an_environment_lives_on_one_thread_and_in_one_loop_and_prints_to_stderr(tokenizer, capsys):
    led = talk(tokenizer, '{"name": "count", "arguments": {}}', "Seven.", environment="shop:Ledger")
    assert led.messages[1]["content"] == "7" and led.scores == {"environment": None, "success": 0}
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "opening\n" * 2), "once when it is tried out"


def test_environments_begin_answer_and_score_side_by_side_and_in_order(tokenizer, capsys):
    asks, calls, end = (
        [{"role": "user", "content": "Who?"}],
        '{"name": "meet", "arguments": {}}',
        tokenizer.eos_token_id,
    )
    led = begun([Sample(str(place), asks, "You.") for place in range(3)], "shop:Party", tokenizer)
    said = iter([f"{calls}\n{calls}", "You."])

    def generate(asked, group):
        return [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in [next(said)] * 3], None

    converse(led, tokenizer, generate, [end], room=400, longest=None, most_turns=4)
    assert [[message["content"] for message in each.messages[1:3]] for each in led] == [["0"] * 2, ["1"] * 2, ["2"] * 2]
    assert [each.scores["environment"] for each in led] == [0, 1, 2] and not capsys.readouterr().out


@pytest.mark.parametrize(("kind", "method"), [("Stuck", "reset"), ("Undecided", "get_reward")])
def test_an_environment_that_hangs_ends_with_an_error(tokenizer, monkeypatch, kind, method):
    monkeypatch.setattr(outside, "OWN_SECONDS", 0.2)
    with pytest.raises(ConfigError, match=rf"{kind}\.{method} failed: it did not answer within 0.2 s"):
        assert talk(tokenizer, "Yes.", environment=f"shop:{kind}").scores


@pytest.mark.parametrize("gives", ["high", float("nan"), KeyError("till")])
def test_a_reward_that_is_no_number_is_a_fault_of_the_environment(tokenizer, monkeypatch, gives):
    [dialogue] = begun([Sample("7", [{"role": "user", "content": "Is there tea?"}], "Yes.")], SHOP, tokenizer)

    def get_reward(self):
        if isinstance(gives, Exception):
            raise gives
        return gives

    monkeypatch.setattr(environment_class(SHOP), "get_reward", get_reward)
    with pytest.raises(ConfigError, match=r"the environment's Shop\.get_reward (gave|failed: KeyError)"):
        dialogue.world.scores([], "reply")
