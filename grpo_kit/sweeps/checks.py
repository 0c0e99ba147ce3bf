"""Checks a grid before anything runs: its names against the notebook's parameters, its values by the kit's settings.

papermill itself only warns of a mistyped parameter.
"""

import ast
import json
import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError
from grpo_kit.sweeps.grid import EVALUATION, Settings, expand, varied
from grpo_kit.sweeps.notebooks import EVALUATING
from grpo_kit.utils.text import did_you_mean

TRAINS = {
    "model_name",
    "run_id",
    "runs_dir",
    "other_settings",
}  # the parameters by which a notebook that trains is told
GIVEN = {"interactive", "result_file"}  # by the sweep, to every notebook that has them
CONDITIONS = ("temperature", "judge")  # of an evaluation, which 04 takes from the run unless it is told
KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "settings"}


class CheckedRow(NamedTuple):
    """A row of a grid that can run."""

    settings: Settings  # as the grid gives them
    parameters: dict[str, Any]  # of the notebook
    config: TrainConfig | None  # what is trained; None where the notebook trains nothing
    evaluation: EvalConfig | None  # how what was trained is evaluated


def parameters_of(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook with their own values; None for an expression, whose value only running it tells.

    Raises ConfigError for a file that is no notebook or has no parameters.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        found = papermill.inspect_notebook(str(notebook))
    except Exception as error:  # a file that is no notebook fails in many ways
        raise ConfigError(f"{notebook} can't be read as a notebook: {error}") from None
    if not found:
        raise ConfigError(f"{notebook} has no parameters: tag a cell of assignments with `parameters`")
    return {name: _literal(parameter["default"]) for name, parameter in found.items()}


def checked_rows(notebook: Path, grid: Mapping[str, Any]) -> list[CheckedRow]:
    """The rows of a grid for a notebook. Raises ConfigError with all wrong names, or else all wrong values, at once."""
    rows, known, evaluation = expand(grid), parameters_of(notebook), grid.get(EVALUATION) or {}
    trains = known.keys() >= TRAINS
    if not isinstance(evaluation, Mapping):
        raise ConfigError(f"{EVALUATION}: {evaluation!r} should be settings of 04, such as {EVALUATION}: {{n: 256}}")
    names = dict.fromkeys(name for row in rows for name in row)
    if trains:
        own, of_04 = {"run_id", "runs_dir", *GIVEN}, parameters_of(EVALUATING)
        problems = list(_wrong_names(notebook.stem, names, [*known, *TrainConfig.model_fields], own))
        problems += _unequal_conditions(rows, evaluation)
        given = {"run", "runs_dir", "result_file"}
        problems += [f"{EVALUATION}: {text}" for text in _wrong_names(EVALUATING.stem, evaluation, of_04, given)]
    else:
        problems = [*_wrong_names(notebook.stem, names, known, GIVEN), *_wrong_kinds(rows, known)]
        problems += [f"{EVALUATION}: {notebook.stem} trains nothing that could be evaluated"] if evaluation else []
    if "backend" in varied(rows):
        problems.append("backend should be one for all runs")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    checked, evaluated = [], None
    if trains:
        try:
            fields = EvalConfig.model_fields
            evaluated = EvalConfig(**{name: value for name, value in evaluation.items() if name in fields})
        except ConfigError as error:
            problems = [f"{EVALUATION}: {text}" for text in str(error).splitlines()]
    wrong: Counter[str] = Counter()
    for row in rows:
        config, parameters = None, _as_parameters(row, known) if trains else row
        try:
            if trains:
                config = TrainConfig(**_training_settings(known | parameters))
            elif notebook.stem == EVALUATING.stem:
                EvalConfig(**{name: value for name, value in row.items() if name in EvalConfig.model_fields})
        except ConfigError as error:
            wrong.update(str(error).splitlines())
        checked.append(CheckedRow(row, parameters, config, evaluated))
    problems += [f"{text} ({n} of {len(rows)} runs)" if n < len(rows) else text for text, n in wrong.items()]
    if problems:
        raise ConfigError("\n".join(problems))
    return checked


def _literal(expression: str) -> Any:
    try:
        return ast.literal_eval(expression)
    except (ValueError, SyntaxError):
        return None


def _wrong_names(notebook: str, names: Iterable[str], known: Iterable[str], own: Container[str]) -> Iterator[str]:
    """A sentence for each wrong name; `own` are the parameters that the sweep gives itself."""
    for name in map(str, names):
        if name in own:
            yield f"{name} is given by the sweep itself: leave it out"
        elif name not in known:
            hint = did_you_mean(name, known) or f" It has: {', '.join(known)}."
            yield f"{name} is no parameter of {notebook}.{hint}"


def _wrong_kinds(rows: list[Settings], known: Settings) -> Iterator[str]:
    """A sentence for each value of another kind than the notebook's own; where that is None, any will do."""
    for name, value in (pair for row in rows for pair in row.items()):
        own = known.get(name)
        if own is not None and value is not None and KINDS.get(type(value)) != (kind := KINDS.get(type(own))):
            yield f"{name}={value!r}: should be {kind}, as the notebook's own {own!r}"


def _unequal_conditions(rows: list[Settings], evaluation: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each setting by which every run would be scored in its own way, so that scores do not compare."""
    for name in CONDITIONS:
        if name in varied(rows) and evaluation.get(name) is None:
            value = "offline" if name == "judge" else next(row[name] for row in rows if row.get(name) is not None)
            yield (
                f"{name} differs between runs, and each would be evaluated with its own, so that scores could not be "
                f"compared: add {EVALUATION}: {{{name}: {value}}}, or another that holds for all"
            )


def _as_parameters(row: Settings, known: Settings) -> dict[str, Any]:
    """A row for a notebook that trains. Settings without a parameter of their own go into other_settings; beside a
    config_file, which goes before the parameters, all do."""
    of_file = known | row
    beside = {
        name: value
        for name, value in row.items()
        if name not in known or (of_file.get("config_file") and name in TrainConfig.model_fields and value is not None)
    }
    others = of_file["other_settings"] or {}
    if not isinstance(others, Mapping):
        raise ConfigError(f"other_settings={others!r}: should be settings, such as {{lora_r: 8}}")
    own = {name: value for name, value in row.items() if name in known}
    return {**own, "other_settings": {**others, **beside}} if beside else own


def _training_settings(parameters: Settings) -> Settings:
    """The settings of TrainConfig that 03 makes of its parameters."""
    fields = TrainConfig.model_fields
    found = {name: value for name, value in parameters.items() if name in fields and value is not None}
    if path := parameters.get("config_file"):
        try:
            found |= json.loads(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(f"config_file={path}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"config_file={path} should be a JSON object of settings: {error}") from None
    return found | (parameters.get("other_settings") or {})
