"""Settings: wrong ones are refused with the fix, recipes fill in, and what was given wins."""

import json
import re
from types import SimpleNamespace
from typing import get_args

import pytest

from grpo_kit import ConfigError, TrainConfig
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.gpus import larger_gpu, listed_gpu, modal_usd_per_hour, unknown_gpu
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.train import ReadyReward
from grpo_kit.config.usual_names import _SETTING
from grpo_kit.evaluation.evaluate import _as_trained
from grpo_kit.rewards.ready import READY


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_step": 3}, "Did you mean max_steps?"),
        ({"lr": 1e-4}, "lr is no setting of TrainConfig. Did you mean learning_rate?"),
        ({"epochs": 3}, "Did you mean num_train_epochs?"),
        ({"lora_rank": 8}, "no setting of TrainConfig"),
        ({"num_generations": 1}, "num_generations=1: should be greater than or equal to 2"),
        ({"num_train_epochs": 1e6}, "num_train_epochs=1000000.0: should be less than or equal to 10000"),
        ({"per_device_train_batch_size": 10**9}, "should be less than or equal to 10000"),
        ({"max_prompt_length": 10**9}, "should be less than or equal to 1048576"),
        ({"weight_decay": float("inf")}, "weight_decay=inf: should be a finite number"),
        ({"run_id": "../x"}, "run_id='../x': should be at most 100 letters, digits"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"learning_rate": -1}, "greater than 0"),
        ({"loss_type": "ppo"}, "'grpo', 'dapo'"),
        ({"run_id": "../elsewhere"}, "run_id"),
        ({"num_iterations": 3, "save_steps": 20}, "save_steps=21"),
        ({"gpu": "A10:8"}, "gpu='A10:8': should be A10, or A10:N for N of them, from 2 to 4"),
        ({"gpu": "H200:0"}, "from 2 to 8"),
        ({"loss_type": "vespo"}, "trl=vllm_importance_sampling_mode=token_truncate"),
        ({"trl": "sync_ref_model=true", "beta": 0.04}, "use_lora=false"),
        ({"trl": {"epsilon_hihg": 0.28}}, "there is no epsilon_hihg. Did you mean epsilon_high?"),
        ({"trl": {"learning_rate": 0.28}}, "learning_rate is the kit's: use learning_rate"),
        ({"trl": {"max_prompt_length": 99}}, "use max_prompt_length"),
        ({"trl": {"output_dir": "x", "use_cpu": True}}, "use run_id; use_cpu is set by the kit: leave it out"),
        ({"trl": "importance_sampling_level=sentence"}, "should be token, sequence, and is 'sentence'"),
        (
            {"trl": {"top_k": 2.5, "epsilon_high": True}},
            "top_k should be int, and is 2.5; epsilon_high should be float",
        ),
        ({"trl": "{a"}, "expected ',' or '}'"),
        ({"trl": "epsilon_high"}, "such as epsilon_high=0.28"),
        ({"judge": "offline>gemni=0.7"}, "or a ladder of them, such as offline>gemini. Did you mean gemini?"),
        ({"judge": "offline>gemini>offline"}, "a ladder of judges, each once"),
        ({"judge": "offline>openai"}, "judge=openai needs the name of a model"),
        ({"judge_ladder_bounds": "0.8,0.2"}, "judge_ladder_bounds='0.8,0.2': should be two scores from 0 to 1"),
        ({"judge_ladder_bounds": [0.5, 1.1]}, "the lower one first"),
        ({"judge_ladder_bounds": "0.5"}, "such as 0.2,0.8"),
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


GEMMA = {"model_name": "google/gemma-2-2b-it"}  # which has no recipe: 8 completions x 4 passes


