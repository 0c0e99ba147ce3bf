"""Training with Gemini as the judge, against a server on loopback: what is paid, what fails, what is kept."""

import signal
import sqlite3
from pathlib import Path

import pytest
from helpers import shell, start, wait_until
from judge_server import A_CALL, KEY, Reply, error, judge, says
from safetensors.torch import load_file

from grpo_kit import ConfigError, Run, evaluate, train
from grpo_kit.errors import RunError, RunStopped
from grpo_kit.rewards.ready import format, length, repetition

DOWN = error(503, "overloaded", "UNAVAILABLE")
SIZES = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
SHORT = {"max_steps": 3, "save_steps": 3, "canaries": "off"} | SIZES


def weights_of(run) -> dict:
    return load_file(run.path / "adapter_model.safetensors")


def test_what_is_judged_is_counted_paid_and_never_judged_again(gemini, tmp_path, demo_data):
    first = train(data=str(demo_data), judge="gemini", runs_dir=tmp_path, run_id="first", **SHORT)
    asked = len(gemini.requests)
    metrics, completions = first.metrics(), first.completions()
    parts = "seconds cache_hits failures calls retries tokens usd".split()
    assert metrics[[f"judge/gemini/{part}" for part in parts]].notna().all(axis=None)
    assert metrics["judge/gemini/calls"].sum() == asked and metrics["judge/gemini/tokens"].sum() == asked * 125
    assert first.status["usd"] == pytest.approx(asked * A_CALL)
    assert completions["reason"].str.startswith("It says").all()
    with sqlite3.connect(first.path / "rewards.cache.sqlite") as database:
        scores = dict(database.execute("select reason, score from judgements"))
    assert len(scores) > 0 and database.execute("select count(*) from judgements").fetchone()[0] == asked

    again = train(data=str(demo_data), judge="gemini", runs_dir=tmp_path, cache_from="first", **SHORT)
    assert len(gemini.requests) == asked, "a rerun makes no calls"
    assert again.metrics()["reward"].tolist() == metrics["reward"].tolist() and again.status["usd"] == 0
    assert train(run_id="first", runs_dir=tmp_path).id == "first" and len(gemini.requests) == asked

    evaluation = evaluate(first, n=4)
    assert evaluation.results["judge"]["name"] == "gemini" and evaluation.results["judge"]["calls"] > 0


def test_what_is_spent_counts_whatever_ended_the_run_and_an_unknown_price_is_no_zero(
    standin, gemini, tmp_path, demo_data
):
    settings = {"data": str(demo_data), "judge": "gemini", "canaries": "off", "runs_dir": tmp_path, "max_steps": 3}
    gemini.reply = lambda request: DOWN if len(gemini.requests) > 10 else judge(request)
    with pytest.raises(RunStopped):
        train(run_id="stopped", judge_max_retries=0, **settings)
    assert Run("stopped", tmp_path).status["usd"] == pytest.approx(10 * A_CALL)
    gemini.reply = judge
    resumed = train(
        run_id="stopped", judge_max_retries=3, judge_requests_per_minute=6000, runs_dir=tmp_path, max_failure_rate=1
    )
    assert resumed.status["state"] == "complete" and resumed.config.judge_max_retries == 3
    gemini.models.append("gemini-9")
    unknown = train(gemini_model="gemini-9", **settings)
    assert unknown.status["usd"] is None and "judge/gemini/usd" not in unknown.metrics()
    assert unknown.metrics()["judge/gemini/tokens"].sum() > 0


def test_a_resumed_run_keeps_its_judges_prompt_and_its_weights(standin, gemini, tmp_path, demo_data):
    def short(completions, **_):
        return [1.0] * len(completions)

    prompt = tmp_path / "prompt.txt"
    prompt.write_text("$conversation $answers")
    settings = {"data": str(demo_data), "judge": "gemini", "judge_prompt": str(prompt), "canaries": "off"}
    with pytest.raises(RunStopped):
        gemini.reply = lambda _: DOWN
        train(run_id="run", rewards={short: 0.5}, judge_max_retries=0, runs_dir=tmp_path, **settings)
    with pytest.raises(RunError, match=r"short=0.5, not gemini, short=5"):
        train(run_id="run", rewards={short: 5}, runs_dir=tmp_path)
    prompt.write_text("$conversation $answers Be kind.")
    with pytest.raises(RunError, match="other versions of its judges"):
        train(run_id="run", rewards={short: 0.5}, runs_dir=tmp_path)


