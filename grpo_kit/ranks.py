"""Which of the processes that train together this is; their launcher tells it by the environment, as torch's does."""

import os

WORD_SECONDS = 10  # for the first of them to write down why all end


def rank() -> int:
    """Counted from 0, which is the one that writes."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", 1))
