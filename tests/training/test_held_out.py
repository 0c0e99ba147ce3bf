"""Held-out scores while training: they change no weight, survive a resumption, and end a run that only gets worse."""

from pathlib import Path

import numpy as np
import pytest
from figures import assert_readable

from grpo_kit import ConfigError, Run, TrainConfig, quote, runs, train
from grpo_kit.data.samples import read_samples
from grpo_kit.errors import RunStopped
from grpo_kit.plots.runs import learning_curve
from grpo_kit.training.diagnostics import diagnose
from grpo_kit.training.held_out import HeldOutScores, best_checkpoint, choose, why_to_stop
from grpo_kit.utils.json_lines import read_lines

SIZES = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 4}
SETTINGS = {"max_steps": 5, "save_steps": 2, "learning_rate": 1e-3, "max_completion_length": 12} | SIZES
EVALUATED = {"eval_steps": 2, "eval_prompts": 10}  # more than a step's completions, so in two batches


def planted(*means: float, second: tuple[float, ...] = ()) -> list[HeldOutScores]:
    """Evaluations every 10 steps with these mean scores on 30 prompts, some easier than others."""
    rng = np.random.default_rng(0)
    easy = rng.normal(0, 0.2, 30)

    def scores(mean: float) -> dict[str, float]:
        found = mean + easy + rng.normal(0, 0.02, 30)
        return dict(zip(map(str, range(30)), found - found.mean() + mean, strict=True))

    pairs = zip(means, second or means, strict=True)
    return [HeldOutScores(10 * i, scores(one), scores(two)) for i, (one, two) in enumerate(pairs)]


def test_falling_scores_end_a_run_after_so_many_evaluations_in_a_row():
    falling = planted(0.3, 0.5, 0.45, 0.4)
    assert why_to_stop(falling, 2, seed=1).startswith("held-out score fell from 0.50 (step 10) to 0.40 (-0.10 [-0.1")
    assert why_to_stop(falling, 2, seed=1).endswith("for 2 evaluations")
    assert not why_to_stop(falling, None, 1) and not why_to_stop(falling, 3, 1) and not why_to_stop(falling[:3], 2, 1)
    assert not why_to_stop(planted(0.3, 0.5, 0.45, 0.55, 0.5), 2, 1), "it recovered in between"
    assert not why_to_stop(planted(0.5, 0.499, 0.499), 2, 1), "no more than noise"
    gamed = planted(0.3, 0.5, 0.6, 0.7, second=(0.3, 0.5, 0.4, 0.3))
    assert "the second judge's held-out score fell by 0.20" in why_to_stop(gamed, 2, 1)
    assert "rose from 0.50 to 0.70" in why_to_stop(gamed, 2, 1)
    assert best_checkpoint(falling, [Path(f"checkpoint-{step}") for step in (5, 20, 30)]) == "checkpoint-20"
    assert best_checkpoint([], [Path("checkpoint-20")]) is None


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, demo_data) -> Run:
    folder = tmp_path_factory.mktemp("held_out")
    return Run(train(run_id="run", data=str(demo_data), runs_dir=folder, **SETTINGS, **EVALUATED).path)