def test_group_mode_makes_one_call_for_a_prompts_answers(standin, gemini, tmp_path, demo_data):
    run = train(data=str(demo_data), judge="gemini", judge_mode="group", runs_dir=tmp_path, **SHORT)
    assert len(gemini.requests) == 3 * 2, "2 prompts a step"
    assert run.metrics()["judge/gemini/failures"].sum() == 0


def test_judges_ready_rewards_and_own_functions_add_up_with_their_weights(gemini, tmp_path, demo_data):
    def politeness(completions, **_):
        return [float("please" in completion[-1]["content"]) for completion in completions]

    run = train(
        data=str(demo_data),
        judge="gemini=0.7,offline=0.3",
        reward_funcs="length=0.1,repetition=0.2",
        rewards={politeness: 0.5},
        runs_dir=tmp_path,
        **SHORT,
    )
    weights = {"gemini": 0.7, "offline": 0.3, "length": 0.1, "repetition": 0.2, "politeness": 0.5}
    completions, metrics = run.completions(), run.metrics()
    assert set(completions["rewards"][0]) == weights.keys()
    assert all(metrics[f"rewards/{name}/mean"].notna().all() for name in weights)
    completions["reward"] = [
        sum(weights[name] * score for name, score in row.items()) for row in completions["rewards"]
    ]
    assert completions.groupby("step")["reward"].mean().tolist() == pytest.approx(metrics["reward"].tolist(), abs=1e-5)
    assert (
        completions["reason"].str.contains("gemini: It says").all()
        and completions["reason"].str.contains("; offline: ").all()
    )
    with pytest.raises(RunError, match=r"rewards: gemini=0.7, offline=0.3, length=0.1, repetition=0.2, politeness=0.5"):
        train(run_id=run.id, runs_dir=tmp_path)


def test_a_ladder_counts_what_it_settles_and_its_evaluation_says_who_judged(gemini, tmp_path, demo_data):
    settings = {"judge": "offline>gemini", "judge_ladder_bounds": "0.02,0.6", "runs_dir": tmp_path}
    run = train(data=str(demo_data), **settings, **SHORT)
    metrics, made = run.metrics(), run.completions()
    by = made["reason"].str.partition(":")[0]
    assert set(by) == {"offline", "gemini"}
    new = made.assign(by=by).drop_duplicates(["sample_id", "completion"])["by"].value_counts()
    counted = [metrics[f"judge/offline>gemini/{name}"].sum() for name in ("settled", "calls")]
    assert counted == [new["offline"], new["gemini"]] and new["gemini"] == len(gemini.requests)
    assert run.status["usd_judge"] == pytest.approx(len(gemini.requests) * A_CALL)

    again = {"judge": "offline>gemini", "judge_ladder_bounds": [0.1, 0.9], "second_judge": "gemini"}
    evaluation = evaluate(run, n=4, **again)
    assert evaluation.path.name.endswith("_judge-offline-gemini_second_judge-gemini.json"), evaluation.path.name
    notes = " ".join(evaluation.results["notes"])
    assert "gemini is not a held-out judge here: the run was trained with gemini" in notes
    assert f"offline>gemini: {evaluation.results['judge']['settled']} new answers did not need its last judge" in notes
    assert any("offline>gemini and gemini both ask gemini" in told for told in evaluation.warnings())


