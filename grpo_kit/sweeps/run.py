"""A planned run of a sweep, and what its folder tells about it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_kit.backends.run import Run
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.prices import modal_usd_per_hour
from grpo_kit.errors import RunError
from grpo_kit.runs.directory import is_run
from grpo_kit.sweeps.grid import Settings
from grpo_kit.utils.files import write_json

RECORD_FILE = "sweep_run.json"
RESULT_FILE = "result.json"
EVALUATION_FILE = "evaluation.json"
ERROR_FILE = "error.txt"
NOT_RUN, PRUNED = "not run: budget", "pruned"  # states, beside waiting, running, complete, stopped and failed


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

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def record(self) -> dict[str, Any]:
        """The sweep's notes about it: state, error, finished stages with their keys, seconds, when it ended.

        Stages that the grid or the notebook would do otherwise now are left out.
        """
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

    def result(self) -> dict[str, Any]:
        """The numbers that the notebook wrote last; empty before that."""
        return read_json(self.folder / RESULT_FILE)

    def evaluated(self) -> dict[str, Any]:
        """The evaluation that 04 wrote; empty before that."""
        return read_json(self.folder / EVALUATION_FILE) if self.config else {}

    def trained(self) -> Run | None:
        """The run that it trains, or has trained; None before there is one."""
        if self.config is None:
            return None
        if self.backend == "modal":
            from grpo_kit.backends.modal.storage import VolumeStorage

            return Run.at(VolumeStorage(self.name), self.name)
        return Run(self.folder) if is_run(self.folder) else None

    def status(self) -> dict[str, Any]:
        """The status of the run that it trains; empty before there is one, or where it can't be read now.

        For a complete one, result.json says the same, and is here.
        """
        result = self.result()
        if self.config is None or result.get("state") == "complete":
            return result
        try:
            run = self.trained()
            return run.status if run else {}
        except (RunError, FileNotFoundError):
            return {}

    def usd(self, status: dict[str, Any] | None = None) -> float | None:
        """Dollars that it has cost so far, training and evaluation; None where a price is not known.

        `status` saves reading it again.
        """
        status, evaluated = self.status() if status is None else status, self.evaluated()
        if self.config is None:
            return status.get("usd", status.get("judge_usd", 0.0))
        hourly = modal_usd_per_hour(self.config, self.config.gpu) if self.backend == "modal" else 0.0
        parts = status.get("usd", 0.0), evaluated.get("judge_usd", 0.0)
        return None if None in parts else sum(parts) + hourly * evaluated.get("seconds", 0.0) / 3600


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or a kill left half of it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {"value": found}
