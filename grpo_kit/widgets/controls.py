"""A control for every setting of a config, made from the setting itself: its type, range, default and help."""

from collections.abc import Callable
from itertools import chain
from typing import Annotated, Any, Literal, get_args, get_origin

import ipywidgets
from pydantic.fields import FieldInfo

from grpo_kit.config.gpus import GPUS
from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.tables import fields_of
from grpo_kit.config.train import JUDGES, TrainConfig

# What most runs change comes first and is open; the rest is folded. What is named nowhere goes to the last group.
GROUPS = {
    "Run": """model_name data run_id judge max_steps learning_rate num_generations temperature max_completion_length
        seed gpu""",
    "Batches and lengths": "per_device_train_batch_size gradient_accumulation_steps max_prompt_length",
    "GRPO": "beta epsilon num_iterations max_staleness loss_type scale_rewards mask_truncated_completions top_p",
    "LoRA": "use_lora lora_r lora_alpha lora_dropout",
    "Optimiser": "lr_scheduler_type warmup_steps max_grad_norm weight_decay",
    "Reward": "reward_funcs canaries max_failure_rate failure_window cache_from",
    "Gemini": """gemini_model gemini_mode gemini_samples gemini_temperature gemini_prompt gemini_timeout
        gemini_max_retries gemini_max_in_flight gemini_requests_per_minute gemini_input_price gemini_output_price
        gemini_sdk""",
    "Saving and the machine": "save_steps",
}
# Where most runs are, for settings that slide. A value outside widens it. Where a slider would round what it shows, it
# is a list, and a value of one's own is put into it.
SLIDERS: dict[str, tuple[int, int] | list[float]] = {
    "max_steps": (1, 500),
    "num_generations": (2, 32),
    "max_completion_length": (8, 1024),
    "temperature": [round(0.05 * i, 2) for i in range(2, 41)],
    "learning_rate": [float(f"{digit}e{power}") for power in range(-7, -2) for digit in (1, 1.5, 2, 3, 5, 7)],
}
SUGGESTED = {
    "model_name": [*RECIPES, "google/gemma-2-2b-it", "google/gemma-3-270m-it", "Qwen/Qwen2.5-0.5B-Instruct"],
    "judge": [*JUDGES, "gemini=0.7,offline=0.3"],
    "gpu": list(GPUS),
    "report_to": ["trackio", "wandb", "tensorboard"],
}
UNASKED = object()
STYLE, LAYOUT = {"description_width": "12em"}, {"width": "29em"}


def grouped_settings() -> dict[str, list[str]]:
    """Every setting of TrainConfig in one group."""
    groups = {title: names.split() for title, names in GROUPS.items()}
    placed = {name for names in groups.values() for name in names}
    groups[next(reversed(groups))] += [name for name in fields_of(TrainConfig) if name not in placed]
    return groups


def control_for(name: str, field: FieldInfo, value: Any) -> ipywidgets.ValueWidget:
    """The control that shows `value` and lets it be changed; its tooltip is the setting's help."""
    shared = {"description": name, "tooltip": field.description, "style": STYLE, "layout": LAYOUT}
    if isinstance(known := SLIDERS.get(name), list):
        return ipywidgets.SelectionSlider(options=_with(known, value), value=value, **shared)
    if known:
        return ipywidgets.IntSlider(value, min=min(known[0], value), max=max(known[1], value), **shared)
    if choices := _choices(field.annotation):
        return ipywidgets.Dropdown(options={_text(choice): choice for choice in choices}, value=value, **shared)
    # All else is text, which pydantic reads as it reads a shell's. It counts once Enter is pressed or it is left.
    options = SUGGESTED.get(name, [])
    return ipywidgets.Combobox(
        value=_text(value), options=options, placeholder="none", continuous_update=False, **shared
    )


def show(control: ipywidgets.ValueWidget, value: Any) -> None:
    """Has the control show `value`, in a slider also one that it did not hold."""
    if isinstance(control, ipywidgets.IntSlider):
        control.min, control.max = min(control.min, value), max(control.max, value)
    if isinstance(control, ipywidgets.SelectionSlider):
        control.options = _with([known for _, known in control.options], value)
    control.value = _text(value) if isinstance(control, ipywidgets.Combobox) else value


def setting_in(name: str, control: ipywidgets.ValueWidget) -> Any:
    """What the control says, as TrainConfig takes it. An empty text asks for nothing: UNASKED."""
    if not isinstance(control, ipywidgets.Combobox):
        return control.value
    text = control.value.strip()
    if text == "none" and type(None) in get_args(TrainConfig.model_fields[name].annotation):
        return None
    return text or UNASKED


def controls_in_groups(
    config: TrainConfig, changed: Callable[[str], None]
) -> tuple[dict[str, ipywidgets.ValueWidget], ipywidgets.Widget]:
    """The controls by setting, and all of them laid out. `changed` is called with a setting's name when it was."""
    fields = TrainConfig.model_fields
    controls = {name: control_for(name, fields[name], getattr(config, name)) for name in fields}
    for name, control in controls.items():
        control.observe(lambda _, name=name: changed(name), names="value")
    boxes = {title: ipywidgets.VBox([controls[name] for name in names]) for title, names in grouped_settings().items()}
    first, *folded = boxes
    accordion = ipywidgets.Accordion(
        [boxes[title] for title in folded], titles=folded, selected_index=None, layout={"width": "30em"}
    )
    return controls, ipywidgets.VBox([boxes[first], accordion])


def _choices(annotation: Any) -> list[Any]:
    """The values of a setting that has only a few."""
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    if annotation is bool:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is list:  # of which several may be chosen
        return []
    parts = [_choices(part) for part in get_args(annotation)]
    return list(chain.from_iterable(parts)) if parts and all(parts) else []


def _with(known: list[float], value: float) -> list[tuple[str, float]]:
    """The options of a slider that holds `value` too."""
    return [(f"{each:g}", each) for each in sorted({*known, value})]


def _text(value: Any) -> str:
    """As a shell takes it; empty where there is nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(name if weight == 1 else f"{name}={weight:g}" for name, weight in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
