"""The runs of a grid, checked before anything runs: their folders, notebooks and parameters.

papermill itself only warns of a mistyped parameter.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from grpo_kit.config.backend import checked_backend, chosen_backend
from grpo_kit.config.base import Settings as KitSettings, names_where
from grpo_kit.config.environment import RULES, EnvironmentConfig, check_user, spoken_in
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.config.usual_names import by_usual_name
from grpo_kit.data.demo import DATA_FILES
from grpo_kit.data.samples import fingerprint
from grpo_kit.errors import ConfigError
from grpo_kit.sweeps.grid import EVALUATION, Settings, as_text, expand, varied
from grpo_kit.sweeps.notebooks import EVALUATING, parameters_of
from grpo_kit.sweeps.run import EVALUATION_FILE, RECORD_FILE, RESULT_FILE, PlannedRun, Stage, read_json
from grpo_kit.utils.text import did_you_mean

TRAINS = {"model_name", "run_id", "runs_dir", "other_settings"}  # a notebook that has these parameters trains
GIVEN = {"interactive", "result_file"}  # parameters that the sweep gives itself: to every notebook that has them,
GIVEN_TO_TRAINING = {*GIVEN, "run_id", "runs_dir", "other_settings"}
GIVEN_TO_EVALUATION = {*GIVEN, "run", "runs_dir", "other_settings"}
SPOKEN = EnvironmentConfig.model_fields.keys() & EvalConfig.model_fields  # what an evaluation may have otherwise
LONGEST_NAME = 80  # a run's name may have 100 characters


def plan(notebook: Path, grid: Mapping[str, Any], out: Path, backend: str | None = None) -> list[PlannedRun]:
    """The runs of a grid. Raises ConfigError for all wrong names, or for the first run whose values cannot work; writes
    nothing. `out` is absolute. `backend` is where the sweep was begun; None: the grid's, or else the chosen one."""
    rows, known, asked_of_04 = expand(grid), parameters_of(notebook), grid.get(EVALUATION) or {}
    trains = known.keys() >= TRAINS
    _check_names(notebook, known, rows, asked_of_04)
    parameters = [_training_parameters(row, known) for row in rows] if trains else rows
    configs = [_training_config(known | each) if trains else None for each in parameters]
    evaluated = _evaluation_config(asked_of_04) if trains else None
    for config in filter(None, configs):
        as_evaluated(config, evaluated or EvalConfig())
    if notebook.stem == EVALUATING.stem:
        for row in rows:
            _evaluation_config(row)
    backend = checked_backend(rows[0].get("backend") or backend or chosen_backend())

    @cache  # most runs share their files
    def file_key(file: Path) -> str | None:
        return fingerprint([file]) if file.is_file() else None

    def data_key(config: TrainConfig, name: str) -> str | None:
        return file_key(Path(config.data) / name) if backend == "local" else None  # on Modal the volume's data counts

    keys = []
    for row, config in zip(rows, configs, strict=True):
        parts: list[Any] = [row]
        if config:
            left_out = ("run_id", *names_where(TrainConfig, "resume"))
            parts.append({name: value for name, value in config.given.items() if name not in left_out})
            parts.append(config.judge_prompt and file_key(Path(config.judge_prompt)))
            parts.append(data_key(config, DATA_FILES[0]))
        keys.append(_key(*parts))
    prefix = f"{out.name}-" if backend == "modal" and trains else ""  # on Modal all runs lie on one volume
    code, code_of_04, runs = _code(notebook), _code(EVALUATING), []
    for number, name in enumerate(_names(rows, keys, out, prefix)):
        row, asked, config, folder = rows[number], parameters[number], configs[number], out / name
        own = {"interactive": False, "result_file": str(folder / RESULT_FILE)}
        if config:
            config = config.replace(run_id=name)
            own |= {"runs_dir": str(out), "run_id": name}
        elif "out" not in row:
            own["out"] = str(folder / Path(str(known.get("out") or "out")).name)  # else all runs share it
        own = {name: value for name, value in own.items() if name in known}
        result = folder / RESULT_FILE if "result_file" in own else None
        stages = [Stage(notebook, asked | own, result, _key(code, keys[number]))]
        if config:
            result = folder / EVALUATION_FILE
            asked = _as_parameters({"merge_to": None, **asked_of_04}, parameters_of(EVALUATING))
            own = {"run": name, "runs_dir": str(out), "result_file": str(result)}
            key = _key(code_of_04, asked, data_key(config, DATA_FILES[1]))
            stages.append(Stage(EVALUATING, asked | own, result, key))
        runs.append(PlannedRun(folder, row, tuple(stages), config, backend, evaluated, keys[number]))
    return runs


