"""A run in several processes on this machine, one per GPU, which torch's elastic launcher starts and ends together.

The launcher is a process of its own, so that no script or notebook is imported again, and each of its processes does
what a single one would. accelerate, on which TRL stands, finds the others by RANK and WORLD_SIZE.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from grpo_kit.errors import BeingTrained, RunError, RunStopped
from grpo_kit.runs.directory import UNFINISHED, RunDirectory
from grpo_kit.runs.writer import RunWriter, only_writer
from grpo_kit.training.plan import plan_of
from grpo_kit.training.run import train_planned
from grpo_kit.utils.environment import WORD_SECONDS, processes, rank
from grpo_kit.utils.garbage import loading_libraries

GRACE_SECONDS = 45  # the launcher gives its processes 30 to record that a run was interrupted


def train_in_processes(run: RunDirectory, echo: Callable[[str], None], since: datetime) -> RunDirectory:
    """Trains a queued run in `num_processes` processes and waits for them; `since` is when its cost began to count.

    Raises as `train` does. An interrupt ends them all, and so does the end of this process.
    """
    threads = max(1, (os.cpu_count() or 1) // run.config.num_processes)
    launcher = subprocess.Popen(
        [sys.executable, "-m", "grpo_kit.training.processes", str(run.path), since.isoformat()],
        stdin=subprocess.PIPE,  # it ends with this process, which tells the launcher to end
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # an interrupt reaches it from here alone, and once
        env={"OMP_NUM_THREADS": str(threads)} | os.environ,
    )
    assert launcher.stdin and launcher.stdout
    try:
        for line in launcher.stdout:
            echo(line.rstrip())
        launcher.wait()
    except BaseException:
        launcher.stdin.close()
        patience = threading.Timer(GRACE_SECONDS, launcher.kill)
        patience.start()
        for line in launcher.stdout:
            echo(line.rstrip())
        patience.cancel()
        raise
    status = run.status
    if status["state"] == "complete":
        return run
    if status["state"] in UNFINISHED:
        raise BeingTrained(run.id)
    raise (RunStopped if status["state"] == "stopped" else RunError)(status["reason"].removeprefix("RunError: "))


def _launch(run: RunDirectory, since: str) -> None:
    """Runs the elastic launcher, and records why the run ended where its processes could not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with it ignored
    threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    with loading_libraries():
        import torch
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the run's status says it all
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # else it says cpu:0, where torch loads no checkpoint
    count = run.config.num_processes
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=run.id,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "grpo_kit.training.processes", str(run.path), since)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        message: Any = failure.message
        if isinstance(message, dict):  # what `record` caught
            reason = f"process {number + 1} of {count}: {message['message'].splitlines()[-1]}"
        else:
            how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            reason = f"process {number + 1} of {count} ended ({how}), and the others with it"
        raise RunError(f"{reason}; run_id {run.id} resumes it") from None


def _interrupt_at_end_of_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


def _take_part(run: RunDirectory, since: str) -> None:
    """Trains as one of the processes. An error is raised where rank 0 has not recorded why the run ended."""
    with loading_libraries():
        import torch.multiprocessing

    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGINT)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        train_planned(run, plan_of(run), _say, datetime.fromisoformat(since))
    except BeingTrained:
        sys.exit(1)
    except BaseException:
        if rank():
            _wait_for_rank_0(run)
        if run.status["state"] in UNFINISHED:
            raise
        sys.exit(1)  # so that the launcher ends the others, which may wait for this one


def _wait_for_rank_0(run: RunDirectory) -> None:
    """Waits until rank 0 has recorded why the run ended, WORD_SECONDS at most."""
    deadline = time.monotonic() + WORD_SECONDS
    while run.status["state"] in UNFINISHED and time.monotonic() < deadline:
        time.sleep(0.2)


def _say(text: str) -> None:
    with suppress(BrokenPipeError):  # the process that listened has ended, and the launcher ends this one
        print(text, flush=True)


def _main(run: RunDirectory, since: str) -> None:
    if processes() > 1:
        from torch.distributed.elastic.multiprocessing.errors import record

        record(_take_part)(run, since)
        return
    try:
        _launch(run, since)
    except (KeyboardInterrupt, RunError) as error:
        with suppress(BeingTrained), only_writer(run):
            if run.status["state"] in UNFINISHED:
                RunWriter(run, run.config).end(error)


if __name__ == "__main__":
    _main(RunDirectory(Path(sys.argv[1])), sys.argv[2])
