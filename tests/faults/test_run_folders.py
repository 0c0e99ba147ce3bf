"""Run folders that something has happened to: each is resumed exactly, or from an older checkpoint that is named, or
refused in one message, and takes no other down with it."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from helpers import start
from safetensors.numpy import load_file

import grpo_kit as kit
from grpo_kit import plots, widgets
from grpo_kit.costs.earlier import earlier_runs
from grpo_kit.judges.cache import CACHE_FILE, RewardCache
from grpo_kit.runs.directory import SCHEMA, RunDirectory

SETTINGS = {"max_steps": 8, "save_steps": 2, "canaries": "off"}
SETTINGS |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}


def weights_of(run) -> dict:
    return load_file(run.path / "adapter_model.safetensors")


def test_a_stray_folder_is_no_checkpoint_and_none_left_is_said(stopped, capsys):
    run, _, reward = stopped
    (run.path / "checkpoint-999").mkdir()
    for step in (2, 4, 5):
        (run.path / f"checkpoint-{step}" / "state.json").unlink()
    with pytest.raises(kit.RunError, match=r"all its checkpoints are damaged: checkpoint-999 \(its manifest.json is"):
        kit.train(run_id="run", runs_dir=run.path.parent, rewards=[reward])
    assert len(run.checkpoints) == 4, "nothing is moved then"


def test_a_run_that_was_renamed_or_fetched_is_resumed(stopped, tmp_path):
    run, whole, reward = stopped
    run.path.rename(run.path.with_name("other"))
    resumed = kit.train(run_id="other", runs_dir=run.path.parent, rewards=[reward])
    assert resumed.status["state"] == "complete" and resumed.config.run_id == "run"
    assert weights_of(resumed).keys() == weights_of(whole).keys()


def test_checkpoints_without_a_config_are_not_taken_over(stopped, demo_data):
    run, _, _ = stopped
    (run.path / "config.json").unlink()
    with pytest.raises(kit.RunError, match=r"holds a run without its config\.json"):
        kit.train(run_id="run", runs_dir=run.path.parent, data=str(demo_data), **SETTINGS)
    assert len(list(run.path.glob("checkpoint-*"))) == 3


ODD = {
    "config.json": [b"{}", b"[]", b"null", b"", b'{"settings": null}', b'{"settings": {"max_steps": "many"}}'],
    "status.json": [
        b"{}",
        b"[]",
        b"null",
        b"",
        b'"x"',
        b"\xff",
        "no usd",
        "no zone",
        "actual",
        "no numbers",
        "no time",
    ],
    "metrics.jsonl": [b"[]\n{}\n", b"\x00\n\n{}\n"],
    "completions.jsonl": [b"[]\n{}\n"],
}


def odd(run: RunDirectory, name: str, content: bytes | str) -> None:
    status = json.loads((run.path / "status.json").read_bytes())
    changed = {
        "no usd": {key: value for key, value in status.items() if key != "usd"},
        "no zone": status | {"heartbeat": "2026-01-01T00:00:00", "state": "running"},
        "actual": status | {"actual": "x"},
        "no numbers": status | {"step": "x", "seconds": None},
        "no time": status | {"heartbeat": "yesterday"},
    }
    told = content if isinstance(content, bytes) else json.dumps(changed[content]).encode()
    (run.path / name).write_bytes(told)


@pytest.mark.fault("an odd folder among the runs")
@pytest.mark.parametrize(("name", "content"), [(name, each) for name, kinds in ODD.items() for each in kinds])
def test_an_odd_folder_takes_no_other_down(trained, tmp_path, name, content):
    for each in ("odd", "well"):
        shutil.copytree(trained.path, tmp_path / each)
    odd(RunDirectory("odd", tmp_path), name, content)
    table = kit.runs(tmp_path).set_index("run")
    assert table.loc["well", "state"] == "complete"
    if name == "status.json" and isinstance(content, bytes):
        assert (
            table.loc["odd", ["state", "step", "reward"]].tolist()
            == table.loc["well", ["state", "step", "reward"]].tolist()
        )
        assert table.loc["odd", "minutes"] == pytest.approx(table.loc["well", "minutes"], abs=0.2)
    shown = widgets.runs(tmp_path)
    assert "Error" not in shown.message.value and [run.id for run in shown.selected if run.id == "well"]
    assert [run.id for run in earlier_runs(tmp_path) if run.id == "well"] == ["well"]
    assert kit.quote(kit.TrainConfig(), tmp_path, ask=False).minutes


def test_settings_of_another_version_are_left_aside_with_a_word(trained, tmp_path, capsys):
    shutil.copytree(trained.path, tmp_path / "newer")
    about = json.loads((tmp_path / "newer" / "config.json").read_text())
    about["settings"] |= {"of_tomorrow": 5}
    del about["settings"]["lora_dropout"]
    (tmp_path / "newer" / "config.json").write_text(json.dumps(about))
    run = kit.Run("newer", tmp_path)
    assert run.config.max_steps == 20 and run.config.lora_dropout == kit.TrainConfig().lora_dropout
    assert "settings that this version of the kit does not know are ignored: of_tomorrow" in capsys.readouterr().out


@pytest.mark.fault("two starts of one run at once")
@pytest.mark.cases(2, range(4))
def test_of_two_that_start_one_run_at_once_one_trains_by_its_own_settings(standin, tmp_path, demo_data, case):
    words = "train --run-id same --max-steps 2 --save-steps 2 --canaries off --data"
    both = [start(*words.split(), demo_data, "--seed", str(seed), cwd=tmp_path) for seed in (1, 2)]
    said = [process.communicate()[0] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2] and "Traceback" not in "".join(said), said
    run = kit.Run("same", tmp_path / "runs")
    assert run.config.seed == 1 + codes.index(0) and run.status["state"] == "complete"


@pytest.mark.fault("a full disk")
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(standin, tmp_path, demo_data):
    """In a file system of its own, of which only the run's folder is."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount of one's own is allowed here")
    script = """
        mkdir runs && mount -t tmpfs -o size=600k tmpfs runs
        train="$1 -m grpo_kit.cli train --run-id run --runs-dir runs"
        $train --max-steps 60 --save-steps 60 --canaries off --data "$2"
        cp runs/run/status.json status.json
        mount -o remount,size=64m runs
        $train
        cp runs/run/status.json after.json
    """
    command = ["unshare", "-rm", "bash", "-c", script, "bash", sys.executable, str(demo_data)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    status, after = (json.loads((tmp_path / name).read_text()) for name in ("status.json", "after.json"))
    assert status["state"] == "failed" and "No space left on device" in status["reason"], done.stdout + done.stderr
    assert after["state"] == "complete"


def test_a_dollar_in_a_name_is_a_dollar_in_a_figure(trained, tmp_path):
    run = shutil.copytree(trained.path, tmp_path / "cost$_{x}$^2")
    about = json.loads((run / "config.json").read_text())
    about["settings"] |= {"model_name": "tiny", "data": str(tmp_path / "$a_{b")}
    (run / "config.json").write_text(json.dumps(about))
    one, other = kit.Run(run), trained
    plots.learning_curve(one).savefig(tmp_path / "curve.png")
    plots.compare_runs([one, other]).savefig(tmp_path / "both.png")


def test_a_heartbeat_from_tomorrow_and_a_clock_set_back(trained, tmp_path, monkeypatch):
    from datetime import UTC, datetime, timedelta

    from grpo_kit.runs import writer

    run = RunDirectory(shutil.copytree(trained.path, tmp_path / "run"))
    status = json.loads((run.path / "status.json").read_text())
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    (run.path / "status.json").write_text(json.dumps(status | {"state": "running", "heartbeat": tomorrow}))
    assert run.status["state"] == "lost"

    class SetBack(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2000, 1, 1, tzinfo=zone)

    made = writer.RunWriter(run, run.config, usd_per_hour=3600.0, since=datetime.now(UTC) - timedelta(seconds=5))
    monkeypatch.setattr(writer, "datetime", SetBack)
    assert 5 <= made.seconds < 60 and made.dollars().machine >= 5


@pytest.mark.parametrize("folder", sorted((Path(__file__).parent / "kept").iterdir()), ids=lambda folder: folder.name)
def test_a_run_of_each_schema_is_read(tmp_path, folder):
    """Each was made by the kit of its time: two steps, on the embedded default. A new schema adds one."""
    run = RunDirectory(shutil.copytree(folder, tmp_path / "run"))
    assert kit.runs(tmp_path).loc[0, ["run", "state", "step"]].tolist() == ["run", "complete", "2/2"]
    assert len(run.metrics()) == 2 and len(run.completions()) == 16 and run.config.max_steps == 2
    assert [each.id for each in earlier_runs(tmp_path)] == ["run"]
    plots.learning_curve(run)
    with closing(RewardCache(tmp_path / "new.sqlite")) as cache:
        assert cache.copy_from(run.path / CACHE_FILE) > 0


def test_a_schema_of_tomorrow_is_said(trained, tmp_path, capsys):
    about = json.loads((shutil.copytree(trained.path, tmp_path / "run") / "config.json").read_text())
    assert about["schema_version"] == SCHEMA == len(list((Path(__file__).parent / "kept").iterdir())) - 1
    (tmp_path / "run" / "config.json").write_text(json.dumps(about | {"schema_version": SCHEMA + 1}))
    assert kit.runs(tmp_path).loc[0, "state"] == "unreadable"
    assert f"a newer version of the kit (schema {SCHEMA + 1}" in capsys.readouterr().out


def test_a_pipe_in_a_folder_is_not_waited_for_and_a_torn_config_is_told_of(trained, tmp_path, capsys):
    for each in ("pipe", "torn"):
        shutil.copytree(trained.path, tmp_path / each)
        (tmp_path / each / "config.json").unlink()
    os.mkfifo(tmp_path / "pipe" / "config.json")
    (tmp_path / "torn" / "config.json").write_text('{"sett')
    assert kit.runs(tmp_path).empty and capsys.readouterr().out.count("Unreadable: ") == 2
    with pytest.raises(kit.RunError, match=r"torn/config\.json is missing, or can't be read\. Put it back, or remove"):
        kit.Run("torn", tmp_path)
    with pytest.raises(kit.RunError, match=r"no run x+ under"):
        kit.Run("x" * 300, tmp_path)  # which no file can be called
    with pytest.raises(kit.RunError, match=r"holds a run without its config\.json"):
        kit.train(run_id="torn", runs_dir=tmp_path, max_steps=1)
