"""Training in a process of its own on this machine, which goes on when this one ends."""

import subprocess
import sys
from pathlib import Path

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import BeingTrained, RunError
from grpo_kit.preflight.check import launch_of
from grpo_kit.rewards.travel import load_rewards
from grpo_kit.runs.directory import OUTPUT_FILE, REWARDS_FILE, UNFINISHED, WORKER_FILE, RunDirectory, is_run
from grpo_kit.utils.files import as_json, write_bytes


def train_here(config: TrainConfig, rewards: bytes | None, runs_dir: Path) -> RunDirectory:
    """Starts a process that trains and outlives this one. A run that is gone on with has its rewards already."""
    import psutil

    from grpo_kit.runs.writer import only_writer
    from grpo_kit.training.plan import queue

    known = RunDirectory(config.run_id, runs_dir) if config.run_id and is_run(runs_dir / config.run_id) else None
    earlier = known.read_text(WORKER_FILE) if known else ""
    if earlier and known.status["state"] in UNFINISHED and known.storage.exit_reason(known.worker) is None:
        raise BeingTrained(known.id)
    if known and not rewards and REWARDS_FILE in known.storage.names():
        rewards = known.storage.read(REWARDS_FILE)
    launch = launch_of(config, runs_dir, "local", known)
    run = queue(config, load_rewards(rewards) if rewards else (), runs_dir, launch)
    if run.status["state"] == "complete":
        print(f"Run {run.id} is complete: {run.path}")
        return run
    print(launch.notice)
    with only_writer(run):
        if run.read_text(WORKER_FILE) != earlier:
            raise RunError(f"run {run.id} was started by another process at the same moment; watch it")
        if rewards:
            write_bytes(run.path / REWARDS_FILE, rewards)
        with (run.path / OUTPUT_FILE).open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "grpo_kit.training.worker", str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        worker = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        run.storage.write(WORKER_FILE, as_json(worker))
    print(f"Run {run.id} on this machine: {run.path}")
    return run
