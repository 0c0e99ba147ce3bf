"""`grpo-kit doctor` tells each thing that would keep a run from its end, with its fix, and nothing that would not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import GATED, LET_IN, MODEL, HubServer
from judge_server import JudgeServer, error
from modal_server import ModalServer

# Modal's library tries for a minute to connect.
IMPATIENT = "import grpo_kit.backends.modal.checks as it; it.SECONDS = 2; from grpo_kit import doctor; doctor()"


class Places:
    """Modal, the hub and Gemini, each on loopback, and the folder that the doctor is called in."""

    def __init__(self, folder: Path, modal: ModalServer, hub: HubServer, gemini: JudgeServer):
        self.folder, self.modal, self.hub, self.gemini = folder, modal, hub, gemini
        ours = ("HF_TOKEN", "GEMINI_API_KEY", "GRPO_KIT_BACKEND", "HF_HUB_OFFLINE")
        self.environment = {name: value for name, value in os.environ.items() if name not in ours} | {
            **modal.environment,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "hub"),
            "HOME": str(folder),
            "GOOGLE_GEMINI_BASE_URL": gemini.url,
        }

    def call(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        env = self.environment | environment
        return subprocess.run(words, cwd=self.folder, env=env, capture_output=True, text=True)

    def doctor(self, *flags: str, is_well: bool, **environment: str) -> dict[str, str]:
        """Its words by check, "ok …" and so on, the fix included."""
        done = self.call(sys.executable, "-m", "grpo_kit.cli", "doctor", *flags, **environment)
        assert done.returncode == (0 if is_well else 1), done.stdout + done.stderr
        assert not done.stderr
        found, name = {}, ""
        for line in done.stdout.split("\n\n")[0].splitlines():
            if not line.startswith(" "):
                name = line[13:33].strip()
                found[name] = line[:13].strip() + " "
            found[name] += line[33:] + "\n"
        assert is_well == (not [said for said in found.values() if said.startswith("problem")])
        return found

    def dry_run(self, *flags: str, is_well: bool, **environment: str) -> str:
        """The output of `grpo-kit train --dry-run`."""
        done = self.call(sys.executable, "-m", "grpo_kit.cli", "train", "--dry-run", *flags, **environment)
        assert done.returncode == (0 if is_well else 1) and not done.stderr, done.stdout + done.stderr
        return done.stdout

    def write_data(self, *folders: Path, question: str = "Which city?") -> None:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("train.jsonl", "eval.jsonl"):
                row = {"prompt": f"{question} ({name})", "ground_truth": "Paris."}
                (folder / name).write_text(json.dumps(row) + "\n")


@pytest.fixture
def places(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    with HubServer() as hub, JudgeServer() as gemini:
        container_env = {"HF_ENDPOINT": hub.url, "GOOGLE_GEMINI_BASE_URL": gemini.url}
        with ModalServer(tmp_path / "modal", container_env=container_env) as modal:
            yield Places(folder, modal, hub, gemini)


def test_a_first_run_in_an_empty_account_needs_nothing_and_the_doctor_makes_nothing(places):
    found = places.doctor(is_well=True)
    assert "test-workspace" in found["Modal token"] and "kit's own samples" in found["train.jsonl"]
    assert "only runs with judge=gemini need it" in found["gemini-secret"]
    assert "only gated and private models need it" in found["huggingface-secret"]
    assert not places.modal.volumes and not places.modal.apps and not places.modal.secrets


def test_without_an_account_only_this_machine_is_looked_at(places):
    found = places.doctor(is_well=True, MODAL_TOKEN_ID="", MODAL_TOKEN_SECRET="")
    assert "modal setup" in found["backend"] and "Modal token" not in found
    assert "kit's own samples" in found["train.jsonl"] and "torch 2" in found["versions"]

    places.write_data(places.folder / "mine")
    file = places.folder / "mine" / "train.jsonl"
    file.write_text(file.read_text() + '{"prompt": "And?"}\n')
    flags = ("--data", "mine", "--model-name", GATED, "--judge", "gemini")
    found = places.doctor(*flags, is_well=False, GRPO_KIT_BACKEND="local")
    assert (
        "GRPO_KIT_BACKEND" in found["backend"]
        and "mine/train.jsonl:2: Object missing required field `ground_truth`" in found["train.jsonl"]
    )
    assert "1 samples" in found["eval.jsonl"]
    assert "gated" in found["model"] and "export HF_TOKEN" in found["model"]
    assert "export GEMINI_API_KEY" in found["judge"]
    assert not places.modal.requests


def test_all_well_with_gemini_and_a_gated_model(places):
    places.modal.secrets |= {
        "gemini-secret": {"GEMINI_API_KEY": "k-planted"},
        "huggingface-secret": {"HF_TOKEN": LET_IN},
    }
    places.write_data(places.folder / "data/processed", places.modal.volume("training-data"))
    flags = ("--judge", "gemini", "--model-name", GATED)
    found = places.doctor(*flags, is_well=True)
    assert "the same as data/processed/train.jsonl (1 samples)" in found["train.jsonl"]
    assert found["model"].startswith("not checked") and found["judge"].startswith("not checked"), "no token or key here"
    assert found["huggingface-secret"].startswith("ok") and not places.modal.apps
    assert "k-planted" not in str(found) and LET_IN not in str(found)

    found = places.doctor("--model-name", GATED, is_well=False, HF_ENDPOINT="http://127.0.0.1:9")
    assert found["model"].startswith("problem"), "no token would help"

    places.modal.secrets["gemini-secret"] = {"OTHER": "1"}
    found = places.doctor(*flags, is_well=False, HF_TOKEN=LET_IN)
    assert "modal secret create --force gemini-secret GEMINI_API_KEY=…" in found["gemini-secret"]
    assert found["model"].startswith("ok")


def test_what_a_run_needs_of_modal_and_of_the_hub_and_is_not_there(places):
    found = places.doctor("--judge", "gemini", "--model-name", GATED, is_well=False, HF_TOKEN=LET_IN)
    assert "modal secret create --force gemini-secret GEMINI_API_KEY=…" in found["gemini-secret"]
    assert "grpo-kit prepare" in found["train.jsonl"]
    assert "gated" in found["model"], "the token here is let in; containers have none"
    assert "modal secret create --force huggingface-secret HF_TOKEN=" in found["model"]

    misnamed = MODEL.replace("gemma", "gema")
    places.folder.joinpath("adapter").mkdir()
    assert "the name is wrong or private" in places.doctor("--model-name", misnamed, is_well=False)["model"]
    assert "model on this machine" in places.doctor("--model-name", "./adapter", is_well=False)["model"]
    assert not places.modal.volumes and not places.modal.apps


def test_data_that_is_not_what_lies_on_the_volume(places):
    volume, here = places.modal.volume("training-data"), places.folder / "data/processed"
    places.write_data(here)
    assert "upload_data" in places.doctor(is_well=False)["train.jsonl"]
    said = places.doctor("--data", str(here), is_well=False)["train.jsonl"]
    assert f"--path {here} --name processed, then --data processed" in said, "a path of this machine is none of Modal's"

    shutil.copytree(here, volume, dirs_exist_ok=True)
    (volume / "eval.jsonl").write_bytes((here / "eval.jsonl").read_bytes().replace(b"Paris", b"Milan"))  # as long
    found = places.doctor(is_well=False)
    assert "the same as" in found["train.jsonl"]
    assert "not the same as" in found["eval.jsonl"] and "upload_data" in found["eval.jsonl"]

    (here / "eval.jsonl").unlink()
    (here / "train.jsonl").write_text('{"prompt": "And?",\n')
    found = places.doctor(is_well=False)
    assert "data/processed/train.jsonl:1" in found["train.jsonl"] and "prepare the data again" in found["train.jsonl"]
    assert "to compare it with" in found["eval.jsonl"]
    found = places.doctor("--data", "mine", is_well=False)
    assert "upload_data --path data/mine --name mine" in found["train.jsonl"]


def test_a_token_that_modal_refuses_and_a_modal_that_does_not_answer(places):
    places.modal.accepts_tokens = False
    found = places.doctor(is_well=False)
    assert "modal setup" in found["Modal token"] and "train.jsonl" not in found, "the token comes first"
    assert found["model"].startswith("ok"), "what Modal is not needed for is looked at all the same"

    said = places.call(sys.executable, "-c", IMPATIENT, MODAL_SERVER_URL="http://127.0.0.1:9").stdout
    assert "no answer within" in said and "Correct first: Modal token" in said


def test_secrets_are_never_said(places):
    key, token = "AIza-planted", "hf_planted"
    places.modal.secrets["huggingface-secret"] = {"HF_TOKEN": "another"}  # so that the token here is asked with
    places.gemini.model_list = error(400, f"API key not valid: {key}", "INVALID_ARGUMENT")
    found = places.doctor("--judge", "gemini", "--model-name", GATED, is_well=False, GEMINI_API_KEY=key, HF_TOKEN=token)
    assert "refuses the key" in found["judge"] and "refuses your token" in found["model"]
    assert "planted" not in str(found)
    found = places.doctor(is_well=False, MODAL_TOKEN_SECRET="as-planted…")  # Modal's library says it, in its error
    assert "modal setup" in found["Modal token"] and "planted" not in str(found)


def test_a_dry_run_on_modal_asks_for_secrets_licence_and_data_and_starts_no_container(places):
    said = places.dry_run("--judge", "gemini", "--model-name", GATED, is_well=False, GRPO_KIT_BACKEND="modal")
    assert "modal secret create --force gemini-secret GEMINI_API_KEY=…" in said and "grpo-kit prepare" in said
    assert "demo-lab/gated-gemma-it: the model is gated" in said
    assert "modal secret create --force huggingface-secret" in said
    assert "judge not checked" in said and not places.modal.apps and not places.modal.volumes