def test_an_answer_that_one_judge_failed_on_takes_no_part(gemini, tmp_path, demo_data):
    gemini.reply = lambda request: (
        error(400, "too odd", "INVALID_ARGUMENT") if "?" in request.replies[0] else judge(request)
    )
    run = train(data=str(demo_data), judge="gemini,offline", max_failure_rate=1, runs_dir=tmp_path, **SHORT)
    rows = run.completions()
    failed = rows["completion"].str.contains("?", regex=False)
    assert 0 < failed.sum() < len(rows) and (rows[failed]["advantage"] == 0).all()
    assert all((scores["gemini"] is None) == miss for scores, miss in zip(rows["rewards"], failed, strict=True))
    assert all(scores["offline"] is not None for scores in rows["rewards"]), "what the other judge said is kept"
    assert (
        run.metrics()["judge/gemini/failures"].sum() == failed.sum()
        and run.metrics()["judge/gemini/retries"].sum() == 0
    )


def test_an_outage_stops_the_run_with_its_checkpoint_and_it_goes_on_as_if_nothing_had_been(gemini, tmp_path, demo_data):
    settings = {"data": str(demo_data), "judge": "gemini"} | SHORT | {"max_steps": 5, "save_steps": 2}
    undisturbed = train(runs_dir=tmp_path, **settings)
    calls = undisturbed.metrics()["judge/gemini/calls"]
    gemini.requests.clear()
    three_steps = int(calls[:3].sum())
    gemini.reply = lambda request: DOWN if len(gemini.requests) > three_steps else judge(request)
    with pytest.raises(RunStopped, match=r"judgements by gemini failed.*HTTP 503: overloaded.*checkpoint-3 is saved"):
        train(runs_dir=tmp_path, run_id="outage", judge_max_retries=1, failure_window=8, **settings)
    run = Run("outage", tmp_path)
    assert run.status["state"] == "stopped" and "HTTP 503" in run.status["reason"] and run.status["step"] == 3
    assert [path.name for path in run.checkpoints] == ["checkpoint-2", "checkpoint-3"]
    assert run.metrics()["step"].tolist() == [1, 2, 3]
    with sqlite3.connect(run.path / "rewards.cache.sqlite") as database:
        assert database.execute("select count(*) from judgements").fetchone()[0] == three_steps, "no failure is kept"

    gemini.reply = judge
    resumed = train(runs_dir=tmp_path, run_id="outage")
    assert resumed.metrics()["reward"].tolist() == undisturbed.metrics()["reward"].tolist()
    expected = weights_of(undisturbed)
    assert all((weights == expected[name]).all() for name, weights in weights_of(resumed).items())


def test_a_step_whose_judgements_all_fail_is_not_learnt_from_and_the_run_goes_on(gemini, tmp_path, demo_data):
    settings = {"data": str(demo_data), "judge": "gemini", "runs_dir": tmp_path} | SHORT
    calls = train(**settings).metrics()["judge/gemini/calls"]
    first, second = int(calls[0]), int(calls[:2].sum())
    gemini.requests.clear()
    gemini.reply = lambda request: DOWN if first < len(gemini.requests) <= second else judge(request)
    run = train(run_id="gap", judge_max_retries=0, **settings)
    assert run.status["state"] == "complete" and run.metrics()["reward"].isna().tolist() == [False, True, False]
    assert (run.completions().query("step == 2")["advantage"] == 0).all()
    assert (run.metrics()["grad_norm"] > 0).tolist() == [True, False, True]


def test_a_key_that_is_revoked_stops_the_run_at_once(standin, gemini, tmp_path, demo_data):
    gemini.reply = lambda request: error(403, f"key {KEY} is leaked", "PERMISSION_DENIED")
    with pytest.raises(RunStopped, match=r"refuses the key in GEMINI_API_KEY.*no step was made") as stopped:
        train(data=str(demo_data), judge="gemini", runs_dir=tmp_path, **SHORT)
    assert KEY not in str(stopped.value) and len(gemini.requests) <= 32 + 48


def test_the_days_quota_stops_the_run_at_once_with_its_checkpoint(standin, gemini, tmp_path, demo_data):
    quota = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}
    used_up = error(429, "Quota exceeded", "RESOURCE_EXHAUSTED", details=[quota])
    asked = SHORT | {"data": str(demo_data), "judge": "gemini", "canaries": "off", "runs_dir": tmp_path}
    gemini.reply = lambda request: used_up if len(gemini.requests) > 20 else judge(request)
    with pytest.raises(RunStopped, match=r"the day's quota of judge=gemini is used up .*quota GenerateRequestsPerDay"):
        train(run_id="run", **asked)
    run = Run("run", tmp_path)
    assert run.status["state"] == "stopped" and run.checkpoints and len(gemini.requests) < 20 + 32
    gemini.reply = judge
    assert train(run_id="run", runs_dir=tmp_path).status["state"] == "complete"


