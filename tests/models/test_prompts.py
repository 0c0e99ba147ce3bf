"""What a model reads: the same in training and evaluation, nothing dropped in silence, shortened in the right order."""

from types import SimpleNamespace

import pytest
import torch

from grpo_kit import ConfigError, Sample
from grpo_kit.models import prompts as fitting
from grpo_kit.models.chat_template import chat_template_of
from grpo_kit.models.generate import generate
from grpo_kit.models.load import load_tokenizer
from grpo_kit.models.prompts import fit_prompts, prompt_tokens
from grpo_kit.training.grpo import dataset_of
from grpo_kit.training.trainer import KitTrainer

WITH_TOOLS = """{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}
{%- for message in messages %}<{{ message.role }}>{{ message.content }}
{%- for call in message.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>
{%- endfor %}</{{ message.role }}>{% endfor %}<assistant>"""
# As Gemma 2's: no system role, user and assistant in turn, and of a tool call nothing at all.
STRICT = """{%- for message in messages %}
{%- if (message.role == "user") != (loop.index0 % 2 == 0) %}{{ raise_exception("turns must alternate") }}{% endif %}
{%- if message.role not in ("user", "assistant") %}{{ raise_exception("no such role") }}{% endif %}
{{- message.role }}: {{ message.content }}
{% endfor %}assistant:"""
ONE_CALL = WITH_TOOLS.replace("{{ message.content }}", "{{ message.content if not message.tool_calls }}").replace(
    "in message.tool_calls or []", "in (message.tool_calls or [])[:1]"
)
AS_TEXT = WITH_TOOLS.replace("{{ call.function.arguments | tojson }}", "{{ '' + call.function.arguments }}")
SYSTEM = {"role": "system", "content": "Be brief."}
GREETING = {"role": "assistant", "content": "Good morning."}
TOOLS = [{"type": "function", "function": {"name": "stock", "description": "How much is left", "parameters": {}}}]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, *calls):
    called = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]
    return {"role": "assistant", "content": text} | ({"tool_calls": called} if calls else {})


def tool(text):
    return {"role": "tool", "content": text}


ASKED = [SYSTEM, user("Is there tea?"), assistant("", ("stock", {"item": "tea"})), tool('{"left": 4}')]


@pytest.fixture
def tokenizer():
    return load_tokenizer("tiny")


def written(tokenizer, template, messages, tools=()):
    tokenizer.chat_template = template
    return chat_template_of(tokenizer).render(messages, tools)


def test_a_template_that_knows_tools_writes_them_itself(tokenizer):
    text = written(tokenizer, WITH_TOOLS, ASKED, TOOLS)
    assert text == tokenizer.apply_chat_template(ASKED, tools=TOOLS, tokenize=False)
    assert '<call>stock {"item": "tea"}</call>' in text and "How much is left" in text
    assert written(tokenizer, WITH_TOOLS, [SYSTEM, GREETING, user("Hi")]).count("<assistant>Good morning.") == 1


def test_what_a_template_can_not_write_is_folded_into_what_it_can(tokenizer):
    called = 'Tool call: stock {"item":"tea"}\n\nTool result: {"left": 4}'
    assert written(tokenizer, STRICT, ASKED) == f"user: Be brief.\n\nIs there tea?\n\n{called}\nassistant:"
    later = [*ASKED, assistant("Yes, 4."), user("And milk?")]
    assert written(tokenizer, STRICT, later).endswith(f"{called}\nassistant: Yes, 4.\nuser: And milk?\nassistant:")
    spoken = [user("Tea?"), assistant("I look.", ("stock", {"item": "tea"})), tool("4"), user("Well?")]
    next_turn = 'Tool call: stock {"item":"tea"}\n\nTool result: 4\n\nWell?'
    assert written(tokenizer, STRICT, spoken) == f"user: Tea?\nassistant: I look.\nuser: {next_turn}\nassistant:"
    greeted = written(tokenizer, STRICT, [GREETING, user("Tea?")])
    assert greeted == "user: The assistant has opened the conversation: Good morning.\n\nTea?\nassistant:"
    schemas = written(tokenizer, STRICT, ASKED, TOOLS)
    assert schemas.startswith("user: Be brief.\n\nTools, as JSON schemas:\n{") and "How much is left" in schemas
    # The kit's own template writes a tool's result, but of the call nothing.
    assert called in chat_template_of(load_tokenizer("tiny")).render(ASKED)


