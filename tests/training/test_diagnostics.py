"""Diagnoses of a run that goes wrong: each sign planted into the metrics of a run that goes well."""

import numpy as np
import pytest

from grpo_kit import TrainConfig
from grpo_kit.training.diagnostics import diagnose

STEPS = 20
LEVEL = 0.4 + 0.02 * (-1.0) ** np.arange(STEPS)  # no trend, some noise
PLANTED = {
    "No spread: in 75% of groups": {"frac_reward_zero_std": 0.75},
    "They have nearly the full score": {"frac_reward_zero_std": 0.75, "rewards/offline/mean": 0.98},
    "Reward flat: from 0.400 in the first 10 steps to 0.400": {"reward": LEVEL},
    "Reward falls: from 0.400 in the first 10 steps to 0.130": {"reward": LEVEL - 0.3 * (np.arange(STEPS) > 10)},
    "Cut off: 80% of completions reach max_completion_length=28": {"completions/clipped_ratio": 0.8},
    "Thoughts cut: 30% of completions still think at max_completion_length=28": {"thoughts/cut": 0.3},
    "Length running away: 20 tokens a completion, 10 at first": {
        "completions/mean_length": np.where(np.arange(STEPS) < 10, 10, 20)
    },
    "Judge failing: offline left 6 completions of the last 2 steps": {
        "judge/offline/failures": np.where(np.arange(STEPS) % 10, np.nan, 3)  # as with num_iterations=10
    },
    "Steps skipped: the gradient was not a number in 2 of the last 5 steps": {
        "grad_norm": np.where(np.arange(STEPS) < 18, 0.5, np.nan)
    },
    "Entropy gone: 0.010 nats a token": {"entropy": np.where(np.arange(STEPS) < 10, 0.5, 0.01)},
    "Judge failing: offline left 15 completions of the last 5 steps": {"judge/offline/failures": 3},
    "Groups alike: 25% of a prompt's completions differ, 90% at first": {
        "completions/distinct": np.where(np.arange(STEPS) < 10, 0.9, 0.25)
    },
    "It grows with training: try learning_rate=": {
        "sampling/sampling_logp_difference/mean": np.where(np.arange(STEPS) < 10, 0.02, 0.15)
    },
    "Reward silent: `tests_pass` has given None for every completion": {"rewards/tests_pass/mean": np.nan},
    "from the trainer's, 0.20 at first": {"sampling/sampling_logp_difference/mean": 0.2},
}


@pytest.fixture(scope="module")
def going_well(trained):
    metrics = trained.metrics()
    assert len(metrics) == STEPS
    return metrics.assign(reward=0.3 + 0.02 * np.arange(STEPS))


def test_a_run_that_goes_well_or_has_just_begun_shows_no_sign(going_well):
    assert diagnose(going_well, TrainConfig()) == []
    begun = going_well.head(4).assign(frac_reward_zero_std=1.0)
    assert diagnose(begun, TrainConfig()) == [] and diagnose(begun.head(0), TrainConfig()) == []


@pytest.mark.parametrize("text", PLANTED)
def test_what_goes_wrong_is_said_with_what_to_try(going_well, text):
    (sign,) = diagnose(going_well.assign(**PLANTED[text]), TrainConfig())
    assert text in str(sign) and any(help in sign.fix for help in ("Try ", "try ", "harder prompts", "say why"))


def test_a_reward_near_0_all_the_time_is_no_matter_of_the_learning_rate(going_well):
    nothing = going_well.assign(**{"rewards/offline/mean": 0.004, "reward": 0.004, "frac_reward_zero_std": 1.0})
    (sign,) = diagnose(nothing, TrainConfig())
    assert sign.what.startswith("No answer earns anything: the mean score was 0.004") and "sft_steps=20" in sign.fix
    assert "learning_rate" not in str(sign) and "sft_steps" not in diagnose(nothing, TrainConfig(sft_steps=5))[0].fix
    assert diagnose(nothing.head(2), TrainConfig(max_steps=2)) == [sign], "a run that is over is told, however short"
    rising = nothing.assign(**{"rewards/offline/mean": 0.004 * (1 + 3 * (nothing["step"] > 15))})
    assert [each.what for each in diagnose(rising, TrainConfig())] == [
        sign.what.replace("0.004 and", "0.007 and").replace("above 0.004", "above 0.016")
    ]


def test_where_no_judge_has_a_part_in_the_reward_that_is_looked_at(going_well):
    alone = TrainConfig(environment="replay", judge="offline=0")
    assert diagnose(going_well.assign(**{"rewards/offline/mean": 0.0}), alone) == []
    (sign,) = diagnose(going_well.assign(reward=0.0), alone)
    assert sign.what.startswith("No answer earns anything") and "a reward that gives partial credit" in sign.fix
    flat = going_well.assign(reward=0.3)
    assert [each.what[:9] for each in diagnose(flat, alone)] == [
        each.what[:9] for each in diagnose(flat, TrainConfig())
    ]


def test_kl_that_runs_away_is_a_sign_where_it_is_part_of_the_loss(going_well):
    metrics = going_well.assign(kl=np.linspace(0.01, 0.9, STEPS))
    (sign,) = diagnose(metrics, TrainConfig(beta=0.04))
    assert "KL running away: 0.81 nats a token" in sign.what and "beta=0.08" in sign.fix
    assert not diagnose(metrics, TrainConfig()) and not diagnose(going_well.assign(kl=0.1), TrainConfig(beta=0.04))


def test_what_is_named_to_try_are_settings_that_work(going_well):
    """As they are written: a setting that pydantic refuses, or that does not exist, would be no help."""
    at_once = [values for text, values in PLANTED.items() if "nearly all" not in text]
    planted = going_well.assign(**{name: value for values in at_once for name, value in values.items()})
    words = " ".join(map(str, diagnose(planted, TrainConfig()))).replace("(", " ").replace(")", " ").split()
    named = dict(word.strip(",.").split("=", 1) for word in words if "=" in word)
    named.pop("max_completion_length")  # named with the value that it has too
    assert len(named) >= 5
    assert named["trl"].count("=") == 1 and TrainConfig.from_text({"trl": named["trl"]}).trl
    TrainConfig.from_text(named | {"per_device_train_batch_size": "64"})
