"""A grid: which settings a sweep tries. Lists are crossed; `zip` and `random` make rows of settings that go together.

learning_rate: [1e-5, 5e-5]
seed: [1, 2, 3]
max_steps: 40                  # one value holds for all runs
zip:                           # the first with the first, the second with the second
  num_generations: [4, 8]
  temperature: [0.8, 1.0]
random:                        # n draws, each crossed with all of the above
  n: 6
  seed: 0
  of:
    lora_r: [4, 8, 16]
    beta: {log_uniform: [1e-4, 1e-1]}   # or uniform, or int_uniform
evaluation: {n: 256}           # parameters of 04, which evaluates what 03 trained
"""

import itertools
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_kit.errors import ConfigError
from grpo_kit.utils.yaml_text import read_yaml

Settings = dict[str, Any]
Grid = str | Path | Mapping[str, Any]  # a YAML file's path, YAML that starts with a brace, or the mapping itself
EVALUATION = "evaluation"
EXAMPLE = "settings with lists, such as learning_rate: [1e-5, 5e-5]"


def expand(grid: Mapping[str, Any]) -> list[Settings]:
    """The settings of each run, in order; the last list changes quickest. Raises ConfigError for a malformed grid.

    >>> expand({"learning_rate": [1e-5, 5e-5], "max_steps": 40})
    [{'learning_rate': 1e-05, 'max_steps': 40}, {'learning_rate': 5e-05, 'max_steps': 40}]
    >>> expand({"zip": {"num_generations": [4, 8], "temperature": [0.8, 1.0]}})
    [{'num_generations': 4, 'temperature': 0.8}, {'num_generations': 8, 'temperature': 1.0}]

    Equal rows are one run. More draws begin with the same ones, so a sweep can be made longer.

    >>> of = {"lora_r": [4, 8], "beta": {"log_uniform": [1e-4, 1e-1]}, "warmup_steps": {"int_uniform": [0, 9]}}
    >>> three = expand({"random": {"n": 3, "seed": 0, "of": of}})
    >>> three[0]
    {'lora_r': 8, 'beta': 0.0188, 'warmup_steps': 6}
    >>> three == expand({"random": {"n": 5, "seed": 0, "of": of}})[:3]
    True
    >>> len(expand({"random": {"n": 3, "seed": 0, "of": of}, "seed": [1, 2]}))
    6
    """
    axes: list[list[Settings]] = []
    for name, values in grid.items():
        if name == "zip":
            axes += [_zipped(group) for group in (values if isinstance(values, list) else [values])]
        elif name == "random":
            axes.append(_drawn(values))
        elif name != EVALUATION:
            axes.append([{name: value} for value in (values if isinstance(values, list) else [values])])
    if not axes or not all(axes):
        raise ConfigError("the grid is empty, or has an empty list", f"Write {EXAMPLE}")
    names = [name for axis in axes for name in axis[0]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"the grid names {', '.join(twice)} more than once", "Give each setting one list")
    rows = [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*axes)]
    return list({as_text(row): row for row in rows}.values())


def read_grid(grid: Grid) -> dict[str, Any]:
    """A grid as a mapping. YAML is read as version 1.2, where `1e-5` is a number and `off` and `no` are words.

    >>> read_grid("{learning_rate: [1e-5, 5e-5], canaries: [off, warn], gemini_model: null, use_lora: true}")
    {'learning_rate': [1e-05, 5e-05], 'canaries': ['off', 'warn'], 'gemini_model': None, 'use_lora': True}
    """
    if isinstance(grid, Mapping):
        return dict(grid)
    is_yaml = str(grid).lstrip().startswith("{")
    where = "the grid" if is_yaml else str(grid)
    try:
        found = read_yaml(str(grid) if is_yaml else Path(grid).read_text())
    except OSError as error:
        raise ConfigError(f"the grid can't be read: {error}", "Name a file, or write YAML in braces") from None
    except ValueError as error:
        raise ConfigError(f"{where} is not YAML: {error}", f"Write {EXAMPLE}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{where} holds no settings", f"Write {EXAMPLE}")
    return found


def varied(rows: list[Settings]) -> list[str]:
    """Names of the settings that are not the same in all rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]


def as_text(content: Any) -> str:
    """The same text for equal settings, in whatever order they were given."""
    return json.dumps(content, sort_keys=True, default=str)


def _zipped(group: Any) -> list[Settings]:
    if not isinstance(group, Mapping) or not group or not all(isinstance(v, list) and v for v in group.values()):
        raise ConfigError("zip needs settings with lists", "Write for example zip: {a: [1, 2], b: [3, 4]}")
    if len({len(values) for values in group.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in group.items())
        raise ConfigError(f"the lists under zip differ in length: {lengths}", "Make them equally long")
    return [dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True)]


def _drawn(spec: Any) -> list[Settings]:
    match spec:
        case {"n": int(n), "of": dict(of), **rest} if n > 0 and of and rest.keys() <= {"seed"}:
            rng = random.Random(rest.get("seed", 0))
            return [{name: _draw(rng, name, values) for name, values in of.items()} for _ in range(n)]
    fix = "Write {n: how many, seed: a number, of: settings with lists or ranges}, n above 0"
    raise ConfigError("random can't be used as it is", fix)


def _draw(rng: random.Random, name: str, values: Any) -> Any:
    """A value of a list or a range; three significant digits, so that the value shown is the value used."""
    match values:
        case [_, *_]:
            return rng.choice(values)
        case {"int_uniform": [int(low), int(high)]} if low < high:
            return rng.randint(low, high)
        case {"uniform": [int() | float() as low, int() | float() as high]} if low < high:
            return float(f"{rng.uniform(low, high):.3g}")
        case {"log_uniform": [int() | float() as low, int() | float() as high]} if 0 < low < high:
            return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")
    ranges = "{uniform: [low, high]}, {int_uniform: [low, high]} or, with low above 0, {log_uniform: [low, high]}"
    raise ConfigError(f"random: {name} can't be drawn from {values}", f"Use a list, {ranges}")
