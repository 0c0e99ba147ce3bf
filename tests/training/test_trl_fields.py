"""Fields of TRL's GRPOConfig that the kit has no setting for: checked against TRL itself, and trained with."""

import json
import sys
from dataclasses import fields
from typing import get_args

import pytest
from helpers import ROOT
from trl import GRPOConfig

import grpo_kit as kit
from grpo_kit import ConfigError, RunError, TrainConfig, train
from grpo_kit.config.trl import OWNED, trl_fields
from grpo_kit.training.grpo import grpo_arguments
from grpo_kit.training.plan import check_trl
from grpo_kit.training.trainer import distinct_share

LOSSES = get_args(TrainConfig.model_fields["loss_type"].annotation)
FURTHER = {
    "cispo": {"epsilon_high": 5.0},
    "luspo": {"importance_sampling_level": "sequence"},
    "vespo": {"vllm_importance_sampling_mode": "token_truncate"},
}
ONE_STEP = {"max_steps": 1, "save_steps": 1, "canaries": "off"}
SMALL = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 4}


def test_the_fields_are_those_of_the_installed_trl(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from trl_fields import described

    sys.modules.pop("trl_fields")
    assert trl_fields() == described(), "scripts/trl_fields.py writes it anew"


def test_all_that_the_kit_gives_to_trl_is_its_own(tmp_path):
    given = set(" ".join(OWNED.values()).split())
    assert given <= trl_fields().keys() and not given & TrainConfig.model_fields.keys()
    plain, changed = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False), grpo_arguments(TrainConfig(), tmp_path)
    differing = {f.name for f in fields(GRPOConfig) if f.init and getattr(plain, f.name) != getattr(changed, f.name)}
    assert differing - given - TrainConfig.model_fields.keys() == set()
    decided = {"output_dir", "disable_tqdm"}
    assert decided <= given


@pytest.mark.cases(4, LOSSES)
def test_every_loss_of_trl_makes_a_step(case, tmp_path, demo_data):
    given = {"trl": FURTHER.get(case, {}), "loss_type": case}
    run = train(data=str(demo_data), runs_dir=tmp_path, **ONE_STEP, **SMALL, **given)
    assert run.status["state"] == "complete" and run.metrics()["grad_norm"].item() > 0
    assert run.config.loss_type == case and run.config.trl == given["trl"]


def test_a_field_of_trl_trains_is_kept_and_is_no_part_of_a_resumed_run_that_changes(tmp_path, demo_data):
    """GSPO: its importance ratio is that of whole answers; steps that learn again from the same ones have one."""
    gspo = {"loss_type": "grpo", "trl": "epsilon_high=0.0004,importance_sampling_level=sequence", "epsilon": 0.0003}
    steps = {"max_steps": 2, "save_steps": 2, "num_iterations": 2, "canaries": "off"}
    run = train(data=str(demo_data), runs_dir=tmp_path, run_id="gspo", **gspo, **steps, **SMALL)
    kept = json.loads((run.path / "config.json").read_text())["settings"]["trl"]
    assert kept == {"epsilon_high": 0.0004, "importance_sampling_level": "sequence"}
    metrics = run.metrics()
    assert metrics["clip_ratio/region_mean"].iloc[1] > 0, "so narrow a range clips the second update"
    assert 1 / 4 <= metrics["completions/distinct"].iloc[0] <= 1
    with pytest.raises(RunError, match=r"trl=\{'epsilon_high': 0.5\}"):
        train(run_id="gspo", runs_dir=tmp_path, trl="epsilon_high=0.5")
    alike = kit.quote(run.config.replace(run_id="again"), tmp_path, "local", ask=False)
    other = kit.quote(run.config.replace(run_id="again", trl={}), tmp_path, "local", ask=False)
    assert "step of run gspo" in alike.minutes_from and "other settings" in other.minutes_from


def test_fields_that_trl_refuses_together_are_said_before_anything_is_made(tmp_path, demo_data):
    clips = {"vllm_importance_sampling_clip_min": 4.0, "vllm_importance_sampling_clip_max": 2.0}
    with pytest.raises(ConfigError, match=r"TRL refuses .*must be less than"):
        train(data=str(demo_data), runs_dir=tmp_path / "runs", trl=clips)
    assert not (tmp_path / "runs").exists()
    (problem,) = kit.quote(TrainConfig(data=str(demo_data), trl=clips), tmp_path, "local").problems
    assert "must be less than" in problem.what


@pytest.mark.parametrize(
    ("trl", "told"),
    [
        ({"adam_beta1": 2}, "adam_beta1 should be from 0 to below 1, and is 2"),
        ({"top_k": -5}, "top_k should be 0 or more, and is -5"),
        ({"top_entropy_quantile": -0.5}, "top_entropy_quantile should be from 0 to 1"),
        ({"log_level": "loud"}, "log_level should be detail, debug"),
        ({"cache_implementation": "none"}, "cache_implementation='none' can't be used: .*Choose one of"),
        ({"generation_kwargs": {"num_beams": -1}}, "generation_kwargs=.*can't be used"),
        ({"generation_kwargs": {"num_beam": 1}}, "has no num_beam. Did you mean num_beams"),
        ({"optim": "sgd", "optim_args": "momentum=-1"}, "optim_args='momentum=-1' can't be used: Invalid momentum"),
        ({"optim": "lomo"}, "You need to install `lomo_optim`"),
        ({"lr_scheduler_kwargs": {"power": 2}}, "unexpected keyword argument 'power'"),
        ({"dataloader_persistent_workers": True}, "needs num_workers > 0"),
        ({"torch_compile_mode": "quick"}, "Unrecognized mode=quick"),
        ({"gradient_checkpointing_kwargs": {"reentrant": True}}, "Unexpected keyword arguments: reentrant"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of=0 can't be used"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_value_that_would_be_refused_once_the_model_is_loaded_is_refused_before(trl, told):
    with pytest.raises(ConfigError, match=told):
        check_trl(TrainConfig(trl=trl))


def test_values_that_work_or_may_work_elsewhere_are_not_refused():
    check_trl(TrainConfig(trl={"optim": "adafactor", "top_k": 50, "min_p": 0.1, "pad_to_multiple_of": 8}))
    check_trl(TrainConfig(trl={"optim": "lomo"}), elsewhere=True)
    check_trl(TrainConfig(trl={"generation_kwargs": {"num_beams": -1}}), may_have_vllm=True)


def test_training_and_a_quote_refuse_them_before_anything_is_made(tmp_path, demo_data):
    for trl, told in (
        ({"dataloader_persistent_workers": True}, "num_workers > 0"),
        ({"use_liger_kernel": True}, "liger"),
    ):
        with pytest.raises(ConfigError, match=told):
            train(data=str(demo_data), runs_dir=tmp_path / "runs", trl=trl)
        config = TrainConfig(data=str(demo_data), trl=trl)
        problems = kit.quote(config, tmp_path, "local", ask="dataloader_persistent_workers" in trl).problems
        assert [told in problem.what for problem in problems] == [True]
    assert not (tmp_path / "runs").exists()


def test_the_share_of_distinct_completions_is_counted_in_groups():
    assert distinct_share(["a", "a", "a", "a", "a", "b", "c", "d"], 4) == 5 / 8
    assert distinct_share(["a", "b", "a", "b"], 2) == 1
