"""A control for every setting of a config, made from the setting itself: its type, range, default and help."""

import json
import re
from itertools import chain
from typing import Any, Literal, get_args, get_origin

import ipywidgets
import traitlets
from pydantic.fields import FieldInfo

from grpo_kit.config.base import Group, about
from grpo_kit.config.environment import engines
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.modal import ModalConfig
from grpo_kit.config.tables import as_typed, fields_of
from grpo_kit.config.train import TrainConfig

STYLE, LAYOUT = {"description_width": "15em"}, {"width": "auto"}
WIDTH = "35em"  # of the longest name and a control beside it
GROUPS = get_args(Group)
WEIGHT = 0.1  # of a reward that is added, beside the judge's 1


class Several(ipywidgets.HBox):
    """Boxes to tick, for a setting that takes several names; where it is `weighted`, with a number beside each.

    `value` is what is ticked as a shell types it: "length=0.1,format".
    """

    value = traitlets.Unicode()

    def __init__(self, names: list[str], value: str, weighted: bool, description: str):
        self.description, self._is_showing = description, False
        self.ticks = {name: ipywidgets.Checkbox(description=name, indent=False, layout=LAYOUT) for name in names}
        self.weights = {name: ipywidgets.FloatText(WEIGHT, description="weight", step=0.1) for name in names * weighted}
        for weight in self.weights.values():
            weight.style, weight.layout = {"description_width": "4em"}, {"width": "8em"}
        for part in (*self.ticks.values(), *self.weights.values()):
            part.observe(lambda _: self._read(), "value")
        beside = {"width": STYLE["description_width"], "justify_content": "flex-end"}
        lines = [[tick, self.weights[name]] if weighted else [tick] for name, tick in self.ticks.items()]
        rows = [ipywidgets.HBox(line, layout={"justify_content": "space-between"}) for line in lines]
        super().__init__([ipywidgets.Label(description, layout=beside), ipywidgets.VBox(rows, layout={"flex": "1"})])
        self.value = value

    def _read(self) -> None:
        """Takes over what was ticked and typed."""
        ticked = [name for name, tick in self.ticks.items() if tick.value]
        if not self._is_showing:
            self.value = ",".join(f"{name}={self.weights[name].value:g}" if self.weights else name for name in ticked)

    @traitlets.observe("value")
    def _show(self, _) -> None:
        self._is_showing = True
        found = dict(re.findall(r"(\w+)=?([^,]*)", self.value))
        for name, tick in self.ticks.items():
            tick.value = name in found
            if name in self.weights and name in found:
                self.weights[name].value = float(found[name] or 1)
        self._is_showing = False


Control = Any  # an ipywidgets.ValueWidget, or Several


def control_for(name: str, field: FieldInfo, value: Any) -> Control:
    """The control that shows `value` and lets it be changed."""
    if names := _several(field.annotation):
        return Several(names, _text(value), get_origin(field.annotation) is dict, name)
    shared = {"description": name, "style": STYLE, "layout": LAYOUT}
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


def show(control: Control, value: Any) -> None:
    """Has the control show `value`, in a slider also one that it did not hold."""
    if isinstance(control, ipywidgets.IntSlider):
        control.min, control.max = min(control.min, value), max(control.max, value)
    if isinstance(control, ipywidgets.SelectionSlider):
        control.options = _with([known for _, known in control.options], value)
    is_text = isinstance(control, ipywidgets.Combobox | Several)
    control.value = _text(value, control.description) if is_text else value


def without_effect(config: TrainConfig, on_modal: bool, has_gpu: bool) -> set[str]:
    """The settings that change nothing as the others stand, but for those that were asked for."""
    found = set() if on_modal else set(ModalConfig.model_fields)
    if not (on_modal or has_gpu):
        found.add("use_vllm")
    if config.environment != "user":
        found |= {"simulated_user", "simulated_user_model", "judge_replies"}
    if not engines(config):
        judge = [name for name, field in JudgeConfig.model_fields.items() if about(field)["group"] == "Judge"]
        found |= {*judge} - ({"judge_model"} if "reward_model" in config.rungs else set())
        found |= set() if on_modal else {"max_usd"}
    if not config.use_lora:
        found |= {"lora_r", "lora_alpha", "lora_dropout", "adapter", "load_in_4bit"}
    if not config.sft_steps:
        found |= {"sft_learning_rate", "sft_batch_size"}
    return found - config.given.keys()


def hide(controls: dict[str, Control], folded: ipywidgets.Accordion, hidden: set[str]) -> None:
    """Shows all controls but those that are `hidden`; the title of a fold says where it has no other."""
    for name, control in controls.items():
        control.layout.display = "none" if name in hidden else None
    groups = zip(GROUPS[1:], folded.children, strict=True)
    is_empty = {title: all(each.description in hidden for each in group.children) for title, group in groups}
    folded.titles = [f"{title} (nothing to set now)" if empty else title for title, empty in is_empty.items()]


def settings_in(fix: str) -> dict[str, str]:
    """What the first way of a fix that names settings gives them: "Use save_steps=4, or …" -> {"save_steps": "4"}."""
    for way in re.split(r",? or ", fix):
        found = {name: value.rstrip(".") for name, value in re.findall(r"\b(\w+)=([^\s,;()`]+)", way)}
        if found.keys() and found.keys() <= TrainConfig.model_fields.keys() and "NAME" not in way:
            return found
    return {}


def controls_in_groups(config: TrainConfig) -> tuple[dict[str, Control], ipywidgets.VBox]:
    """The controls by setting, and all of them laid out in their groups: the first open, the others folded."""
    fields = fields_of(TrainConfig)
    controls = {name: control_for(name, field, getattr(config, name)) for name, field in fields.items()}
    boxes = [
        ipywidgets.VBox([controls[name] for name, field in fields.items() if about(field)["group"] == title])
        for title in GROUPS
    ]
    folded = ipywidgets.Accordion(boxes[1:], titles=GROUPS[1:], selected_index=None)
    return controls, ipywidgets.VBox([boxes[0], folded], layout={"width": WIDTH, "flex": "0 0 auto"})


def _several(annotation: Any) -> list[str]:
    """The few names of which a setting takes several, with weights or without."""
    names = get_args(annotation)[0] if get_origin(annotation) in (dict, list) else None
    return list(get_args(names)) if get_origin(names) is Literal else []


def _choices(annotation: Any) -> list[Any]:
    """The values of a setting that has only a few."""
    if annotation is bool:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    parts = [_choices(part) for part in get_args(annotation)]
    return [] if not all(parts) else list(chain.from_iterable(parts))


def _with(known: list[float], value: float) -> list[tuple[str, float]]:
    """The options of a slider that holds `value` too."""
    return [(f"{each:g}", each) for each in sorted({*known, value})]


def _text(value: Any, name: str = "") -> str:
    """As a shell takes it; empty where there is nothing. A weight of 1 is not written."""
    if name in ("trl", "chat_template_kwargs"):
        return json.dumps(value) if value else ""
    if isinstance(value, dict):
        return ",".join(name if weight == 1 else f"{name}={weight:g}" for name, weight in value.items())
    typed = as_typed(value)
    return "" if typed == "none" else typed
