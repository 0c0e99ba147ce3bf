"""The runs of a grid: their folders, notebooks and parameters."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from grpo_kit.config.backend import checked_backend, chosen_backend
from grpo_kit.config.base import names_where
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DATA_FILES
from grpo_kit.data.samples import fingerprint
from grpo_kit.sweeps.checks import checked_rows, parameters_of
from grpo_kit.sweeps.grid import Settings, as_text, varied
from grpo_kit.sweeps.notebooks import EVALUATING
from grpo_kit.sweeps.run import EVALUATION_FILE, RECORD_FILE, RESULT_FILE, PlannedRun, Stage, read_json

LONGEST_NAME = 80  # a run's name may have 100 characters


def plan(notebook: Path, grid: Mapping[str, Any], out: Path, backend: str | None = None) -> list[PlannedRun]:
    """The runs of a grid. Raises ConfigError, with all that is wrong in one message; writes nothing.

    `out` is absolute. `backend` is where the sweep was begun; None: the grid's, or else the chosen one.
    """
    rows, known = checked_rows(notebook, grid), parameters_of(notebook)
    backend = checked_backend(rows[0].settings.get("backend") or backend or chosen_backend())

    @cache  # most runs share their data
    def file_key(file: Path, where: str = backend) -> str | None:
        """None where there is no such file, or where the volume's data counts."""
        return fingerprint([file]) if where == "local" and file.is_file() else None

    keys = []
    for row in rows:
        parts: list[Any] = [row.settings]
        if config := row.config:
            left_out = ("run_id", *names_where(TrainConfig, "resume"))
            parts.append({name: value for name, value in config.given.items() if name not in left_out})
            parts.append(config.gemini_prompt and file_key(Path(config.gemini_prompt), "local"))
            parts.append(file_key(Path(config.data) / DATA_FILES[0]))
        keys.append(_key(*parts))
    prefix = f"{out.name}-" if backend == "modal" and rows[0].config else ""  # on Modal all runs lie on one volume
    code, evaluating = _code(notebook), _code(EVALUATING)
    runs = []
    for row, key, name in zip(rows, keys, _names([row.settings for row in rows], keys, out, prefix), strict=True):
        folder, config = out / name, row.config
        own = {"interactive": False, "result_file": str(folder / RESULT_FILE)}
        if config:
            config = config.replace(run_id=name)
            own |= {"runs_dir": str(out), "run_id": name}
        elif "out" not in row.settings:
            own["out"] = str(folder / Path(str(known.get("out") or "out")).name)  # else all runs share it
        own = {name: value for name, value in own.items() if name in known}
        result = folder / RESULT_FILE if "result_file" in own else None
        stages = [Stage(notebook, row.parameters | own, result, _key(code, row.parameters))]
        if config:
            result = folder / EVALUATION_FILE
            asked = {"merge_to": None, **(grid.get("evaluation") or {})}
            own = {"run": name, "runs_dir": str(out), "result_file": str(result)}
            held_out = file_key(Path(config.data) / DATA_FILES[1])
            stages.append(Stage(EVALUATING, asked | own, result, _key(evaluating, asked, held_out)))
        runs.append(PlannedRun(folder, row.settings, tuple(stages), config, backend, row.evaluation, key))
    return runs


def _names(rows: list[Settings], keys: list[str], out: Path, prefix: str) -> list[str]:
    """A folder's name for each run: the settings that differ, as `learning_rate-5e-05_seed-1`. The run's key is added
    where that is long, or is the folder of a run with another key, which can't be resumed and is left as it is."""
    differing, names = varied(rows), []
    for row in rows:
        values = [(name, row.get(name)) for name in differing]
        texts = [(name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in values]
        parts = [f"{name}-{Path(text).name if '/' in text else text}" for name, text in texts]
        names.append(re.sub(r"[^A-Za-z0-9._-]+", "-", prefix + ("_".join(parts) or "run")).strip("-._") or "run")
    found = []
    for name, key in zip(names, keys, strict=True):
        is_taken = names.count(name) > 1 or read_json(out / name / RECORD_FILE).get("key", key) != key
        found.append(f"{name[: LONGEST_NAME - 9]}-{key}" if is_taken or len(name) > LONGEST_NAME else name)
    return found


def _key(*content: Any) -> str:
    return hashlib.sha256(as_text(content).encode()).hexdigest()[:8]


def _code(notebook: Path) -> str:
    cells = json.loads(notebook.read_bytes())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
