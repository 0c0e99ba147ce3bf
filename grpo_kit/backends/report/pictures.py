"""The kit's figures for a page that is light or dark: vector pictures as data URLs, each in two colourings."""

import base64
import io
import re

from markupsafe import Markup

from grpo_kit.plots.style import LOCK, NotebookFigure

PAPER = "#15181d"  # the page's in the dark: see page.css
# Each colour of a figure that would be lost, or glare, on dark paper.
IN_THE_DARK = {
    "#000000": "#e6e9ed",
    "#757575": "#b3bac3",
    "#bbbbbb": "#67707b",
    "#e5e5e5": "#343a42",
    "#ffffff": PAPER,
    "#0072b2": "#4aa8e0",
}


def picture(figure: NotebookFigure, alt: str) -> dict[str, str]:
    """The figure as `light` and `dark` data URLs; `alt` says what it shows to those who can't see it."""
    file = io.StringIO()
    with LOCK:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    dark = re.sub(r"#[0-9a-f]{6}\b", lambda found: IN_THE_DARK.get(found[0], found[0]), svg)
    dark = dark.replace("<svg ", f'<svg fill="{IN_THE_DARK["#000000"]}" ', 1)  # black is not written out
    return {"light": _url(svg), "dark": _url(dark), "alt": alt}


def _url(svg: str) -> Markup:
    return Markup(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}")
