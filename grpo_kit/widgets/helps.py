"""What ipywidgets itself lacks in a panel: help for every control, and a word when the kernel is gone."""

from collections.abc import Mapping
from pathlib import Path

import anywidget
import ipywidgets
import traitlets


class Helps(anywidget.AnyWidget):
    """Shows nothing, gives each control of the panel around it its help as a tooltip that screen readers read too, and
    greys the panel out once its kernel ends. `helps` are texts by the controls' descriptions."""

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    helps = traitlets.Dict().tag(sync=True)

    def __init__(self, panel: ipywidgets.Box, helps: Mapping[str, str] | None = None):
        super().__init__(helps=dict(helps or {}), layout={"width": "auto", "margin": "0"})
        panel.add_class("grpo-kit-helped")
        self.add_class("grpo-kit-helps")