def test_what_a_template_leaves_out_in_silence_is_folded(tokenizer):
    two = [
        user("Tea, milk?"),
        assistant("", ("stock", {"item": "tea"}), ("stock", {"item": "milk"})),
        tool("4"),
        tool("0"),
    ]
    assert '<user>Tea, milk?\n\nTool call: stock {"item":"tea"}\n' in written(tokenizer, ONE_CALL, two)
    said = [user("Tea?"), assistant("I look.", ("stock", {"item": "tea"})), tool("4")]
    assert "</user><assistant>I look.</assistant><user>Tool call: stock" in written(tokenizer, ONE_CALL, said)
    assert '<call>stock {"item": "tea"}' in written(tokenizer, ONE_CALL, ASKED), "alone it is not"
    assert "<assistant>I look.<call>" in written(tokenizer, WITH_TOOLS, said)
    assert 'Tool call: stock {"item":"tea"}' in written(tokenizer, AS_TEXT, ASKED), "its text can't take a JSON object"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{# one #}\n{% for %}", r"can't be read, at its line 2: Expected an expression"),
        ("{{ messages | shout }}", r"can't be read, at its line 1: No filter named 'shout'"),
        ("{{ raise_exception('no') }}", "refuses a prompt: no"),
        ("{{ nothing.at.all }}", "refuses a prompt: 'nothing' is undefined"),
    ],
)
def test_a_broken_template_is_named_with_its_file(tokenizer, template, said):
    with pytest.raises(ConfigError, match=rf"in .*(chat_template.jinja|tokenizer_config.json) {said}.*Correct it"):
        written(tokenizer, template, ASKED)


def test_trls_template_stands_in_for_one_that_cannot_write_calls(tokenizer):
    from trl.chat_template_utils import deepseekv3_chat_template

    text = written(tokenizer, deepseekv3_chat_template, ASKED)
    assert '{"item": "tea"}' in text and "Tool call:" not in text


@pytest.mark.parametrize("template", [WITH_TOOLS, STRICT])
def test_training_and_evaluation_read_the_same_tokens(tokenizer, template):
    tokenizer.chat_template = template
    asked = [ASKED, [user("Hi")], [GREETING, user("Is there milk?")]]
    tools = [TOOLS, [], None]
    rows = dataset_of([{"prompt": prompt, "tools": own} for prompt, own in zip(asked, tools, strict=True)])[:]
    trainer = SimpleNamespace(processing_class=tokenizer, _rows=[{"tools": own} for own in rows["tools"]])
    trained, _, _ = KitTrainer._tokenize_prompts(trainer, rows["prompt"])
    read = []

    class Model:
        device, generation_config = "cpu", SimpleNamespace(eos_token_id=tokenizer.eos_token_id)

        def eval(self):
            pass

        def generate(self, input_ids, attention_mask, **_):
            read.extend(row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True))
            return SimpleNamespace(sequences=torch.cat([input_ids, input_ids[:, -1:]], dim=1), past_key_values=None)

    generate(Model(), tokenizer, asked, [own or [] for own in tools], max_completion_length=1)
    assert trained == read and len(set(map(tuple, read))) == 3


def test_rows_come_out_as_they_went_in():
    rows = [
        {"prompt": [assistant("", ("stock", {"item": "tea"}))], "tools": TOOLS},
        {"prompt": [assistant("", ("close", {"at": [1, "noon"], "why": None}))], "tools": []},
    ]
    dataset = dataset_of(rows)
    assert dataset.__getitems__([1, 0]) == rows[::-1]
    dataset[0]["prompt"].append("changed by a reward")
    assert len(dataset[0]["prompt"]) == 1


