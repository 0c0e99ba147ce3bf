"""What the widgets share: errors shown as text, where Jupyter would lose them, and the look of what they show."""

import functools
import html
import traceback
from collections.abc import Callable
from pathlib import Path

import ipywidgets

from grpo_kit.data.samples import BadTrace
from grpo_kit.errors import ConfigError, RunError

# JupyterLab's own colours, light or dark as its theme is; elsewhere a grey that both can bear.
BORDER = "var(--jp-border-color2, #9e9e9e)"
FAINT = "var(--jp-ui-font-color2, #808080)"
SHADE = "var(--jp-layout-color2, rgba(128, 128, 128, 0.12))"
ERROR = "var(--jp-error-color1, #d32f2f)"
WARN = "var(--jp-warn-color1, #f57c00)"


def message_line() -> ipywidgets.HTML:
    """A line for `shows_errors` to write to; it takes no room while it is empty."""
    return ipywidgets.HTML(layout={"margin": "0"})


def shows_errors(method: Callable) -> Callable:
    """For a method of a widget that has `.message`, an ipywidgets.HTML: an exception in it is written there.

    The kit's own errors (ConfigError, RunError) say what to do and are shown as they are, others with their type and
    place. The message goes when the same method next succeeds; other methods leave it be.
    """

    @functools.wraps(method)
    def guarded(self, *args, **kwargs):
        this = f"{type(self).__name__}.{method.__name__}"  # several widgets may share a message
        try:
            result = method(self, *args, **kwargs)
        except Exception as error:
            self.message.value = error_html(error)
            self.message.error_of = this
            return None
        if getattr(self.message, "error_of", None) == this:
            self.message.value, self.message.error_of = "", None
        return result

    return guarded


def error_html(error: Exception) -> str:
    said = str(error)
    if not isinstance(error, ConfigError | RunError | BadTrace):
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {said} ({Path(last.filename).name}, line {last.lineno})"
    return text_html(said, f"color: {ERROR}")


def text_html(text: str, style: str = "") -> str:
    """Somebody else's text, shown as it is: nothing in it is markup, its line breaks are kept."""
    look = f"white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.4; {style}"
    return f'<div style="{look}">{html.escape(text)}</div>'
