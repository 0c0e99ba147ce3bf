"""Completions made ahead of their update: the judge works meanwhile, and nothing is lost, mixed up or made twice."""

import gc
import sqlite3
import threading
from contextlib import suppress

import pytest
from judge_server import A_CALL, error, judge
from trl import GRPOTrainer

from grpo_kit import ConfigError, Run, TrainConfig, train
from grpo_kit.costs.forecast import minutes
from grpo_kit.errors import RunStopped
from grpo_kit.training.trainer import KitTrainer


def asked(run: Run) -> list[list[str]]:
    """The prompts of each step."""
    return run.completions().groupby("step")["sample_id"].agg(list).tolist()


def test_the_judge_works_while_later_completions_are_made(gemini, monkeypatch, tmp_path, demo_data):
    steps, made, is_made = 4, [], threading.Condition()
    generate = GRPOTrainer._generate

    def generates(trainer, prompts):
        output = generate(trainer, prompts)
        with is_made:
            made.append(trainer.state.global_step)
            is_made.notify_all()
        return output

    def answers_late(request):
        """Not before the next step's completions are made, but for the last ones."""
        with is_made:
            now = len(made)
            assert now == steps or is_made.wait_for(lambda: len(made) > now, timeout=300)
        return judge(request)

    monkeypatch.setattr(GRPOTrainer, "_generate", generates)
    gemini.reply = answers_late
    settings = {"judge": "gemini", "canaries": "off", "max_steps": steps, "save_steps": 2, "max_staleness": 1}
    settings |= {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
    run = train(data=str(demo_data), runs_dir=tmp_path, run_id="late", **settings)
    assert made == [0, 0, 1, 2], "at most one update behind, and none for a step that is not made"
    metrics = run.metrics()
    assert metrics["judge/gemini/calls"].sum() == len(gemini.requests)
    assert metrics["judge/gemini/failures"].sum() == 0
    assert run.status["usd"] == pytest.approx(len(gemini.requests) * A_CALL)


def test_each_step_learns_from_its_own_prompts_by_the_probabilities_they_were_drawn_with(tmp_path, demo_data, trained):
    run = train(data=str(demo_data), runs_dir=tmp_path, max_steps=6, save_steps=6, max_staleness=2)
    assert asked(run) == asked(trained)[:6]
    metrics, before = run.metrics(), trained.metrics()
    first = ["reward", "completions/mean_length", "completions/max_length"]
    assert metrics.loc[0, first].tolist() == before.loc[0, first].tolist(), "nothing of later steps"
    rows = run.completions()
    scores = rows["rewards"].map(lambda rewards: rewards["offline"]).groupby(rows["step"]).mean()
    assert metrics["reward"].to_numpy() == pytest.approx(scores.to_numpy(), abs=1e-5)
    assert metrics.loc[0, "clip_ratio/region_mean"] == 0 < metrics["clip_ratio/region_mean"].max()
    assert (before["clip_ratio/region_mean"] == 0).all(), "whose weights are those that drew them"


@pytest.mark.wide
def test_epochs_that_are_shorter_than_what_is_made_ahead_and_a_stop_between(tmp_path, few):
    def stops(completions, trainer_state, **_):
        if trainer_state.global_step == 3:
            (tmp_path / "short" / "stop").touch()
        return [0.0] * len(completions)

    settings = {"data": str(few), "runs_dir": tmp_path, "rewards": [stops], "max_steps": 7, "save_steps": 7}
    settings |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 2}
    with pytest.raises(RunStopped, match="stopped at step 4, as asked"):
        train(run_id="short", max_staleness=4, **settings)
    run = train(run_id="short", runs_dir=tmp_path, rewards=[stops])
    assert run.metrics()["step"].tolist() == list(range(1, 8)) and run.status["resumed"]
    assert run.completions().groupby("step").size().tolist() == [8] * 7
    whole = train(run_id="whole", **settings)
    assert asked(run) == asked(whole)


