"""A run that goes on from another: it has what it needs of it, and what contradicts the other is said alone."""

import shutil

import pytest
from helpers import shell

import grpo_kit as kit
from grpo_kit import RunStopped, TrainConfig, doctor
from grpo_kit.runs.directory import STOP_FILE

ONE = {"max_steps": 1, "save_steps": 1}


@pytest.fixture(autouse=True)
def in_an_empty_folder(standin, tmp_path, monkeypatch):
    """Where runs are trained by the stand-in, and none asks Modal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRPO_KIT_BACKEND", "local")


def test_the_same_command_resumes_it_when_the_other_run_is_gone(tmp_path):
    kit.train(run_id="a", **ONE)
    command = {"run_id": "b", "model_name": "runs/a", "max_steps": 3, "save_steps": 1}

    def stop(said: str) -> None:
        if said.startswith("Step 1/3"):
            (tmp_path / "runs/b" / STOP_FILE).touch()

    with pytest.raises(RunStopped):
        kit.train(echo=stop, **command)
    shutil.rmtree(tmp_path / "runs/a")
    quoted = kit.quote(TrainConfig(**command))
    assert not quoted.problems and quoted.config.max_steps == 1, "the step that is left"
    run = kit.train(**command)
    assert run.status["state"] == "complete" and run.metrics()["step"].tolist() == [1, 2, 3]
    assert kit.train(run_id="b", adapter="runs/a").status["step"] == 3
    with pytest.raises(kit.ConfigError, match="runs/c is neither a run under runs"):
        kit.train(run_id="b", model_name="runs/c")
    with pytest.raises(kit.ConfigError, match=r"lora_r=4 \(it has 16\)"):
        kit.train(**command, lora_r=4)


def test_the_same_command_resumes_it_when_the_other_run_has_trained_on(tmp_path):
    kit.train(run_id="a", use_lora=False, **ONE)
    status = tmp_path / "runs/a/status.json"
    complete = status.read_text()
    status.write_text(complete.replace('"complete"', '"stopped"'))  # and is taken up from its checkpoint, below
    command = {"run_id": "b", "model_name": "runs/a", "use_lora": False, **ONE}
    started = kit.train(**command).config.model_name
    assert started == str(tmp_path / "runs/a/checkpoint-1")
    status.write_text(complete)
    assert kit.train(**command | {"max_steps": 2}).config.model_name == started


def test_what_contradicts_the_other_run_is_said_once_and_alone(tmp_path, capsys):
    kit.train(run_id="a", **ONE)
    for name in ("a", "runs/a", str(tmp_path / "runs/a/checkpoint-1")):
        config = TrainConfig(model_name=name, lora_r=4)
        for ask in (True, False):
            (problem,) = kit.quote(config, ask=ask).problems
            assert "lora_r=4 (it has 16)" in problem.what and problem.fix == "Leave them out"
        capsys.readouterr()
        assert not doctor(config)
        said = capsys.readouterr().out
        assert said.count("lora_r=4") == 1 and said.count("problem  ") == 1 and "Correct first: start" in said
    assert "lora_r=4" in shell(tmp_path, "train", "--model-name", "runs/a", "--lora-r", "4", code=2)
