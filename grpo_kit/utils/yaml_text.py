"""YAML as people type it: version 1.2, where `1e-5` is a number and `off` and `no` are words."""

from typing import Any


def read_yaml(text: str) -> Any:
    """What a text says. Raises ValueError where it is no YAML.

    >>> read_yaml("{learning_rate: [1e-5, 5e-5], canaries: off, gemini_model: null, use_lora: true}")
    {'learning_rate': [1e-05, 5e-05], 'canaries': 'off', 'gemini_model': None, 'use_lora': True}
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None  # which has lines of its own
