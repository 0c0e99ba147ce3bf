"""Numbers and names as people read them."""

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

say_once = cache(print)  # the same text once in a process


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean learning_rate?" for the nearest known name; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


# Colours and moves of the cursor, whole, and other control characters; then the marks that turn the order of letters.
_NOT_PRINTED = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Somebody else's text without what a terminal would act on, but for line breaks and tabs."""
    return _NOT_PRINTED.sub("", text)


def printable_in(value: Any) -> Any:
    """The same for each text in lists and dicts of JSON."""
    if isinstance(value, dict):
        return {name: printable_in(each) for name, each in value.items()}
    if isinstance(value, list):
        return [printable_in(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def on_a_line(text: str, longest: int = 100) -> str:
    """The text's beginning, of at most so many printable characters, as one line."""
    line = " ".join(printable(text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def duration(seconds: float) -> str:
    """ "10 days", "2.5 h", "30 min", "3.0 min" or "90 s"."""
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:.1f}".removesuffix(".0") + " days"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{int(seconds < 9.95 * size)}f} {unit}"
    return f"{seconds:.0f} s"


def dollars(value: float) -> str:
    """ "$1.25", and two digits of a small sum: "$0.0031"."""
    return f"${value:.2f}" if value >= 0.1 or not value else f"${value:.2g}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """ "per_device_train_batch_size=2 use_lora=true", as papermill and the kit's messages write settings."""
    shown = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
    return " ".join(f"{name}={value}" for name, value in shown.items())
