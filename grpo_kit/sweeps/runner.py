"""One run of a sweep: papermill executes its notebooks one after the other, each in a kernel of its own.

A run is started as often as it takes: what a killed sweep left under way is waited for, and what was finished stays.
"""

import os
import re
import signal
import threading
import time
from contextlib import suppress
from typing import Any

from jupyter_client import AsyncKernelManager
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random

from grpo_kit.backends.modal.launch import DEPLOYED
from grpo_kit.errors import RunError
from grpo_kit.runs.directory import UNFINISHED, now
from grpo_kit.sweeps.halving import PRUNED
from grpo_kit.sweeps.notebooks import PAPERMILL
from grpo_kit.sweeps.plan import ERROR_FILE, PlannedRun, Stage, read_json
from grpo_kit.utils.environment import source_fingerprint
from grpo_kit.utils.files import write_bytes

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 15  # three heartbeats of a run
GRACE_SECONDS = 10  # for a kernel to end after an interrupt
STOPPED = "stopped before its end; the same command goes on with it"


class Runner:
    """Executes a planned run in the thread that calls it, and writes down what becomes of it."""

    def __init__(self, run: PlannedRun, threads: int | None):
        """`threads` are those that numerical libraries may use in each kernel; None leaves it to them."""
        self.run = run
        self._threads, self._kernels, self._is_ended = threads, [], threading.Event()
        self._pruned = ""  # why, where it was stopped for being behind

    def execute(self, max_usd: float | None) -> None:
        """Does what is not done yet. Whatever fails is written down, and does not raise."""
        run, began, state, error = self.run, time.monotonic(), "complete", None
        record = run.record
        finished = {stage.name: stage.key for stage in run.stages if run.has_finished(stage, record)}
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / ERROR_FILE).unlink(missing_ok=True)
        run.write(state="running", error=None, finished=finished)
        try:
            for stage in run.stages:
                if stage.name not in finished:
                    self._execute(stage, max_usd)
                    if self._is_ended.is_set() and not (stage.result and read_json(stage.result)):
                        break
                    if reason := self._why_stopped(stage):
                        state, error = (PRUNED, self._pruned) if self._pruned else ("stopped", reason)
                        break
                    finished[stage.name] = stage.key
                    run.write(finished=finished)
        except Exception as problem:  # of the notebook, of its kernel: the other runs go on
            state, error = "failed", _in_short(problem)
            write_bytes(run.folder / ERROR_FILE, f"{_without_colours(str(problem))}\n".encode())
        if self._is_ended.is_set() and len(finished) < len(run.stages):
            state, error = "stopped", STOPPED
        seconds = round(record["seconds"] + time.monotonic() - began, 1)
        run.write(state=state, error=error, seconds=seconds, ended=now())

    def prune(self, why: str) -> None:
        """Stops what it trains at its next step, for good."""
        if not self._pruned and (trained := self.run.trained()):
            self._pruned = why
            trained.stop()

    def end(self) -> None:
        """Ends it from another thread: what it trains at its next step, with a checkpoint, its kernels at once."""
        self._is_ended.set()
        with suppress(RunError, FileNotFoundError):  # it trains nothing yet, or no more
            if trained := self.run.trained():
                trained.stop()
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """Ends kernels that `end` did not."""
        self._signal(signal.SIGKILL)

    def _execute(self, stage: Stage, max_usd: float | None) -> None:
        import papermill

        self._wait_for_what_is_under_way()
        if self._is_ended.is_set():
            return
        parameters = stage.parameters
        if max_usd is not None and "run_id" in parameters:
            own = (self.run.config and self.run.config.max_usd) or max_usd
            others = {**(parameters.get("other_settings") or {}), "max_usd": min(own, max_usd)}
            parameters = {**parameters, "other_settings": others}
        if stage.result:
            stage.result.unlink(missing_ok=True)
        _again_where_the_port_was_taken(papermill.execute_notebook)(
            str(stage.notebook),
            str(self.run.folder / f"{stage.name}.ipynb"),
            parameters=parameters,
            kernel_manager_class=self._kernel_class(),
            **PAPERMILL,
        )
        if stage.result and not read_json(stage.result):
            raise RunError(f"{stage.name} ended without writing its {stage.result}")

    def _kernel_class(self) -> type[AsyncKernelManager]:
        """Kernels that work where the sweep does, share the processor, and can be interrupted from outside."""
        env = os.environ | {"GRPO_KIT_BACKEND": self.run.backend}
        if self.run.backend == "modal":
            env[DEPLOYED] = source_fingerprint()
        if self._threads:
            env = {"OMP_NUM_THREADS": str(self._threads)} | env
        kernels = self._kernels

        class Kernel(AsyncKernelManager):
            async def start_kernel(self, **options: Any) -> None:
                await super().start_kernel(**{**options, "env": env})
                kernels.append(self)

        return Kernel

    def _wait_for_what_is_under_way(self) -> None:
        """What an earlier sweep started goes on by itself when that is killed."""
        while not self._is_ended.wait(POLL_SECONDS if self._is_under_way() else 0):
            if not self._is_under_way():
                return

    def _is_under_way(self) -> bool:
        try:
            trained = self.run.trained()
            return bool(trained and trained.worker and trained.status_after(PATIENCE_SECONDS)["state"] in UNFINISHED)
        except (RunError, FileNotFoundError):
            return False

    def _why_stopped(self, stage: Stage) -> str:
        """Why a run that ended in good order has not come to its end; empty where it has."""
        result = read_json(stage.result) if stage.result and "run_id" in stage.parameters else {}
        if result.get("state", "complete") == "complete":
            return ""
        return self.run.status().get("reason") or f"it is {result['state']}"

    def _signal(self, number: signal.Signals) -> None:
        for kernel in list(self._kernels):
            with suppress(ProcessLookupError, AttributeError):  # it has ended
                if kernel.has_kernel:
                    os.kill(kernel.provisioner.pid, number)


# papermill's ports are chosen before they are taken, so another kernel may be quicker.
_again_where_the_port_was_taken = retry(
    retry=retry_if_exception(lambda error: "Kernel died before replying to kernel_info" in str(error)),
    stop=stop_after_attempt(3),
    wait=wait_random(0, 1),
    reraise=True,
)


def _in_short(problem: Exception) -> str:
    """The error as a notebook's reader would say it: its type and its first line."""
    kind, said = getattr(problem, "ename", type(problem).__name__), getattr(problem, "evalue", str(problem))
    return f"{kind}: {_without_colours(said).strip().splitlines()[0] if said.strip() else 'no message'}"


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
