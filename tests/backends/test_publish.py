"""A run pushed to the hub and pulled from it again: by the real client, to a server on loopback that speaks its
protocol."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import GATED, LET_IN, MODEL, NOT_TO_WRITE, WRITING, HubServer, Repository

import grpo_kit as kit
from grpo_kit.judges.labels import Label, LabelFile

SECRET = "Ann Smith of 5 Mill Lane"  # what no one else is to read
NEW, MERGED, OPEN = "ann/first", "demo-lab/first-merged", "ann/open"


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """A copy of the run with an evaluation, whose files hold SECRET wherever people's words may be."""
    folder = tmp_path_factory.mktemp("publish")
    run = kit.Run(shutil.copytree(trained.path, folder / "runs" / trained.id))
    evaluation = kit.evaluate(run, n=8)
    rows = [json.loads(line) for line in evaluation.samples_path.read_text().splitlines()]
    for row in rows:
        row["prompt"][-1]["content"] += SECRET
        row["ground_truth"] = SECRET
        for told in row["answers"].values():
            told |= {"answer": f"{told['answer']} {SECRET}", "reason": SECRET}
        answer = row["answers"]["checkpoint-20"]["answer"]
        LabelFile(folder / "labels.csv").save(Label(row["id"], answer, label=3, labeller="Bob Jones"))
    evaluation.samples_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in [
        run.path / "completions.jsonl",
        run.path / "train.log",
        *run.path.glob("checkpoint-*/trainer_state.json"),
    ]:
        file.write_text(file.read_text().replace("the", SECRET))
    status = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps(status | {"state": "failed", "reason": f"it fell over {SECRET}"}))
    return run


class Shell:
    """Commands as a person types them, with the hub and its token in the environment."""

    def __init__(self, folder: Path, hub: HubServer):
        self.folder, self.said = folder, ""
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITING, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
        self.environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | own

    def __call__(self, *words: object, answer: str = "", **environment: str) -> str:
        """What it prints, whether it ends well or ill."""
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)],
            cwd=self.folder,
            env=self.environment | environment,
            input=answer,
            capture_output=True,
            text=True,
        )
        said = f"{done.stdout}{done.stderr}"
        self.said += said
        return said


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


def test_a_run_is_pushed_and_what_is_pulled_evaluates_alike(evaluated, tmp_path, hub):
    shell, runs = Shell(tmp_path, hub), evaluated.path.parent
    shutil.copyfile(runs.parent / "labels.csv", tmp_path / "labels.csv")
    push = ("grpo_kit.cli", "push", evaluated.id, NEW, "--runs-dir", runs)
    asked = shell(*push, answer="n\n")
    assert "which you, or your organisation, alone can see? [y/N]" in asked and asked.endswith("Nothing was sent\n")
    assert NEW not in hub.models and not hub.sent
    said = shell(*push, answer="y\n")
    assert f"It is at {hub.url}/{NEW}\n" in said
    there = hub.models[NEW]
    assert there.is_private
    assert sorted(there.files) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    card = there.files["README.md"].decode()
    assert card in said, "it was shown before"
    wanted = (f"# {NEW}", "checkpoint-20 of run grpo\\_20", "must not be used", "95%", "| agreement of |", "torch 2")
    assert [word for word in wanted if word not in card] == [] and "They are not shown" in card

    pulled = tmp_path / "pulled"
    code = f"from huggingface_hub import snapshot_download; snapshot_download({NEW!r}, local_dir={str(pulled)!r})"
    subprocess.run([sys.executable, "-c", code], env=shell.environment, check=True)
    one, other = kit.evaluate(runs / evaluated.id / "checkpoint-20", n=8), kit.evaluate(pulled, n=8)
    assert [row["score"] for row in answers(one)] == [row["score"] for row in answers(other)]
    assert [row["answer"] for row in answers(one)] == [row["answer"] for row in answers(other)]

    outside = b"\n".join([*hub.sent, *there.files.values()])
    for hidden in (SECRET, "Bob Jones", str(runs), str(tmp_path)):
        assert hidden.encode() not in outside, hidden
    assert WRITING not in shell.said
    files = [file for folder in (tmp_path, runs) for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in files if WRITING.encode() in file.read_bytes()]


