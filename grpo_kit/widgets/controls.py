"""A control for every setting of a config, made from the setting itself: its type, range, default and help."""

import json
from itertools import chain
from typing import Any, Literal, get_args, get_origin

import ipywidgets
from pydantic.fields import FieldInfo

from grpo_kit.config.base import Group, about
from grpo_kit.config.tables import fields_of
from grpo_kit.config.train import TrainConfig

STYLE, LAYOUT = {"description_width": "12em"}, {"width": "29em"}


def control_for(name: str, field: FieldInfo, value: Any) -> ipywidgets.ValueWidget:
    """The control that shows `value` and lets it be changed; its tooltip is the setting's help."""
    shared = {"description": name, "tooltip": field.description, "style": STYLE, "layout": LAYOUT}
    known = about(field)["slider"]
    if isinstance(known, list):
        return ipywidgets.SelectionSlider(options=_with(known, value), value=value, **shared)
    if known:
        return ipywidgets.IntSlider(value, min=min(known[0], value), max=max(known[1], value), **shared)
    if choices := _choices(field.annotation):
        return ipywidgets.Dropdown(options={_text(choice): choice for choice in choices}, value=value, **shared)
    # All else is text, which pydantic reads as it reads a shell's. It counts once Enter is pressed or it is left.
    shared |= {"options": list(about(field)["suggested"]), "placeholder": "none", "continuous_update": False}
    return ipywidgets.Combobox(value=_text(value, name), **shared)


def show(control: ipywidgets.ValueWidget, value: Any) -> None:
    """Has the control show `value`, in a slider also one that it did not hold."""
    if isinstance(control, ipywidgets.IntSlider):
        control.min, control.max = min(control.min, value), max(control.max, value)
    if isinstance(control, ipywidgets.SelectionSlider):
        control.options = _with([known for _, known in control.options], value)
    control.value = _text(value, control.description) if isinstance(control, ipywidgets.Combobox) else value


def controls_in_groups(config: TrainConfig) -> tuple[dict[str, ipywidgets.ValueWidget], ipywidgets.Widget]:
    """The controls by setting, and all of them laid out in their groups: the first open, the others folded."""
    fields = fields_of(TrainConfig)
    controls = {name: control_for(name, field, getattr(config, name)) for name, field in fields.items()}
    titles = get_args(Group)
    boxes = [
        ipywidgets.VBox([controls[name] for name, field in fields.items() if about(field)["group"] == title])
        for title in titles
    ]
    folded = ipywidgets.Accordion(boxes[1:], titles=titles[1:], selected_index=None, layout={"width": "30em"})
    return controls, ipywidgets.VBox([boxes[0], folded])


def _choices(annotation: Any) -> list[Any]:
    """The values of a setting that has only a few."""
    if annotation is bool:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    parts = [_choices(part) for part in get_args(annotation)]
    takes_several = get_origin(annotation) is list
    return [] if takes_several or not all(parts) else list(chain.from_iterable(parts))


def _with(known: list[float], value: float) -> list[tuple[str, float]]:
    """The options of a slider that holds `value` too."""
    return [(f"{each:g}", each) for each in sorted({*known, value})]


def _text(value: Any, name: str = "") -> str:
    """As a shell takes it; empty where there is nothing."""
    if value is None:
        return ""
    if name in ("trl", "chat_template_kwargs"):
        return json.dumps(value) if value else ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(name if weight == 1 else f"{name}={weight:g}" for name, weight in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
