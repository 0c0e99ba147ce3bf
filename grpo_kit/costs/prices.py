"""Modal's prices of machines, from a dated file that a user can replace. Gemini's are in judges/gemini/prices.py."""

import json
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_kit.config.gpus import LISTED, PRICES, gpu_and_count
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError

OWN_PRICES = "GRPO_KIT_PRICES"  # the environment variable that names a file in place of it
CORES = 2  # of a container on Modal (app.py)


def prices() -> dict[str, Any]:
    """Modal's prices and its GPUs: of the file that GRPO_KIT_PRICES names, else prices.json.

    A file of one's own has prices.json's form, and of each GPU need only say what differs; ConfigError where it has
    another form. "as_of" is its date, with the file's name where it is one's own.
    """
    own = os.environ.get(OWN_PRICES)
    try:
        path = Path(own).expanduser().absolute() if own else PRICES
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{OWN_PRICES}={own}: that is no file of prices ({type(error).__name__}: {error}). Copy {PRICES} and "
            f"change its as_of, usd_per_gib_hour, usd_per_core_hour and gpus"
        ) from None


@lru_cache(8)
def _read(path: Path, modified: int) -> dict[str, Any]:
    found, gpus = json.loads(path.read_bytes()), dict(LISTED["gpus"])
    for name, known in gpus.items():
        own = found["gpus"].get(name, {})
        gpus[name] = {what: float(own.get(what, value)) for what, value in known.items()}
    beside = {name: float(found[name]) for name in ("usd_per_gib_hour", "usd_per_core_hour")}
    if unknown := found["gpus"].keys() - gpus.keys():
        raise ValueError(f"Modal has no GPU {', '.join(sorted(unknown))}")
    costs = [*beside.values(), *(known["usd_per_hour"] for known in gpus.values())]
    sizes = [value for known in gpus.values() for name, value in known.items() if name != "usd_per_hour"]
    if not all(0 <= value < math.inf for value in costs) or not all(0 < value < math.inf for value in sizes):
        raise ValueError("prices should be 0 or more, and sizes and speeds above 0")
    as_of = str(found["as_of"])
    return {"gpus": gpus, **beside, "as_of": as_of if path == PRICES else f"{as_of} in {path}"}


def modal_usd_per_hour(config: TrainConfig, gpu: str) -> float:
    """Dollars an hour of a container: its GPUs ("A10", "A10:4"), memory and cores, by Modal's list."""
    listed, (kind, count) = prices(), gpu_and_count(gpu)
    beside = config.memory / 1024 * listed["usd_per_gib_hour"] + CORES * listed["usd_per_core_hour"]
    return count * listed["gpus"][kind]["usd_per_hour"] + beside
