"""A run on a container's disk and its copy on the volume, with a folder in the volume's place."""

import json
import shutil
import sqlite3
from types import SimpleNamespace

import pytest

import grpo_kit as kit
from grpo_kit.backends.modal.sync import RunSync
from grpo_kit.judges.cache import CACHE_FILE
from grpo_kit.runs.checkpoints import write_manifest
from grpo_kit.runs.directory import RunDirectory, checkpoint_step, now


class Volume:
    """Notes at each commit the newest step in metrics.jsonl and the checkpoints."""

    def __init__(self, run):
        self.run, self.commits = run, []

    def commit(self):
        steps = [json.loads(line)["step"] for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        checkpoints = [path.name for path in self.run.glob("checkpoint-*") if (path / "weights").exists()]
        self.commits.append((steps[-1], sorted(checkpoints)))

    def reload(self):
        pass


@pytest.fixture
def sync(tmp_path):
    local, remote = tmp_path / "here" / "run", tmp_path / "volume" / "run"
    (local / "data").mkdir(parents=True)
    (local / "data" / "train.jsonl").write_text("{}\n")
    settings = kit.TrainConfig(run_id="run", save_total_limit=2).model_dump()
    (local / "config.json").write_text(json.dumps({"settings": settings}))
    return RunSync(local, remote, Volume(remote), SimpleNamespace(is_held=True, run_id="run"))


def make_step(sync, step: int) -> None:
    """As training does: the step's line, its checkpoint, older ones removed, the status."""
    with (sync.local / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": step}) + "\n")
    (sync.local / f"checkpoint-{step}").mkdir()
    (sync.local / f"checkpoint-{step}" / "weights").write_text(str(step))
    write_manifest(sync.local / f"checkpoint-{step}")
    shutil.rmtree(sync.local / f"checkpoint-{step - 2}", ignore_errors=True)
    (sync.local / "status.json").write_text(json.dumps({"step": step, "heartbeat": now()}))


def test_every_commit_can_be_resumed_and_old_checkpoints_go(sync):
    for step in range(8, 13):  # names that sort otherwise as text
        make_step(sync, step)
        sync.push()
    assert all(checkpoint_step(sync.remote / name) <= step for step, names in sync._volume.commits for name in names)
    assert sync._volume.commits[0] == (8, []), "the step is committed before its checkpoint"
    assert [path.name for path in RunDirectory(sync.remote).checkpoints] == ["checkpoint-11", "checkpoint-12"]
    commits = len(sync._volume.commits)
    sync.push()
    assert len(sync._volume.commits) == commits, "there was nothing new"
    (sync.remote / "eval").mkdir()
    pulled = sync.pull()
    assert [path.name for path in pulled.checkpoints] == ["checkpoint-12"] and (pulled.path / "data").exists()
    assert not (pulled.path / "eval").exists() and (pulled.path / "metrics.jsonl").read_text().count("\n") == 5


def test_a_run_that_fails_while_it_is_copied_is_seen_to_fail_once_its_traceback_is_there(sync, monkeypatch):
    make_step(sync, 1)

    def fails() -> None:
        (sync.local / "train.log").write_text("Traceback")
        (sync.local / "status.json").write_text(json.dumps({"step": 1, "state": "failed"}))

    monkeypatch.setattr(sync, "_push_cache", fails)  # after the other files
    sync.push()
    assert not (sync.remote / "train.log").exists()
    assert "state" not in json.loads((sync.remote / "status.json").read_text())
    sync.push()
    assert (sync.remote / "train.log").exists()
    assert json.loads((sync.remote / "status.json").read_text())["state"] == "failed"


def test_a_database_that_is_written_to_is_copied_whole(sync):
    make_step(sync, 1)
    database = sqlite3.connect(sync.local / CACHE_FILE)
    database.execute("PRAGMA journal_mode=WAL")
    with database:
        database.execute("CREATE TABLE judgements (score)")
        database.execute("INSERT INTO judgements VALUES (0.5)")
    database.execute("INSERT INTO judgements VALUES (0.7)")  # not committed
    sync.push(is_last=True)
    assert sqlite3.connect(sync.remote / CACHE_FILE).execute("SELECT score FROM judgements").fetchall() == [(0.5,)]


def test_a_stop_request_arrives_and_who_lost_the_run_writes_nothing(sync):
    make_step(sync, 1)
    sync.push()
    (sync.remote / "stop").touch()
    sync.pull_stop_request()
    assert (sync.local / "stop").exists()
    sync._lease.is_held = False
    make_step(sync, 2)
    with pytest.raises(kit.RunError, match="another container has taken over run run"):
        sync.push()
    assert json.loads((sync.remote / "status.json").read_text())["step"] == 1
