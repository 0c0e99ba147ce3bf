"""Models that think before they answer: off unless asked for; judged by the answer alone, and shown whole."""

import asyncio
from pathlib import Path

import pytest
import torch
import trl
from transformers import AutoConfig, AutoModelForCausalLM

import grpo_kit as kit
from grpo_kit import ConfigError, Sample, TrainConfig, quote
from grpo_kit.cli import main
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.data.thoughts import answer_in
from grpo_kit.judges.base import Verdict
from grpo_kit.judges.batch import judge_batch
from grpo_kit.judges.offline.judge import OfflineJudge
from grpo_kit.models.generate import completion_text
from grpo_kit.models.load import load_tokenizer
from grpo_kit.models.prompts import fit_prompts, prompt_tokens
from grpo_kit.rewards.functions import try_rewards
from grpo_kit.training.trainer import KitTrainer

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
ON = {"enable_thinking": True}
ASKED = [{"role": "user", "content": "A table in Porto, please."}]
FEW = {"num_generations": 4, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 1}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory) -> str:
    """A Qwen3 with Qwen3.5's template, which opens the thought, and weights by which a thought may end or not: one
    column of the head says how likely each token is."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_tokens(["<think>", "</think>", "<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = (TEMPLATES / "qwen3_5_think.jinja").read_text()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(tokenizer), "max_position_embeddings": 4096}
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3", **sizes, tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 9
        head = model.get_output_embeddings().weight
        head[:, 0] = -1
        words = tokenizer(" which city would you like", add_special_tokens=False)["input_ids"]
        head[[*words, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("</think>")], 0] = 0.5
    folder = tmp_path_factory.mktemp("models") / "thinker"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def seen(monkeypatch) -> dict[str, list]:
    """What the judge was asked, and the tokens of training's prompts."""
    seen: dict[str, list] = {"judge": [], "prompts": []}
    judge, tokenize = OfflineJudge.judge, KitTrainer._tokenize_prompts

    async def judged(self, sample, answers, repeat=0):
        seen["judge"] += answers
        return await judge(self, sample, answers, repeat)

    def tokenized(self, prompts):
        seen["prompts"] += (found := tokenize(self, prompts))[0]
        return found

    monkeypatch.setattr(OfflineJudge, "judge", judged)
    monkeypatch.setattr(KitTrainer, "_tokenize_prompts", tokenized)
    return seen


@pytest.mark.parametrize("told", [{}, ON], ids=["off", "on"])
def test_training_and_evaluation_judge_the_answer_and_keep_the_thought(thinker, demo_data, tmp_path, seen, told):
    given = []

    def whole(completions, **_):
        given.extend(completion[0] for completion in completions)
        return [0.0] * len(completions)

    settings = {"data": str(demo_data), "rewards": [whole], "runs_dir": tmp_path, "chat_template_kwargs": told}
    run = kit.train(model_name=thinker, max_completion_length=12, canaries="off", **settings, **FEW)
    rows = run.completions()
    texts, answers = rows["completion"].tolist(), [answer_in(text) for text in rows["completion"]]
    tokenizer, ending = load_tokenizer(thinker, told), "<think>\n" if told else "<think>\n\n</think>\n\n"
    assert all(tokenizer.decode(tokens).endswith(f"assistant\n{ending}") for tokens in seen["prompts"])
    assert set(seen["judge"]) == set(answers) - {None}
    assert [message["content"] for message in given] == [answer or "" for answer in answers]
    cut = rows[[answer is None for answer in answers]]
    if told:
        assert all(text.startswith("<think>\n") for text in texts) and 0 < len(cut) < len(rows)
        assert all("</think>" not in answer for answer in answers if answer) and any(answers)
        assert all(message["reasoning_content"] for message, text in zip(given, texts, strict=True) if len(text) > 40)
        assert {score["offline"] for score in cut["rewards"]} == {0.0}
        assert cut["reason"].str.contains("thought was cut").all()
        assert run.metrics()["thoughts/cut"].tolist() == [pytest.approx(len(cut) / len(rows))]
    seen["judge"].clear()
    evaluation = kit.evaluate(run, n=6, second_judge=None)
    said = evaluation.samples()
    assert set(seen["judge"]) == {answer_in(text) for name in ("base", "checkpoint-1") for text in said[name]} - {None}
    if told:
        assert said["base"].str.startswith("<think>\n").all() and said["base words"].max() < 12
        other = kit.evaluate(run, n=6, second_judge=None, chat_template_kwargs={"enable_thinking": False})
        assert not other.samples()["base"].str.startswith("<think>").any()
        assert "chat_template_kwargs-enable_thinking=false" in other.path.name
        talk = kit.chat(run, "Hello", max_completion_length=4)
        assert talk.loc[0, "base"].startswith("<think>") and talk.loc[0, "trained"].startswith("<think>")


