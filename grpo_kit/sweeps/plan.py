"""What a sweep will do: its runs, each with a folder and the notebooks to execute, checked before anything is."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_kit.backends.run import Run
from grpo_kit.config.backend import checked_backend, chosen_backend
from grpo_kit.config.base import names_where
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DATA_FILES
from grpo_kit.data.samples import fingerprint
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.sweeps.grid import EVALUATION, Settings, expand, varied
from grpo_kit.sweeps.names import parameters_of, wrong_names
from grpo_kit.sweeps.notebooks import notebook_folder
from grpo_kit.sweeps.values import as_parameters, checked_values, defaults_of, other_conditions, wrong_kinds
from grpo_kit.utils.files import write_json

RECORD_FILE = "sweep_run.json"
RESULT_FILE = "result.json"
EVALUATION_FILE = "evaluation.json"
ERROR_FILE = "error.txt"
EVALUATE = "04_evaluate_checkpoints"
TRAIN_FILE, EVAL_FILE = DATA_FILES
LONGEST_NAME = 80  # a run's name may have 100 characters
# What a notebook has that trains, and the one that evaluates: the parameters by which they are told.
TRAINS = {"model_name", "run_id", "runs_dir", "other_settings"}
EVALUATES = {"run", "runs_dir", "second_judge"}
GIVEN = {"interactive", "result_file"}  # by the sweep, to every notebook that has them


@dataclass(frozen=True)
class Stage:
    """A notebook to execute with these parameters."""

    notebook: Path
    parameters: dict[str, Any]
    result: Path | None  # what it writes last; None where it writes none
    key: str  # of its code, settings and held-out data: a stage that was finished under another key is done again

    @property
    def name(self) -> str:
        return self.notebook.stem


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep. What became of it is read from its folder."""

    folder: Path
    settings: Settings  # as the grid gives them
    stages: tuple[Stage, ...]
    config: TrainConfig | None  # what is trained; None where the notebook trains nothing
    backend: str
    evaluation: EvalConfig | None
    made_of: str  # stands for what files held: data, a config_file's settings, the judge's prompt

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def record(self) -> dict[str, Any]:
        """What the sweep knows of it: state, error, finished stages, seconds, when it ended."""
        found = read_json(self.folder / RECORD_FILE)
        if found.get("state") == "complete" and not self.is_done(found):
            found["state"] = "waiting"  # as the grid or a notebook is now, it is not
        return {"state": "waiting", "error": None, "finished": {}, "seconds": 0.0, "ended": None, **found}

    def write(self, **changes: Any) -> None:
        known = {"settings": self.settings, "made_of": self.made_of}
        write_json(self.folder / RECORD_FILE, {**self.record, **known, **changes})

    def has_finished(self, stage: Stage, record: Mapping[str, Any]) -> bool:
        there = stage.result is None or bool(read_json(stage.result))
        return there and record.get("finished", {}).get(stage.name) == stage.key

    def is_done(self, record: Mapping[str, Any] | None = None) -> bool:
        record = self.record if record is None else record
        return all(self.has_finished(stage, record) for stage in self.stages)

    def trained(self) -> Run | None:
        """The run that it trains, or has trained; None before there is one."""
        if self.config is None:
            return None
        if self.backend == "modal":
            from grpo_kit.backends.modal.storage import VolumeStorage

            return Run.at(VolumeStorage(self.name), self.name)
        try:
            return Run(self.folder)
        except RunError:
            return None

    def status(self) -> dict[str, Any]:
        """The status of what it trains; empty before there is one, or where it can't be had now.

        Of a run that is complete, result.json says the same, and is here.
        """
        result = read_json(self.folder / RESULT_FILE)
        if self.config is None or result.get("state") == "complete":
            return result
        try:
            run = self.trained()
            return run.status if run else {}
        except (RunError, FileNotFoundError):
            return {}


