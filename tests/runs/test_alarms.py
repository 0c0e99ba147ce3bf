"""What people are told of a run elsewhere: real processes post to a real server, whose URL nobody else may see."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from helpers import ROOT, shell, start, wait_for_step, wait_until
from tenacity import wait_none
from webhook_server import TOKEN, WebhookServer, assert_not_told

import grpo_kit as kit
from grpo_kit.errors import SecretGiven
from grpo_kit.runs import alarms

STEPS = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
TRACKIO = ROOT / ".venv" / "trackio"


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRPO_KIT_BACKEND", "local")


def test_a_sign_that_stands_is_told_once_and_the_end_with_steps_and_reward(webhook, tmp_path):
    """Really trained: an answer of one token has no end."""
    words = ["train", "--run-id", "first", "--max-completion-length", "1", "--notify", "TEAM_URL", "--save-steps", "10"]
    words += ["--per-device-train-batch-size", "8", "--gradient-accumulation-steps", "1"]
    said = shell(tmp_path, *words, "--max-steps", "10")
    *signs, end = webhook.lines
    cut = "first at step 9 of 10: Cut off: 100% of completions reach max_completion_length=1 without an end. Try "
    (sign,) = [line for line in signs if "Cut off" in line]
    assert sign.startswith(cut) and "Cut off" in kit.Run("first").status["signs"]
    assert re.fullmatch(r"first finished: 10 of 10 steps, reward from 0\.\d\d to 0\.\d\d", end)
    assert_not_told(said, below=tmp_path)


def broken(completions, **_):
    raise ValueError("no such thing as a <short> answer")


def test_whatever_ends_a_run_is_told_and_how_it_goes_on(webhook, standin, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_HOLD", "3")
    flags = [word for name, value in STEPS.items() for word in (f"--{name.replace('_', '-')}", value)]
    process = start("train", "--run-id", "ended", "--notify", "TEAM_URL", *flags)
    wait_until(lambda: (tmp_path / "runs/ended/config.json").exists())
    wait_for_step(kit.Run("ended"), 3)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert webhook.lines == ["ended stopped at step 3 of 6: interrupted; run_id ended resumes it"]

    monkeypatch.setenv("STANDIN_HOLD", "4")
    run = kit.Run("ended").resume()
    wait_for_step(run, 4)
    run.stop()
    asked = "ended stopped at step 5 of 6: as asked; checkpoint-5 is saved, run_id ended resumes it"
    assert webhook.wait_for("as asked") == asked

    with pytest.raises(kit.RunError, match="no such thing"):
        kit.train.spawn(run_id="broken", rewards=[broken], notify="TEAM_URL", **STEPS).watch()
    told = webhook.wait_for("broken failed at step 0 of 6: ")
    assert "no such thing as a <short> answer" in told and told.endswith("run_id broken resumes it"), told
    assert "&lt;short&gt;" in webhook.bodies[-1]["text"], "as Slack wants it"
    monkeypatch.delenv("TEAM_URL")
    with pytest.raises(kit.ConfigError, match="the environment variable TEAM_URL is not set"):
        run.resume()
    assert run.resume(notify=None).watch().status["state"] == "complete" and len(webhook.lines) == 3
    assert_not_told(said, below=tmp_path)


@pytest.mark.parametrize(
    ("code", "logged"),
    [
        (500, "HTTP 500"),
        (302, "HTTP 302"),
        (None, "no answer within"),
        (-1, "ConnectionRefusedError"),
    ],
)
def test_a_webhook_that_is_down_slow_or_wrong_is_a_line_in_the_log(code, logged, standin, tmp_path, monkeypatch):
    if code is None:
        monkeypatch.setattr(alarms, "SECONDS", 0.3)
    monkeypatch.setattr(alarms.post.retry, "wait", wait_none())
    with WebhookServer(code) as server:
        monkeypatch.setenv("TEAM_URL", server.url)
        if code == -1:
            server.__exit__()
        said = []
        run = kit.train(run_id="first", max_steps=2, runs_dir=tmp_path, notify="TEAM_URL", echo=said.append)
    assert run.status["state"] == "complete" and logged in run.read_text("train.log")
    assert len(server.lines) == {500: alarms.TRIES, -1: 0}.get(code, len(server.lines))
    assert_not_told(*said, below=tmp_path)


VERBOSE = """
import os
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
shell.run_line_magic("xmode", "Verbose")
for call in ("kit.TrainConfig(**given)", "kit.train(**given)", "kit.quote(kit.TrainConfig().replace(**given))"):
    shell.run_cell(f"import os, grpo_kit as kit; given = {{'notify': os.environ['TEAM_URL']}}; {call}")
