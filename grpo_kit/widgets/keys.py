"""The keyboard for a panel: ipywidgets itself hears no keys."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from grpo_kit.widgets.still import Still

KEYS = "grpo-kit-keys"  # the class of a panel whose keys are heard,
NOTE = "grpo-kit-note"  # of the text field in it that n goes to,
PRESSES = "grpo-kit-press-"  # and, with the key, of a button that does what the key does


class Keys(Still, anywidget.AnyWidget):
    """A page of HTML, and the keys that are pressed in the panel around it once that is clicked or reached by Tab.

    `pressed` is given a key that is one of `heard`, or whose one of `buttons` is clicked, where the page that it was
    pressed at is still the newest; of these "ctrl+enter" is heard in `texts` too, which are the panel's in their order.
    A key comes with what was typed in them and in `note`, as JupyterLab may send each widget's messages on another way.
    "n" goes to the text field `note`, where there is one. `help` is HTML that says what the keys do.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    heard = traitlets.List(traitlets.Unicode()).tag(sync=True)
    page = traitlets.Unicode().tag(sync=True)
    number = traitlets.Int(0).tag(sync=True)  # of the page
    help = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        panel: ipywidgets.Box,
        pressed: Callable[[str], object],
        help: str,
        buttons: Mapping[str, ipywidgets.Button],
        note: ipywidgets.Text | None = None,
        texts: Sequence[ipywidgets.Textarea] = (),
    ):
        super().__init__(layout={"width": "auto"}, help=help)
        panel.add_class(KEYS)
        if note:
            note.add_class(NOTE)
        for key, button in buttons.items():
            button.add_class(f"{PRESSES}{key}")
            button.on_click(lambda _, key=key: pressed(key))  # where no page of this widget's hears it first
        self._note, self._pressed, self._texts = note, pressed, texts
        self.on_msg(lambda _, said, __: self._hear(said))

    def _hear(self, said: dict[str, Any]) -> None:
        if said["number"] != self.number:
            return
        if self._note:
            self._note.value = said["note"]
        for place, text in said["typed"]:
            self._texts[place].value = text
        self._pressed(said["key"])

    def still(self) -> str:
        return self.page

    def show(self, page: str) -> None:
        """Shows the next page; the browser gets it and its number at once."""
        with self.hold_sync():
            self.page, self.number = page, self.number + 1
