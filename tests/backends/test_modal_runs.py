"""Runs on Modal from a notebook's point of view: the real modal library, against a local server that runs Modal's own
container entry point. What the server cannot show, GPUs and memory, is read off what was asked for."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import modal
import pytest
from helpers import STANDIN, wait_for_step, wait_until
from judge_server import JudgeServer
from modal_server import ModalServer
from safetensors.torch import load, load_file
from webhook_server import assert_not_told

import grpo_kit as kit
from grpo_kit import widgets
from grpo_kit.backends.modal import launch as launching, lease
from grpo_kit.backends.modal.client import LEASES, RUNS_VOLUME
from grpo_kit.config.gpus import GPUS, LISTED, modal_usd_per_hour

STEPS = {"max_steps": 12, "save_steps": 3, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module")
def gemini():
    with JudgeServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory, gemini, demo_data):
    """Modal, with the demo's data uploaded. Containers see Gemini where `gemini` is."""
    env = {"GOOGLE_GEMINI_BASE_URL": gemini.url, "HF_HUB_OFFLINE": "1"}
    folder = tmp_path_factory.mktemp("modal") / "server"
    with ModalServer(folder, container_env=env, installed=STANDIN) as server, server.in_this_process():
        server.scaledown = 60  # as on Modal
        launching._deployed = None  # another test's server may have had it deployed
        kit.upload_data.remote(demo_data)
        yield server


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hold(server, standin, monkeypatch):
    """Has containers that are started train by the stand-in, and from the call on wait after that step."""
    monkeypatch.setitem(server.container_env, "STANDIN", "1")
    monkeypatch.setitem(server.container_env, "STANDIN_HOLD", "")
    return lambda step: server.container_env.update(STANDIN_HOLD=str(step))


@pytest.fixture
def undisturbed(standin, tmp_path, demo_data) -> Path:
    """The run of STEPS made on this machine, by the stand-in."""
    return kit.train.local(data=str(demo_data), runs_dir=tmp_path / "here", **STEPS).path


def steps_of(run) -> list[int]:
    metrics = run.metrics()
    return [] if metrics.empty else metrics["step"].tolist()


def containers_of(server, run) -> list:
    """The containers that the run's latest call was given to, in order."""
    return [c for c in server.containers if c.function_name == "train" and run.worker["call_id"] in c.calls]


def same_weights(run, undisturbed: Path) -> bool:
    trained, expected = (
        load(run.storage.read("adapter_model.safetensors")),
        load_file(undisturbed / "adapter_model.safetensors"),
    )
    return trained.keys() == expected.keys() and all((trained[name] == expected[name]).all() for name in expected)


