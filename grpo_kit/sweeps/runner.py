"""Executes one run of a sweep: papermill runs its notebooks one after the other, each in a kernel of its own.

A run is started as often as it takes: training that a killed sweep left under way is waited for, and what was finished
stays.
"""

import os
import re
import signal
import threading
import time
from contextlib import suppress
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random

from grpo_kit.backends.modal.launch import DEPLOYED
from grpo_kit.errors import RunError
from grpo_kit.runs.directory import UNFINISHED, now
from grpo_kit.sweeps.notebooks import PAPERMILL
from grpo_kit.sweeps.run import ERROR_FILE, PRUNED, PlannedRun, Stage, read_json
from grpo_kit.utils.environment import source_fingerprint
from grpo_kit.utils.files import write_bytes

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 15  # three heartbeats of a run
STOPPED = "stopped before its end; the same command resumes it"


class Runner:
    """Executes a planned run in the thread that calls it, and records its state."""

    def __init__(self, run: PlannedRun, threads: int | None):
        """`threads` are those that numerical libraries may use in each kernel; None leaves it to them."""
        self.run, self.since = run, time.monotonic()
        self._threads, self._is_ended = threads, threading.Event()
        self._kernels: list[AsyncKernelManager] = []
        self._pruned = ""  # why, where it was stopped for being behind

    def execute(self, max_usd: float | None) -> None:
        """Executes the stages that are not finished. Whatever fails is recorded, and does not raise."""
        run, record, state, error = self.run, self.run.record, "complete", None
        finished = record["finished"]
        run.write(state="running", error=None)
        (run.folder / ERROR_FILE).unlink(missing_ok=True)
        try:
            for stage in run.stages:
                if stage.name in finished:
                    continue
                self._execute(stage, max_usd)
                if reason := self._why_stopped(stage):
                    state, error = (PRUNED, self._pruned) if self._pruned else ("stopped", reason)
                    break
                finished[stage.name] = stage.key
                run.write(finished=finished)
        except Exception as problem:  # the notebook's, or its kernel's: the other runs continue
            state, error = "failed", _summary(problem)
            write_bytes(run.folder / ERROR_FILE, f"{_without_colours(str(problem))}\n".encode())
        if self._is_ended.is_set() and len(finished) < len(run.stages):
            state, error = "stopped", STOPPED
        run.write(
            state=state, error=error, seconds=round(record["seconds"] + time.monotonic() - self.since, 1), ended=now()
        )

    def prune(self, why: str) -> None:
        """Stops its training at the next step, for good."""
        if not self._pruned and (trained := self.run.trained()):
            self._pruned = why
            trained.stop()

    def end(self) -> None:
        """Ends it from another thread: its training at the next step, with a checkpoint, its kernels at once."""
        self._is_ended.set()
        with suppress(RunError, FileNotFoundError):  # nothing is being trained
            if trained := self.run.trained():
                trained.stop()
        self.signal(signal.SIGINT)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to its kernels that are alive."""
        for kernel in list(self._kernels):
            if (own := kernel.provisioner) and own.has_process:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(own.pid, number)  # pyright: ignore[reportAttributeAccessIssue]: it is a local one

    def _execute(self, stage: Stage, max_usd: float | None) -> None:
        import papermill

        while self._is_under_way() and not self._is_ended.wait(POLL_SECONDS):
            pass  # training that a killed sweep started continues by itself
        if self._is_ended.is_set():
            raise RunError(STOPPED)
        parameters = stage.parameters
        if max_usd is not None and "run_id" in parameters:
            own = (self.run.config and self.run.config.max_usd) or max_usd
            others = {**(parameters.get("other_settings") or {}), "max_usd": min(own, max_usd)}
            parameters = {**parameters, "other_settings": others}
        if stage.result:
            stage.result.unlink(missing_ok=True)
        _retry_port_race(papermill.execute_notebook)(
            str(stage.notebook),
            str(self.run.folder / f"{stage.name}.ipynb"),
            parameters=parameters,
            kernel_manager_class=self._kernel_class(),
            **PAPERMILL,
        )
        if stage.result and not read_json(stage.result):
            raise RunError(f"{stage.name} ended without writing its {stage.result}")

    def _kernel_class(self) -> type[AsyncKernelManager]:
        """Kernels that use the sweep's backend, share the processor, and can be interrupted from another thread."""
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

    def _is_under_way(self) -> bool:
        try:
            trained = self.run.trained()
            return bool(trained and trained.worker and trained.status_after(PATIENCE_SECONDS)["state"] in UNFINISHED)
        except (RunError, FileNotFoundError):
            return False

    def _why_stopped(self, stage: Stage) -> str:
        """Why training that ended in good order is not complete; empty where it is."""
        state = self.run.result().get("state", "complete") if "run_id" in stage.parameters else "complete"
        return "" if state == "complete" else self.run.status().get("reason") or f"it is {state}"


# papermill chooses a kernel's ports before it takes them, so another kernel may be quicker.
_retry_port_race = retry(
    retry=retry_if_exception(lambda error: "Kernel died before replying to kernel_info" in str(error)),
    stop=stop_after_attempt(3),
    wait=wait_random(0, 1),
    reraise=True,
)


def _summary(problem: Exception) -> str:
    """The error's type and its first line, as a notebook's reader would say it."""
    kind, said = getattr(problem, "ename", type(problem).__name__), getattr(problem, "evalue", str(problem))
    return f"{kind}: {_without_colours(said).strip().splitlines()[0] if said.strip() else 'no message'}"


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
