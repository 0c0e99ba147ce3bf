"""`train`: a run in this process or in several, one per GPU, which torch starts and ends together; the first writes.

Each does what a single process would; accelerate, on which TRL stands, finds the others by the environment's
RANK and WORLD_SIZE. They run below a process of their own, so that no script or notebook is imported again for them.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import LOCAL, Launch
from grpo_kit.errors import BeingTrained, RunError, RunStopped
from grpo_kit.rewards.travel import Rewards, load_rewards, pickled_rewards
from grpo_kit.runs.directory import REWARDS_FILE, RUNS_DIR, UNFINISHED, RunDirectory
from grpo_kit.runs.resume import resume_config
from grpo_kit.runs.writer import RunWriter, only_writer
from grpo_kit.training.plan import make_plan, queue
from grpo_kit.training.run import train_planned
from grpo_kit.utils.environment import WORD_SECONDS
from grpo_kit.utils.files import write_bytes
from grpo_kit.utils.garbage import loading_libraries

if TYPE_CHECKING:
    from torch.multiprocessing.spawn import ProcessContext

GRACE_SECONDS = 30  # to write down that a run was interrupted
QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"  # of what a process that was ended left to be freed
LOADING_SECONDS = 20  # after which one that missed its interrupt, as while it imported, waits in vain for the others


def train(
    config: TrainConfig | None = None,
    *,
    rewards: Rewards = (),
    runs_dir: str | Path = RUNS_DIR,
    echo: Callable[[str], None] = tqdm.write,
    launch: Launch = LOCAL,
    **settings,
) -> RunDirectory:
    """Trains `config.model_name` by GRPO and returns the run, whose directory holds everything.

    `settings` are TrainConfig's, in place of a config or to change one. `rewards` are plain TRL reward functions, with
    their weights in a dictionary or with weight 1 in a list, whose scores are added to the judges'. A run_id that is
    there already is gone on with from its last checkpoint, and left alone where it is complete. `launch` says what only
    the launcher knows. Raises ConfigError for settings that cannot work, BadTrace for data that is not valid, RunError
    for a run that cannot be gone on with, and RunStopped, with the last step saved, where it was asked to stop, where
    too many judgements failed, or where the next step would pass max_usd.
    """
    config = resume_config((config or TrainConfig()).replace(**settings), runs_dir)
    if config.num_processes > 1:
        return _train_in_several(config, queue(config, rewards, runs_dir, launch), rewards, echo, launch)
    plan = make_plan(config, rewards, runs_dir, launch)  # before seconds are spent on loading
    return train_planned(plan, runs_dir, echo, launch)


def _train_in_several(
    config: TrainConfig, run: RunDirectory, rewards: Rewards, echo: Callable[[str], None], launch: Launch
) -> RunDirectory:
    """Trains a queued run in `config.num_processes` processes and waits for them. Raises as `train` does."""
    if run.status["state"] == "complete":
        echo(f"Run {run.id} is complete: {run.path}")
        return run
    if rewards:
        write_bytes(run.path / REWARDS_FILE, pickled_rewards(rewards))
    if launch.notice:
        echo(launch.notice)
    launch = replace(launch, since=launch.since or datetime.now(UTC))  # their start is part of the run
    told = json.dumps(asdict(launch) | {"notice": ""}, default=datetime.isoformat)
    below = subprocess.Popen(
        [sys.executable, "-W", QUIET, "-m", "grpo_kit.training.launch", str(run.path), told],
        stdin=subprocess.PIPE,  # its end tells that this process has ended
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # an interrupt reaches it from here alone, and once
        env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // config.num_processes))} | os.environ,
    )
    try:
        for line in below.stdout:
            echo(line.rstrip())
        below.wait()
    except BaseException:
        below.stdin.close()
        patience = threading.Timer(GRACE_SECONDS, below.kill)
        patience.start()
        for line in below.stdout:
            echo(line.rstrip())
        patience.cancel()
        raise
    status = run.status
    if status["state"] == "complete":
        return run
    if status["state"] in UNFINISHED:
        raise BeingTrained(run.id)
    raise (RunStopped if status["state"] == "stopped" else RunError)(status["reason"].removeprefix("RunError: "))


def _start_all(run: RunDirectory, launch: Launch) -> None:
    """Starts the processes and waits for them; what they could not write of their end is written here."""
    with loading_libraries():
        from torch.distributed.elastic.utils.distributed import get_free_port
        from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # that it ends processes is no news
    count = run.config.num_processes
    together = start_processes(
        _take_part, (count, get_free_port(), run.path, launch), count, join=False, start_method="spawn"
    )
    interrupted = threading.Event()
    threading.Thread(target=_end_with_the_parent, args=[together, interrupted], daemon=True).start()
    try:
        while not together.join():
            pass
        _end(run, KeyboardInterrupt())  # of which torch says nothing
    except ProcessExitedException as error:
        if interrupted.is_set():
            _end(run, KeyboardInterrupt())
        how = error.signal_name or f"exit code {error.exit_code}"
        _fail(run, f"process {error.error_index + 1} of {count} ended ({how}), and the others with it")
    except ProcessRaisedException as error:
        said = str(error).strip().splitlines()[-1].removeprefix("grpo_kit.errors.")
        if run.status["state"] in UNFINISHED:
            print(error)
        _fail(run, f"process {error.error_index + 1} of {count}: {said}")


def _take_part(rank: int, count: int, port: int, path: Path, launch: Launch) -> None:
    with loading_libraries():
        import torch

    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": count, "WORLD_SIZE": count}
    if not torch.cuda.is_available():
        place["ACCELERATE_TORCH_DEVICE"] = "cpu"  # else it says cpu:0, where torch loads no checkpoint
    os.environ |= {name: str(value) for name, value in {**place, "LOCAL_RANK": rank, "RANK": rank}.items()}
    pickled = path / REWARDS_FILE
    try:
        rewards = load_rewards(pickled.read_bytes()) if pickled.exists() else ()
        plan = make_plan(TrainConfig(run_id=path.name), rewards, path.parent, launch)
        train_planned(plan, path.parent, _say, launch)
    except BeingTrained:
        sys.exit(1)  # by others, who write the run
    except BaseException:
        if rank:
            _wait_for_a_word(RunDirectory(path))  # the first one's counts, where it has one; this process ends with it
            raise
        if RunDirectory(path).status["state"] in UNFINISHED:
            raise  # it is not written down yet
        sys.exit(1)  # so that the others, which may wait for this one, are ended


def _wait_for_a_word(run: RunDirectory) -> None:
    deadline = time.monotonic() + WORD_SECONDS
    while run.status["state"] in UNFINISHED and time.monotonic() < deadline:
        time.sleep(0.2)


def _end_with_the_parent(together: "ProcessContext", interrupted: threading.Event) -> None:
    sys.stdin.read()
    interrupted.set()
    for number, patience in ((signal.SIGINT, LOADING_SECONDS), (signal.SIGKILL, 0)):
        for process in together.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        time.sleep(patience)


def _say(text: str) -> None:
    with suppress(BrokenPipeError):  # nobody hears it any more; that this ends the run is told by other means
        print(text, flush=True)


def _fail(run: RunDirectory, reason: str) -> None:
    _end(run, RunError(f"{reason}; run_id {run.id} resumes it"))


def _end(run: RunDirectory, error: BaseException) -> None:
    """Writes down why the run ended, where none of its processes has, and none of another start holds it."""
    with suppress(BeingTrained), only_writer(run):
        if run.status["state"] in UNFINISHED:
            RunWriter(run, run.config).end(error)


if __name__ == "__mp_main__":  # one of the processes, before torch's own start of it loads torch
    with loading_libraries():
        import_module("torch")
elif __name__ == "__main__":
    told = json.loads(sys.argv[2])
    since = told["since"] and datetime.fromisoformat(told["since"])
    _start_all(RunDirectory(Path(sys.argv[1])), Launch(**told | {"since": since}))
