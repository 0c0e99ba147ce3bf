"""A run of a sweep: papermill executes its notebooks one after the other, and its folder tells how far it came."""

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from grpo_kit.backends.modal.storage import VolumeStorage
from grpo_kit.backends.run import Run
from grpo_kit.backends.watch import PATIENCE_SECONDS
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.gpus import modal_usd_per_hour
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import RunError
from grpo_kit.runs.directory import UNFINISHED, is_run, now
from grpo_kit.sweeps.grid import Settings
from grpo_kit.sweeps.notebooks import PAPERMILL
from grpo_kit.utils.files import write_json

RECORD_FILE, RESULT_FILE, EVALUATION_FILE = "sweep_run.json", "result.json", "evaluation.json"
NOT_RUN, PRUNED = "not run: budget", "pruned"  # states, beside waiting, running, complete, stopped and failed
STOPPED = "stopped before its end; the same command resumes it"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Stage:
    """A notebook to execute with these parameters."""

    notebook: Path
    parameters: dict[str, Any]
    result: Path | None  # the file that it writes last; None where it writes none
    key: str  # of its code, settings and held-out data: a stage that was finished under another key is done again

    @property
    def name(self) -> str:
        return self.notebook.stem


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its folder, and the notebooks that are executed in it."""

    folder: Path
    settings: Settings  # as the grid gives them
    stages: tuple[Stage, ...]
    config: TrainConfig | None  # what is trained; None where the notebook trains nothing
    backend: str
    evaluation: EvalConfig | None
    key: str  # of its settings and the files it is made of: data, a config_file's settings, the judge's prompt
    _ended: threading.Event = field(default_factory=threading.Event)
    _kernels: list[AsyncKernelManager] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def record(self) -> dict[str, Any]:
        """The sweep's notes about it: state, error, finished stages with their keys, seconds, when it ended. Stages
        that the grid or the notebook would do otherwise now are left out."""
        known = {"state": "waiting", "error": None, "finished": {}, "seconds": 0.0, "ended": None}
        known |= read_json(self.folder / RECORD_FILE)
        known["finished"] = {
            stage.name: stage.key
            for stage in self.stages
            if known["finished"].get(stage.name) == stage.key and (stage.result is None or read_json(stage.result))
        }
        if known["state"] == "complete" and len(known["finished"]) < len(self.stages):
            known["state"] = "waiting"
        return known

    @property
    def is_done(self) -> bool:
        return len(self.record["finished"]) == len(self.stages)

    def write(self, **changes: Any) -> None:
        """Changes the record in the run's folder, which is made if need be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {"settings": self.settings, "key": self.key}
        write_json(self.folder / RECORD_FILE, {**self.record, **known, **changes})

    def how_it_ended(self) -> str:
        """ "failed: KeyError: 'x'"; a state alone where there was no error."""
        return ": ".join(filter(None, [self.record["state"], self.record["error"]]))

    def result(self) -> dict[str, Any]:
        """The numbers that the notebook wrote last; empty before that."""
        return read_json(self.folder / RESULT_FILE)

    def evaluated(self) -> dict[str, Any]:
        """The evaluation that 04 wrote; empty before that."""
        return read_json(self.folder / EVALUATION_FILE) if self.config else {}

    def trained(self) -> Run | None:
        """The run that it trains, or has trained; None before there is one."""
        if self.config and self.backend == "modal":
            return Run.at(VolumeStorage(self.name))
        return Run(self.folder) if self.config and is_run(self.folder) else None

    def status(self) -> dict[str, Any]:
        """The status of the run that it trains; empty before there is one, or where it can't be read now. For a
        complete one, result.json says the same, and is here."""
        result = self.result()
        if self.config is None or result.get("state") == "complete":
            return result
        with suppress(RunError, FileNotFoundError):
            if trained := self.trained():
                return trained.status_after(PATIENCE_SECONDS) | {"reward": trained.recent_reward()[0]}
        return {}

    def usd(self, status: dict[str, Any] | None = None) -> float | None:
        """Dollars so far, training and evaluation; None where a price is not known. `status` saves reading it again."""
        status, evaluated = self.status() if status is None else status, self.evaluated()
        if self.config is None:
            return status.get("usd", status.get("judge_usd", 0.0))
        hourly = modal_usd_per_hour(self.config.gpu, self.config.memory) if self.backend == "modal" else 0.0
        parts = status.get("usd", 0.0), evaluated.get("judge_usd", 0.0), hourly
        return None if None in parts else sum(parts[:2]) + hourly * evaluated.get("seconds", 0.0) / 3600

    def queue(self) -> None:
        """Has it wait to be executed, also where it was before."""
        self._ended.clear()
        self._kernels.clear()
        if self.folder.exists():
            self.write(state="waiting", error=None)

    def execute(self, max_usd: float, env: dict[str, str]) -> None:
        """Executes the stages that are not finished, in kernels with the environment `env`, and records how it ended. A
        failure does not raise. `max_usd` is for its training; 0 limits nothing."""
        started, record = time.monotonic(), self.record
        state, error, finished = "complete", None, record["finished"]
        self.write(state="running", error=None)
        try:
            for stage in self.stages:
                if stage.name in finished:
                    continue
                self._execute(stage, max_usd, env)
                if stage is self.stages[0] and self.config and self.result().get("state") != "complete":
                    state, error = "stopped", self.status().get("reason")
                    break
                finished[stage.name] = stage.key
                self.write(finished=finished)
        except Exception as problem:  # the notebook's, or its kernel's: the other runs continue
            kind, said = getattr(problem, "ename", type(problem).__name__), getattr(problem, "evalue", str(problem))
            state, error = "failed", f"{kind}: {said.strip().partition(chr(10))[0]}"
        if state != "complete" and self._ended.is_set():
            state, error = "stopped", STOPPED
        seconds = round(record["seconds"] + time.monotonic() - started, 1)
        self.write(state=state, error=error, seconds=seconds, ended=now())

    def stop_training(self) -> None:
        """Ends its training at the next step, with a checkpoint."""
        with suppress(RunError, FileNotFoundError):  # nothing is being trained
            if trained := self.trained():
                trained.stop()

    def end(self, number: signal.Signals) -> None:
        """Ends it from another thread: its training at the next step, its kernels by a signal."""
        self._ended.set()
        self.stop_training()
        for kernel in list(self._kernels):
            if (own := kernel.provisioner) and own.has_process:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(own.pid, number)  # pyright: ignore[reportAttributeAccessIssue]: it is a local one

    def _execute(self, stage: Stage, max_usd: float, env: dict[str, str]) -> None:
        import papermill

        while self.config and self.status().get("state") in UNFINISHED and not self._ended.is_set():
            self._ended.wait(POLL_SECONDS)  # training that a killed sweep left under way continues by itself
        if self._ended.is_set():
            raise RunError(STOPPED)
        parameters = stage.parameters
        if max_usd and self.config and "other_settings" in parameters:
            most = {"max_usd": min(self.config.max_usd or max_usd, max_usd)}
            parameters = {**parameters, "other_settings": parameters["other_settings"] | most}
        if stage.result:
            stage.result.unlink(missing_ok=True)
        executed = self.folder / f"{stage.name}.ipynb"
        kernels = {"kernel_manager_class": self._kernel_class(env), **PAPERMILL}
        papermill.execute_notebook(str(stage.notebook), str(executed), parameters, **kernels)
        stopped = self.config and self.status().get("state") == "stopped"  # before its first step, it has no result
        if stage.result and not stopped and not read_json(stage.result):
            raise RunError(f"{stage.name} ended without writing its {stage.result}", f"Read {executed}")

    def _kernel_class(self, env: dict[str, str]) -> type[AsyncKernelManager]:
        """Kernels with the environment `env` that another thread can end."""
        kernels = self._kernels

        class Kernel(AsyncKernelManager):
            async def start_kernel(self, **options: Any) -> None:
                await super().start_kernel(**{**options, "env": env})
                kernels.append(self)

        return Kernel


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or a kill left half of it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {"value": found}
