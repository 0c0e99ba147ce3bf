"""Starting a run that trains by itself: on Modal, or here in a process that outlives the one that starts it."""

import subprocess
import sys
import time
from pathlib import Path

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import BeingTrained
from grpo_kit.preflight.check import launch_of
from grpo_kit.rewards.travel import Rewards, load_rewards, pickled_rewards, signed
from grpo_kit.runs.directory import OUTPUT_FILE, REWARDS_FILE, UNFINISHED, WORKER_FILE, RunDirectory, find_run
from grpo_kit.runs.storage import LocalStorage
from grpo_kit.runs.writer import only_writer
from grpo_kit.training.plan import own_rewards, queue
from grpo_kit.utils.files import as_json, write_bytes

ENDING_SECONDS = 30  # a process has recorded its end, and tells it and takes itself down


def start(
    config: TrainConfig, rewards: Rewards, runs_dir: str | Path, on_modal: bool, trust: bool = False
) -> RunDirectory:
    """Checks and quotes a new run, or one to resume, starts it and returns at once.

    A run that is resumed without `rewards` keeps its own; with `trust`, also those that another machine pickled. Raises
    ConfigError, BadTrace or RunError, before anything is started, for what cannot work.
    """
    pickled = pickled_rewards(rewards) if rewards else None
    if on_modal:
        from grpo_kit.backends.modal.launch import start_on_modal

        return start_on_modal(config, pickled, runs_dir)
    known = find_run(config.run_id, runs_dir)
    earlier = known.read_text(WORKER_FILE) if known else ""
    if known and earlier:
        _wait_for_its_end(known)
    if known and pickled is None:
        pickled = own_rewards(known)
    launch = launch_of(config, runs_dir, "local", known)
    run = queue(config, () if pickled is None else load_rewards(pickled, trust), runs_dir, launch)
    if run.status["state"] == "complete":
        print(f"Run {run.id} is complete: {run.path}")
        return run
    print(launch.notice)
    with only_writer(run):
        if run.read_text(WORKER_FILE) != earlier:  # another process started it at the same moment
            raise BeingTrained(run.id)
        if pickled:
            write_bytes(run.path / REWARDS_FILE, signed(pickled) if trust else pickled)
        with (run.path / OUTPUT_FILE).open("w") as output:
            command = [sys.executable, "-m", "grpo_kit.training.launch", str(run.path)]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        run.storage.write(WORKER_FILE, as_json(LocalStorage(run.path).worker(process.pid)))
    print(f"Run {run.id} on this machine: {run.path}")
    return run


def _wait_for_its_end(run: RunDirectory) -> None:
    """Waits until the process is gone that trained the run, since it may still record and tell how the run ended.
    Raises BeingTrained where it goes on."""
    deadline = time.monotonic() + ENDING_SECONDS
    while run.storage.exit_reason(run.worker) is None:
        if run.status["state"] in UNFINISHED or time.monotonic() > deadline:
            raise BeingTrained(run.id)
        time.sleep(0.05)