@pytest.mark.parametrize(
    ("key", "model", "message"),
    [
        ("", "gemini-3.5-flash-lite", "GEMINI_API_KEY is not set"),
        (
            KEY,
            "gemini-1.5-pro-latest",
            "there is no model gemini_model='gemini-1.5-pro-latest'. There are: gemini-3.5-",
        ),
    ],
)
def test_what_gemini_needs_is_checked_before_the_model_loads(
    gemini, tmp_path, demo_data, monkeypatch, key, model, message
):
    monkeypatch.setenv("GEMINI_API_KEY", key)
    monkeypatch.setattr("grpo_kit.training.grpo.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(ConfigError, match=message):
        train(data=str(demo_data), judge="gemini", gemini_model=model, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists() and gemini.requests == []


def test_a_judge_that_rewards_anything_is_told_of_and_can_block_the_launch(
    standin, gemini, tmp_path, demo_data, capsys
):
    gemini.reply = lambda _: says('{"analysis": "Fine.", "criteria": [], "score": 0.9}')
    with pytest.raises(ConfigError, match=r"rewards answers that are worth nothing.*empty 0.90.*prompt injection 0.90"):
        train(data=str(demo_data), judge="gemini", canaries="block", runs_dir=tmp_path)
    train(data=str(demo_data), judge="gemini", max_steps=1, save_steps=1, runs_dir=tmp_path)
    assert "Warning: the gemini judge rewards" in capsys.readouterr().out
    train(data=str(demo_data), max_steps=1, save_steps=1, canaries="block", runs_dir=tmp_path)


def test_the_key_is_in_no_output_and_no_file(standin, gemini, tmp_path, demo_data):
    gemini.first = [error(429, f"quota of {KEY} exceeded", "RESOURCE_EXHAUSTED", {"Retry-After": "0"})] * 3
    gemini.first += [error(400, f"key {KEY}: bad prompt", "INVALID_ARGUMENT")] * 3
    command = "train --judge gemini --judge-model gemini-3.5-flash --max-steps 2 --run-id run --data".split()
    said = shell(tmp_path, *command, demo_data)
    assert {request.key for request in gemini.requests} == {KEY}
    assert {request.model for request in gemini.requests} == {"gemini-3.5-flash"}
    assert KEY not in said
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(files) > 10 and not [path for path in files if KEY.encode() in path.read_bytes()]


def test_ctrl_c_does_not_wait_for_answers(standin, gemini, tmp_path, demo_data):
    gemini.reply = lambda request: Reply(judge(request).body, seconds=600)
    command = "train --judge gemini --run-id run --canaries off --data".split()
    process = start(*command, demo_data, cwd=tmp_path)
    try:
        wait_until(lambda: gemini.requests or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130 and "To resume: grpo-kit train --run-id run" in output
    assert '"state": "stopped"' in Path(tmp_path / "runs/run/status.json").read_text()


def test_ready_rewards_say_what_they_should():
    reference = "Which city would you like to go to?"  # 8 words
    answers = ["", "Which city?", "Which city would you like?", reference, "so " * 24, reference * 2]
    assert length(answers, [reference] * 6) == pytest.approx([0, 0.5, 1, 1, 0, (3 - 15 / 8) / 1.5], abs=1e-9)
    good = ["Which city?", "Done!", "It is at 5.", "It costs $30 (per night)."]
    bad = ["", ":", "Which city", "User: hello.", "Thought process: I should ask.", "<b>Hi.</b>", "# Answer\nYes."]
    assert format(good) == [1.0] * 4 and format(bad) == [0.0] * 7
    assert repetition(["a b c d e f", "go to go to go to go to", "hi"]) == pytest.approx([0, -4 / 6, 0])