def test_prompts_lengths_are_counted_with_what_the_template_is_told(thinker):
    off, on = load_tokenizer(thinker), load_tokenizer(thinker, ON)
    for tokenizer, told in ((off, {"enable_thinking": False}), (on, ON)):
        wanted = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False, **told)
        assert tokenizer.decode(prompt_tokens(tokenizer, ASKED)) == wanted
    talk = [*ASKED, {"role": "assistant", "content": "For how many?"}, {"role": "user", "content": "Four."}]
    fits = len(prompt_tokens(on, talk))
    assert fits < len(prompt_tokens(off, talk)), "a thought that is there already has its end"
    assert [fit_prompts([talk], each, fits)[0].is_shortened for each in (off, on)] == [True, False]


@pytest.mark.parametrize(
    "text, answer",
    {
        "plain": "plain",
        "<think>\na\n</think>\n\nb": "b",
        "a</think>b": "b",
        "a</think>b</think>\nc": "c",
        "x <think>a</think> y": "x y",
        "<think>a": None,
        "<think></think>": "",
        "<think>a</think><think>b": None,
        "x <think> y": "x <think> y",
    }.items(),
)
def test_the_answer_is_what_follows_the_thought(text, answer):
    assert answer_in(text) == answer
    sample = Sample(id="1", prompt=ASKED, ground_truth="b")

    def seen(completions, **_):
        return [float(len(completions[0][0]["content"]))]

    assert try_rewards([seen], [sample], [text]) == {"seen": [len(answer or "")]}


def test_a_judge_that_compares_is_not_asked_about_a_thought_that_was_cut():
    asked = []

    class Compares(OfflineJudge):
        compares = True

        async def judge(self, sample, answers, repeat=0):
            asked.append(answers)
            return [Verdict(0.5)] * len(answers)

    texts = ["<think>cut", "<think>a</think>good", "<think>b</think>good"]
    judged = asyncio.run(judge_batch(Compares(), None, [Sample(id="1", prompt=ASKED, ground_truth="b")] * 3, texts))
    assert asked == [["good"]] and [verdict.score for verdict in judged.verdicts] == [0, 0.5, 0.5]


def test_gemma_4s_marks_are_special_tokens_and_are_shown_as_others():
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|channel>", "<channel|>", "<|think|>"]})
    tokenizer.chat_template = (TEMPLATES / "gemma4_v5.jinja").read_text()
    tokens = tokenizer("<|channel>thought\nhm<channel|>Yes", add_special_tokens=False)["input_ids"]
    assert completion_text(tokenizer, ASKED, tokens) == "<think>thought\nhm</think>Yes"
    assert completion_text(tokenizer, "2+2? <think>", tokens[:1]) == "<think>\n<think>"


def test_the_quote_and_the_check_say_what_is_switched_and_what_is_not(thinker, tmp_path, capsys, monkeypatch):
    def quoted(model, **settings):
        return quote(TrainConfig(model_name=model, **settings), tmp_path, "local", ask=False)

    for name in (thinker, "Qwen/Qwen3-0.6B"):
        assert dict(quoted(name).rows())["thinking"].startswith("off")
        on = quoted(name, chat_template_kwargs=ON)
        assert dict(on.rows())["thinking"].startswith("on")
        assert any("Use max_completion_length=1024" in problem.fix for problem in on.problems)
    assert "thinking" not in dict(quoted("tiny").rows())
    assert not any(
        "thinks" in str(each) for each in quoted(thinker, chat_template_kwargs=ON, max_completion_length=512).problems
    )
    wrong = quoted(thinker, chat_template_kwargs={"enable_thinkin": True}).problems
    assert any("does not read 'enable_thinkin'. Did you mean enable_thinking?" in str(problem) for problem in wrong)
    words = [
        "grpo-kit",
        "train",
        "--model-name",
        thinker,
        "--chat-template-kwargs",
        "{enable_thinking: true}",
        "--dry-run",
    ]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main()
    assert "thinking on: the judge" in capsys.readouterr().out


def test_settings_are_read_as_a_shell_types_them():
    for text in ("{enable_thinking: true}", '{"enable_thinking": true}', "enable_thinking=true"):
        assert TrainConfig.from_text({"chat_template_kwargs": text}).chat_template_kwargs == ON
    assert TrainConfig.from_text({"chat_template_kwargs": "none"}).chat_template_kwargs == {}
    assert EvalConfig.from_text({"chat_template_kwargs": "none"}).chat_template_kwargs is None
    for wrong in ("{enable_thinking:true}", "[1]", "enable_thinking", "{a: "):
        with pytest.raises(ConfigError, match="should be a mapping such as"):
            TrainConfig.from_text({"chat_template_kwargs": wrong})


def test_the_panel_shows_and_takes_it():
    from grpo_kit.widgets.launch_panel import LaunchPanel

    panel = LaunchPanel(TrainConfig(chat_template_kwargs=ON))
    control = panel.controls["chat_template_kwargs"]
    assert control.value == '{"enable_thinking": true}' and panel.config.chat_template_kwargs == ON
    control.value = "{enable_thinking: false}"
    assert panel.config.chat_template_kwargs == {"enable_thinking": False}
