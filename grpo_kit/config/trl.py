"""Fields of TRL's GRPOConfig that the kit has no setting for: `trl={"epsilon_high": 0.28}`.

trl_fields.json has the names and types of TRL's fields, so that a check takes no time and needs no TRL. A test compares
it with the TRL that is installed; `scripts/trl_fields.py` writes it anew.
"""

import json
from collections.abc import Callable, Collection
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from grpo_kit.utils.text import did_you_mean
from grpo_kit.utils.yaml_text import read_yaml

KINDS = {"bool": bool, "int": int, "float": (int, float), "str": str, "list": list, "dict": dict, "none": type(None)}
MANY = 8  # choices; of more, only the first are named
# What the kit gives to TRL itself, by what to use in its place; empty: there is nothing to choose.
OWNED = {
    "run_id": "output_dir run_name resume_from_checkpoint",
    "seed": "data_seed",
    "save_steps": "save_strategy save_only_model save_on_each_node enable_jit_checkpoint ignore_data_skip "
    "restore_callback_states_from_checkpoint load_best_model_at_end metric_for_best_model greater_is_better",
    "bf16": "fp16",
    "fsdp": "fsdp_config deepspeed parallelism_config accelerator_config",
    "per_device_train_batch_size and gradient_accumulation_steps": "generation_batch_size steps_per_generation "
    "auto_find_batch_size",
    "judge and reward_funcs, which have weights": "reward_weights",
    "max_prompt_length and max_completion_length": "vllm_max_model_length",
    "model_name": "model_init_kwargs trust_remote_code",
    "eval_steps or kit.evaluate": "do_eval do_predict eval_strategy eval_delay eval_on_start eval_do_concat_batches "
    "eval_use_gather_object eval_accumulation_steps per_device_eval_batch_size num_generations_eval "
    "prediction_loss_only include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval",
    "run.metrics() and run.completions()": "logging_strategy logging_first_step log_on_each_node "
    "logging_nan_inf_filter disable_tqdm log_multimodal log_unique_prompts log_completions_hub_repo",
    "num_completions_to_print and logging_steps": "log_completions",
    "kit.push": "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
    "": "use_cpu local_rank do_train debug remove_unused_columns label_names label_smoothing_factor "
    "train_sampling_strategy length_column_name dataloader_drop_last ddp_find_unused_parameters",
}
# What TRL looks at only in the step that needs it, if at all.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "from 0 to below 1": (lambda value: 0 <= value < 1, "adam_beta1 adam_beta2"),
    "from 0 to 1": (lambda value: 0 <= value <= 1, "min_p top_entropy_quantile ref_model_mixup_alpha"),
    "above 0, and 1 at most": (lambda value: 0 < value <= 1, "vllm_gpu_memory_utilization"),
    "0 or more": (lambda value: value >= 0, "adam_epsilon top_k epsilon_high dataloader_num_workers"),
    "above 0": (
        lambda value: value > 0,
        "repetition_penalty delta sapo_temperature_neg sapo_temperature_pos "
        "ref_model_sync_steps ddp_timeout ddp_bucket_cap_mb vllm_tensor_parallel_size vllm_server_port vllm_group_port",
    ),
}
_RANGE = {name: (inside, words) for words, (inside, names) in _RANGES.items() for name in names.split()}
_INSTEAD = {name: own for own, names in OWNED.items() for name in names.split()}


@cache
def trl_fields() -> dict[str, dict[str, Any]]:
    """By field: `type`, such as "float|none", and `choices` where it has only a few."""
    return json.loads(Path(__file__).with_name("trl_fields.json").read_bytes())["fields"]


def trl_from_text(value: Any) -> Any:
    """The fields as a shell types them: YAML or JSON in braces, or "epsilon_high=0.28,top_k=50". Raises ValueError."""
    if not isinstance(value, str):
        return value
    if value.strip() in ("", "none"):
        return {}
    is_yaml = value.lstrip().startswith("{")
    if not is_yaml and "=" not in value:
        raise ValueError("fields with values, such as epsilon_high=0.28")
    if not is_yaml and any(not each.partition("=")[2].strip() for each in value.split(",") if "=" in each):
        raise ValueError("fields with values, such as epsilon_high=0.28: one has none")
    return read_yaml(value if is_yaml else "{" + value.replace("=", ": ") + "}")


def checked_trl(value: dict[str, Any], settings: Collection[str]) -> dict[str, Any]:
    """Raises ValueError for a field that TRL has not, that is the kit's own (one of its `settings`), or of a type that
    TRL does not take."""
    problems = [problem for name, given in value.items() if (problem := _problem(name, given, settings))]
    if problems:
        raise ValueError(f"fields of TRL's GRPOConfig that the kit has no setting for: {'; '.join(problems)}")
    return value


def _problem(name: str, value: Any, settings: Collection[str]) -> str:
    own = _INSTEAD.get(name)
    if name in settings or own:
        return f"{name} is the kit's: use {name if name in settings else own}"
    if own == "":
        return f"{name} is set by the kit: leave it out"
    if (field := trl_fields().get(name)) is None:
        return f"there is no {name}.{did_you_mean(name, [*trl_fields(), *settings])}"
    kinds = field["type"].split("|")
    if not any(isinstance(value, KINDS[kind]) and (kind == "bool" or type(value) is not bool) for kind in kinds):
        return f"{name} should be {' or '.join(kinds)}, and is {value!r}"
    if isinstance(value, float) and not isfinite(value):
        return f"{name} should be finite, and is {value}"
    inside, words = _RANGE.get(name, (None, ""))
    if inside and value is not None and not inside(value):
        return f"{name} should be {words}, and is {value}"
    if value in (choices := field.get("choices", [value])):
        return ""
    return f"{name} should be {', '.join(choices[:MANY])}{', …' * (len(choices) > MANY)}, and is {value!r}"
