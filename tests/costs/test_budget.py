"""A run's dollars: counted as they are spent, stopped before a limit is passed, held against the quote."""

import json
from pathlib import Path

import pytest
import torch
from helpers import shell
from judge_server import A_CALL
from safetensors.torch import load_file

import grpo_kit as kit
from grpo_kit import ConfigError, Run, RunStopped
from grpo_kit.costs.budget import shortfall_at_start
from grpo_kit.preflight.check import launch_of
from grpo_kit.runs.directory import Dollars
from grpo_kit.runs.writer import RunWriter, open_run
from grpo_kit.training.grpo import grpo_arguments
from grpo_kit.utils.files import write_json

SHORT = {"max_steps": 12, "save_steps": 6, "canaries": "off", "judge": "gemini"}


def test_the_judges_dollars_stop_the_run_before_they_pass_and_a_larger_budget_goes_on(
    standin, gemini, tmp_path, demo_data
):
    settings = {"data": str(demo_data), "runs_dir": tmp_path, **SHORT}
    undisturbed = kit.train(**settings)
    spent = undisturbed.metrics()["judge/gemini/usd"].cumsum()
    assert undisturbed.status["usd"] == undisturbed.status["usd_judge"] == pytest.approx(spent.iloc[-1])

    max_usd = float(spent.iloc[6] + spent.iloc[0] / 2)  # seven steps, and half of the eighth
    with pytest.raises(
        RunStopped, match=r"stopped at step 7: max_usd=.* for the judge\), and the next step costs about"
    ):
        kit.train(run_id="budget", max_usd=max_usd, **settings)
    run, made = Run("budget", tmp_path), len(gemini.requests)
    assert run.status["state"] == "stopped" and run.status["usd"] == pytest.approx(spent.iloc[6])
    assert run.status["usd"] <= max_usd < run.status["usd"] + 20 * A_CALL
    assert [path.name for path in run.checkpoints] == ["checkpoint-6", "checkpoint-7"]

    with pytest.raises(ConfigError, match=r"would be passed: \$.* is spent .* likely pays for all of it") as refused:
        kit.train(run_id="budget", runs_dir=tmp_path)
    assert len(gemini.requests) == made
    enough = float(str(refused.value).split("max_usd=")[-1].split()[0])
    assert spent.iloc[-1] <= enough < 1.5 * spent.iloc[-1]
    resumed = kit.train(run_id="budget", runs_dir=tmp_path, max_usd=enough)
    assert resumed.status["state"] == "complete" and resumed.config.max_usd == enough
    assert resumed.status["usd"] == pytest.approx(spent.iloc[-1]), "all of its processes count"
    weights, expected = (load_file(each.path / "adapter_model.safetensors") for each in (resumed, undisturbed))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_what_does_not_pay_for_a_first_step_is_refused_before_anything_is_written(
    gemini, tmp_path, demo_data, monkeypatch
):
    monkeypatch.setattr("grpo_kit.training.grpo.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    settings = {"data": str(demo_data), "judge": "gemini", "runs_dir": tmp_path / "runs"}
    with pytest.raises(
        ConfigError, match=r"max_usd=0.001 would be passed: nothing is spent yet, and by the quote the first step"
    ):
        kit.train(max_usd=0.001, **settings)
    gemini.models.append("gemini-9")
    with pytest.raises(
        ConfigError, match=r"can't be kept: gemini-9 has no price .*Give judge_input_price and judge_out"
    ):
        kit.train(max_usd=1, gemini_model="gemini-9", **settings)
    assert gemini.requests == [] and not (tmp_path / "runs").exists()
    problems = [
        str(problem)
        for problem in kit.quote(kit.TrainConfig(judge="gemini", max_usd=0.001), tmp_path, ask=False).problems
    ]
    assert any("the first step costs" in problem for problem in problems)
    (problem,) = kit.quote(
        kit.TrainConfig(judge="gemini", max_usd=0.5, max_steps=100), tmp_path, "local", ask=False
    ).problems
    assert "It likely costs" in problem.what and "of 100 steps" in problem.what


def test_canaries_that_spend_the_budget_stop_the_run_before_the_model_is_loaded(
    gemini, tmp_path, demo_data, monkeypatch
):
    monkeypatch.setattr("grpo_kit.training.grpo.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    settings = {**SHORT, "canaries": "warn", "judge_input_price": 1e4, "judge_output_price": 0.0}  # a dollar a call
    likely = kit.quote(kit.TrainConfig(**settings), tmp_path, "local", ask=False).first_step.judge
    with pytest.raises(RunStopped, match="Stopped before anything was loaded"):
        kit.train(run_id="canaries", max_usd=likely, data=str(demo_data), runs_dir=tmp_path, **settings)
    status = Run("canaries", tmp_path).status
    assert status["state"] == "stopped" and status["usd"] == len(gemini.requests) > 0


def test_a_machines_seconds_are_dollars_and_add_up_over_processes(tmp_path):
    config = kit.TrainConfig(run_id="paid", num_iterations=2, max_usd=1.0)
    about = {"data": {"folder": "", "fingerprint": ""}, "rewards": []}
    run = open_run(config, about, tmp_path, {"usd": 2.0, "first_step": [0.4, 0.1]})
    for _ in range(2):
        with RunWriter(run, config, usd_per_hour=3600.0) as writer:
            writer.judged_usd = lambda: 0.5
    status = run.status
    assert status["usd_judge"] == 1.0 and 0 < status["usd_machine"] < 1
    assert status["usd"] == pytest.approx(status["usd_machine"] + 1.0) and status["quoted"]["usd"] == 2.0
    assert {name: status["actual"][name] for name in ("usd", "usd_judge")} == {"usd": status["usd"], "usd_judge": 1.0}
    with RunWriter(run, config, usd_per_hour=3600.0) as writer:
        writer.judged_usd = lambda: None
    assert run.status["usd"] is run.status["usd_judge"] is None and run.status["usd_machine"] > status["usd_machine"]

    nothing, new = Dollars(0.0, 0.0), {"quoted": status["quoted"]}
    assert not shortfall_at_start(config, Dollars(0.5, 0.0), new, [], 0.0)
    assert "max_usd=2.9 likely" in str(shortfall_at_start(config, Dollars(0.6, 0.0), new, [], 0.0))
    assert not shortfall_at_start(config, Dollars(0.6, 0.0), new, [], 360.0, seconds_gone=3.0), "of it 0.3 is spent"
    assert shortfall_at_start(config, Dollars(0.95, 0.0), new, [], 360.0, seconds_gone=30.0), "the judge's 0.1 is not"
    # Two steps share their completions, so they are paid for together; a new process loads once more.
    steps = [{"step_time": 1.0, "judge/gemini/usd": usd} for usd in (0.2, None, 0.2, None)]
    made = {"step": 4, "starting_seconds": 5.0}
    assert not shortfall_at_start(config, nothing, made, steps, 360.0)  # 0.2 + 2 x 0.1, and 0.5 to load
    assert "the next step costs about $0.90 ($0.70 for the machine and $0.20 for the judge)" in str(
        shortfall_at_start(config, Dollars(0.2, 0.0), made, steps, 360.0)
    )
    assert not shortfall_at_start(config, Dollars(9.0, 0.0), made | {"step": 60}, steps, 360.0), "none is left"


def test_quoted_and_actual_stand_side_by_side(trained, tmp_path):
    status = trained.status
    assert status["quoted"].keys() - {"first_step", "minutes_low", "minutes_high"} == status["actual"].keys()
    assert status["actual"]["minutes"] == pytest.approx(status["seconds"] / 60, abs=0.01)
    assert 0.2 < status["actual"]["memory_gib"] < 5 and trained.about["machine"] == "here"
    table = kit.runs(trained.path.parent)
    row = table[table["run"] == trained.id].iloc[0]
    assert (row["minutes"], row["quoted_minutes"]) == (status["seconds"] / 60, status["quoted"]["minutes"])
    assert row["usd"] == row["quoted_usd"] == 0
    quote = kit.quote(trained.config, trained.path.parent, "local", ask=False)
    assert quote.memory_gib == status["actual"]["memory_gib"] and "peaked at" in str(quote)
    others = [{"lora_r": 8}, {"top_p": 0.9}, {"filter_difficulty": True}, {"warm_start": True, "sft_steps": 5}]
    (tmp_path / "train.jsonl").write_bytes((Path(trained.config.data) / "train.jsonl").read_bytes() + b"\n")
    for other in [*others, {"data": str(tmp_path)}]:
        unlike = kit.quote(trained.config.replace(run_id="new", **other), trained.path.parent, "local", ask=False)
        assert unlike.measured_gib is None and unlike.memory, other
    same = trained.config.replace(run_id="new", learning_rate=1e-4, eval_steps=10)
    alike = kit.quote(same, trained.path.parent, "local", ask=False)
    assert alike.measured_gib == quote.measured_gib
    elsewhere = kit.quote(trained.config, trained.path.parent, "modal", ask=False)
    assert trained.id not in elsewhere.minutes_from and elsewhere.measured_gib is None
    about = json.loads((trained.path / "config.json").read_text())
    told = tmp_path / ".modal" / "there"
    told.mkdir(parents=True)
    for name in ("status.json", "metrics.jsonl"):
        (told / name).write_bytes((trained.path / name).read_bytes())
    write_json(told / "config.json", about | {"machine": "A10"})
    assert "as run there took" in kit.quote(trained.config, tmp_path, "modal", ask=False).minutes_from
    assert "run there" not in kit.quote(trained.config, tmp_path, "local", ask=False).minutes_from
    assert "run there" not in kit.quote(trained.config.replace(gpu="H100"), tmp_path, "modal", ask=False).minutes_from


def test_a_launch_quotes_the_steps_that_are_left(tmp_path, demo_data, capsys):
    config = kit.TrainConfig(run_id="some", data=str(demo_data), max_steps=60)
    assert "Quote (here): " in launch_of(config, tmp_path, "local").notice
    run = open_run(config, {"data": {"folder": config.data, "fingerprint": ""}, "rewards": []}, tmp_path)
    whole = launch_of(config, tmp_path, "local", run).quoted["minutes"]
    write_json(run.path / "status.json", run.status | {"step": 50, "state": "stopped"})
    assert launch_of(config, tmp_path, "local", run).quoted["minutes"] < 0.7 * whole
    write_json(run.path / "status.json", run.status | {"step": 60, "state": "complete"})
    assert launch_of(config, tmp_path, "local", run).notice == ""


def test_dry_run_and_smoke_by_the_real_command(standin, tmp_path, demo_data):
    said = shell(tmp_path, "train", "--dry-run", "--data", demo_data)
    assert "memory" in said and "problem" not in said and list(tmp_path.iterdir()) == []
    said = shell(tmp_path, "train", "--dry-run", "--max-steps", 9, "--data", demo_data)
    assert "warning  save_steps=20 is more than max_steps=9" in said and list(tmp_path.iterdir()) == []

    said = shell(tmp_path, "train", "--smoke", "--data", demo_data)
    (run,) = (Run(path) for path in (tmp_path / "runs").iterdir())
    assert run.id.startswith("smoke_") and run.metrics()["step"].tolist() == [1]
    assert f"the first step of run {run.id}, which is slower than later ones" in said and "One step took" in said
    assert f"peaked at {run.status['actual']['memory_gib']:.1f}" in said
    step = run.metrics()["step_time"].item()
    likely = kit.quote(kit.TrainConfig(data=str(demo_data)), tmp_path / "runs", "local").minutes[1]
    assert likely == pytest.approx((run.status["seconds"] + 39 * step) / 60, rel=0.05)


def test_vllm_is_told_the_longest_sequence(tmp_path):
    def told(may_be_longer=False, **settings):
        return grpo_arguments(kit.TrainConfig(**settings), tmp_path, may_be_longer).vllm_max_model_length

    assert told(use_vllm=True, max_prompt_length=100) == 128  # tiny's completions have 28
    assert told(use_vllm=True, max_prompt_length=100_000) == 1024, "no more than the model was made for"
    assert told(use_vllm=True, may_be_longer=True) is None and told() is None
