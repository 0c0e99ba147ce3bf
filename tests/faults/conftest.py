"""Fixtures of the faults: runs to which something is going to happen."""

import pytest

import grpo_kit as kit

SETTINGS = {"max_steps": 8, "save_steps": 2, "per_device_train_batch_size": 8, "canaries": "off"}


@pytest.fixture
def stopped(standin, tmp_path, demo_data):
    """A run that was stopped after step 5, with checkpoints 2, 4 and 5; the same run undisturbed; and their reward."""
    settings = {"data": str(demo_data), "run_id": "run", **SETTINGS}

    def reward(completions, trainer_state, **_):
        if trainer_state.global_step == 4 and not (tmp_path / "enough").exists():
            (tmp_path / "runs" / "run" / "stop").touch()
        return [0.0] * len(completions)

    with pytest.raises(kit.RunStopped):
        kit.train(runs_dir=tmp_path / "runs", rewards=[reward], **settings)
    (tmp_path / "enough").touch()
    whole = kit.train(runs_dir=tmp_path / "whole", rewards=[reward], **settings)
    return kit.Run("run", tmp_path / "runs"), whole, reward
