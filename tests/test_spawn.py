"""Runs that go on by themselves on this machine: they outlive who started them, and can be stopped, killed, lost and
gone on with, watched from a notebook and asked for evaluations. Real processes, signals and kernels."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from safetensors.torch import load_file

import grpo_kit as kit

STEPS = {"max_steps": 6, "save_steps": 4}
TASTE = '''
def words(completion):
    return completion[-1]["content"].lower().split()

def politeness(completions, **_):
    return [0.1 * sum(word in ("please", "thank", "sure") for word in words(completion)) for completion in completions]
'''
# What a notebook's kernel would hold: rewards of its own and from a file beside it, which is nowhere else.
KERNEL = f'''
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
'''
NOTEBOOK = [
    """
import grpo_kit as kit
def brevity(completions, **_):
    return [min(1.0, 20 / (1 + len(completion[-1]["content"]))) for completion in completions]
run = kit.train.remote(run_id="seen", max_steps=18, rewards=[brevity])
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
    """An empty folder to work in, with no account; what still runs at the end is ended."""
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
        for file in folder.glob("runs/*/worker.json"):
            run = kit.Run(file.parent)
            run.place.end(run.worker)


def wait_until(condition, what: str, seconds: float = 90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def wait_for_step(run: kit.Run, step: int) -> None:
    def is_there() -> bool:
        status = run.status
        assert status["state"] in ("queued", "running"), status
        return status["state"] == "running" and status["step"] >= step

    wait_until(is_there, f"step {step} of {run.id}")


def rewards() -> dict:
    """Those of the kernel, as this process has them."""
    import kernel

    return kernel.REWARDS


def learned(run: kit.Run) -> tuple:
    """All that a run has made, but for how long it took: metrics, completions, weights."""
    metrics, completions = run.metrics(), run.completions()
    timed = [name for name in metrics if "seconds" in name or name == "step_time"]
    weights = load_file(run.path / "adapter_model.safetensors")
    rows = metrics.drop(columns=timed).to_json(), completions.to_json()
    return *rows, {name: weight.numpy().tobytes() for name, weight in weights.items()}


@pytest.fixture(scope="module")
def survivor(here):
    """The process of a run whose kernel is killed right after it started it."""
    command = [sys.executable, here / "scripts" / "kernel.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here) as kernel, ThreadPoolExecutor() as pool:

        def kill_when_started() -> list[str]:
            said = [line for line in iter(kernel.stdout.readline, "started\n") if line]
            kernel.send_signal(signal.SIGKILL)
            return said

        yield pool.submit(kill_when_started)
        kernel.kill()


@pytest.fixture(scope="module")
def undisturbed(survivor):
    """The same run made in the foreground; what is said to who wants to kill it meanwhile, in `refused`."""
    refused = []

    def kill_it_meanwhile(text: str) -> None:
        if text.startswith("Step 1/"):
            with pytest.raises(kit.RunError) as error:
                kit.Run("undisturbed").kill()
            refused.append(str(error.value))

    run = kit.train.local(run_id="undisturbed", rewards=rewards(), echo=kill_it_meanwhile, **STEPS)
    run.refused = refused
    return run


@pytest.fixture(scope="module")
def others(undisturbed):
    """Runs that are made beside each other, since each takes a while to begin; and a notebook."""
    notebook = Notebook()
    notebook.start()
    yield {
        "troubled": kit.train.spawn(run_id="troubled", rewards=rewards(), **STEPS),
        "lost": kit.train.spawn(run_id="lost", rewards=[restless], max_steps=40, save_steps=2),
        "notebook": notebook,
    }
    notebook.join()


def restless(completions, **_):
    """A reward that leaves a process of its own behind."""
    import subprocess

    subprocess.Popen(["sleep", "300"])
    return [0.0] * len(completions)


def process_of(run: kit.Run) -> psutil.Process:
    return psutil.Process(run.worker["pid"])


def test_a_run_outlives_its_kernel_and_ends_like_one_that_was_waited_for(survivor, undisturbed, others, capfd):
    assert [line for line in survivor.result() if "is done on this machine" in line]
    run = kit.Run("survivor")
    assert "on Modal" not in repr(run) and run.worker["pid"] != os.getpid()
    run.watch()
    assert "Run survivor is complete: runs/survivor" in capfd.readouterr().out
    assert learned(run) == learned(undisturbed)


def test_a_second_start_is_refused_and_a_stopped_run_goes_on_as_if_undisturbed(undisturbed, others, capfd):
    run = others["troubled"]
    worker = run.worker
    with pytest.raises(kit.RunError, match=r"troubled (was started a moment ago|is being trained by another process)"):
        kit.train.spawn(run_id="troubled", rewards=rewards())
    assert run.worker == worker and run.status["state"] in ("queued", "running")
    wait_for_step(run, 1)
    with pytest.raises(kit.RunError, match="troubled is being trained by another process"):
        run.resume()
    run.stop()
    status = run.watch().status
    assert status["state"] == "stopped" and 1 <= status["step"] < 6
    assert [path.name for path in run.checkpoints][-1] == f"checkpoint-{status['step']}"
    assert f"stopped at step {status['step']}, as asked" in capfd.readouterr().out
    with pytest.raises(kit.RunError, match="troubled is stopped already"):
        run.stop()
    run.resume().watch()
    assert learned(run) == learned(undisturbed)
    assert f"resumed from checkpoint-{status['step']}" in run.read_text("train.log")


def test_a_run_that_ended_without_a_word_is_lost_and_can_be_resumed_and_killed(others, capfd):
    run = others["lost"]
    wait_for_step(run, 2)
    process = process_of(run)
    orphans = process.children()
    process.send_signal(signal.SIGKILL)
    with pytest.raises(kit.RunError, match=r"run lost was lost at step \d+: its process ended without a word") as error:
        run.watch()
    assert "The last that it printed:" in str(error.value) and "Step 1/40: loss=" in str(error.value)
    with pytest.raises(kit.RunError, match="lost already: there is nothing to stop"):
        run.stop()
    reached = run.status["step"]
    run.resume()
    wait_for_step(run, reached + 1)
    process = process_of(run)
    family = [process, *process.children()]
    assert len(family) > 1
    run.kill()
    assert run.status["state"] == "killed" and "resume" in run.status["reason"]
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert "Run lost is killed; run.resume() goes on" in capfd.readouterr().out
    psutil.wait_procs(orphans, timeout=0)
    for orphan in orphans:
        orphan.kill()
