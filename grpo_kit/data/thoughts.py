"""What a model thinks before it answers, and the answer that follows, in one text: <think>…</think> and the rest.

Traces and completions are read alike. Judges and rewards see the answer alone.
"""

import re

OPEN, CLOSE = "<think>", "</think>"
_THOUGHT = re.compile(rf"{OPEN}.*?{CLOSE}\s*", re.DOTALL)


def answer_in(text: str) -> str | None:
    """The text without its thoughts; None where it is a thought without an end, so that there is no answer."""
    _, close, answer = _THOUGHT.sub("", text).rpartition(CLOSE)  # some templates open the thought themselves
    answer = answer.lstrip() if close else answer
    return None if answer.lstrip().startswith(OPEN) else answer


def has_thought(text: str) -> bool:
    return CLOSE in text or text.lstrip().startswith(OPEN)
