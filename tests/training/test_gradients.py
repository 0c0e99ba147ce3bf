"""A step whose gradient is no number, as a GPU's faulty kernel gives it, does not spoil the weights."""

import pytest
import torch
from safetensors.torch import load_file

from grpo_kit import RunError, train
from grpo_kit.training.diagnostics import diagnose
from grpo_kit.training.sft import WarmStartTrainer
from grpo_kit.training.trainer import KitTrainer

SMALL = {"per_device_train_batch_size": 8, "max_completion_length": 4, "canaries": "off", "save_steps": 10}


def spoil(monkeypatch, trainer, steps):
    """Makes the gradient of one weight NaN in these steps."""
    made = trainer.training_step

    def spoilt(self, model, *args):
        loss = made(self, model, *args)
        if self.state.global_step + 1 in steps:
            next(each for each in model.parameters() if each.requires_grad).grad.fill_(torch.nan)
        return loss

    monkeypatch.setattr(trainer, "training_step", spoilt)


def test_a_bad_step_is_skipped_and_said(monkeypatch, tmp_path, demo_data):
    spoil(monkeypatch, KitTrainer, {2, 4, 5})
    spoil(monkeypatch, WarmStartTrainer, {1})
    said: list[str] = []
    steps = {"max_steps": 6, "sft_steps": 2, "sft_batch_size": 2}
    run = train(data=str(demo_data), runs_dir=tmp_path, echo=said.append, **steps, **SMALL)
    skipped = [text for text in said if "is skipped: its gradient is not a number" in text]
    assert [text.split()[1] for text in skipped] == ["1", "2", "4", "5"]
    assert run.metrics()["grad_norm"].isna().tolist() == [False, True, False, True, True, False]
    weights = load_file(run.path / "adapter_model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert any("lora_B" in name and weight.any() for name, weight in weights.items()), "the other steps were made"
    assert any("in 3 of the last 5 steps" in sign.what for sign in diagnose(run.metrics(), run.config))
    assert not torch.backends.cuda.cudnn_sdp_enabled(), "the kernel that gives such gradients"


def test_a_run_of_bad_steps_only_ends(monkeypatch, tmp_path, demo_data):
    spoil(monkeypatch, KitTrainer, range(2, 9))
    with pytest.raises(RunError, match=r"gradients of steps 2 to 4 are not numbers.*smaller learning_rate"):
        train(data=str(demo_data), runs_dir=tmp_path, run_id="bad", max_steps=9, **SMALL)