def plan(notebook: str | Path, grid: Mapping[str, Any], out: Path, backend: str | None = None) -> list[PlannedRun]:
    """The runs of a grid. ConfigError, with all that is wrong in one message, before anything is written.

    `backend` is where a sweep was begun; None: what the grid says, or else the chosen one.
    """
    path = find_notebook(notebook)
    rows, known = expand(grid), parameters_of(path)
    trains, defaults = known.keys() >= TRAINS, defaults_of(known)
    evaluating = notebook_folder() / f"{EVALUATE}.ipynb"
    evaluation = grid.get(EVALUATION) or {}
    names = dict.fromkeys(name for row in rows for name in row)
    if not isinstance(evaluation, Mapping):
        raise ConfigError(f"{EVALUATION}: {evaluation!r} should be settings of 04, such as {EVALUATION}: {{n: 256}}")
    if trains:
        problems = wrong_names(path.stem, names, known, {"run_id", "runs_dir", *GIVEN}, TrainConfig.model_fields)
        problems += other_conditions(rows, evaluation)
        own = {"run", "runs_dir", "result_file"}
        problems += [
            f"{EVALUATION}: {text}" for text in wrong_names(EVALUATE, evaluation, parameters_of(evaluating), own)
        ]
    else:
        problems = wrong_names(path.stem, names, known, GIVEN)
        problems += [f"{EVALUATION}: {path.stem} trains nothing that could be evaluated"] if evaluation else []
        problems += wrong_kinds(rows, defaults)
    if "backend" in varied(rows):
        problems.append("backend should be one for all runs")
    if problems:
        raise ConfigError("\n".join(problems))
    rows_given = [as_parameters(row, known, defaults, trains) for row in rows]
    in_full = [defaults | given for given in rows_given]
    configs, evaluations = checked_values(in_full, trains, known.keys() >= EVALUATES, evaluation)
    backend = checked_backend(rows[0].get("backend") or backend or chosen_backend())
    # On Modal all runs lie on one volume.
    prefix = f"{out.resolve().name}-" if backend == "modal" and trains else ""
    code, evaluating_code, runs_dir = _code(path), _code(evaluating), str(out.resolve())
    made_of = [_made_of(config, backend) for config in configs]
    names, found = _names(rows, made_of, out, prefix), []
    for row, given, name, config, evaluated, files in zip(
        rows, rows_given, names, configs, evaluations, made_of, strict=True
    ):
        folder = out / name
        own = {"interactive": False, "result_file": str(folder.resolve() / RESULT_FILE)}
        own = {key: value for key, value in own.items() if key in known}
        if "out" in known and "out" not in row and not trains:
            own["out"] = str(folder.resolve() / Path(str(defaults.get("out") or "out")).name)  # else all runs share it
        if trains:
            own |= {"runs_dir": runs_dir, "run_id": name}
            config = config.replace(run_id=name)
        result = folder / RESULT_FILE if "result_file" in own else None
        stages = [Stage(path, given | own, result, _key(code, given))]
        if trains:
            result = folder / EVALUATION_FILE
            own = {"run": name, "runs_dir": runs_dir, "result_file": str(result.resolve())}
            given = {"merge_to": None, **evaluation}
            held_out = _fingerprint(Path(config.data) / EVAL_FILE, backend)
            stages.append(Stage(evaluating, given | own, result, _key(evaluating_code, given, held_out)))
        found.append(PlannedRun(folder, row, tuple(stages), config, backend, evaluated, files))
    return found


def find_notebook(notebook: str | Path) -> Path:
    """A notebook's path, or the name of one of the kit's. ConfigError where there is none."""
    path = Path(notebook)
    own = notebook_folder() / f"{path.stem}.ipynb"
    found = path if path.suffix == ".ipynb" and path.is_file() else own
    if not found.is_file() and len(near := sorted(notebook_folder().glob(f"{path.stem}*.ipynb"))) == 1:
        return near[0]  # "03"
    if not found.is_file() or (found is own and path.suffix not in ("", ".ipynb")):
        kits = ", ".join(sorted(each.stem for each in notebook_folder().glob("[0-9]*.ipynb")))
        raise ConfigError(f"there is no notebook {notebook}: give a path, or one of the kit's: {kits}")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content; empty where there is none, or a kill left half of one."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {"value": found}


def value_in_words(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _names(rows: list[Settings], made_of: list[str], out: Path, prefix: str) -> list[str]:
    """A folder's name for each: what differs, `learning_rate-5e-05_seed-1`; a hash where that is long, or taken by a
    run with other settings or of other files, which can't be gone on with and is left as it is."""
    differing = varied(rows)
    plain = [_safe(prefix + _name({name: row.get(name) for name in differing})) for row in rows]
    names = []
    for row, files, name in zip(rows, made_of, plain, strict=True):
        before = read_json(out / name / RECORD_FILE)
        is_others = before.get("made_of", files) != files
        is_taken = plain.count(name) > 1 or is_others or _as_json(before.get("settings", row)) != _as_json(row)
        mark = _key(row, files) if is_others else _key(row)
        names.append(f"{name[: LONGEST_NAME - 9]}-{mark}" if is_taken or len(name) > LONGEST_NAME else name)
    return names


def _name(settings: Settings) -> str:
    words = {name: value_in_words(value) for name, value in settings.items()}
    return "_".join(f"{name}-{Path(text).name if '/' in text else text}" for name, text in words.items()) or "run"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "run"


def _key(*content: Any) -> str:
    return hashlib.sha256(_as_json(content).encode()).hexdigest()[:8]


def _made_of(config: TrainConfig | None, backend: str) -> str:
    if config is None:
        return ""
    left_out = ("run_id", *names_where(TrainConfig, "resume"))
    decided = {name: value for name, value in config.given.items() if name not in left_out}
    prompt = _fingerprint(Path(config.gemini_prompt), "local") if config.gemini_prompt else None
    return _key(decided, prompt, _fingerprint(Path(config.data) / TRAIN_FILE, backend))


def _fingerprint(file: Path, backend: str) -> str | None:
    """None where there is none, or where that of the volume on Modal counts."""
    return _read_once(file, file.stat().st_mtime_ns) if backend == "local" and file.is_file() else None


@lru_cache(8)  # all runs of a sweep mostly share it
def _read_once(file: Path, modified: int) -> str:
    return fingerprint([file])


def _as_json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, default=str)


def _code(notebook: Path) -> str:
    cells = json.loads(notebook.read_bytes())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
