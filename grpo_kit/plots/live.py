"""A run's figure that is redrawn as the run goes on: under a cell that watches the run, and in the monitor."""

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


class LiveFigure:
    """Draws a run into `widget`: a picture costs a browser least, and outlives a reload of the page.

    `figure` is what was drawn last, None before there is a step to draw.
    """

    def __init__(self, draw: Callable[[RunDirectory], NotebookFigure | None] = learning_curve):
        """`draw` returns None where what is shown should stay."""
        # Hidden until there is a picture: an Image without one shows as broken.
        self.widget = ipywidgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        self.figure: NotebookFigure | None = None
        self._draw, self._drawn, self._not_before = draw, None, 0.0

    def update(self, run: RunDirectory, step: int, is_last: bool) -> None:
        """Redraws a new step, not more often than a picture's cost allows; in any case where `is_last`."""
        started = time.monotonic()
        if not step:
            self._drawn = None  # a run without a checkpoint that is resumed begins anew
        elif is_last or ((run, step) != self._drawn and started >= self._not_before):
            if figure := self._draw(run):
                self.figure, self.widget.value, self._drawn = figure, figure._repr_png_(), (run, step)
                self.widget.layout.display = None
            self._not_before = time.monotonic() + max(REDRAW_SECONDS, REDRAW_COSTS * (time.monotonic() - started))


class CellFigure(LiveFigure):
    """A live figure under the running cell. In the end a plain one, which a saved notebook keeps, takes its place."""

    def __init__(self):
        super().__init__()
        self._handle = DisplayHandle()

    def update(self, run: RunDirectory, step: int, is_last: bool) -> None:
        was_empty = self.figure is None
        try:
            super().update(run, step, is_last)
        except RunError:  # out of reach: what was drawn before stays
            pass
        except Exception as error:  # the run is watched without its figure
            print(f"The figure could not be drawn ({type(error).__name__}: {error})")
            self._draw = lambda run: None
        if was_empty and self.figure:
            self._handle.display(self.widget)

    def settle(self) -> None:
        """Puts the last figure in the widget's place."""
        if self.figure:
            self._handle.update(self.figure)
