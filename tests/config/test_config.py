"""Settings: wrong ones are refused with the fix, recipes fill in, and what was given wins."""

import json
from typing import get_args

import pytest

from grpo_kit import ConfigError, TrainConfig
from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.train import ReadyReward
from grpo_kit.rewards.ready import READY


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_step": 3}, "Did you mean max_steps?"),
        ({"lora_rank": 8}, "no setting of TrainConfig"),
        ({"num_generations": 1}, "num_generations=1: should be greater than or equal to 2"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"learning_rate": -1}, "greater than 0"),
        ({"loss_type": "ppo"}, "'grpo', 'dapo'"),
        ({"run_id": "../elsewhere"}, "run_id"),
        ({"num_iterations": 3, "save_steps": 20}, "save_steps=21"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_fix(settings, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 12])
@pytest.mark.parametrize("passes", [1, 2, 3, 7])
@pytest.mark.parametrize("group", [2, 3, 4, 8])
def test_batches_that_groups_do_not_divide_come_with_the_nearest_that_works(batch, passes, group):
    settings = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": passes,
        "num_generations": group,
    }
    if batch * passes % group == 0:
        assert TrainConfig(**settings).prompts_per_step == batch * passes // group
        return
    with pytest.raises(ConfigError) as error:
        TrainConfig(**settings)
    advice = str(error.value).split("Nearest that works: ")[1]
    nearest = dict(part.split("=") for part in advice.split(" (")[0].split())
    works = TrainConfig(**settings | nearest)
    assert (works.per_device_train_batch_size == batch) or (works.gradient_accumulation_steps == passes)


def test_a_recipe_fills_in_and_a_given_setting_wins():
    assert TrainConfig().learning_rate == RECIPES["tiny"]["learning_rate"]
    assert TrainConfig(model_name="google/gemma-2-2b-it").learning_rate == 5e-5
    given = TrainConfig(learning_rate=1e-3)
    assert given.learning_rate == 1e-3 and given.given == {"learning_rate": 1e-3}
    assert given.replace(seed=1).given == {"learning_rate": 1e-3, "seed": 1}


def test_text_from_flags_is_read_as_its_type():
    config = TrainConfig(max_steps="100", learning_rate="5e-6", use_lora="false", bf16="auto")
    assert (config.max_steps, config.learning_rate, config.use_lora, config.bf16) == (100, 5e-6, False, "auto")


def test_settings_survive_json():
    config = TrainConfig(seed=3, use_lora=False)
    assert TrainConfig(**json.loads(json.dumps(config.model_dump()))) == config


def test_settings_name_the_ready_rewards_that_there_are():
    assert set(get_args(ReadyReward)) == READY.keys()


@pytest.mark.parametrize("wrong", ["gemni", "offline=0", "", "offline,offline"])
def test_a_run_is_trained_by_known_judges_with_weights_above_0(wrong):
    assert TrainConfig(judge="gemini=0.7,reference").judge == {"gemini": 0.7, "reference": 1}
    with pytest.raises(ConfigError, match=r"judge.* should be"):
        TrainConfig(judge=wrong)
