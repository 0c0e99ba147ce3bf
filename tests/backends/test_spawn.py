"""Runs that go on by themselves on this machine: they outlive who started them, and can be stopped, killed, lost and
gone on with, watched from a notebook and asked for evaluations. Real processes, signals and kernels."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import psutil
import pytest
from helpers import wait_for_step, wait_until
from nbclient import NotebookClient
from safetensors.torch import load_file
from tenacity import wait_none

import grpo_kit as kit
from grpo_kit.backends import watch as watching
from grpo_kit.config import backend as backends
from grpo_kit.errors import OutOfReach
from grpo_kit.plots import live
from grpo_kit.runs.storage import LocalStorage

STEPS = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
HELD_AT = "3"  # where a run by the stand-in trainer waits to be stopped or let go on
TASTE = """
def words(completion):
    return completion[-1]["content"].lower().split()

def politeness(completions, **_):
    return [0.1 * sum(word in ("please", "thank", "sure") for word in words(completion)) for completion in completions]
"""
# What a notebook's kernel would hold: rewards of its own and from a file beside it, which is nowhere else.
KERNEL = f"""
import time
import grpo_kit as kit
import taste

def brevity(completions, **_):
    return [min(1.0, 8 / (1 + len(taste.words(completion)))) for completion in completions]

REWARDS = {{brevity: 1.0, taste.politeness: 0.5}}
if __name__ == "__main__":
    kit.train.spawn(run_id="survivor", rewards=REWARDS, **{STEPS})
    print("started", flush=True)
    time.sleep(600)
"""
NOTEBOOK = [
    """
import grpo_kit as kit
def brevity(completions, **_):
    return [min(1.0, 20 / (1 + len(completion[-1]["content"]))) for completion in completions]
run = kit.train.remote(run_id="seen", max_steps=16, rewards=[brevity])
""",
    "run.watch()",
    """
def broken(completions, **_):
    raise ValueError("no such thing as a short answer")
kit.train.remote(run_id="broken", max_steps=2, rewards=[broken])
""",
]


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    """An empty folder to work in, with no account."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("spawn")
        (folder / "scripts").mkdir()
        (folder / "scripts" / "taste.py").write_text(TASTE)
        (folder / "scripts" / "kernel.py").write_text(KERNEL)
        patch.chdir(folder)
        patch.syspath_prepend(folder / "scripts")
        patch.setenv("MODAL_CONFIG_PATH", str(folder / "none.toml"))
        for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "GRPO_KIT_BACKEND"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture
def held(standin, monkeypatch):
    """Runs wait at their third step."""
    monkeypatch.setenv("STANDIN_HOLD", HELD_AT)


def rewards() -> dict:
    """Those of the kernel, as this process has them."""
    import kernel

    return kernel.REWARDS


def learned(run: kit.Run) -> tuple:
    """All that a run has made, but for how long it took: metrics, completions, weights."""
    metrics, completions = run.metrics(), run.completions()
    timed = [name for name in metrics if "seconds" in name or "time" in name]
    weights = load_file(run.path / "adapter_model.safetensors")
    rows = metrics.drop(columns=timed).to_json(), completions.to_json()
    return *rows, {name: weight.numpy().tobytes() for name, weight in weights.items()}


@pytest.fixture(scope="module")
def undisturbed(here):
    """A run of the kernel's rewards in the foreground; what is said to who wants to kill it, in `refused`."""
    refused = []

    def kill_it_meanwhile(text: str) -> None:
        if text.startswith("Step 1/"):
            with pytest.raises(kit.RunError) as error:
                kit.Run("undisturbed").kill()
            refused.append(str(error.value))

    run = kit.train.local(run_id="undisturbed", rewards=rewards(), echo=kill_it_meanwhile, **STEPS)
    run.refused = refused
    return run


