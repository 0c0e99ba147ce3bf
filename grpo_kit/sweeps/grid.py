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
    beta: {log_uniform: [1e-4, 1e-1]}
evaluation: {n: 256}           # parameters of 04, which evaluates what 03 trained
"""

import itertools
import json
import math
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from grpo_kit.errors import ConfigError

Settings = dict[str, Any]
EVALUATION = "evaluation"
DRAWS: dict[str, Callable[[random.Random, float, float], float]] = {
    "uniform": lambda rng, low, high: _three_digits(rng.uniform(low, high)),
    "log_uniform": lambda rng, low, high: _three_digits(math.exp(rng.uniform(math.log(low), math.log(high)))),
    "int_uniform": lambda rng, low, high: rng.randint(low, high),
}


def expand(grid: Mapping[str, Any]) -> list[Settings]:
    """The settings of each run, in order; the last list changes quickest. ConfigError where the grid is none.

    >>> for settings in expand({"learning_rate": [1e-5, 5e-5], "seed": [1, 2], "max_steps": 40}):
    ...     print(settings)
    {'learning_rate': 1e-05, 'seed': 1, 'max_steps': 40}
    {'learning_rate': 1e-05, 'seed': 2, 'max_steps': 40}
    {'learning_rate': 5e-05, 'seed': 1, 'max_steps': 40}
    {'learning_rate': 5e-05, 'seed': 2, 'max_steps': 40}
    >>> expand({"zip": {"num_generations": [4, 8], "temperature": [0.8, 1.0]}})
    [{'num_generations': 4, 'temperature': 0.8}, {'num_generations': 8, 'temperature': 1.0}]

    More draws begin with those that fewer made, so a sweep can be made longer; none is made twice.

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
            groups = values if isinstance(values, list) else [values]
            axes += [_zipped(group) for group in groups]
        elif name == "random":
            axes.append(_drawn(values))
        elif name != EVALUATION:
            axes.append([{name: value} for value in _choices(name, values)])
    names = [name for axis in axes for name in axis[0]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"the grid names {', '.join(twice)} more than once: a setting has one list")
    if not names:
        raise ConfigError("the grid is empty: it should be settings with lists, such as learning_rate: [1e-5, 5e-5]")
    rows = [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*axes)]
    return list({_as_text(row): row for row in reversed(rows)}.values())[::-1]


def read_grid(grid: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A grid as it was given: a mapping, a YAML file's path, or the YAML itself, which starts with a brace.

    Numbers are read as people mean them (`1e-5`), `off` and `no` are words, and no name may stand twice.

    >>> read_grid("{learning_rate: [1e-5, 5e-5], canaries: [off, warn], gemini_model: null, use_lora: true}")
    {'learning_rate': [1e-05, 5e-05], 'canaries': ['off', 'warn'], 'gemini_model': None, 'use_lora': True}
    """
    if isinstance(grid, Mapping):
        return dict(grid)
    text, where = str(grid), "the grid"
    if not text.lstrip().startswith("{"):
        where = text
        try:
            text = Path(grid).read_text()
        except OSError as error:
            raise ConfigError(f"the grid {grid} can't be read: {error.strerror}") from None
    try:
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is no YAML: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{where} should be settings with lists, such as learning_rate: [1e-5, 5e-5]")
    return found


def varied(rows: list[Settings]) -> list[str]:
    """Names of the settings that are not the same in all rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]


def _choices(name: str, values: Any) -> list[Any]:
    if isinstance(values, Mapping) and values.keys() & DRAWS.keys():
        raise ConfigError(f"{name}: a range is drawn from, so it belongs under random: {{n: …, of: …}}")
    if values == []:
        raise ConfigError(f"{name} has an empty list, so there would be no run")
    return values if isinstance(values, list) else [values]


def _zipped(group: Any) -> list[Settings]:
    if not isinstance(group, Mapping) or not group or not all(isinstance(v, list) and v for v in group.values()):
        raise ConfigError("zip should be settings with lists that go together, such as zip: {a: [1, 2], b: [3, 4]}")
    if len({len(values) for values in group.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in group.items())
        raise ConfigError(f"the lists under zip should be of one length, and are: {lengths}")
    return [dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True)]


def _drawn(spec: Any) -> list[Settings]:
    shape = "random should be {n: how many, seed: a number, of: settings with lists or ranges}"
    if not isinstance(spec, Mapping) or not spec.keys() <= {"n", "seed", "of"} or not isinstance(spec.get("of"), dict):
        raise ConfigError(shape)
    n, seed, of = spec.get("n"), spec.get("seed", 0), spec["of"]
    if type(n) is not int or type(seed) is not int or n < 1 or not of:
        raise ConfigError(f"{shape}, n a whole number above 0")
    for name, values in of.items():
        _check_drawable(name, values)
    rng, rows = random.Random(seed), {}
    for _ in range(1000 * n):
        row = {name: _draw(rng, values) for name, values in of.items()}
        rows.setdefault(_as_text(row), row)
        if len(rows) == n:
            return list(rows.values())
    raise ConfigError(f"random: n={n}, and there are only {len(rows)} different settings to draw")


def _check_drawable(name: str, values: Any) -> None:
    if isinstance(values, list) and values:
        return
    kinds = ", ".join(f"{{{kind}: [low, high]}}" for kind in DRAWS)
    if not isinstance(values, Mapping) or len(values) != 1 or not values.keys() <= DRAWS.keys():
        raise ConfigError(f"random: {name} should be a list, or one of {kinds}")
    (kind, ends), number = next(iter(values.items())), int | float
    is_range = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, number) for end in ends)
    lowest = 0 if kind == "log_uniform" else -math.inf
    whole = kind != "int_uniform" or (is_range and all(type(end) is int for end in ends))
    if not is_range or not whole or not lowest < ends[0] < ends[1]:
        needs = {"log_uniform": "numbers above 0", "int_uniform": "whole numbers"}.get(kind, "numbers")
        raise ConfigError(f"random: {name}: {kind} should have two {needs}, the lower first, and has {ends}")


def _draw(rng: random.Random, values: Any) -> Any:
    if isinstance(values, list):
        return rng.choice(values)
    kind, (low, high) = next(iter(values.items()))
    return DRAWS[kind](rng, low, high)


def _as_text(row: Settings) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def _three_digits(value: float) -> float:
    """So that what is shown is what was used."""
    return float(f"{value:.3g}")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values. PyYAML's own are of YAML 1.1, where 1e-5 is text and `off` is false."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"the grid has {', '.join(twice)} twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("bool", r"true|True|false|False", "tTfF"),
    ("null", r"null|Null|none|None|~|", [*"nN~", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
