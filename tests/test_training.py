"""Training: the tiny model learns, and the run directory holds what people and later tools look for in it."""

import json
import sqlite3

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from grpo_kit import BadTrace, ConfigError, Run, RunError, evaluate, runs, train
from grpo_kit.models import answer, fit_prompt, load_model, load_tokenizer


def test_it_learns(trained):
    # 20 steps of the demo's 60: the direction, not the size, of what the demo shows.
    evaluation = evaluate(trained, n=96)
    last = evaluation.summary().iloc[-1]
    assert last["difference"] > 0.05 and last["difference_low"] > 0


def test_the_run_directory_holds_what_it_should(trained):
    names = {path.name for path in trained.path.iterdir()}
    assert names >= {
        *("config.json", "status.json", "metrics.jsonl", "completions.jsonl", "rewards.cache.sqlite"),
        *("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "training_args.bin"),
        *("checkpoint-10", "checkpoint-20"),
    }
    about = trained.about
    assert about["versions"]["trl"] and about["data"]["fingerprint"] and about["settings"]["max_steps"] == 20
    status = trained.status
    assert (status["state"], status["step"], status["max_steps"]) == ("complete", 20, 20)
    assert repr(trained) == f"Run({trained.id}: complete, step 20/20)"
    assert runs(trained.path.parent)["run"].tolist() == [trained.id]


def test_metrics_has_a_line_a_step(trained):
    metrics = trained.metrics()
    assert metrics["step"].tolist() == list(range(1, 21))
    measured = """loss reward reward_std rewards/offline/mean rewards/offline/std completions/mean_length
        completions/clipped_ratio entropy frac_reward_zero_std learning_rate
        seconds/generating seconds/judging seconds/updating""".split()
    assert metrics[measured].notna().all(axis=None)
    parts = metrics[["seconds/generating", "seconds/judging", "seconds/updating"]]
    assert (parts >= 0).all(axis=None) and (parts.sum(axis=1) - metrics["step_time"]).abs().max() < 0.01


def test_completions_are_the_ones_that_were_scored(trained):
    completions, metrics = trained.completions(), trained.metrics()
    assert completions.groupby("step").size().eq(32).all()
    completions["score"] = [rewards["offline"] for rewards in completions["rewards"]]
    by_step = completions.groupby("step")["score"].mean()
    assert by_step.to_numpy() == pytest.approx(metrics["reward"].to_numpy(), abs=1e-5)
    groups = completions.groupby("step")["sample_id"].nunique()
    assert groups.eq(4).all(), "4 prompts a step, 8 completions each"
    with sqlite3.connect(trained.path / "rewards.cache.sqlite") as database:
        cached = dict(database.execute("select reason, score from judgements"))
    assert set(completions["reason"]) <= cached.keys()


def test_the_adapter_loads_elsewhere_by_its_name(trained):
    adapter = json.loads((trained.path / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "tiny"
    model = PeftModel.from_pretrained(load_model("tiny", bf16=False), trained.path)
    assert answer(model, load_tokenizer("tiny"), ["Hello"], max_completion_length=4)


def test_full_fine_tuning_saves_a_whole_model_and_a_users_reward_counts(tmp_path, demo_data, capsys):
    seen = []

    def brevity(completions, ground_truth, **_):
        seen.append(ground_truth[0])
        return [None if i % 2 else 0.5 for i in range(len(completions))]

    run = train(
        data=str(demo_data), use_lora=False, learning_rate=1e-4, max_steps=2, rewards=[brevity], runs_dir=tmp_path
    )
    model = AutoModelForCausalLM.from_pretrained(run.path)
    assert model.num_parameters() > 250_000 and not (run.path / "adapter_config.json").exists()
    assert run.config.use_lora is False, "the run's settings outlive the model's own config.json"
    assert len(evaluate(run, n=4).summary()) == 2
    metrics, completions = run.metrics(), run.completions()
    assert seen and (metrics["rewards/brevity/mean"] == 0.5).all()
    assert {scores["brevity"] for scores in completions["rewards"]} == {0.5, None}
    assert "Step 2/2: loss=" in capsys.readouterr().out


def test_what_cannot_work_is_said_before_anything_is_written(tmp_path, demo_data):
    with pytest.raises(ConfigError, match=r"no-such-model.*can't be loaded"):
        train(model_name="./no-such-model", data=str(demo_data), runs_dir=tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.jsonl").write_text('{"prompt": "Where?"}\n')
    with pytest.raises(BadTrace, match=r"train\.jsonl:1.*ground_truth"):
        train(data=str(tmp_path / "bad"), runs_dir=tmp_path)
    with pytest.raises(BadTrace, match="nowhere"):
        train(data=str(tmp_path / "nowhere"), runs_dir=tmp_path)
    with pytest.raises(RunError, match="no run never-made"):
        Run("never-made", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_long_conversations_lose_their_oldest_turns_and_never_the_last():
    tokenizer = load_tokenizer("tiny")
    turns = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": f"turn {i} " + "in Paris on Monday " * 5}
        for i in range(9)
    ]

    def length(messages):
        return len(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])

    whole = length(turns)
    assert fit_prompt(turns, tokenizer, whole) == (turns, False)
    for limit in range(16, whole, 7):
        kept, shortened = fit_prompt(turns, tokenizer, limit)
        assert shortened and kept == turns[-len(kept) :] and kept[0]["role"] == "user"
        assert length(kept) <= limit or len(kept) == 1
        assert len(kept) == 9 or length(turns[-len(kept) - 2 :]) > limit, "as few turns left out as can be"


def test_a_system_message_reaches_models_whose_template_has_none():
    tokenizer = load_tokenizer("tiny")
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    assert fit_prompt(prompt, tokenizer, 512) == (prompt, False)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    assert fit_prompt(prompt, tokenizer, 512) == ([{"role": "user", "content": "Be brief.\n\nWhere?"}], False)


def test_how_often_prompts_were_shortened_is_counted(tmp_path, demo_data, capsys):
    run = train(data=str(demo_data), max_prompt_length=64, max_steps=1, runs_dir=tmp_path)
    count = run.status["prompts_shortened"]
    assert 0 < count < run.about["data"]["samples"]
    assert f"{count} of {run.about['data']['samples']} prompts lost their oldest turns" in capsys.readouterr().out
