"""The parts that all prompts share: data that others wrote, fenced off by a mark that no part of it can hold."""

from collections.abc import Sequence

from grpo_kit.judges.cache import digest


def mark_of(texts: Sequence[str]) -> str:
    """A mark for the fences around `texts`. It is made from them, so none of them can hold it and close its own."""
    return digest(texts)[:8]


def fenced(mark: str, name: str, text: str) -> str:
    """The text between tags that carry its name and the mark."""
    return f"<{name} {mark}>\n{text}\n</{name} {mark}>"
