"""filter_difficulty: what the start model always or never gets right is left out, and nothing is answered twice."""

import json
from zlib import crc32

import pytest
from judge_server import A_CALL

import grpo_kit as kit
from grpo_kit import ConfigError, Run, RunStopped, TrainConfig, read_samples
from grpo_kit.costs.budget import LOCAL
from grpo_kit.costs.memory import Device, prompts_at_once
from grpo_kit.judges.base import Verdict
from grpo_kit.judges.offline.judge import OfflineJudge
from grpo_kit.models.shapes import shape_of
from grpo_kit.training.difficulty import ALIKE, ALWAYS, KEPT, NEVER, kind_of
from grpo_kit.training.launch import plan_and_train
from grpo_kit.training.trainer import KitTrainer
from grpo_kit.utils.json_lines import read_lines

SIZES = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "num_generations": 4}  # 4 prompts a step
SHORT = {"max_completion_length": 16, "max_steps": 2, "save_steps": 1, "canaries": "off", "filter_difficulty": True}


@pytest.fixture
def data(tmp_path, demo_data, monkeypatch):
    """24 prompts with a card, and an empty cache."""
    monkeypatch.setattr("grpo_kit.training.difficulty.CACHE", tmp_path / "cache")
    monkeypatch.setattr("grpo_kit.costs.memory.AT_ONCE", 16)  # as many as in a step of SIZES
    folder = tmp_path / "data"
    folder.mkdir()
    lines = (demo_data / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:24]))
    (folder / "data_card.json").write_bytes((demo_data / "data_card.json").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        ([0, 0, 0, 0], NEVER),
        ([0.02, 0.0, 0.04, None], NEVER),
        ([1, 1, 0.97, 1], ALWAYS),
        ([0.5, 0.5, 0.52, 0.5], ALIKE),
        ([0, 0, 0, 0, 0, 0, 0, 0.2], KEPT),  # though its mean is 0.025
        ([1, 1, 1, 0.9], KEPT),
        ([0, None, None, None], KEPT),
    ],
)
def test_what_is_left_out(scores, kind):
    assert kind_of(scores, full=1) == kind
    assert kind_of([score and 2 * score for score in scores], full=2) == kind


def test_killed_runs_measure_on_and_another_run_takes_it_over(data, tmp_path, monkeypatch, capsys):
    ids = [sample.id for sample in read_samples(data / "train.jsonl")]
    planted = dict.fromkeys(ids[:6], 0.0) | dict.fromkeys(ids[6:9], 1.0) | dict.fromkeys(ids[9:11], 0.5)
    judged, generated, kill_at = [], [], []

    def judge_one(self, sample, answer):
        judged.append((sample.id, answer))
        return Verdict(planted.get(sample.id, float(crc32(answer.encode()) % 2)))

    def generate(self, prompts, own=KitTrainer._generate):
        generated.append(len(prompts))
        if len(generated) in kill_at:
            raise KeyboardInterrupt
        return own(self, prompts)

    monkeypatch.setattr(OfflineJudge, "judge_one", judge_one)
    monkeypatch.setattr(KitTrainer, "_generate", generate)
    settings = {"data": str(data), "runs_dir": tmp_path / "runs", **SIZES, **SHORT}

    kill_at += [4, 9]  # while the fourth of six batches is made, then in the second step
    with pytest.raises(KeyboardInterrupt):
        kit.train(run_id="first", **settings)
    run = Run("first", tmp_path / "runs")
    assert run.status["difficulty"] == {"measured": 12, "prompts": 24}
    assert "Stopped at step 0, with 12 of 24 prompts measured. To resume" in capsys.readouterr().out
    with (run.path / "difficulty.jsonl").open("a") as file:
        file.write('{"sample_id": "dem')  # as a kill may leave it
    with pytest.raises(KeyboardInterrupt):
        kit.train(run_id="first", **settings)
    assert generated == [16] * 9 and [path.name for path in run.checkpoints] == ["checkpoint-1"]
    kit.train(run_id="first", **settings)
    assert generated == [16] * 10, "resuming measures nothing again"

    rows = read_lines(run.path / "difficulty.jsonl")
    assert [row["sample_id"] for row in rows] == ids and all(len(row["completions"]) == 4 for row in rows)
    teaches = {row["sample_id"] for row in rows[11:] if len(set(row["scores"])) == 2}
    never, always = (sum(set(row["scores"]) == {score} for row in rows) for score in (0.0, 1.0))
    assert len(teaches) >= 4 and never >= 6 and always >= 3
    assert set(run.completions()["sample_id"]) <= teaches
    expected = {"prompts_kept": len(teaches), "left_out_too_hard": never, "left_out_too_easy": always}
    expected |= {"left_out_alike": 2}
    assert run.about["data"].items() >= expected.items() and run.status["difficulty"].items() >= expected.items()
    card = json.loads((data / "data_card.json").read_text())["difficulty"]
    assert (card["model"], card["kept"], card["share_never_right"]) == ("tiny", len(teaches), round(never / 24, 4))
    said = f"{len(teaches)} of 24 prompts kept; {never} never earn anything, {always} always the most, 2 always alike"
    assert f"filter_difficulty: {said}" in capsys.readouterr().out

    before = len(judged)
    other = kit.train(run_id="second", **settings)
    assert generated == [16] * 12, "its two steps alone"
    assert (other.path / "difficulty.jsonl").read_bytes() == (run.path / "difficulty.jsonl").read_bytes()
    assert (other.path / "completions.jsonl").read_bytes() == (run.path / "completions.jsonl").read_bytes()
    assert set(judged[before:]).isdisjoint(
        (row["sample_id"], message[0]["content"]) for row in rows for message in row["completions"]
    )

    (answers,) = (tmp_path / "cache/difficulty").glob("*.jsonl")
    kept = [line for line, each in zip(answers.read_text().splitlines(), ids, strict=True) if each not in ids[2::9]]
    answers.write_text("\n".join(kept) + "\n")
    kit.train(run_id="third", **settings)
    assert generated[12:] == [12, 16, 16], "the three that are not known, and its two steps"