@pytest.mark.wide
def test_a_run_outlives_its_kernel_and_ends_like_one_that_was_waited_for(here, undisturbed, capfd):
    """Really trained, in both."""
    command = [sys.executable, here / "scripts" / "kernel.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here) as kernel:
        said = list(itertools.takewhile("started\n".__ne__, kernel.stdout))
        kernel.send_signal(signal.SIGKILL)
    assert said[0].startswith("No Modal account is set up here") and said[1].startswith("Quote (here): ")
    assert said[2].startswith("Will it learn? ") and said[-1] == "Run survivor on this machine: runs/survivor\n"
    run = kit.Run("survivor")
    assert "on Modal" not in repr(run) and run.worker["pid"] != os.getpid()
    run.watch()
    assert "Run survivor is complete: runs/survivor" in capfd.readouterr().out
    assert learned(run) == learned(undisturbed)


def test_a_second_start_is_refused_and_a_stopped_run_goes_on_as_if_undisturbed(held, tmp_path, monkeypatch, capfd):
    run = kit.train.spawn(run_id="troubled", rewards=rewards(), **STEPS)
    worker = run.worker
    with pytest.raises(kit.RunError, match="troubled is being trained by another process"):
        kit.train.spawn(run_id="troubled", rewards=rewards())
    assert run.worker == worker and run.status["state"] in ("queued", "running")
    wait_for_step(run, 3)
    with pytest.raises(kit.RunError, match="troubled is being trained by another process"):
        run.resume()
    run.stop()
    status = run.watch().status
    assert status["state"] == "stopped" and status["step"] == 4
    assert [path.name for path in run.checkpoints][-1] == "checkpoint-4"
    assert "stopped at step 4, as asked" in capfd.readouterr().out
    with pytest.raises(kit.RunError, match="troubled is stopped already"):
        run.stop()
    monkeypatch.delenv("STANDIN_HOLD")
    with subprocess.Popen(["sleep", "1"]) as ending:  # as the run's own may take a moment, and write to the last
        worker = {"pid": ending.pid, "created": psutil.Process(ending.pid).create_time()}
        (run.path / "worker.json").write_text(json.dumps(worker))
        run.resume()
        assert ending.poll() is not None
    run.watch()
    alike = kit.train.local(run_id="alike", rewards=rewards(), runs_dir=tmp_path, **STEPS)
    assert learned(run) == learned(alike)
    assert "resumed from checkpoint-4" in run.read_text("train.log")

    Path("copies/one").mkdir(parents=True)  # as `modal volume get` wants it; one that is empty does no harm
    copy = run.download("copies/one")
    assert copy.path == Path("copies/one") and learned(copy) == learned(alike)
    assert not {"worker.json", "stop", ".lock"} & {*copy.storage.names()}
    with pytest.raises(kit.RunError, match=r"copies/one exists already\. Name a new folder"):
        copy.download("copies/one")
    evaluation = kit.evaluate.spawn(copy, n=8).result()
    assert [model["name"] for model in evaluation.models][-1] == "checkpoint-6" and evaluation.results["n"] == 8


def restless(completions, **_):
    """A reward that leaves a process of its own behind."""
    import subprocess

    subprocess.Popen(["sleep", "300"])
    return [0.0] * len(completions)


def test_a_run_that_ended_without_a_word_is_lost_and_can_be_resumed_and_killed(held, monkeypatch, capfd):
    run = kit.train.spawn(run_id="lost", rewards=[restless], **STEPS | {"max_steps": 60})
    wait_for_step(run, 3)
    for each in family_of(run):
        each.kill()
    monkeypatch.setattr(watching, "PATIENCE_SECONDS", 1)
    with pytest.raises(kit.RunError, match=r"run lost was lost at step 3: its process ended without a word") as error:
        run.watch()
    assert "Its last lines:" in str(error.value) and "Step 1/60: loss=" in str(error.value)
    with pytest.raises(kit.RunError, match=r"lost already\. There is nothing to stop"):
        run.stop()
    run.resume()
    wait_until(lambda: len(family_of(run)) > 1, "the reward's own process")
    family = family_of(run)
    run.kill()
    assert run.status["state"] == "killed" and "resume" in run.status["reason"]
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert "Run lost is killed; run.resume() continues" in capfd.readouterr().out


def family_of(run: kit.Run) -> list[psutil.Process]:
    process = psutil.Process(run.worker["pid"])
    return [process, *process.children()]


class Notebook(NotebookClient):
    """A notebook that is run in a kernel of its own and interrupted once, when its first cell shows a picture. Once the
    second one does, the run is let go on."""

    def __init__(self, cells: list[str]):
        super().__init__(nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)]), allow_errors=True)
        self.pictures: list[tuple[int, bytes]] = []  # the cell, and what its widgets were sent

    def handle_comm_msg(self, outs, msg, cell_index):
        super().handle_comm_msg(outs, msg, cell_index)
        sent = [bytes(buffer) for buffer in msg["buffers"] if bytes(buffer).startswith(b"\x89PNG")]
        self.pictures += [(cell_index, picture) for picture in sent]
        if sent and cell_index == 1:
            Path("runs/seen/go").touch()

    def output(self, outs, msg, display_id, cell_index):
        if display_id and cell_index == 0:
            self.interrupt = asyncio.ensure_future(self.km.interrupt_kernel())
        return super().output(outs, msg, display_id, cell_index)