"""


def test_a_url_in_the_place_of_its_variable_is_refused_and_not_repeated(webhook, tmp_path, monkeypatch):
    refused = "notify should be the name of an environment variable"
    for given in (webhook.url, f"hooks.slack.com/services/{TOKEN}", TOKEN, [webhook.url], {"url": webhook.url}):
        with pytest.raises(SecretGiven, match=refused) as caught:
            kit.TrainConfig(notify=given)
        assert_not_told(str(caught.value))
    grid = json.dumps({"seed": [1, 2], "notify": webhook.url})
    commands = [("train",), ("sweep", "03_launch_training", grid, "--out", "out")]
    said = [shell(tmp_path, *words, *[f"--notify={webhook.url}"] * (words[0] != "sweep"), code=2) for words in commands]
    assert all(refused in each and "export GRPO_KIT_NOTIFY_URL=" in each for each in said)
    done = subprocess.run([sys.executable, "-c", VERBOSE], capture_output=True, text=True)
    assert done.stdout.count(f"ConfigError: {refused}") == 3, done.stdout + done.stderr
    assert_not_told(*said, done.stdout, done.stderr, below=tmp_path)

    for value, problem in (
        ("", "is not set"),
        (f"ftp://x/{TOKEN}", "is not the URL"),
        (f"http://[/{TOKEN}", "is not the URL"),
    ):
        monkeypatch.setenv("TEAM_URL", value)
        found = kit.quote(kit.TrainConfig(notify="TEAM_URL"), ask=False).problems
        assert any(f"TEAM_URL {problem}" in str(each) for each in found)
        with pytest.raises(kit.ConfigError, match=problem) as caught:
            kit.train(notify="TEAM_URL", max_steps=1)
        assert_not_told(str(caught.value), str(found))
    assert not (tmp_path / "runs").exists() and not webhook.lines


def test_doctor_sends_a_message_where_it_is_asked_to(webhook, capsys):
    assert kit.doctor(notify="TEAM_URL") and not webhook.lines
    assert kit.doctor(notify="TEAM_URL", with_message=True) and webhook.lines[0].startswith("grpo-kit doctor: ")
    webhook.code = 404
    assert not kit.doctor(notify="TEAM_URL", with_message=True)
    said = capsys.readouterr().out
    assert "the webhook in TEAM_URL accepted a message" in said and "did not accept a message (HTTP 404)" in said
    assert_not_told(said)


TRAIN = """
import sys
import grpo_kit as kit

def fails(completions, trainer_state, **_):
    if trainer_state.global_step == 9:
        raise ValueError("as planned")
    return [0.0] * len(completions)

sizes = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_completion_length": 1}
for run_id, steps in (("well", 1), ("fails", 10)):
    kit.train(run_id=run_id, report_to="trackio", rewards=[fails], max_steps=steps, canaries="off", **sizes)
"""
READ = """
import json, trackio
print(json.dumps(trackio.Api().alerts("huggingface"), default=str))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None and not TRACKIO.exists(),
    reason="trackio is not installed: `make test-wide` does that",
)
@pytest.mark.wide
def test_signs_and_a_failure_are_alerts_of_trackio(tmp_path):
    """Its own library, which keeps them in SQLite."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"], str(TRACKIO)])}
    env |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    trained, read = (
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        for code in (TRAIN, READ)
    )
    assert "ValueError: as planned" in trained.stderr and read.returncode == 0, trained.stderr + read.stderr
    alerts = {(each["run"], each["title"]): each for each in json.loads(read.stdout)}
    cut = alerts["fails", "Cut off"]
    assert (cut["level"], cut["step"]) == ("warn", 9) and cut["text"].startswith("100% of completions reach")
    assert [key for key, each in alerts.items() if each["level"] == "error"] == [("fails", "Run failed")]
    assert "run_id fails resumes it" in alerts["fails", "Run failed"]["text"]
