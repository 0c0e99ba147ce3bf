"""Modal's GPUs: their names, and how several of them are written."""

import difflib

GPUS = {  # Modal's, and their memory in GB
    "T4": 16,
    "L4": 24,
    "A10": 24,
    "A100-40GB": 40,
    "L40S": 48,
    "A100-80GB": 80,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}
MOST_GPUS = 8  # in one of Modal's containers


def gpu_and_count(name: str) -> tuple[str, int]:
    """Modal's way to write several GPUs: "H100:4" -> ("H100", 4)."""
    kind, colon, count = name.partition(":")
    return kind, int(count) if colon and count.isdecimal() else 0 if colon else 1


def checked_gpu(name: str) -> str:
    """Raises ValueError for one that Modal has not."""
    kind, count = gpu_and_count(name)
    if kind not in GPUS:
        near = difflib.get_close_matches(kind.upper(), GPUS, n=1)
        raise ValueError(f"one of Modal's GPUs: {', '.join(GPUS)}." + (f" Did you mean {near[0]}?" if near else ""))
    if not 1 <= count <= MOST_GPUS:
        raise ValueError(f"{kind}, or {kind}:N for N of them, from 2 to {MOST_GPUS}")
    return kind if count == 1 else name


def larger_gpu(gib: float | None, processes: int = 1) -> str | None:
    """The smallest of Modal's GPUs with clearly more than `gib` of memory, one for each process. A GPU shows up to a
    tenth less than is printed on it."""
    count = f":{processes}" if processes > 1 else ""
    return next((name + count for name, size in GPUS.items() if size > 1.1 * (gib or 0)), None)
