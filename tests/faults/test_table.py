"""Files of a run's folder that are broken, one at a time, and what must come of it: `make faults` tries every file in
every way, `make test` some of them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import grpo_kit as kit
from grpo_kit.errors import KitError
from grpo_kit.runs.checkpoints import newest_whole
from grpo_kit.runs.directory import RunDirectory

WAYS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "backwards": lambda file: file.write_bytes(file.read_bytes()[::-1]),
    "of another shape": lambda file: file.write_bytes(b"[{}]\n"),
    "without its fields": lambda file: file.write_bytes(b"{}\n{}\n"),
}
# What may come of each file: resumed as if nothing had been; so from an older checkpoint, which is said; resumed to the
# same weights, and said that the numbers of some steps are lost; refused in one message that names the file.
OUTCOMES = {
    "config.json": {"refused"},
    "status.json": {"exact"},
    "metrics.jsonl": {"lacks steps", "refused"},
    "completions.jsonl": {"lacks steps", "refused"},
    "train.log": {"exact"},
    "rewards.cache.sqlite": {"exact", "refused"},
    "checkpoint-5/adapter_model.safetensors": {"older"},
    "checkpoint-5/state.json": {"older"},
    "checkpoint-5/manifest.json": {"older"},
}
CHECKPOINT = """
adapter_model.safetensors adapter_config.json optimizer.pt scheduler.pt rng_state.pth trainer_state.json
training_args.bin tokenizer.json tokenizer_config.json chat_template.jinja manifest.json
""".split()


def contents(run: RunDirectory) -> dict[str, str]:
    """What a refusal leaves as it is: all but the words on it."""
    kept = [path for path in run.path.rglob("*") if path.is_file() and path.name not in ("status.json", "train.log")]
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept if path.name not in (".lock", "stop")
    }


def outcome(run: RunDirectory, whole: RunDirectory, reward, name: str, capsys) -> str:
    before = contents(run)
    try:
        resumed = kit.train(run_id="run", runs_dir=run.path.parent, rewards=[reward])
    except KitError as error:
        assert name in str(error) and "\n" not in str(error) and contents(run) == before
        return "refused"
    said = capsys.readouterr().out
    weights, expected = (load_file(each.path / "adapter_model.safetensors") for each in (resumed, whole))
    assert all((weights[tensor] == expected[tensor]).all() for tensor in expected)
    steps, texts = resumed.metrics()["step"].tolist(), resumed.completions()["completion"].tolist()
    if steps == list(range(1, 9)) and texts == whole.completions()["completion"].tolist():
        if "checkpoint-5 is skipped and renamed damaged-checkpoint-5: " not in said:
            return "exact"
        assert "resumed from checkpoint-4" in said
        return "older"
    assert f"Warning: {name} has lost" in said and steps[-3:] == [6, 7, 8]
    return "lacks steps"


@pytest.mark.fault("a file of a run's folder")
@pytest.mark.cases(8, [(name, way) for name in OUTCOMES for way in WAYS])
def test_a_broken_file_of_a_run(stopped, capsys, case):
    name, way = case
    run, whole, reward = stopped
    WAYS[way](run.path / name)
    assert outcome(run, whole, reward, name, capsys) in OUTCOMES[name]


@pytest.mark.fault("a file of a checkpoint")
@pytest.mark.cases(12, [(name, way) for name in CHECKPOINT for way in WAYS])
def test_a_checkpoint_with_a_broken_file_is_left_for_the_one_before_it(trained, tmp_path, case):
    name, way = case
    run = RunDirectory(shutil.copytree(trained.path, tmp_path / "run"))
    WAYS[way](run.path / "checkpoint-20" / name)
    checkpoint, damaged = newest_whole(run)
    assert checkpoint and checkpoint.name == "checkpoint-10"
    assert list(damaged) == ["checkpoint-20"] and name in damaged["checkpoint-20"]


@pytest.mark.fault("a checkpoint under another's number")
def test_a_checkpoint_is_that_of_its_own_step(stopped, capsys):
    run, whole, reward = stopped
    for name in ("checkpoint-99", "checkpoint-7"):
        shutil.copytree(run.path / "checkpoint-2", run.path / name)
    (run.path / "checkpoint-5" / "manifest.json").write_text('{"step": 5, "files": {}}')
    resumed = kit.train(run_id="run", runs_dir=run.path.parent, rewards=[reward])
    said = capsys.readouterr().out
    assert "resumed from checkpoint-4" in said and "checkpoint-99 is skipped and renamed damaged-checkpoint-99" in said
    assert resumed.completions()["completion"].tolist() == whole.completions()["completion"].tolist()


def test_checkpoints_of_before_manifests_are_resumed_where_they_have_what_it_takes(trained, tmp_path):
    run = RunDirectory(shutil.copytree(trained.path, tmp_path / "run"))
    about = run.about
    del about["schema_version"]
    (run.path / "config.json").write_text(json.dumps(about))
    for step in (10, 20):
        (run.path / f"checkpoint-{step}" / "manifest.json").unlink()
    assert newest_whole(run) == (run.path / "checkpoint-20", {})
    (run.path / "checkpoint-20" / "optimizer.pt").unlink()
    assert newest_whole(run) == (run.path / "checkpoint-10", {"checkpoint-20": "optimizer.pt is missing"})
