"""Writes grpo_kit/config/trl_fields.json: the fields of the installed TRL's GRPOConfig.

.venv/bin/python scripts/trl_fields.py
"""

import json
import types
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from transformers.training_args import trainer_log_levels
from trl import GRPOConfig

from grpo_kit.config import trl
from grpo_kit.utils.environment import version_of

# By the source of TRL and transformers, which look at these only when the model is loaded.
CHOICES = {
    "log_level": [*trainer_log_levels],
    "log_level_replica": [*trainer_log_levels],
    "importance_sampling_level": ["token", "sequence"],
    "multi_objective_aggregation": ["sum_then_normalize", "normalize_then_sum"],
    "vllm_importance_sampling_mode": ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
    "vllm_mode": ["colocate", "server"],
    "vllm_model_impl": ["vllm", "transformers"],
}


def kinds(annotation: Any) -> set[str]:
    """The names of trl.KINDS that an annotation allows."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return set().union(*map(kinds, get_args(annotation)))
    if origin is Literal:
        return set().union(*(kinds(type(value)) for value in get_args(annotation)))
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"str"}
    return {{type(None): "none"}.get(kind, kind.__name__)} & trl.KINDS.keys()


def described() -> dict[str, dict[str, Any]]:
    """What the file holds of each field."""
    found = {}
    for field in fields(GRPOConfig):
        about: dict[str, Any] = {"type": "|".join(kind for kind in trl.KINDS if kind in kinds(field.type))}
        enums = [kind for kind in get_args(field.type) if isinstance(kind, type) and issubclass(kind, Enum)]
        if choices := CHOICES.get(field.name) or [each.value for kind in enums for each in kind]:
            about["choices"] = choices
        found[field.name] = about
    return found


if __name__ == "__main__":
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(about)}" for name, about in described().items())
    text = f'{{\n  "trl": "{version_of("trl")}",\n  "fields": {{\n{rows}\n  }}\n}}\n'
    Path(trl.__file__).with_name("trl_fields.json").write_text(text)
