"""Modal's GPUs: gpus.json has a row for each, with its price, memory and speed; the smallest memory first.

"A100" is Modal's name for an A100-40GB, in whose place it may give 80 GB; "H100!" is never upgraded to an H200; "B200+"
may be a B300 at a B200's price. A name that the list lacks goes to Modal as it is, with nothing known of it.
"""

import json
from pathlib import Path

from grpo_kit.utils.text import did_you_mean

LISTED = json.loads(Path(__file__).with_name("gpus.json").read_bytes())
GPUS: dict[str, dict[str, float]] = LISTED["gpus"]
ALSO_CALLED: dict[str, str] = LISTED["also_called"]
NAMES = [*GPUS, *ALSO_CALLED]
MOST_GPUS = 8  # in one of Modal's containers
CORES = 2  # of a container (app.py)


def gpu_and_count(name: str) -> tuple[str, int]:
    """Modal's way to write several GPUs: "H100:4" -> ("H100", 4)."""
    kind, colon, count = name.partition(":")
    return kind, int(count) if colon and count.isdecimal() else 0 if colon else 1


def listed_gpu(name: str) -> dict[str, float]:
    """The row of "A100", "H100!:4" and so on; empty where there is none."""
    kind, _ = gpu_and_count(name)
    return GPUS.get(ALSO_CALLED.get(kind, kind), {})


def most_gpus(name: str) -> int:
    """How many of them one of Modal's containers may have."""
    return int(listed_gpu(name).get("most", MOST_GPUS))


def checked_gpu(name: str) -> str:
    """The name as Modal's list has it, whose letters may be small. Raises ValueError for a count that Modal refuses."""
    kind, count = gpu_and_count(name.strip())
    kind = kind.strip().upper() if kind.strip().upper() in NAMES else kind.strip()
    if not kind or not 1 <= count <= most_gpus(kind):
        kind = kind or "A10"
        raise ValueError(f"{kind}, or {kind}:N for N of them, from 2 to {most_gpus(kind)}")
    return kind if count == 1 else f"{kind}:{count}"


def unknown_gpu(name: str) -> str:
    """What to say of a GPU that the list lacks; empty for one that it has."""
    kind, _ = gpu_and_count(name)
    if listed_gpu(kind):
        return ""
    what = f"gpu={kind} is none that the kit knows ({', '.join(NAMES)}): Modal is asked for it all the same"
    return f"{what}, and its memory, speed and price are not known.{did_you_mean(kind.upper(), NAMES)}"


def larger_gpu(gib: float | None, processes: int = 1) -> str | None:
    """The smallest of Modal's GPUs with clearly more memory than `gib`, one for each process; None where none has."""
    names = (name for name, gpu in GPUS.items() if gpu["usable_gib"] > 1.05 * (gib or 0))
    name = next((name for name in names if processes <= most_gpus(name)), None)
    return f"{name}:{processes}" if name and processes > 1 else name


def modal_usd_per_hour(gpu: str, memory: int) -> float | None:
    """Dollars an hour of a container: its GPUs ("A10", "A10:4"), MiB of memory, and cores; None where not known."""
    beside = memory / 1024 * LISTED["usd_per_gib_hour"] + CORES * LISTED["usd_per_core_hour"]
    usd = listed_gpu(gpu).get("usd_per_hour")
    return None if usd is None else gpu_and_count(gpu)[1] * usd + beside
