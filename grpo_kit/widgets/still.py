"""What a saved notebook shows where a widget was: without a kernel there is none, as in nbconvert's and GitHub's pages.

A cell whose value is a widget gets two outputs: what the widget shows, as HTML, and the widget itself. Where the widget
lives, CSS hides the first; where it does not, the second, in whose place JupyterLab would write that it is not found.
"""

import base64
import html
from typing import Any

import ipywidgets
from IPython.display import HTML, DisplayHandle, display

from grpo_kit.plots.style import NotebookFigure

LIVE = "grpo-kit-live"  # the class of a widget that a page has
# Late in JupyterLab, so that the widget, which takes a moment, does not push it away.
LOOK = f"""<style>
.jp-OutputArea:has(.{LIVE}) .jp-OutputArea-child:has(.grpo-kit-still),
.jp-OutputArea:not(:has(.{LIVE})) .jp-OutputArea-child:has(.grpo-kit-still) + .jp-OutputArea-child {{ display: none; }}
.jp-NotebookPanel .grpo-kit-still {{ animation: grpo-kit-late 1s step-end; }}
@keyframes grpo-kit-late {{ from {{ max-height: 0; overflow: hidden; }} to {{ max-height: none; }} }}
</style>"""


class Still:
    """A widget that leaves what it shows in a saved notebook."""

    _handle: DisplayHandle | None = None

    def _ipython_display_(self) -> None:
        widget: Any = self
        widget.add_class(LIVE)
        self._handle = display(self._kept(), display_id=True)
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        display({"application/vnd.jupyter.widget-view+json": view}, raw=True)

    def keep(self) -> None:
        """Has the notebook keep what is shown now, where a page shows the widget."""
        if self._handle:
            self._handle.update(self._kept())

    def still(self) -> str:
        """What is shown, as HTML that needs no kernel."""
        return html_of(self)

    def _kept(self) -> HTML:
        return HTML(f'{LOOK}<div class="grpo-kit-still">{self.still()}</div>')


def html_of(widget: Any) -> str:
    """What a widget and those in it show, as HTML: texts, pages, pictures; not what works with a kernel only."""
    if widget.layout.display == "none":
        return ""
    if isinstance(widget, ipywidgets.Tab | ipywidgets.Accordion):
        return html_of(widget.children[widget.selected_index]) if widget.selected_index is not None else ""
    if isinstance(widget, ipywidgets.Box):
        return "".join(map(html_of, widget.children))
    if isinstance(widget, ipywidgets.HTML) and widget.value:
        return f"<div>{widget.value}</div>"
    if isinstance(widget, ipywidgets.Textarea) and widget.value:
        return f'<pre style="white-space: pre-wrap">{html.escape(widget.value)}</pre>'
    return widget.still() if isinstance(widget, Still) else ""


def picture_html(figure: NotebookFigure) -> str:
    png = base64.b64encode(figure._repr_png_()).decode()
    return f'<img alt="curves" style="max-width: 100%" src="data:image/png;base64,{png}">'