def test_fewer_prompts_than_a_step_takes_are_refused_with_what_was_found(data, tmp_path, monkeypatch):
    monkeypatch.setattr(OfflineJudge, "judge_one", lambda *_: Verdict(0.01))
    with pytest.raises(ConfigError, match=r"0 of 24 prompts kept; 24 never earn anything.*under another run_id"):
        kit.train(data=str(data), runs_dir=tmp_path / "runs", **SIZES, **SHORT)
    with pytest.raises(ConfigError, match="filter_difficulty needs the whole model"):
        TrainConfig(filter_difficulty=True, num_processes=2, fsdp=True)


def test_the_quote_and_the_budget_count_it(data, gemini, tmp_path):
    settings = {"data": str(data), "judge": "gemini", **SIZES, **SHORT}
    config, runs = TrainConfig(**settings), tmp_path / "runs"
    quoted = kit.quote(config, runs, "local", ask=False)
    without = kit.quote(config.replace(filter_difficulty=False), runs, "local", ask=False)
    assert "24 prompts first, by 96 judged completions" in str(quoted) and "measures" not in str(without)
    assert "128 calls" in quoted.judge_usd_from and "32 calls" in without.judge_usd_from
    assert quoted.minutes[1] > without.minutes[1] and quoted.usd_in_all == pytest.approx(4 * without.usd_in_all)
    with pytest.raises(ConfigError, match="measuring difficulty and the first step costs"):
        kit.train(config, runs_dir=runs, max_usd=without.usd_in_all)
    assert not gemini.requests

    # Unquoted, it finds out as it goes.
    max_usd = 40 * A_CALL
    with pytest.raises(
        RunStopped, match=r"and measuring more prompts costs about .* of 24 prompts are measured, run_id dear"
    ):
        plan_and_train(config.replace(run_id="dear", max_usd=max_usd), (), runs, LOCAL, print)
    run = Run("dear", runs)
    assert 0 < run.status["usd"] <= max_usd and 0 < run.status["difficulty"]["measured"] < 24
    kit.train(run_id="dear", runs_dir=runs, max_usd=1)
    rows = read_lines(run.path / "difficulty.jsonl")
    measured = [(row["sample_id"], each[0]["content"]) for row in rows for each in row["completions"]]
    trained = list(zip(run.completions()["sample_id"], run.completions()["completion"], strict=True))
    assert len(gemini.requests) == len({*measured, *trained}), "no answer is judged twice"


def test_prompts_are_answered_together_where_a_step_has_few_and_their_answers_are_kept_by_what_drew_them(
    data, tmp_path, monkeypatch
):
    generated = []

    def generate(self, prompts, own=KitTrainer._generate):
        generated.append(len(prompts))
        return own(self, prompts)

    monkeypatch.setattr(KitTrainer, "_generate", generate)
    settings = {"data": str(data), **SHORT, **SIZES, "per_device_train_batch_size": 4, "max_steps": 1}
    quoted = [kit.quote(TrainConfig(**settings), tmp_path, "local", ask=False).measuring[1]]
    monkeypatch.setattr("grpo_kit.costs.memory.AT_ONCE", 4)
    quoted.append(kit.quote(TrainConfig(**settings), tmp_path, "local", ask=False).measuring[1])
    assert quoted[0] < quoted[1], "one prompt at a time takes longer"
    monkeypatch.setattr("grpo_kit.costs.memory.AT_ONCE", 64)
    for bf16 in (False, True):
        kit.train(runs_dir=tmp_path / "runs", bf16=bf16, **settings)
    assert generated == [64, 32, 4] * 2, "16 prompts and 8 together, then a step; other numbers draw other answers"
    left = [kit.quote(TrainConfig(**settings, seed=seed), tmp_path, "local", ask=False).to_measure for seed in (42, 43)]
    assert left == [0, 24], "what was answered for an earlier run is not quoted"


def test_as_many_are_answered_together_as_fit():
    config = TrainConfig(model_name="google/gemma-2-2b-it", **SIZES, num_processes=2, gpu="A10:2")
    assert prompts_at_once(config, None, Device(False, 1)) == 16, "of a model that is not known"
    sizes = [prompts_at_once(config, shape_of(config.model_name), Device(True, gib)) for gib in (5, 8, 80)]
    assert sizes[0] == config.prompts_per_step == 8 <= sizes[1] <= sizes[2] == 16
    assert prompts_at_once(config, None, Device(True, 80, has_vllm=True)) == 64