@pytest.mark.parametrize(
    ("given", "batch", "passes"),
    [
        ({}, 32, 1),
        (GEMMA, 8, 4),
        ({"per_device_train_batch_size": 1, "num_generations": 2}, 1, 32),  # the guide's own
        (GEMMA | {"per_device_train_batch_size": "1", "num_generations": "2"}, 1, 32),
        ({"gradient_accumulation_steps": 4}, 8, 4),
        (GEMMA | {"gradient_accumulation_steps": 8}, 4, 8),
        ({"num_generations": 6}, 30, 1),
        (GEMMA | {"num_generations": 64}, 8, 8),
        (GEMMA | {"num_processes": 2}, 8, 2),
        ({"gpu": "A10:4"}, 8, 1),
        ({"num_processes": 2, "per_device_train_batch_size": 4}, 4, 4),
        ({"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}, 8, 1),
        (GEMMA | {"num_processes": 8, "judge": "gemini", "judge_mode": "group"}, 8, 1),  # whole groups in a process
    ],
)
def test_what_is_filled_in_keeps_a_step_as_large_as_before(given, batch, passes):
    config = TrainConfig(**given)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (batch, passes)
    assert config.given.keys() == given.keys() and config == TrainConfig(**config.model_dump())


def test_gpus_by_all_names_that_modal_has_and_others_with_nothing_known():
    names = ["T4", "L4", "A10", "L40S", "RTX-PRO-6000", "H100", "H100!", "H200", "B200", "B200+"]
    for name in [*names, "A100", "A100-40GB", "A100-80GB"]:
        assert TrainConfig(gpu=name.lower()).gpu == name and modal_usd_per_hour(name, 0) > 0.5 and not unknown_gpu(name)
        most = 4 if name == "A10" else 8
        assert TrainConfig(gpu=f"{name}:{most}").num_processes == most
    assert listed_gpu("A100:2") is listed_gpu("A100-40GB") and listed_gpu("H100!") is listed_gpu("H100")
    assert larger_gpu(20.0, 8) == "L4:8" and larger_gpu(22.0, 8) == "A100-40GB:8"
    assert TrainConfig(gpu="B900:2").gpu == "B900:2" and modal_usd_per_hour("B900:2", 1024) is None
    assert "Did you mean B200?" in unknown_gpu("B300")


@pytest.mark.parametrize(
    "text",
    [
        "epsilon_high=0.28, importance_sampling_level=sequence",
        "{epsilon_high: 0.28, importance_sampling_level: sequence}",
        '{"epsilon_high": 0.28, "importance_sampling_level": "sequence"}',
    ],
)
def test_fields_of_trl_are_read_from_text(text):
    config = TrainConfig(trl=text)
    assert config.trl == {"epsilon_high": 0.28, "importance_sampling_level": "sequence"}
    assert eval(repr(config), {"TrainConfig": TrainConfig}) == config and TrainConfig(trl="none").trl == {}


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


def test_judge_model_is_gemini_s_where_gemini_is_the_only_judge_that_has_one():
    models = [("gemini", "a", {}, "gemini", "a"), ("gemini,openai", "a", {}, "openai", "a")]
    models += [("gemini,openai", "a", {}, "gemini", "gemini-3.5-flash-lite"), (None, None, {}, "gemini", "b")]
    models += [("gemini,openai", "a", {"gemini_model": "b"}, "gemini", "b"), ("offline", "a", {}, "openai", "a")]
    models += [("offline > gemini", "a", {}, "gemini", "a"), ("offline>openai", "a", {}, "openai", "a")]
    models += [("openai,anthropic", "openai=a,anthropic=models/b", {}, "anthropic", "models/b")]
    for judge, model, more, name, expected in models:
        given = {"judge": judge, "judge_model": model, **more} if judge else {"gemini_model": "models/b"}
        assert TrainConfig(**given).model_of(name) == expected
    assert TrainConfig(judge="gemini", judge_model="a").replace(judge_model="b").gemini_model == "b"
    assert JudgeConfig(judge_model="a").model_of("gemini") == JudgeConfig(judge_model="a").model_of("openai") == "a"
    for wrong, said in (("openai", "judge=openai needs the name"), ("openai,anthropic", "judge_model=anthropic=NAME")):
        with pytest.raises(ConfigError, match=said):
            TrainConfig(judge=wrong, judge_model="openai=a" if "," in wrong else None)


def test_an_evaluation_asks_the_runs_model_unless_it_asks_another_judge():
    run = SimpleNamespace(settings=TrainConfig(judge="openai", judge_model="a", judge_base_url="http://localhost:8/v1"))
    by_run = _as_trained(EvalConfig(), run)
    assert (by_run.judge, by_run.model_of("openai"), by_run.judge_base_url) == ("openai", "a", "http://localhost:8/v1")
    named = _as_trained(EvalConfig(judge="openai", second_judge="offline"), run)
    assert (named.model_of("openai"), named.judge_base_url) == ("a", "http://localhost:8/v1")
    by_gemini = _as_trained(EvalConfig(judge="gemini", second_judge="offline"), run)
    assert by_gemini.model_of("gemini") == "gemini-3.5-flash-lite"
    both = _as_trained(EvalConfig(second_judge="gemini", gemini_model="b"), run)
    assert (both.model_of("openai"), both.model_of("gemini")) == ("a", "b")
    of_gemini = SimpleNamespace(settings=TrainConfig(judge="gemini"))
    assert _as_trained(EvalConfig(judge_model="c"), of_gemini).model_of("gemini") == "c"


def test_settings_keep_the_names_that_they_had_when_gemini_was_the_only_model_that_judged():
    config = TrainConfig.from_text({"gemini_mode": "group", "gemini_temperature": "none"})
    assert config.judge_mode == "group" and config.given == {"judge_mode": "group", "judge_temperature": None}
    assert config.replace(gemini_mode="absolute").judge_mode == "absolute"
    with pytest.raises(ConfigError, match="gemini_mode is the old name of judge_mode"):
        TrainConfig(gemini_mode="group", judge_mode="group")


@pytest.mark.parametrize("wrong", ["gemni", "offline=0", "", "offline,offline"])
def test_a_run_is_trained_by_known_judges_with_weights_above_0(wrong):
    assert TrainConfig(judge="gemini=0.7,reference").judge == {"gemini": 0.7, "reference": 1}
    ladder = TrainConfig.from_text({"judge": "offline > gemini=0.7,reference", "judge_ladder_bounds": "[0, 0.5]"})
    assert ladder.judge == {"offline>gemini": 0.7, "reference": 1} and ladder.judge_ladder_bounds == [0, 0.5]
    assert (ladder.rungs, ladder.cloud_judges) == (["offline", "gemini", "reference"], ["gemini"])
    assert TrainConfig(judge="Offline>OpenAI", judge_model="gpt-5-mini").judge == {"offline>openai": 1}
    with pytest.raises(ConfigError, match=r"judge needs|judge.* should be"):
        TrainConfig(judge=wrong)
    with pytest.raises(ConfigError, match=r"should be names with weights after them: offline>openai=0\.3"):
        TrainConfig(judge="offline=0.3>openai")


def test_usual_names_are_nobodys_own_and_lead_to_settings():
    for usual, name in _SETTING:
        assert name.split()[0] in {*TrainConfig.model_fields, *EvalConfig.model_fields}
        assert usual not in TrainConfig.model_fields, "its own name needs no hint"


def test_a_file_of_settings_gives_way_to_what_is_given_beside_it(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "max_steps: 6\nlearning_rate: 1e-3\njudge: {offline: 1, exact: 0.5}\ngemini_samples: 2\nadapter: null\n"
    )
    typed = TrainConfig.from_text(
        {"learning_rate": "2e-3", "judge_samples": "3", "seed": None}, TrainConfig.found_in(file)
    )
    config = TrainConfig.from_file(file, learning_rate=2e-3, gemini_samples=3)
    assert (config.max_steps, config.learning_rate, config.judge_samples) == (6, 2e-3, 3) and typed == config
    assert config.judge == {"offline": 1, "exact": 0.5} and config.given == typed.given
    file = tmp_path / "settings.json"
    file.write_text('{\n\t"lora_r": 4\n}')
    assert TrainConfig.from_file(str(file)).given == {"lora_r": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1", "bad.yaml: lr is no setting of TrainConfig. Did you mean learning_rate?"),
        ("- max_steps", "bad.yaml holds no settings. Write one a line"),
        ("max_steps: [", "bad.yaml is not YAML or JSON"),
        ("max_steps: 0", "max_steps=0: should be greater than 0"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig.from_file(tmp_path / "bad.yaml")
