"""Fixtures of the faults: runs to which something is going to happen."""

import shutil

import pytest

import grpo_kit as kit

SETTINGS = {"max_steps": 8, "save_steps": 2, "canaries": "off"}
SETTINGS |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}


@pytest.fixture
def stopped(standin, tmp_path, demo_data, tmp_path_factory):
    """A run that was stopped after step 5, with checkpoints 2, 4 and 5; the same run undisturbed; and their reward.

    Both are made once by each worker, and copied.
    """
    made = tmp_path_factory.getbasetemp() / "stopped"

    def reward(completions, trainer_state, **_):
        if trainer_state.global_step == 4 and not (made / "whole").exists():
            (made / "runs" / "run" / "stop").touch()
        return [0.0] * len(completions)

    if not made.exists():
        settings = {"data": str(demo_data), "run_id": "run", "rewards": [reward], **SETTINGS}
        with pytest.raises(kit.RunStopped):
            kit.train(runs_dir=made / "runs", **settings)
        kit.train(runs_dir=made / "whole", **settings)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return kit.Run("run", tmp_path / "runs"), kit.Run("run", tmp_path / "whole"), reward
