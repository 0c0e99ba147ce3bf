"""The versions that decide how a run goes, as they are installed."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_kit.config import TrainConfig

PACKAGE = Path(__file__).parent
PACKAGES = """
    torch transformers trl peft datasets accelerate vllm liger-kernel bitsandbytes
    google-genai google-generativeai modal
""".split()


def version_of(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing_package(config: "TrainConfig") -> str | None:
    """What a setting needs and is not installed where this is asked, with what to do; None where all is there."""
    if config.use_vllm is True and version_of("vllm") is None:
        return "use_vllm=True, and vLLM is not installed here. Leave use_vllm to auto"
    if config.load_in_4bit and version_of("bitsandbytes") is None:
        return "load_in_4bit=True, and bitsandbytes is not installed here. `pip install bitsandbytes`, or leave it out"
    for name in config.report_to:
        if version_of(name) is None and (name != "tensorboard" or version_of("tensorboardX") is None):
            return f"report_to={name}, and {name} is not installed here. `pip install {name}`, or leave it out"
    return None


def versions() -> dict[str, str]:
    """Python's version, the kit's source, and the versions of the packages that are installed."""
    found = {name: version_of(name) for name in PACKAGES}
    own = {"python": platform.python_version(), "grpo_kit": source_fingerprint()[:12]}
    return own | {name: number for name, number in found.items() if number}


def source_fingerprint() -> str:
    """SHA-256 of the kit's own files, the same wherever they lie."""
    contents = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        inside = path.relative_to(PACKAGE)
        is_hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not is_hidden and path.suffix != ".lock":  # an installed kit has its image's lock there
            contents.update(f"{inside.as_posix()}\n".encode() + path.read_bytes())
    return contents.hexdigest()