@pytest.mark.wide
def test_an_outage_stops_it_with_its_last_step_saved(gemini, tmp_path, demo_data):
    settings = {"judge": "gemini", "canaries": "off", "max_steps": 5, "save_steps": 5, "max_staleness": 1}

    def fails_later(request):
        return judge(request) if len(gemini.requests) < 50 else error(400, "not today", "INVALID_ARGUMENT")

    gemini.reply = fails_later
    with pytest.raises(RunStopped, match=r"judgements by gemini failed, .*checkpoint-\d is saved") as stopped:
        train(data=str(demo_data), runs_dir=tmp_path, run_id="outage", failure_window=8, **settings)
    gemini.reply = judge
    step = int(str(stopped.value).split("checkpoint-")[1][0])
    run = train(run_id="outage", runs_dir=tmp_path)
    assert 0 < step < 5 and run.metrics()["step"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.wide
def test_two_processes_make_theirs_in_the_same_order(tmp_path, demo_data, trained):
    def stops(completions, trainer_state, **_):
        if trainer_state.global_step == 3:
            (tmp_path / "two" / "stop").touch()
        return [0.0] * len(completions)

    settings = {"data": str(demo_data), "runs_dir": tmp_path, "max_steps": 6, "save_steps": 6, "max_staleness": 2}
    with pytest.raises(RunStopped, match="stopped at step 4, as asked; checkpoint-4 is saved"):
        train(run_id="two", num_processes=2, rewards=[stops], **settings)
    two = Run("two", tmp_path)
    assert [sorted(step) for step in asked(trained)[:4]] == [sorted(step) for step in asked(two)]
    assert two.completions().groupby(["step", "sample_id"])["advantage"].sum().abs().max() < 1e-3


def test_what_is_quoted_and_refused():
    with pytest.raises(ConfigError, match="Use max_staleness=0 or num_iterations=1"):
        TrainConfig(max_staleness=1, num_iterations=2, save_steps=2)
    slow = {"judge": "gemini", "judge_max_in_flight": 1}
    beside, after = (minutes(TrainConfig(max_staleness=n, **slow), [], None).range for n in (1, 0))
    assert beside < after


@pytest.mark.wide
def test_an_interrupt_leaves_no_judge_at_work_and_no_model_in_memory(tmp_path, demo_data):
    def trainers() -> int:
        gc.collect()
        return sum(type(each) is KitTrainer for each in gc.get_objects())

    def is_interrupted(completions, trainer_state, **_):
        if trainer_state.global_step == 1 and not (tmp_path / "seen").exists():
            (tmp_path / "seen").touch()
            raise KeyboardInterrupt
        return [0.0] * len(completions)

    before = trainers()
    settings = {"runs_dir": tmp_path, "run_id": "interrupted", "rewards": [is_interrupted]}
    with suppress(KeyboardInterrupt):
        train(
            data=str(demo_data),
            max_steps=3,
            save_steps=1,
            max_staleness=2,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=1,
            **settings,
        )
    run = Run("interrupted", tmp_path)
    assert run.status["state"] == "stopped" and run.status["step"] == 1 and trainers() == before
    assert train(**settings).metrics()["step"].tolist() == [1, 2, 3]


def test_a_stop_waits_for_what_is_asked_keeps_and_counts_it(gemini, tmp_path, demo_data):
    def slowly(request):
        reply = judge(request)
        reply.seconds = 0.5
        return reply

    def stops(completions, **_):
        (tmp_path / "paid" / "stop").touch()
        return [0.0] * len(completions)

    gemini.reply = slowly
    settings = {"data": str(demo_data), "runs_dir": tmp_path, "judge": "gemini", "canaries": "off", "max_staleness": 2}
    with pytest.raises(RunStopped, match=r"stopped at step 1, as asked"):
        train(run_id="paid", max_steps=6, rewards=[stops], **settings)
    run = Run("paid", tmp_path)
    assert len(gemini.requests) > 32 >= len(run.completions()), "what was asked for later steps"
    assert run.status["usd"] == pytest.approx(len(gemini.requests) * A_CALL)
    with sqlite3.connect(run.path / "rewards.cache.sqlite") as database:
        assert database.execute("select count(*) from judgements").fetchone()[0] == len(gemini.requests)
    # What three steps cost is known now: enough for them, and not for a fourth, is spent and not passed.
    gemini.reply, spent, before = judge, run.status["usd"], len(gemini.requests)
    with pytest.raises(RunStopped, match=r"stopped at step [12]: max_usd=.* would be passed"):
        train(run_id="short", max_steps=6, max_usd=1.3 * spent, seed=1, **settings)
    usd = Run("short", tmp_path).status["usd"]
    assert usd == pytest.approx((len(gemini.requests) - before) * A_CALL) and 0 < usd <= 1.3 * spent
    assert train(run_id="paid_for", max_steps=3, max_usd=1.3 * spent, seed=2, **settings).status["state"] == "complete"
