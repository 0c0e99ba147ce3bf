"""A run that is redrawn as it goes on, not more often than that costs; and its figure under a cell that watches it."""

import time
from collections.abc import Callable

import ipywidgets
from IPython.display import DisplayHandle

from grpo_kit.errors import RunError
from grpo_kit.plots.runs import learning_curve
from grpo_kit.plots.style import NotebookFigure
from grpo_kit.runs.directory import RunDirectory

REDRAW_SECONDS = 2.0  # at least so long between two pictures,
REDRAW_COSTS = 5  # and so many times as long as it takes to read and draw one


class Redraw:
    """Has `draw` draw a run when it has made a step. What `draw` returns is whether there was something to draw."""

    def __init__(self, draw: Callable[[RunDirectory], bool]):
        self._draw, self._drawn, self._not_before = draw, None, 0.0

    def update(self, run: RunDirectory, step: int, is_last: bool) -> None:
        """Draws a new step, not more often than its cost allows; in any case where `is_last`."""
        started = time.monotonic()
        if not step:
            self._drawn = None  # a run without a checkpoint that is resumed begins anew
        elif is_last or ((run, step) != self._drawn and started >= self._not_before):
            if self._draw(run):
                self._drawn = (run, step)
            self._not_before = time.monotonic() + max(REDRAW_SECONDS, REDRAW_COSTS * (time.monotonic() - started))


class CellFigure:
    """A picture under the running cell: a busy kernel hears no clicks, and a picture costs a browser least. In the end
    a plain figure, which a saved notebook keeps, takes its place."""

    def __init__(self):
        self.widget = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self.figure: NotebookFigure | None = None  # what was drawn last
        self._handle, self._redraw = DisplayHandle(), Redraw(self._draw)

    def _draw(self, run: RunDirectory) -> bool:
        was_empty, self.figure = self.figure is None, learning_curve(run)
        self.widget.value = self.figure._repr_png_()
        if was_empty:
            self._handle.display(self.widget)
        return True

    def update(self, run: RunDirectory, step: int, is_last: bool) -> None:
        try:
            self._redraw.update(run, step, is_last)
        except RunError:  # out of reach: what was drawn before stays
            pass
        except Exception as error:  # the run is watched without its figure
            print(f"The figure could not be drawn ({type(error).__name__}: {error})")
            self._redraw = Redraw(lambda run: False)

    def settle(self) -> None:
        """Puts the last figure in the widget's place."""
        if self.figure:
            self._handle.update(self.figure)