def _check_names(notebook: Path, known: Settings, rows: list[Settings], evaluation: Any) -> None:
    """Raises ConfigError with all names that nothing takes, and all settings that may not differ between runs."""
    names, trains = dict.fromkeys(name for row in rows for name in row), known.keys() >= TRAINS
    if not isinstance(evaluation, Mapping):
        raise ConfigError(
            f"{EVALUATION}: {evaluation!r} is not settings of 04", f"Write for example {EVALUATION}: {{n: 256}}"
        )
    if trains:
        problems = [*_wrong_names(notebook, names, known, GIVEN_TO_TRAINING, TrainConfig)]
        of_04 = _wrong_names(EVALUATING, evaluation, parameters_of(EVALUATING), GIVEN_TO_EVALUATION, EvalConfig)
        problems += [f"{EVALUATION}: {text}" for text in of_04]
    else:
        problems = [*_wrong_names(notebook, names, known, GIVEN)]
        problems += [f"{EVALUATION}: {notebook.stem} trains nothing that could be evaluated"] if evaluation else []
    for name in ("temperature", "judge"):  # which 04 takes from the run unless it is told
        if trains and name in varied(rows) and evaluation.get(name) is None:
            value = "offline" if name == "judge" else next(row[name] for row in rows if row.get(name) is not None)
            problems.append(
                f"{name} differs between runs, and each would be evaluated with its own, so that scores could not be "
                f"compared: add {EVALUATION}: {{{name}: {value}}}, or another that holds for all"
            )
    if "backend" in varied(rows):
        problems.append("backend must be the same for all runs")
    if problems:
        raise ConfigError("\n".join(problems))


def _wrong_names(
    notebook: Path, names: Collection[str], known: Settings, given: set[str], config: type[KitSettings] | None = None
) -> Iterator[str]:
    """A sentence for each name that is no parameter, and no setting of the `config` that the notebook takes as well."""
    own = [name for name in dict.fromkeys([*known, *(config.names() if config else ())]) if name not in given]
    for name in map(str, names):
        if name in given:
            yield f"{name} is set by the sweep itself: leave it out"
        elif name not in own:
            few = ", ".join(each for each in own if each in known)
            few += f", and kit.{config.__name__}'s settings" if config else ""
            hint = by_usual_name(name, own) or did_you_mean(name, own)
            yield f"{name} is not a parameter of {notebook.stem}.{hint or f' It takes: {few}.'}"


def _training_parameters(row: Settings, known: Settings) -> Settings:
    """A row as parameters of a notebook that trains. The settings of a config_file take its place, where the row does
    not override them."""
    if path := row.get("config_file", known.get("config_file")):
        try:
            row = {**TrainConfig.found_in(path), **row, "config_file": None}
        except OSError as error:
            raise ConfigError(f"config_file={path} can't be read: {error}", "Name a file that holds settings") from None
    return _as_parameters(row, known)


def _as_parameters(row: Settings, known: Settings) -> Settings:
    """Settings as parameters of a notebook: those that are none of its `known` ones go into other_settings."""
    own = {name: value for name, value in row.items() if name in known}
    beside = {name: value for name, value in row.items() if name not in known}
    return {**own, "other_settings": {**(known["other_settings"] or {}), **beside}}


def _training_config(parameters: Settings) -> TrainConfig:
    """The config that 03 makes of its parameters."""
    own = {name: parameters[name] for name in TrainConfig.names() if parameters.get(name) is not None}
    return TrainConfig(**{**own, **parameters["other_settings"]})


def _evaluation_config(parameters: Settings) -> EvalConfig:
    """The config that 04 makes of its parameters."""
    return EvalConfig(**{name: parameters[name] for name in EvalConfig.names() if name in parameters})


def as_evaluated(config: TrainConfig, asked: EvalConfig) -> TrainConfig:
    """A run's settings with the environment in which 04 evaluates it, and who speaks there. Raises ConfigError for a
    simulated user that can't be asked."""
    own, told = {name: getattr(asked, name) for name in SPOKEN}, spoken_in(asked, config)
    check_user(used := config.model_copy(update=own | told))
    return used if used.environment == "user" else config.model_copy(update=told | {"simulated_user": RULES})


def _names(rows: list[Settings], keys: list[str], out: Path, prefix: str) -> list[str]:
    """A folder's name for each run: the settings that differ, as `learning_rate-5e-05_seed-1`. The run's key is added
    where that is long, or is the folder of a run with another key, which can't be resumed and is left as it is."""

    def part(name: str, value: Any) -> str:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{name}-{Path(text).name if '/' in text else text}"

    texts = ["_".join(part(name, row.get(name)) for name in varied(rows)) or "run" for row in rows]
    names = [re.sub(r"[^A-Za-z0-9._-]+", "-", prefix + text).strip("-._") or "run" for text in texts]
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