def outputs_of(cell) -> tuple[str, list[str]]:
    """The output of a cell, and the kinds of what it shows, widgets aside."""
    assert not [out for out in cell.outputs if out.output_type == "stream" and out.name != "stdout"]
    said = "".join(out.text for out in cell.outputs if out.output_type == "stream")
    shown = [out.data for out in cell.outputs if out.output_type == "display_data"]
    return said, ["bar" if "| " in data["text/plain"] else ", ".join(sorted(data)) for data in shown]


def test_a_notebook_shows_the_run_lets_go_of_it_and_takes_it_up_again(held, capfd):
    notebook = Notebook(NOTEBOOK)
    interrupted, watched, failed = notebook.execute().cells
    said, shown = outputs_of(interrupted)
    assert "Detached; run seen continues. kit.Run('seen').watch() continues watching" in said
    assert shown == ["bar", "image/png, text/plain"], "the widget gave way to a figure"
    assert not [out for out in interrupted.outputs if out.output_type == "error"]
    said, shown = outputs_of(watched)
    assert said == "Run seen is complete: runs/seen\n" and shown == ["bar", "image/png, text/plain"]
    pictures = [picture for cell, picture in notebook.pictures if cell == 1]
    assert len(pictures) == len(set(pictures)) >= 2  # as it was found, and as it ended; more where there is time
    assert kit.Run("seen").metrics()["step"].tolist() == [*range(1, 17)]
    error = failed.outputs[-1]
    assert error.output_type == "error"
    assert "failed at step 0: RewardFailed: reward `broken`, in step 1, raised ValueError" in error.evalue
    assert '    raise ValueError("no such thing as a short answer")' in error.evalue.splitlines()[-2]
    run = kit.Run("broken")
    run.logs()
    assert 'raise ValueError("no such thing as a short answer")' in capfd.readouterr().out
    table = kit.runs().set_index("run")
    assert set(table["where"]) == {"here"}
    assert table["state"].to_dict().items() >= {("broken", "failed"), ("seen", "complete")}


def test_a_picture_is_drawn_for_new_steps_and_not_more_often_than_it_costs(undisturbed, monkeypatch, capfd):
    clock, drawn = Clock(), []
    monkeypatch.setattr(live, "time", clock)

    def draw(run):
        drawn.append(clock.now)
        clock.now += 1.0
        return True

    figure = live.Redraw(draw)
    for step in [0, *range(2, 30), *[30] * 30]:
        figure.update(undisturbed, step, is_last=False)
        clock.now += 1.0
    gaps = [later - earlier for earlier, later in itertools.pairwise(drawn)]
    assert min(gaps) >= live.REDRAW_COSTS and len(drawn) == 7, drawn
    figure.update(undisturbed, 30, is_last=True)
    assert len(drawn) == 8, "the end is drawn in any case"


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_watching_bears_with_a_place_that_is_out_of_reach_for_a_while(undisturbed, monkeypatch, capfd):
    class Elsewhere(LocalStorage):
        backend, failures = "modal", 2

        def read(self, name: str) -> bytes:
            if name == "status.json" and asked.append(name) is None and 1 < len(asked) <= 1 + self.failures:
                raise OutOfReach("Modal can't be reached")
            return super().read(name)

    asked = []
    monkeypatch.setattr(watching._status.retry, "wait", wait_none())
    kit.Run.at(Elsewhere(undisturbed.path)).watch()
    assert len(asked) == 5 and "Run undisturbed is complete" in capfd.readouterr().out