def answers(evaluation) -> list[dict]:
    rows = [json.loads(line) for line in evaluation.samples_path.read_text().splitlines()]
    return [row["answers"][evaluation.trained["name"]] for row in rows]


def test_a_merged_model_goes_public_with_its_data_where_that_is_asked_for(evaluated, tmp_path, hub, here):
    url = kit.push(evaluated, MERGED, public=True, merged=True, with_data=True, checkpoint=10, yes=True)
    there = hub.models[MERGED]
    assert url == f"{hub.url}/{MERGED}" and not there.is_private
    card = there.files["README.md"].decode()
    assert SECRET in card and "checkpoint-10 of run" in card and "library_name: transformers" in card
    wanted = {"model.safetensors", "data/train.jsonl", "data/eval.jsonl", "data/data_card.json"}
    assert wanted <= there.files.keys() and "adapter_config.json" not in there.files
    folder = tmp_path / "pulled"
    for name, content in there.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    own = kit.evaluate(evaluated.path / "checkpoint-10", n=4, temperature=0)
    pulled = kit.evaluate(folder, n=4, base_model="tiny", temperature=0)
    assert pulled.results["models"][1]["mean"] == pytest.approx(own.results["models"][1]["mean"], abs=0.3)
    assert pulled.results["models"][0]["mean"] == own.results["models"][0]["mean"]


def test_what_can_not_be_pushed_is_one_message_and_makes_nothing(evaluated, tmp_path, hub, here, monkeypatch):
    hub.models[OPEN] = Repository(None)
    hub.models["ann/hidden"] = Repository(None, is_private=True)
    wrong = {
        "first": (None, {}, "'first' is not a name on the Hugging Face hub. Give owner/name"),
        "ann/a--b": (None, {}, "'ann/a--b' can't be a name"),
        "bob/first": (None, {}, "bob is not whose token this is: ann, demo-lab"),
        OPEN: (None, {}, "ann/open is there already, and is public"),
        "ann/hidden": (None, {"public": True}, "ann/hidden is there already, and is private"),
        NOT_TO_WRITE: (None, {}, "the token may not write to demo-lab/closed"),
        "ann/second": (LET_IN, {}, "the token for the Hugging Face hub can only read. Make one that may write"),
        "ann/third": ("hf_unknown", {}, "the Hugging Face hub does not know the token. Make one"),
        "ann/fourth": ("", {}, "there is no token for the Hugging Face hub here. Make one"),
    }
    for name, (token, settings, said) in wrong.items():
        monkeypatch.setenv("HF_TOKEN", WRITING if token is None else token)
        with pytest.raises(kit.ConfigError) as raised:
            kit.push(evaluated, name, yes=True, **settings)
        assert str(raised.value).startswith(said) and "hf_unknown" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", WRITING)
    config = json.loads((evaluated.path / "config.json").read_text())
    config["data"]["fingerprint"] = "another"
    other = kit.Run(shutil.copytree(evaluated.path, tmp_path / "other"))
    (other.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        kit.ConfigError, match=r"the data that run other was trained on \(fingerprint another\) are not"
    ):
        kit.push(other, "ann/fifth", with_data=True, yes=True)
    assert hub.models.keys() == {MODEL, GATED, OPEN, "ann/hidden"} and not hub.stored


def test_what_has_arrived_is_not_sent_again(evaluated, hub, here):
    def puts() -> list[str]:
        return [request for request in hub.requests if request.startswith("PUT")]

    hub.cuts = 1  # the client sends that file again by itself
    hub.room = 1  # and then the hub is gone
    with pytest.raises(kit.RunError, match="The same command goes on: what has arrived is not sent again"):
        kit.push(evaluated, NEW, yes=True)
    assert len(hub.stored) == 1 and not hub.models[NEW].files, "nothing half published"
    hub.room, before = None, len(puts())
    kit.push(evaluated, NEW, yes=True)
    assert len(puts()) == before + 1 and len(hub.models[NEW].files) == 6
    kit.push(evaluated, NEW, yes=True)
    assert len(puts()) == before + 1, "all of it is there"


@pytest.fixture
def here(hub, monkeypatch, tmp_path):
    """This process's hub, which forgives at once."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    monkeypatch.setenv("HF_TOKEN", WRITING)
    monkeypatch.chdir(tmp_path)
