"""The environment of this process: installed versions, notebook or not, its rank among those that train together."""

import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]  # the folder grpo_kit
PACKAGES = """
    torch transformers trl peft datasets accelerate vllm liger-kernel bitsandbytes
    google-genai google-generativeai openai anthropic modal
""".split()
WORD_SECONDS = 10  # how long the other processes wait for the first that failed to record the reason


def rank() -> int:
    """This process's number among those that train together; rank 0 writes the run."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    if "IPython" not in sys.modules:  # loaded by the kernel itself
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")


def version_of(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python's version, the kit's source, and the versions of the packages that are installed."""
    own = {"python": platform.python_version(), "grpo_kit": source_fingerprint()[:12]}
    return own | {name: number for name in PACKAGES if (number := version_of(name))}


def source_fingerprint() -> str:
    """SHA-256 of the kit's own files, the same wherever they lie."""
    contents = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        inside = path.relative_to(PACKAGE)
        is_hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not is_hidden and path.suffix != ".lock":  # an installed kit has its image's lock there
            contents.update(f"{inside.as_posix()}\n".encode() + path.read_bytes())
    return contents.hexdigest()
