"""A run killed at any moment and started again ends as if it had never been killed."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from helpers import start, wait_until
from safetensors.torch import load_file

from grpo_kit import train
from grpo_kit.errors import RunStopped

STEPS, SAVE_STEPS = 8, 2
SIZES = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
SETTINGS = {"max_steps": STEPS, "save_steps": SAVE_STEPS, "learning_rate": 0.001} | SIZES
COMMAND = ["--run-id", "run", *" ".join(f"--{name.replace('_', '-')} {SETTINGS[name]}" for name in SETTINGS).split()]


def train_in_process(runs: Path, data: Path, *more: str) -> subprocess.Popen:
    return start("train", "--runs-dir", runs, "--data", data, *COMMAND, *more)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def rows(run: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def judged(run: Path) -> dict:
    with sqlite3.connect(run / "rewards.cache.sqlite") as database:
        return dict(database.execute("select key, judged_at from judgements"))


def steps_written(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, demo_data) -> Path:
    """The same run in this process."""
    runs = tmp_path_factory.mktemp("undisturbed")
    return train(run_id="run", data=str(demo_data), runs_dir=runs, **SETTINGS).path


@pytest.mark.fault("killed (SIGKILL) while it starts, and at two random moments", times=3)
@pytest.mark.cases(1, range(34))
def test_killed_again_and_again_it_ends_the_same(tmp_path, demo_data, undisturbed, case):
    rng = random.Random(case)
    run = tmp_path / "run"
    kills, judgements = [], {}
    # While it starts, and then at two moments that a seed chooses: at a step, and somewhere within it.
    for target in [0, *sorted(rng.sample(range(1, STEPS - 1), 2))]:
        process = train_in_process(tmp_path, demo_data)
        while steps_written(run) < target and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if target:
            kills.append(steps_written(run))
            judgements |= judged(run)
    is_saved = any(run.glob("checkpoint-*"))
    output = finish(train_in_process(tmp_path, demo_data))
    assert ("resumed from checkpoint-" in output) == is_saved

    for name in ("metrics.jsonl", "completions.jsonl"):
        steps = [row["step"] for row in rows(run, name)]
        assert steps == [row["step"] for row in rows(undisturbed, name)], f"{name} after kills at {kills}"
    said = [row["completion"] for row in rows(run, "completions.jsonl")]
    assert said == [row["completion"] for row in rows(undisturbed, "completions.jsonl")]

    weights, expected = (load_file(folder / "adapter_model.safetensors") for folder in (run, undisturbed))
    assert all((weights[name] == expected[name]).all() for name in expected)

    found = {path.name: {file.name for file in path.iterdir()} for path in run.glob("*checkpoint*")}
    assert sorted(found) == sorted(f"checkpoint-{step}" for step in range(SAVE_STEPS, STEPS + 1, SAVE_STEPS))
    assert set(map(frozenset, found.values())) == {frozenset(p.name for p in (undisturbed / "checkpoint-2").iterdir())}
    assert not (run / ".partial").exists()

    after = judged(run)
    assert judgements.items() <= after.items(), "a judgement made before a kill was lost or made again"
    assert after.keys() == judged(undisturbed).keys()
    assert json.loads((run / "status.json").read_text())["state"] == "complete"


@pytest.mark.wide
def test_killed_while_it_saved_its_result_it_only_saves(tmp_path, demo_data, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "run")
    status = json.loads((tmp_path / "run/status.json").read_text())
    (tmp_path / "run/status.json").write_text(json.dumps(status | {"state": "running"}))
    (tmp_path / "run/adapter_model.safetensors").unlink()
    assert "Step" not in finish(train_in_process(tmp_path, demo_data))
    for name in ("metrics.jsonl", "adapter_model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (undisturbed / name).read_bytes()
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "complete"


def test_a_complete_run_is_left_alone_and_other_settings_are_refused(undisturbed, demo_data):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert "is complete" in finish(train_in_process(undisturbed.parent, demo_data))
    refused = train_in_process(undisturbed.parent, demo_data, "--seed", "1")
    output, _ = refused.communicate()
    assert refused.returncode == 2 and "seed=1 (it has 42)" in output and "Traceback" not in output
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}


def test_ctrl_c_says_how_to_go_on_and_a_second_process_is_kept_out(standin, tmp_path, demo_data, monkeypatch):
    monkeypatch.setenv("STANDIN_HOLD", "1")
    process = train_in_process(tmp_path, demo_data)
    wait_until(lambda: process.poll() is not None or steps_written(tmp_path / "run"))
    second = train_in_process(tmp_path, demo_data)
    output, _ = second.communicate()
    assert second.returncode == 2 and "trained by another process" in output
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "stopped" and "resumes" in status["reason"]
    assert process.returncode == 130 and "Traceback" not in output
    assert "grpo-kit train --run-id run" in output


def test_later_epochs_have_the_order_that_they_would_have_had(tmp_path, few):
    def asks(completions, trainer_state, **_):
        for stop in tmp_path.glob(f"stopped_after_{trainer_state.global_step + 1}/status.json"):
            stop.with_name("stop").touch()
        return [0.0] * len(completions)

    settings = {"data": str(few), "runs_dir": tmp_path, "rewards": [asks], "max_steps": 5, "save_steps": 5}
    settings |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 2}
    whole = train(run_id="whole", **settings)
    for run_id in ("stopped_after_2", "stopped_after_3"):  # between two epochs, and within one
        with pytest.raises(RunStopped, match="as asked"):
            train(run_id=run_id, **settings)
        resumed = train(run_id=run_id, runs_dir=tmp_path, rewards=[asks])
        assert resumed.metrics()["loss"].tolist() == whole.metrics()["loss"].tolist()
        asked = [run.completions()["sample_id"].tolist() for run in (resumed, whole)]
        assert asked[0] == asked[1]
