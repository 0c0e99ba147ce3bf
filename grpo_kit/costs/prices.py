"""What Modal's machines cost: the list in config/gpus.json, or a file of the user's own."""

import json
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_kit.config.gpus import GPUS, LISTED, PRICES, gpu_and_count
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError

OWN_PRICES = "GRPO_KIT_PRICES"  # the environment variable that names a file in place of it
CORES = 2  # of a container on Modal (app.py)


def prices() -> dict[str, Any]:
    """Modal's prices and its GPUs, as gpus.json has them, or the file that GRPO_KIT_PRICES names.

    Such a file has the same form, and need say of a GPU only what differs; ConfigError where it has another form.
    "as_of" is the date, with the name of a file of one's own.
    """
    own = os.environ.get(OWN_PRICES)
    if not own:
        return LISTED
    try:
        path = Path(own).expanduser().absolute()
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{OWN_PRICES}={own}: that is no file of prices ({type(error).__name__}: {error})",
            f"Copy {PRICES} and change its as_of, usd_per_gib_hour, usd_per_core_hour and gpus",
        ) from None


@lru_cache(8)
def _read(path: Path, modified: int) -> dict[str, Any]:
    own = json.loads(path.read_bytes())
    if unknown := own["gpus"].keys() - GPUS.keys():
        raise ValueError(f"Modal has no GPU {', '.join(sorted(unknown))}")
    gpus = {name: row | own["gpus"].get(name, {}) for name, row in GPUS.items()}
    beside = {name: own[name] for name in ("usd_per_gib_hour", "usd_per_core_hour")}
    costs = [*beside.values(), *(row["usd_per_hour"] for row in gpus.values())]
    sizes = [value for row in gpus.values() for name, value in row.items() if name != "usd_per_hour"]
    if not all(0 <= value < math.inf for value in costs) or not all(0 < value < math.inf for value in sizes):
        raise ValueError("prices should be 0 or more, and sizes and speeds above 0")
    return {"gpus": gpus, **beside, "as_of": f"{own['as_of']} in {path}"}


def modal_usd_per_hour(config: TrainConfig, gpu: str) -> float:
    """Dollars an hour of a container: its GPUs ("A10", "A10:4"), memory and cores."""
    listed = prices()
    return (
        gpu_usd_per_hour(gpu) + config.memory / 1024 * listed["usd_per_gib_hour"] + CORES * listed["usd_per_core_hour"]
    )


def gpu_usd_per_hour(gpu: str) -> float:
    kind, count = gpu_and_count(gpu)
    return count * prices()["gpus"][kind]["usd_per_hour"]
