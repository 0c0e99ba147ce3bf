"""Serving a run on this machine: by a process of its own, which outlives the one that starts it."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from grpo_kit.backends.serving.command import VLLM, plan_of, server_command
from grpo_kit.config.train import Auto
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.models.checkpoints import checkpoints_of
from grpo_kit.models.endpoint import KEY, Endpoint
from grpo_kit.models.vllm_engine import check_vllm
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory
from grpo_kit.runs.storage import SERVING_FILE, LocalStorage
from grpo_kit.utils.files import as_json

HOST, LOG = "127.0.0.1", "serving.log"
GPU_SHARE = 0.6  # of the GPU's memory for vLLM, so that a check of what it serves has room beside it
SECONDS_TO_START = 600  # vLLM takes a minute or more
SECONDS_TO_END = 10


def served(run: RunDirectory) -> Endpoint | None:
    """The endpoint of a run that is being served; None where it is not."""
    record = LocalStorage(run.path).server()
    return Endpoint(record["url"]) if record and run.storage.exit_reason(record) is None else None


def start(
    run: RunDirectory, checkpoints: Sequence[str], port: int, use_vllm: bool | Auto, echo: Callable[[str], None]
) -> Endpoint:
    """Starts the server and waits until it answers. Raises ConfigError for a port that is taken, RunError for a
    run without a checkpoint and for a server that ends, with its last words."""
    check_vllm(use_vllm)
    plan = plan_of(checkpoints_of(run, None, RUNS_DIR), checkpoints)
    # vLLM takes the key from a variable of its own; a command line can be read by others.
    env = os.environ | {"VLLM_API_KEY": key} if (key := os.environ.get(KEY)) else None
    with FileLock(run.path / ".serving.lock"):  # of two at the same moment one starts it
        if found := served(run):
            echo(f"Run {run.id} is being served at {found.url}, by who started it at the same moment")
            return found
        stop(run)  # what a server that was killed has left
        port = _free(port)
        endpoint, log = Endpoint(f"http://{HOST}:{port}/v1"), run.path / LOG
        with log.open("w") as output:
            command = server_command(plan, HOST, port, GPU_SHARE, use_vllm)
            how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True, "env": env}
            process = subprocess.Popen(command, stdout=output, stderr=output, **how)
        server = {"url": endpoint.url} | LocalStorage(run.path).worker(process.pid)
        run.storage.write(SERVING_FILE, as_json(server))
    try:
        _wait(endpoint, process, log)
    except BaseException:
        stop(run)
        process.wait()
        raise
    echo(f"Run {run.id} is served at {endpoint.url}: {', '.join(endpoint.models())}")
    echo(f"The key is that in {KEY}" if key else "It asks for no key, and listens on this machine alone")
    return endpoint


def stop(run: RunDirectory) -> bool:
    """Ends the server with all its processes, and returns when they are gone; False where none ran. Raises RunError
    where one does not end."""
    record, deadline = LocalStorage(run.path).server(), time.monotonic() + SECONDS_TO_END
    family = left = _family(record)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            # Python's tracker of shared memory ends by itself after the others, and gives back what they had.
            if "multiprocessing.resource_tracker" not in " ".join(each.cmdline()):
                each.kill()
    while left:
        if time.monotonic() > deadline:
            raise RunError(f"process {left[0].pid} of the server of run {run.id} does not end", "Try again")
        time.sleep(0.05)
        left = _family(record)
    (run.path / SERVING_FILE).unlink(missing_ok=True)
    return bool(family)


def _family(record: dict[str, Any] | None) -> list[psutil.Process]:
    """The server's processes, which are all of one session: vLLM's engine goes on where its server was killed."""
    if record is None or record["created"] < psutil.boot_time():
        return []
    family = []
    for each in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(each.pid) == record["pid"] and each.create_time() >= record["created"]:
                family += [each] * (each.status() != psutil.STATUS_ZOMBIE)
    return family


def _free(port: int) -> int:
    """The port, or for 0 one that is free. Raises ConfigError where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            fix = "Name another with port (--port), or 0 for one that is free"
            raise ConfigError(f"port {port} can't be used here ({why})", fix) from None
        return probe.getsockname()[1]


def _wait(endpoint: Endpoint, process: subprocess.Popen, log: Path) -> None:
    """Waits until the server answers. Raises RunError, with its error or last words, where it ends."""
    deadline = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(RunError):  # nothing listens yet
            endpoint.models()
            return
        time.sleep(0.1)
    what = "did not answer in time" if process.poll() is None else "ended before it answered"
    if process.returncode == -signal.SIGKILL:
        what = "was killed before it answered: by a stop, or as memory ran out"
    text = log.read_text(errors="replace").strip()
    # Of vLLM's processes the first to fail says why, and the last to end no more than that there was an error.
    first = re.search(r"(?:^|\] )(\w+Error: .+)", text, re.MULTILINE)
    told = first[1] if first else "\n".join(text.splitlines()[-5:])
    without = ", or without vLLM: use_vllm=False (--use-vllm false)" if VLLM in process.args else ""  # pyright: ignore[reportOperatorIssue]
    told = f". {log} says:\n{told}" if told else ""
    raise RunError(f"the server {what}{told}", f"Correct that, and serve again{without}")