def length(tokenizer, messages):
    return len(prompt_tokens(tokenizer, messages))


def test_long_conversations_lose_their_oldest_turns_and_never_the_last(tokenizer):
    turns = [(user, assistant)[i % 2](f"turn {i} " + "in Paris on Monday " * 5) for i in range(9)]
    whole = length(tokenizer, turns)
    assert fit_prompts([turns], tokenizer, whole) == [(turns, False, False)]
    for limit in range(16, whole, 7):
        [(kept, shortened, too_long)] = fit_prompts([turns], tokenizer, limit)
        assert shortened and too_long == (length(tokenizer, kept) > limit)
        assert kept == turns[-len(kept) :] and kept[0]["role"] == "user"
        assert length(tokenizer, kept) <= limit or len(kept) == 1
        assert len(kept) == 9 or length(tokenizer, turns[-len(kept) - 2 :]) > limit, "as few left out as can be"


def test_old_results_go_before_old_turns_and_the_newest_results_stay(tokenizer):
    long = " and so on" * 20

    def looked_up(what):
        return [assistant("", ("stock", {"item": what})), tool(f"{what}{long}")]

    tea, milk = looked_up("tea"), looked_up("milk")
    first, second = [user("Tea?"), *tea, assistant("Yes.")], [user("Milk?"), *milk, assistant("No.")]
    prompt, newest = [SYSTEM, GREETING, *first, *second, user("Thank you")], user("Thank you")
    ways = [
        prompt,
        [SYSTEM, GREETING, first[0], first[-1], *second, newest],
        [SYSTEM, first[0], first[-1], *second, newest],
        [SYSTEM, *second, newest],
        [SYSTEM, second[0], *milk, newest],  # the question, and what came of it
    ]
    for left in ways:
        assert fit_prompts([prompt], tokenizer, length(tokenizer, left))[0][:1] == (left,)
    assert fit_prompts([prompt], tokenizer, 10) == [(ways[-1], True, True)]
    # Of the newest turn only results that later ones have followed.
    several = [user("Tea, milk?"), *tea, *milk]
    assert fit_prompts([several], tokenizer, 10) == [([several[0], *milk], True, True)]


def test_of_a_long_chat_little_is_tokenised_and_what_was_found_is_kept(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CACHE", tmp_path)
    monkeypatch.setattr(fitting, "SLOW", 0.0)
    turns = [(user, assistant)[i % 2](f"turn {i} in Paris on Monday") for i in range(401)]
    prompts = [turns[:end] for end in range(1, 402, 8)]
    read, said = [], []

    def counted(tokenizer, prompt, tools):
        read.append(len(prompt))
        return prompt_tokens(tokenizer, prompt, tools)

    monkeypatch.setattr(fitting, "prompt_tokens", counted)
    found = fit_prompts(prompts, tokenizer, 100, say=said.append)
    assert len(read) <= 3 * len(prompts) and max(read) < 30
    assert len(said) == 1 and f"{len(prompts)} prompts" in said[0]
    read.clear()
    assert fit_prompts(prompts, tokenizer, 100, say=said.append) == found and not read and len(said) == 1
    assert fit_prompts(prompts, tokenizer, 50) != found and read, "another length is another question"
    read.clear()
    tokenizer.chat_template += " "
    fit_prompts(prompts, tokenizer, 100)
    assert read, "and so is another template"


def test_a_sample_s_prompt_may_be_a_text(tokenizer):
    sample = Sample(id="1", prompt="Once upon a time", ground_truth="there was")
    [whole, short] = (fit_prompts([sample.prompt], tokenizer, limit)[0] for limit in (64, 1))
    assert whole == (sample.prompt, False, False) and short == (sample.prompt, False, True)
