"""Training as it is asked for: a run is planned and opened, then trained in this process or in several, one per GPU.

`python -m grpo_kit.training.launch RUN_DIR` trains a run that was opened before. Several processes are started and
ended together by torchrun, which runs in a process of its own, so that no script or notebook is imported again; each
does what a single one would. accelerate, on which TRL stands, finds the others by RANK and WORLD_SIZE.
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
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Launch
from grpo_kit.errors import BeingTrained, RunError, RunStopped
from grpo_kit.rewards.travel import Rewards, pickled_rewards
from grpo_kit.runs.directory import REWARDS_FILE, UNFINISHED, RunDirectory
from grpo_kit.runs.writer import RunWriter
from grpo_kit.training.plan import make_plan, open_planned, plan_of
from grpo_kit.training.run import record_end, train_planned
from grpo_kit.utils.environment import WORD_SECONDS, processes, rank
from grpo_kit.utils.files import write_bytes
from grpo_kit.utils.garbage import loading_libraries

MODULE = "grpo_kit.training.launch"
GRACE_SECONDS = 45  # the launcher gives its processes 30 to record that a run was interrupted


def plan_and_train(
    config: TrainConfig, rewards: Rewards, runs_dir: str | Path, launch: Launch, echo: Callable[[str], None]
) -> RunDirectory:
    """Trains `config.model_name` by GRPO and returns the run, whose directory holds everything.

    `rewards` are plain TRL reward functions, with their weights in a dictionary or with weight 1 in a list, whose
    scores are added to the judges'. A run_id that is there already resumes from its last checkpoint, and is left alone
    where it is complete. `launch` says what only the launcher knows. Raises ConfigError for settings that cannot work,
    BadTrace for data that is not valid, RunError for a run that cannot be resumed, and RunStopped, with the last step
    saved, where it was asked to stop, where too many judgements failed, or where the next step would pass max_usd.
    """
    plan = make_plan(config, rewards, runs_dir, launch)
    run = open_planned(plan, runs_dir, launch, echo)
    if run.status["state"] == "complete":
        plan.close()
        echo(f"Run {run.id} is complete: {run.path}")
        return run
    echo(launch.notice)
    if plan.config.num_processes == 1:
        train_planned(run, plan, echo)
        return run
    plan.close()
    if rewards:
        write_bytes(run.path / REWARDS_FILE, pickled_rewards(rewards))
    return train_in_processes(run, echo, since=datetime.now(UTC))


def work_on(run: RunDirectory, echo: Callable[[str], None], since: datetime | None = None) -> None:
    """Trains a queued run, with the reward functions that lie in its folder; its status.json says how it ended.

    `since` is when the machine began to cost; None: now.
    """
    try:
        if run.config.num_processes > 1:
            train_in_processes(run, echo, since or datetime.now(UTC))
        else:
            train_planned(run, plan_of(run), echo, since)
    except (RunStopped, BeingTrained) as reason:  # a run that another process trains, or has resumed, is that one's
        echo(str(reason))
    except Exception as error:
        record_end(run, error)
        echo(f"Run {run.id} failed: {run.status['reason']}")


def train_in_processes(run: RunDirectory, echo: Callable[[str], None], since: datetime) -> RunDirectory:
    """Trains a queued run in `num_processes` processes and waits for them; `since` is when its cost began to count.

    Raises as `plan_and_train` does. An interrupt ends them all, and so does the end of this process.
    """
    threads = max(1, (os.cpu_count() or 1) // run.config.num_processes)
    launcher = subprocess.Popen(
        [sys.executable, "-m", MODULE, str(run.path), since.isoformat()],
        stdin=subprocess.PIPE,  # it ends with this process, which tells the launcher to end
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # an interrupt reaches it from here alone, and once
        env={"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"} | os.environ,
    )
    assert launcher.stdin and launcher.stdout
    try:
        for line in launcher.stdout:
            echo(line.rstrip())
    except BaseException:
        launcher.stdin.close()
        patience = threading.Timer(GRACE_SECONDS, launcher.kill)
        patience.start()
        for line in launcher.stdout:
            echo(line.rstrip())
        patience.cancel()
        raise
    launcher.wait()
    status = run.status
    if status["state"] == "complete":
        return run
    if status["state"] in UNFINISHED:
        raise BeingTrained(run.id)
    raise (RunStopped if status["state"] == "stopped" else RunError)(status["reason"].removeprefix("RunError: "))


def _launch(run: RunDirectory, since: str) -> None:
    """Has torchrun start the processes. Raises RunError or KeyboardInterrupt where they could not record their end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with it ignored
    threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    with loading_libraries():
        import torch
        from torch.distributed import run as torchrun
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable()  # the run's status says it all
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # else it says cpu:0, where torch loads no checkpoint
    count = run.config.num_processes
    options = ["--standalone", "--local-addr=localhost", f"--nproc-per-node={count}", "-m"]
    try:
        torchrun.run(torchrun.parse_args([*options, MODULE, str(run.path), since]))
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        message: Any = failure.message  # a dictionary where `record` caught an error
        said = message["message"].splitlines()[-1] if isinstance(message, dict) else message
        raise RunError(f"process {number + 1} of {count}: {said}", f"run_id {run.id} resumes it") from None


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
    except BaseException as error:
        deadline = time.monotonic() + WORD_SECONDS
        while rank() and run.status["state"] in UNFINISHED and time.monotonic() < deadline:
            time.sleep(0.2)  # until rank 0 has recorded why the run ended
        if run.status["state"] in UNFINISHED and not isinstance(error, BeingTrained):
            raise
        sys.exit(1)  # so that the launcher ends the others, which may wait for this one


def _say(text: str) -> None:
    if not rank():
        with suppress(BrokenPipeError):  # the process that listened has ended, and the launcher ends this one
            print(text, flush=True)


def _main(run: RunDirectory, since: str = "") -> None:
    if processes() > 1:
        from torch.distributed.elastic.multiprocessing.errors import record

        record(_take_part)(run, since)
    elif since:
        is_told = False
        try:
            _launch(run, since)
        except (KeyboardInterrupt, RunError) as error:
            is_told = record_end(run, error)
        if not is_told and (status := run.status)["state"] not in UNFINISHED:
            with (alarms := RunWriter(run, run.config).alarms).harmless():
                alarms.tell_end(status)
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a machine that ends may still record and tell it
        work_on(run, echo=partial(print, flush=True))


if __name__ == "__main__":
    _main(RunDirectory(Path(sys.argv[1])), *sys.argv[2:])