def weights(run) -> bytes:
    return (run.path / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("max_staleness", [0, pytest.param(1, marks=pytest.mark.wide)])
def test_the_weights_are_those_of_a_run_without(evaluated, tmp_path, demo_data, max_staleness):
    ahead = SETTINGS | {"data": str(demo_data), "runs_dir": tmp_path, "max_staleness": max_staleness}
    plain = train(run_id="plain", **ahead)
    run = train(run_id="run", **ahead, **EVALUATED) if max_staleness else evaluated
    assert weights(plain) == weights(run)
    assert plain.completions().equals(run.completions())
    assert run.held_out().loc[lambda rows: rows["step"] == 0].equals(evaluated.held_out().head(10))


def test_scores_are_in_metrics_status_tables_and_the_figure(evaluated, demo_data):
    metrics, held_out = evaluated.metrics().set_index("step"), evaluated.held_out()
    assert metrics["eval_reward"].dropna().index.tolist() == [0, 2, 4, 5]
    assert metrics["reward"].dropna().index.tolist() == [1, 2, 3, 4, 5]
    means = held_out.groupby("step")[["score", "second"]].mean()
    assert means["score"].to_numpy() == pytest.approx(metrics["eval_reward"].dropna().to_numpy())
    assert means["second"].to_numpy() == pytest.approx(metrics["eval_second/reference/mean"].dropna().to_numpy())
    assert held_out.groupby("step")["sample_id"].apply(tuple).nunique() == 1, "the same prompts each time"
    asked, there = set(held_out["sample_id"]), list(read_samples(demo_data / "eval.jsonl"))
    assert len(asked) == 10 and asked <= {sample.id for sample in there}
    assert asked == {each.id for each in choose(there, 10, evaluated.config.seed, ())}

    saved = [int(path.name.removeprefix("checkpoint-")) for path in evaluated.checkpoints]
    best = f"checkpoint-{metrics['eval_reward'][saved].idxmax()}"
    assert evaluated.status["best_checkpoint"] == best and best in repr(evaluated)
    assert runs(evaluated.path.parent)["best_checkpoint"].tolist() == [best]

    figure = learning_curve(evaluated)
    assert_readable(figure)
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert lines["held-out"][:, 1].tolist() == metrics["eval_reward"].dropna().tolist()
    assert lines["held-out, by reference"][:, 0].tolist() == [0, 2, 4, 5]


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, demo_data):
    stops = [tmp_path / "run/stop"]

    def asks(completions, trainer_state, **_):
        if trainer_state.global_step == 2 and stops:
            stops.pop().touch()
        return [0.0] * len(completions)

    settings = SETTINGS | EVALUATED | {"data": str(demo_data), "runs_dir": tmp_path, "rewards": [asks]}
    with pytest.raises(RunStopped, match="as asked"):
        train(run_id="run", **settings)
    resumed = train(run_id="run", runs_dir=tmp_path, rewards=[asks])
    whole = train(run_id="whole", **settings)
    assert weights(resumed) == weights(whole)
    for name in ("eval_reward", "eval_second/reference/mean", "reward", "loss"):
        assert resumed.metrics()[name].tolist() == pytest.approx(whole.metrics()[name].tolist(), nan_ok=True), name
    assert read_lines(resumed.path / "eval_scores.jsonl") == read_lines(whole.path / "eval_scores.jsonl")


def test_a_run_that_only_gets_worse_is_stopped_and_names_its_best_checkpoint(tmp_path, demo_data):
    calls = []

    def falls(completions, trainer_state, **_):
        """Better in the first two evaluations than ever after."""
        calls.append(trainer_state.global_step)
        return [1.0 if trainer_state.global_step < 2 else -1.0] * len(completions)

    settings = SETTINGS | EVALUATED | {"max_steps": 20, "save_steps": 1, "eval_steps": 1}
    settings |= {"early_stopping_patience": 2, "save_total_limit": 1}
    with pytest.raises(RunStopped, match=r"stopped at step 3: held-out score fell from 1\.\d\d \(step [01]\)"):
        train(run_id="run", data=str(demo_data), runs_dir=tmp_path, rewards=[falls], **settings)
    run = Run(tmp_path / "run")
    assert run.status["state"] == "stopped" and "for 2 evaluations; checkpoint-1 is the best" in run.status["reason"]
    assert [path.name for path in run.checkpoints] == ["checkpoint-1", "checkpoint-3"], "the best is kept too"


def test_a_sign_says_that_the_training_reward_alone_rises(trained):
    steps = np.arange(1, len(trained.metrics()) + 1)
    found = trained.metrics().assign(reward=0.3 + 0.02 * steps)
    scores = np.where(steps % 5 == 0, 0.5 - 0.01 * steps, np.nan)
    told = {"eval_reward": scores, "eval_versus_best/high": np.where(steps > 5, scores - 0.46, np.nan)}
    said = [problem.what for problem in diagnose(found.assign(**told), trained.config)]
    assert any(each.startswith("Overfitting: the held-out score fell from 0.450 (step 5) to 0.300") for each in said)
    assert not any("Overfitting" in each.what for each in diagnose(found.assign(reward=0.3, **told), trained.config))


def test_what_can_not_work_is_refused_and_the_quote_counts_evaluations(tmp_path, few, gemini):
    with pytest.raises(ConfigError, match=r"should be a multiple of eval_steps=15.*Use save_steps=15"):
        TrainConfig(save_steps=20, eval_steps=15)
    with pytest.raises(ConfigError, match="early_stopping_patience needs held-out scores"):
        TrainConfig(early_stopping_patience=2)
    with pytest.raises(ConfigError, match="eval_steps=2 needs held-out prompts, and there is no"):
        train(data=str(few), runs_dir=tmp_path, **SETTINGS, **EVALUATED)
    plain = TrainConfig(judge="gemini", max_steps=40, save_steps=10)
    calls = [quote(each, ask=False).judge_usd_from.split()[0] for each in (plain, plain.replace(eval_steps=10))]
    assert calls == ["1,280", "1,440"], "5 evaluations of 32 prompts more"