def test_a_run_outlives_its_kernel_and_is_evaluated_and_fetched_from_another(server, demo_data, tmp_path, capsys):
    """Really trained, here and there."""
    few = STEPS | {"max_steps": 6}
    kernel = subprocess.Popen(
        [sys.executable, "-c", f"import grpo_kit as kit; print(kit.train.spawn(**{few}).id, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = []
    while not said or not said[-1].startswith("grpo_"):
        said.append(kernel.stdout.readline().strip())
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    assert said[0].startswith("Deploying the app grpo-training") and "on Modal (A10)" in "".join(said)

    run = kit.Run(said[-1])
    assert run.status["state"] in ("queued", "running")
    run.watch()
    assert "is complete: volume grpo-checkpoints, runs/" + run.id in capsys.readouterr().out
    undisturbed = kit.train.local(data=str(demo_data), runs_dir=tmp_path / "here", **few)
    assert steps_of(run) == [*range(1, 7)] and same_weights(run, undisturbed.path)
    assert len(run.completions()) == 6 * 16

    container = next(c for c in server.containers if c.function_name == "train")
    asked = (container.gpu, container.memory, container.timeout, container.retries, container.secrets)
    assert asked == ("A10", 32768, 7200, 3, [])
    assert set(container.volumes.values()) == {"training-data", "grpo-checkpoints", "huggingface-cache"}
    assert {c.gpu for c in server.containers if c.function_name == "open_run"} == {""}

    evaluation = kit.evaluate.remote(run, n=8)
    assert evaluation.results["n"] == 8 and evaluation.models[-1]["name"] == "checkpoint-6"
    assert evaluation.samples_path.exists() and f"eval/{evaluation.path.name}" in str(list_volume(run))
    reported = kit.report(run).read_text()
    assert "Modal, A10" in reported and evaluation.path.stem in reported and "grpo-kit eval" in reported
    here = run.download("local_models/run1")
    assert kit.evaluate.local(here, n=8).results["data"]["fingerprint"] == evaluation.results["data"]["fingerprint"]
    assert [path.name for path in here.checkpoints] == [f"checkpoint-{step}" for step in (3, 6)]
    assert here.metrics().equals(run.metrics()) and here.storage.backend == "local"

    table = kit.runs("local_models")
    assert table["where"].tolist().count("here") == 1 and "modal" in table["where"].tolist()


def list_volume(run) -> list[str]:
    return [entry.path for entry in modal.Volume.from_name(RUNS_VOLUME).listdir(f"/runs/{run.id}", recursive=True)]


def slow(completions, **_):
    """A reward that changes nothing, and waits while somebody listens at HOLD_PORT."""
    with suppress(OSError):
        while True:
            socket.create_connection(("127.0.0.1", int(os.environ["HOLD_PORT"])), 5).close()
            time.sleep(0.1)
    return [0.0] * len(completions)


def broken(completions, **_):
    return [len(completion[0]["contents"]) for completion in completions]


def test_a_container_that_is_killed_preempted_or_timed_out_loses_nothing(
    server, hold, undisturbed, demo_data, tmp_path, webhook, monkeypatch
):
    monkeypatch.delenv("TEAM_URL")
    with pytest.raises(kit.ConfigError, match="modal secret create --force notify-secret TEAM_URL="):
        kit.train.spawn(notify="TEAM_URL")
    monkeypatch.setitem(server.secrets, "notify-secret", {"TEAM_URL": webhook.url})
    kit.upload_data.remote(demo_data, name="own")
    (tmp_path / "train.jsonl").write_text("".join((demo_data / "train.jsonl").read_text().splitlines(True)[:200]))
    hold(4)
    run = kit.train.spawn(data="own", timeout=600, retries=1, notify="TEAM_URL", **STEPS)
    wait_until(lambda: run.checkpoints)
    first = containers_of(server, run)[-1]
    server.background_commit(first)  # Modal commits whenever it likes
    hold(8)
    server.kill(first)
    kit.upload_data.remote(tmp_path / "train.jsonl", name="own")  # for a later run
    wait_for_step(run, 8)
    hold(10)
    server.preempt(containers_of(server, run)[-1])
    wait_for_step(run, 10)
    hold("")
    server.run_out_of_time(containers_of(server, run)[-1])
    run.watch()
    reasons = [container.exit_reason for container in containers_of(server, run)]
    assert reasons[:3] == ["killed", "preempted", "timed out"]
    assert {container.timeout for container in containers_of(server, run)} == {600}
    assert steps_of(run) == [*range(1, 13)] and same_weights(run, undisturbed)
    written = run.completions()
    assert written.groupby("step").size().tolist() == [16] * 12
    log = run.storage.read("train.log").decode()
    assert log.count("resumed from checkpoint-") == len(reasons) - 1
    taken = "8 of 12: Modal took its container away; the next container resumes the run"
    assert taken in webhook.lines[0] and "finished: 12 of 12 steps" in webhook.lines[-1], webhook.lines
    assert_not_told(log, server.logs(), below=server.volume(RUNS_VOLUME))
    hourly = modal_usd_per_hour("A10", run.config.memory)
    status = run.status
    rounded = 0.05 * len(reasons)  # seconds, of what each container adds
    paid = pytest.approx(hourly * status["seconds"] / 3600, abs=hourly * rounded / 3600)
    assert status["usd"] == paid, "every container is paid for"
    assert status["seconds"] > 0.5 * sum(c.ended - c.started for c in containers_of(server, run)[:-1])


@pytest.mark.wide
def test_containers_that_end_before_any_checkpoint_are_not_started_for_ever(server, hold):
    hold(1)
    run = kit.train.spawn(max_steps=12, save_steps=12, retries=1)
    leases = modal.Dict.from_name(LEASES)
    for attempt in (0, 1):  # after the leases of the check and of the launch
        server.wait_for(lambda: leases.contains(f"{run.id}/{2 + attempt}"))  # noqa: B023
        server.kill(containers_of(server, run)[attempt])
    with pytest.raises(kit.RunError, match=r"2 containers in a row ended before they saved a checkpoint.*memory=32768"):
        run.watch()


def test_a_smoke_run_quotes_the_machines_dollars_and_a_budget_stops_at_them(
    server, hold, undisturbed, monkeypatch, tmp_path
):
    monkeypatch.setitem(GPUS["A10"], "usd_per_hour", 3600.0)  # a dollar a second
    monkeypatch.setitem(LISTED, "as_of", "2027-01-31")
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setitem(server.container_env, "HOLD_PORT", str(free.getsockname()[1]))
    quote = kit.smoke(rewards=[slow], **STEPS)
    (smoke,) = Path("runs/.modal").iterdir()
    assert f"the first step of run {smoke.name}" in quote.minutes_from and "2027-01-31" in quote.usd_from
    first = json.loads((smoke / "status.json").read_text())
    assert quote.first_step.machine == pytest.approx(first["usd"], rel=0.1) and first["usd"] > 0.5

    with socket.create_server(("127.0.0.1", int(server.container_env["HOLD_PORT"])), backlog=4096):
        run = kit.train.spawn(rewards=[slow], max_usd=first["usd"] + 1, **STEPS)
        wait_until(lambda: run.status["state"] != "queued")  # or stopped already
        time.sleep(first["usd"] + 1.5)  # whatever a busy machine takes to start
    run.watch()
    status = run.status
    assert status["state"] == "stopped" and status["step"] < 12 and "for the machine" in status["reason"]
    assert status["usd_machine"] == status["usd"]  # which may pass max_usd by the seconds that it takes to save
    assert status["quoted"]["usd"] == pytest.approx(quote.usd_in_all, rel=0.01) and run.about["machine"] == "A10"
    with pytest.raises(kit.ConfigError, match=r"max_usd=.* would be passed"):
        run.resume()
    run.resume(max_usd=None).watch()
    assert same_weights(run, undisturbed) and run.status["usd"] > run.status["quoted"]["first_step"][0]


def test_stop_saves_the_step_and_kill_is_at_once_and_both_can_be_gone_on_with(server, hold, undisturbed):
    """Launched, stopped and resumed with the panel's buttons."""
    hold(4)
    panel = widgets.launch_panel(kit.TrainConfig(**STEPS), rewards=[no_opinion])
    shown = panel.monitor
    panel.launch_button.click()
    run = server.wait_for(lambda: panel.run)
    server.wait_for(lambda: shown.curves.shown and not shown.stop_button.disabled)
    wait_for_step(run, 4)
    assert steps_of(run) == [1, 2, 3, 4], "what a container has made is seen while it goes on"
    hold(8)
    shown.stop_button.click()
    server.wait_for(lambda: "is stopped" in shown.message.value)
    status = run.status
    assert (status["state"], status["step"]) == ("stopped", 5)
    assert run.checkpoints[-1].name == "checkpoint-5" and steps_of(run) == [1, 2, 3, 4, 5]

    shown.resume_button.click()
    server.wait_for(lambda: run.status["step"] == 8)
    run.kill()
    assert run.status["state"] == "killed"
    server.wait_for(lambda: containers_of(server, run)[-1].ended)
    server.wait_for(lambda: "is killed" in shown.message.value)

    hold("")
    run.resume(gpu="H100", timeout=3600, max_failure_rate=0.9)
    run.watch()
    assert run.config.max_failure_rate == 0.9
    assert (containers_of(server, run)[-1].gpu, containers_of(server, run)[-1].timeout) == ("H100", 3600)
    assert steps_of(run) == [*range(1, 13)] and same_weights(run, undisturbed)


def no_opinion(completions, **_):
    return [0.0] * len(completions)


def test_only_one_container_writes_a_run(server, hold, monkeypatch):
    hold(1)
    run = kit.train.spawn(**STEPS)
    leases = modal.Dict.from_name(LEASES)
    assert run.status["state"] in ("queued", "running")
    with pytest.raises(kit.RunError, match=f"run {run.id} is being trained by another call"):
        kit.train.spawn(run_id=run.id, **STEPS)
    wait_for_step(run, 1)
    second = modal.Function.from_name("grpo-training", "train").spawn(run.id)
    assert "is being trained by another call" in str(second.get())
    # One that is about to end is waited for.
    held = {"call_id": run.worker["call_id"], "step": 0, "tries": 1}
    leases["run-that-ends/0"] = held
    threading.Timer(1, leases.put, ["run-that-ends/0", held | {"call_id": ""}]).start()
    monkeypatch.setattr(lease, "WAIT_SECONDS", 300)
    assert lease.acquire_lease("run-that-ends", "fc-next").is_held
    # A container that is quicker than the launcher of its own call keeps the run.
    container = lease.acquire_lease("run-that-begins", "fc-own", step=0)
    assert lease.acquire_lease("run-that-begins", "fc-own") == container and container.is_held
    # A container that Modal has given up on may still be there. Whoever was started in its place takes the run over.
    newest = next(n for n in range(9) if not leases.contains(f"{run.id}/{n + 1}"))
    leases[f"{run.id}/{newest + 1}"] = {"call_id": run.worker["call_id"], "step": 0, "tries": 1}
    server.wait_for(lambda: "has taken over run" in server.logs())
    server.wait_for(lambda: containers_of(server, run)[-1].ended or containers_of(server, run)[-1].input is None)
    assert run.status["step"] == 1


def test_a_reward_that_raises_is_shown_with_its_own_line_and_not_tried_again(server, hold):
    run = kit.train.spawn(rewards=[broken], max_steps=2, save_steps=1)
    with pytest.raises(kit.RunError, match=r"KeyError: 'contents'") as caught:
        run.watch()
    assert 'completion[0]["contents"]' in str(caught.value)
    assert run.status["state"] == "failed" and len(containers_of(server, run)) == 1


def test_what_cannot_work_is_said_before_a_gpu_is_asked_for(server, monkeypatch, tmp_path):
    before = len(server.asked("FunctionBindParams"))
    lock = threading.Lock()

    def holds_a_lock(completions, **_):
        with lock:
            return [0.0] * len(completions)

    with pytest.raises(kit.ConfigError, match=r"holds_a_lock can't be sent.*inside the function"):
        kit.train.spawn(rewards=[holds_a_lock])
    with pytest.raises(kit.ConfigError, match="rewards should be a list"):
        kit.train.spawn(rewards=slow)
    with pytest.raises(kit.ConfigError, match="modal secret create --force gemini-secret GEMINI_API_KEY="):
        kit.train.spawn(judge="gemini")
    assert len(server.asked("FunctionBindParams")) == before
    with pytest.raises(kit.ConfigError, match=r"no train.jsonl for data='other'.*upload_data"):
        kit.train.spawn(data="other")
    with monkeypatch.context() as patch:
        patch.setattr(launching, "PYTHON", "3.99")
        with pytest.raises(kit.ConfigError, match=r"pickled by Python 3.99.*kit.deploy\(\)"):
            kit.train.spawn(rewards=[slow])
    with pytest.raises(kit.ConfigError, match="num_generations=1: should be greater"):
        kit.train.spawn(num_generations=1)
    with pytest.raises(kit.ConfigError, match=r"cache_from='nobody' is not a run with judgements"):
        kit.train.spawn(cache_from="nobody")
    asked = [message for message in server.asked("FunctionBindParams")]
    assert all(not message.function_options.resources.gpu_config.gpu_type for message in asked[before:])


@pytest.mark.wide
def test_a_run_starts_from_one_on_the_volume_and_goes_on_to_more_steps(server, hold):
    first = kit.train.remote(max_steps=2, save_steps=1)
    second = kit.train.remote(model_name=f"runs/{first.id}", max_steps=1, save_steps=1)
    assert (second.config.model_name, second.config.adapter) == ("tiny", first.id)
    name = "adapter_model.safetensors"
    assert second.storage.read(f"start/{name}") == first.storage.read(name)
    assert kit.evaluate.remote(second, n=2).base["source"].endswith(f"{second.id}/start")
    before = len(server.asked("FunctionBindParams"))
    with pytest.raises(kit.ConfigError, match=r"runs/nobody is not a run on the volume .*modal volume put"):
        kit.train.spawn(model_name="runs/nobody")
    with pytest.raises(kit.ConfigError, match=r"lora_r=4 \(it has 16\)"):
        kit.train.spawn(model_name=first.id, lora_r=4)
    assert len(server.asked("FunctionBindParams")) == before

    shutil.rmtree(server.volume(RUNS_VOLUME) / "runs" / first.id)
    longer = kit.train.remote(model_name=f"runs/{first.id}", run_id=second.id, max_steps=2)
    assert longer.status["state"] == "complete" and steps_of(longer) == [1, 2], "it has a copy of what it started from"


def test_gemini_judges_there_with_the_secret(server, hold, gemini, monkeypatch, tmp_path):
    monkeypatch.setitem(server.secrets, "gemini-secret", {"GEMINI_API_KEY": "AIza-of-the-secret"})
    (tmp_path / "prompt.txt").write_text((Path(kit.__file__).parent / "judges/chat/absolute.txt").read_text())
    settings = {"judge": "gemini", "max_steps": 1, "save_steps": 1, "canaries": "off", "judge_prompt": "prompt.txt"}
    first = kit.train.remote(**settings)
    assert first.status["state"] == "complete" and first.metrics()["judge/gemini/calls"].item() > 0
    assert "AIza-of-the-secret" not in server.logs() + json.dumps([first.about, first.status])
    again = kit.train.remote(cache_from=first.id, **settings)
    assert again.metrics()["judge/gemini/calls"].item() == 0


@pytest.mark.wide
def test_two_gpus_are_two_processes_in_one_container_and_one_run(server, hold):
    run = kit.train.remote(gpu="A10:2", max_steps=2, save_steps=1)
    (container,) = containers_of(server, run)
    assert run.status["state"] == "complete" and steps_of(run) == [1, 2] and container.gpu == "A10:2"
    assert len(run.completions()) == 2 * 16, "the first process's half of each step: the stand-in gathers none"


@pytest.mark.wide
def test_several_at_once_have_runs_of_their_own(server, hold):
    hold(1)
    runs = []
    threads = [
        threading.Thread(target=lambda seed=seed: runs.append(kit.train.spawn(seed=seed, max_steps=1, save_steps=1)))
        for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in runs:
        run.kill()
    assert len({run.id for run in runs}) == 2 and {run.config.seed for run in runs} == {0, 1}


@pytest.mark.wide
def test_twenty_megabytes_go_each_way(server, demo_data, tmp_path):
    rows = [json.loads(line) for line in (demo_data / "train.jsonl").read_text().splitlines()]
    (tmp_path / "big").mkdir()
    with (tmp_path / "big" / "train.jsonl").open("w") as file:
        for copy in range(20):
            for row in rows:
                file.write(
                    json.dumps({**row, "id": f"{copy}-{row['id']}", "dialogue_id": f"{copy}-{row['dialogue_id']}"})
                    + "\n"
                )
    (uploaded,) = kit.upload_data.remote(tmp_path / "big" / "train.jsonl", name="big")
    assert uploaded.bytes > 20_000_000 and uploaded.path == "training-data:/big/train.jsonl"
    assert kit.upload_data.spawn(demo_data, name="small").result()[0].samples == len(rows)
