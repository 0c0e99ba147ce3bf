"""How the kit's figures look: colours, axes, and the Figure that a notebook shows. Fonts and lines: kit.mplstyle.

pyplot is not used, so figures work in any thread and without a display, and nothing is shown twice. The colours are
Okabe and Ito's, which colour-blind readers can tell apart.
"""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072B2 #E69F00 #009E73 #CC79A7 #56B4E9 #D55E00".split()
DARK, LIGHT = "#757575", "#BBBBBB"
TITLE: dict[str, Any] = {"x": 0.01, "ha": "left"}  # a figure's, above its left end
ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3}  # a legend beside the title
STYLE = matplotlib.rc_params_from_file(Path(__file__).with_name("kit.mplstyle"), use_default_template=False)
LOCK = threading.RLock()


@contextmanager
def styled() -> Iterator[None]:
    """The kit's style for the figure that a function draws. matplotlib's settings belong to the whole process, so
    threads draw one after the other."""
    with LOCK, matplotlib.rc_context(STYLE):
        yield


class NotebookFigure(Figure):
    """A Figure that a notebook shows without pyplot or magic commands. It makes room for its labels itself."""

    def __init__(self, width: float, height: float, layout: Any = "constrained"):
        """`width` and `height` in inches."""
        super().__init__(figsize=(width, height), layout=layout)

    def savefig(self, *where: Any, **how: Any) -> None:
        """Files are white; on a page the figure has no background, also by `%matplotlib inline`."""
        super().savefig(*where, **{"facecolor": "white"} | how)

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=110, facecolor="none")
        return png.getvalue()


def name_rows(axes: Axes, names: Sequence[str], at_least: int = 0) -> None:
    """Names the places 0, 1, … of the vertical axis, the first on top, with room for `at_least` so many."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), at_least) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def whole_ticks(axis: Axis, most: int = 9) -> None:
    """At most `most` + 1 ticks, at whole numbers only."""
    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10]))
