"""The parts that all prompts share: data that others wrote, fenced off by a mark that no part of it can hold."""

import hashlib
import json
from collections.abc import Sequence


def digest(content: Sequence, size: int = 8) -> str:
    """A hash of `content`, which is made of texts, lists, dictionaries and numbers: two hexadecimal digits a byte."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=size).hexdigest()


def mark_of(texts: Sequence[str]) -> str:
    """A mark for the fences around `texts`. It is made from them, so none of them can hold it and close its own."""
    return digest(texts)[:8]


def fenced(mark: str, name: str, text: str) -> str:
    """The text between tags that carry its name and the mark."""
    return f"<{name} {mark}>\n{text}\n</{name} {mark}>"
