"""Training: the tiny model learns, and the run directory holds what people and later tools look for in it."""

import json
import sqlite3

import orjson
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from grpo_kit import BadTrace, ConfigError, Run, RunError, TrainConfig, evaluate, quote, read_samples, runs, train
from grpo_kit.judges.base import Verdict
from grpo_kit.judges.offline.judge import OfflineJudge
from grpo_kit.models.generate import generate
from grpo_kit.models.load import load_model, load_tokenizer
from grpo_kit.utils.environment import version_of
from grpo_kit.utils.json_lines import read_lines


def test_it_learns(trained, tmp_path):
    # 20 steps of the demo's 40: the direction, not the size, of what the demo shows.
    evaluation = evaluate(trained.download(tmp_path / trained.id), n=96)
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
    assert generate(model, load_tokenizer("tiny"), ["Hello"], max_completion_length=4)


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
    asks = r"reward `<lambda>` asks for `rubrik`, which .*train\.jsonl does not have\. Did you mean rubric\?"
    with pytest.raises(ConfigError, match=asks):
        train(data=str(demo_data), rewards=[lambda completions, rubrik, **_: []], runs_dir=tmp_path)
    few = (demo_data / "train.jsonl").read_text().splitlines(keepends=True)[:3]
    (tmp_path / "bad" / "train.jsonl").write_text("".join(few))
    with pytest.raises(ConfigError, match=r"4 prompts.*has 3.*per_device_train_batch_size=24"):
        train(data=str(tmp_path / "bad"), runs_dir=tmp_path)
    (tmp_path / "bad" / "train.jsonl").write_text("".join(few + few[:1]))
    with pytest.raises(ConfigError, match=r"2 samples have the same id .*Give each sample its own id"):
        train(data=str(tmp_path / "bad"), runs_dir=tmp_path)
    with pytest.raises(RunError, match="no run never-made"):
        Run("never-made", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_trls_reporters_get_what_the_runs_own_files_hold(tmp_path, demo_data):
    run = train(data=str(demo_data), max_steps=2, save_steps=2, runs_dir=tmp_path, report_to="tensorboard")
    (file,) = run.path.rglob("events.out.tfevents.*")
    assert b"train/reward" in file.read_bytes() and run.metrics()["step"].tolist() == [1, 2]
    with pytest.raises(
        ConfigError, match=r"report_to=trackio, and trackio is not installed here. `pip install trackio`"
    ):
        train(data=str(demo_data), runs_dir=tmp_path, report_to=["tensorboard", "trackio"])
    with pytest.raises(ConfigError, match="report_to"):
        TrainConfig(report_to="tensorbord")


@pytest.mark.skipif(version_of("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_four_bits_are_for_adapters_and_save_memory(tmp_path, demo_data):
    with pytest.raises(ConfigError, match=r"bitsandbytes is not installed here"):
        train(data=str(demo_data), runs_dir=tmp_path, load_in_4bit=True)
    with pytest.raises(ConfigError, match="needs a LoRA adapter"):
        TrainConfig(load_in_4bit=True, use_lora=False)
    said = [str(problem) for problem in quote(TrainConfig(load_in_4bit=True), tmp_path, "local", ask=False).problems]
    assert any("bitsandbytes is not installed here" in problem for problem in said)
    gemma = TrainConfig(model_name="google/gemma-2-2b-it", use_vllm=False)
    sizes = [quote(gemma.replace(load_in_4bit=bits), tmp_path, "modal", ask=False).memory.weights for bits in (0, 1)]
    assert sizes[1] < 0.5 * sizes[0], "of which the embedding, a fifth of all weights, stays as it is"


def test_steps_may_learn_twice_from_the_same_completions(tmp_path, demo_data):
    run = train(data=str(demo_data), num_iterations=2, save_steps=2, max_steps=4, beta=0.1, runs_dir=tmp_path)
    assert run.metrics()["step"].tolist() == [1, 2, 3, 4]
    assert run.metrics()["reward"].isna().tolist() == [False, True, False, True]
    assert run.metrics()["kl"].notna().all() and run.completions()["step"].unique().tolist() == [1, 3]


def test_what_the_judge_could_not_score_takes_no_part(tmp_path, demo_data, monkeypatch):
    judged, columns = [], {}

    async def fails_on_questions(self, sample, answers, repeat=0):
        judged.append(sample)
        return [Verdict(None if "?" in answer else 0.5, "why") for answer in answers]

    def bonus(completions, **given):
        columns.update(given)
        return [0.1] * len(completions)

    monkeypatch.setattr(OfflineJudge, "judge", fails_on_questions)
    run = train(data=str(demo_data), rewards=[bonus], max_steps=2, max_failure_rate=1, runs_dir=tmp_path)
    rows = run.completions()
    unjudged = rows["completion"].str.contains("?", regex=False)
    assert 0 < unjudged.sum() < len(rows) and (rows[unjudged]["advantage"] == 0).all()
    assert (run.metrics()["reward"].dropna() - 0.6).abs().max() < 1e-6, "a failed judgement is no zero"
    samples = list(read_samples(demo_data / "train.jsonl"))
    assert all(sample in samples for sample in judged), "the judge is given the samples as they are in the file"
    assert samples[0].to_dict().keys() - {"prompt"} <= columns.keys(), "and a plain function each of their fields"
    with pytest.raises(RunError, match="rewards: offline, bonus"):
        train(run_id=run.id, runs_dir=tmp_path)


def test_lines_that_hold_odd_separators_are_read_and_a_torn_last_line_is_left_out(tmp_path):
    rows = [{"step": 1, "completion": "a\u2028b\u0085c"}, {"step": 2, "completion": "d"}]
    path = tmp_path / "completions.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows) + b'{"step": 3, "compl')
    assert read_lines(path) == rows
    for spoilt in (b'{"step"', b'{"step": 1}{"step": 2}', b"[1]", b"[" * 2000 + b"]" * 2000, b'{"step":\n1}'):
        path.write_bytes(spoilt + b'\n{"step": 2}\n')
        with pytest.raises(RunError, match=r"completions\.jsonl:1 is no"):
            read_lines(path)
    path.write_bytes(b'\n{"step": 2}\n\n')
    assert read_lines(path) == [{"step": 2}]


def test_a_groups_completions_share_their_prompt(trained):
    content = (trained.path / "completions.jsonl").read_bytes()
    rows = [orjson.loads(line) for line in content.splitlines()]
    assert trained.completions().to_dict("records") == rows and len(rows) > 100
    prompts = trained.completions()["prompt"]
    assert prompts.map(id).nunique() < len(rows) / 4, "of a group it is read once"


def test_how_often_prompts_were_shortened_is_counted(tmp_path, demo_data, capsys):
    run = train(data=str(demo_data), max_prompt_length=64, max_steps=1, runs_dir=tmp_path)
    count = run.status["prompts_shortened"]
    assert 0 < count < run.about["data"]["samples"]
    said = f"{count} of {run.about['data']['samples']} prompts lost old tool results or turns"
    assert said in capsys.readouterr().out
