"""How the kit's figures look: colours, fonts and the Figure that a notebook shows.

No pyplot, so figures work in any thread and without a display, and nothing is shown twice. Colours are Okabe and Ito's,
which colour-blind readers tell apart.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072B2 #E69F00 #009E73 #CC79A7 #56B4E9 #D55E00".split()
DARK, LIGHT = "#555555", "#BBBBBB"
ABOVE = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3}  # a legend beside the title
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.borderaxespad": 0.2,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 1.5,
}


_LOCK = threading.RLock()


@contextmanager
def styled() -> Iterator[None]:
    """The kit's style for what is drawn meanwhile. matplotlib's settings are the whole process's, so of two threads
    that draw, one waits for the other."""
    with _LOCK, matplotlib.rc_context(STYLE):
        yield


class NotebookFigure(Figure):
    """A Figure that a notebook shows as it is, with no pyplot and no magic."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


def short_numbers(axis: Axis) -> None:
    """Labels that need little room, whatever the values: 0.25, 1500, -5e-5."""
    axis.set_major_formatter(lambda value, _: _short(value))
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _short(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{4 if abs(value) < 1e3 else 5}g}".replace("-", "\N{MINUS SIGN}")
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}".replace("-", "\N{MINUS SIGN}")


def whole_numbers(axis: Axis, most: int = 9) -> None:
    """Ticks at whole numbers alone, at most so many and one."""
    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10]))
