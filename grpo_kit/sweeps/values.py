"""The values of a sweep's settings: as parameters of its notebook, as configs, checked before anything runs."""

import ast
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError
from grpo_kit.sweeps.grid import EVALUATION, Settings, varied

Config = TypeVar("Config", TrainConfig, EvalConfig)
CONDITIONS = ("temperature", "judge")  # of an evaluation, which 04 takes from the run unless it is told


def defaults_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook's own values of its parameters, as far as they are plain ones."""
    found = {}
    for name, parameter in known.items():
        try:
            found[name] = ast.literal_eval(parameter["default"])
        except (ValueError, SyntaxError):  # an expression, which only running it tells
            continue
    return found


def as_parameters(row: Settings, known: Mapping[str, Any], defaults: Settings, trains: bool) -> dict[str, Any]:
    """A row of the grid as parameters. Settings of training that the notebook has no parameter for go into its
    other_settings; so do all of them beside a config_file, which else would go before them."""
    own = {name: value for name, value in row.items() if name in known}
    beside = {name: value for name, value in row.items() if name not in known}
    if trains and (row.get("config_file") or defaults.get("config_file")):
        beside |= {name: value for name, value in own.items() if name in TrainConfig.model_fields and value is not None}
    others = own.get("other_settings", defaults.get("other_settings")) or {}
    if not isinstance(others, Mapping):
        raise ConfigError(f"other_settings={others!r}: should be settings, such as {{lora_r: 8}}")
    return {**own, "other_settings": {**others, **beside}} if beside else own


def checked_values(
    rows: Sequence[Settings], trains: bool, evaluates: bool, evaluation: Settings
) -> tuple[list[TrainConfig | None], list[EvalConfig | None]]:
    """What runs with these parameters are trained and evaluated with. ConfigError with every value that cannot work."""
    problems: list[str] = []

    def tried(kind: type[Config], settings: Callable[[], Settings]) -> Config | None:
        try:
            return kind(**settings())
        except (ConfigError, ValueError) as error:
            where = f"{EVALUATION}: " if trains and kind is EvalConfig else ""
            problems.extend(where + line for line in str(error).splitlines())
            return None

    configs, evaluations = [], []
    for row in rows:
        asked = {
            name: value for name, value in (evaluation if trains else row).items() if name in EvalConfig.model_fields
        }
        configs.append(tried(TrainConfig, lambda: _training_settings(row)) if trains else None)  # noqa: B023
        evaluations.append(tried(EvalConfig, lambda: asked) if trains or evaluates else None)  # noqa: B023
    if problems:
        counts = Counter(problems)
        some = {text: f" ({count} of {len(rows)} runs)" if count < len(rows) else "" for text, count in counts.items()}
        raise ConfigError("\n".join(text + where for text, where in some.items()))
    return configs, evaluations


def wrong_kinds(rows: Sequence[Settings], defaults: Settings) -> list[str]:
    """Values of another kind than the notebook's own, a sentence each. What it leaves at None may be anything."""
    problems = {}
    for name, value in (pair for row in rows for pair in row.items()):
        own = defaults.get(name)
        if own is not None and value is not None and _kind(value) != _kind(own):
            problems[f"{name}={value!r}: should be {_kind(own)}, as the notebook's own {own!r}"] = None
    return list(problems)


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "settings"}
    return kinds.get(type(value), type(value).__name__)


def other_conditions(rows: list[Settings], evaluation: Settings) -> list[str]:
    """What would have each run judged in its own way, so that scores could not be compared, a sentence each."""
    problems = []
    for name in CONDITIONS:
        if name in varied(rows) and evaluation.get(name) is None:
            value = next(row[name] for row in rows if row.get(name) is not None)
            value = value if isinstance(value, float | int) else "offline"
            problems.append(
                f"{name} differs between runs, and each would be evaluated with its own, so that scores could not be "
                f"compared: add {EVALUATION}: {{{name}: {value}}}, or another that holds for all"
            )
    return problems


def _training_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of TrainConfig that 03 makes of its parameters."""
    asked = {
        name: value for name, value in parameters.items() if name in TrainConfig.model_fields and value is not None
    }
    return {**asked, **_from_file(parameters.get("config_file")), **(parameters.get("other_settings") or {})}


def _from_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"config_file={path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"config_file={path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"config_file={path} should be settings by name, as a sweep's best.json")
    return found
