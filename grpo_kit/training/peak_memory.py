"""The most memory that this process has held, as torch or the system tells it."""

import sys


def start_peak() -> None:
    """Measures memory anew from here on, where the system allows it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # Linux: the peak is now what is held now
    except OSError:
        pass


def peak_gib() -> float:
    """GiB that this process held at most: of the GPU what torch gave out (without CUDA's own), else of the machine."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
