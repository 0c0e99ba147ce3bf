"""The most memory that this process has held, as torch or the system tells it. Doesn't load torch by itself."""

import resource
import sys
from contextlib import suppress
from pathlib import Path


def start_peak() -> None:
    """Measures memory anew from here on, where the system allows it."""
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is now what is held now


def peak_gib() -> float:
    """GiB that this process held at most: of the GPU what torch gave out (without CUDA's own), else of the machine."""
    if cuda := _cuda():
        return cuda.max_memory_allocated() / 2**30
    with suppress(OSError, IndexError):
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _cuda():
    """torch.cuda, where torch is loaded and has a GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_available() else None