def test_what_cannot_work_is_refused_before_anything_is_started(here, monkeypatch, capfd):
    before = sorted(here.glob("runs/*"))
    lock = threading.Lock()
    with pytest.raises(kit.ConfigError, match=r"the reward <lambda> can't be sent.*lock.*Make.*inside the function"):
        kit.train.spawn(rewards=[lambda completions, **_: [lock.locked() for _ in completions]], **STEPS)
    with pytest.raises(kit.ConfigError, match=r"max_step .*Did you mean max_steps"):
        kit.train.spawn(max_step=2)
    monkeypatch.setenv("GRPO_KIT_BACKEND", "nonsense")
    with pytest.raises(kit.ConfigError, match=r"GRPO_KIT_BACKEND='nonsense' is not a backend. Use local or modal"):
        kit.train.spawn(**STEPS)
    monkeypatch.setattr(backends, "_asked", None)
    assert kit.backend("local") == "local" == kit.backend()
    with pytest.raises(kit.ConfigError, match="backend='here' is not a backend"):
        kit.backend("here")
    capfd.readouterr()
    assert kit.train.spawn(run_id="undisturbed", rewards=rewards()).id == "undisturbed"
    assert capfd.readouterr().out == "Run undisturbed is complete: runs/undisturbed\n", "nothing of a missing account"
    assert sorted(here.glob("runs/*")) == before


def test_a_reward_that_cannot_be_loaded_where_the_run_is_made_fails_it_in_words(here, monkeypatch):
    package = here / "elsewhere" / "site-packages"
    package.mkdir(parents=True)
    (package / "installed_here_only.py").write_text("def taste(completions, **_):\n    return [0.0] * len(completions)")
    monkeypatch.syspath_prepend(package)
    import installed_here_only

    run = kit.train.spawn(run_id="unloadable", rewards=[installed_here_only.taste], **STEPS)
    with pytest.raises(kit.RunError, match=r"unloadable failed at step 0: RunError: the reward functions can't be"):
        run.watch()
    assert "No module named 'installed_here_only'" in run.status["reason"] and not run.checkpoints


def test_a_complete_run_has_nothing_left_to_do(undisturbed, capfd):
    assert undisturbed.refused == [
        "run undisturbed trains in a process that waits for it. Interrupt it there (Ctrl-C, or the notebook's "
        "stop button)"
    ]
    for ask, what in ((undisturbed.stop, "stop"), (undisturbed.kill, "kill")):
        with pytest.raises(kit.RunError, match=rf"run undisturbed is complete already\. There is nothing to {what}"):
            ask()
    assert undisturbed.resume(rewards()).status["state"] == "complete"
    assert "Run undisturbed is complete" in capfd.readouterr().out and "worker.json" not in undisturbed.storage.names()


def test_data_is_checked_and_copied_to_where_training_looks(tmp_path, demo_data, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, folder in ((None, "data/processed"), ("mine", "data/mine")):
        kit.upload_data.local(demo_data, name)
        for file in ("train.jsonl", "eval.jsonl"):
            assert (tmp_path / folder / file).read_bytes() == (demo_data / file).read_bytes()
            assert f"{folder}/{file}: " in capfd.readouterr().out or file == "eval.jsonl"
    lines = (demo_data / "train.jsonl").read_text().splitlines()
    broken = tmp_path / "train.jsonl"
    broken.write_text("\n".join([*lines[:2], '{"prompt": "Where?"}', *lines[2:]]))
    before = (tmp_path / "data/processed/train.jsonl").read_bytes()
    with pytest.raises(kit.BadTrace, match=r"train\.jsonl:3.*ground_truth"):
        kit.upload_data.local(broken)
    assert (tmp_path / "data/processed/train.jsonl").read_bytes() == before
