"""Reward functions on their way to where the run is made, another process or Modal, and as they lie in its folder.

To load them is to run whatever they hold, so they are signed with a key of the machine that pickled them.
"""

import hmac
import linecache
import os
import secrets
import sys
import sysconfig
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
from filelock import FileLock

from grpo_kit.errors import ConfigError, RunError
from grpo_kit.utils.environment import PACKAGE
from grpo_kit.utils.files import CACHE, replacing

# TRL calls it with prompts, completions, completion_ids, the sample's other fields as lists, trainer_state,
# log_extra and log_metric; it gives back a score for each completion, None where it has none to give. It may be async.
Scores = Sequence[float | None]
RewardFunction = Callable[..., Scores | Coroutine[Any, Any, Scores]]
Rewards = Sequence[RewardFunction] | Mapping[RewardFunction, float]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # only the same one reads what it pickled
INSTALLED = (PACKAGE, Path(sysconfig.get_path("stdlib")))
SIGNATURE_BYTES = 32  # of HMAC-SHA256, after the pickle
TRUSTED = "GRPO_KIT_TRUST_REWARDS"


def weighted(rewards: Rewards) -> list[tuple[RewardFunction, float]]:
    """Reward functions with their weights; 1 for those of a plain list. Raises ConfigError for anything else."""
    is_alone = callable(rewards) or isinstance(rewards, str)
    given = [] if is_alone else [*rewards.items()] if isinstance(rewards, Mapping) else [(f, 1.0) for f in rewards]
    if is_alone or not all(callable(function) and isinstance(weight, Real) for function, weight in given):
        what = "rewards should be a list of functions, or a dictionary with their weights: rewards=[…]"
        raise ConfigError(what, "Write rewards=[my_reward]; reward_funcs names the kit's ready ones")
    return given


def innermost(function: Any) -> Any:
    """The function, or the object that can be called, within functools.partial."""
    while isinstance(function, partial):
        function = function.func
    return function


def pickled_rewards(rewards: Rewards) -> bytes:
    """The reward functions as they travel: by value, those from modules of the user's own too; and signed. Raises
    ConfigError for one that can't be pickled."""
    weighted(rewards)  # refuses what is no list of functions
    modules = [module for module in list(sys.modules.values()) if _is_own(module)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    inner = [innermost(function) for function in rewards]
    codes = [getattr(each if hasattr(each, "__code__") else type(each).__call__, "__code__", None) for each in inner]
    files = {code.co_filename for code in codes if code}
    sources = {file: linecache.getlines(file) for file in files}  # a traceback shows the line of the cell with them
    try:
        for function in rewards:
            try:
                cloudpickle.dumps(function)
            except Exception as error:  # whatever pickling an object may raise
                raise ConfigError(
                    f"the reward {getattr(function, '__name__', function)} can't be sent to the run: {error}",
                    "Make what it uses (a client, a lock, an open file) inside the function",
                ) from None
        return signed(cloudpickle.dumps((rewards if isinstance(rewards, Mapping) else list(rewards), sources)))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _is_own(module) -> bool:
    """True for a module that is neither installed nor the notebook itself, which travels by value anyhow."""
    if not isinstance(module, ModuleType) or module.__name__ == "__main__":
        return False
    if sys.modules.get(module.__name__) is not module:  # known by another name, which pickle would not find
        return False
    file = Path(vars(module).get("__file__") or "")
    is_installed = {"site-packages", "dist-packages"} & {*file.parts} or any(map(file.is_relative_to, INSTALLED))
    return not is_installed and file.is_file()


def signed(pickled: bytes) -> bytes:
    """`pickled` with this machine's signature, by which `load_rewards` takes it for its own."""
    file = CACHE / "rewards.key"
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.exists() or len(file.read_bytes()) != SIGNATURE_BYTES:
                with replacing(file) as partial:
                    partial.touch(mode=0o600)
                    partial.write_bytes(secrets.token_bytes(SIGNATURE_BYTES))
            return pickled + hmac.digest(file.read_bytes(), pickled, "sha256")
    except OSError as error:
        raise RunError(f"the key that signs reward functions can't be kept: {error}", f"Make room for {file}") from None


def load_rewards(pickled: bytes, trust: bool = False) -> list | dict:
    """The reward functions as they were given, a list or a dictionary of weights.

    Raises RunError where this machine has not signed them, unless `trust` is on or the kit's containers on Modal, which
    load what is in the user's own account, have said so in TRUSTED; and where they can't be loaded.
    """
    trust = trust or os.environ.get(TRUSTED) == "1"
    if not (trust or hmac.compare_digest(signed(pickled[:-SIGNATURE_BYTES]), pickled)):
        raise RunError(
            "the run's reward functions, in rewards.pkl, are not signed with this machine's key (another's or an "
            "older kit's are not), and loading them runs their code",
            "If you trust who made them: kit.Run(…).resume(trust=True). If not, give your own: resume(rewards=[…])",
        )
    try:
        rewards, sources = cloudpickle.loads(pickled)
    except Exception as error:  # whatever unpickling runs may raise
        raise RunError(
            f"the reward functions can't be loaded where the run is made ({type(error).__name__}: {error})",
            "Define them in the notebook, import what they need inside them, and only from packages that are there too",
        ) from None
    for file, lines in sources.items():  # so that a traceback has the lines of cells and files that are not here
        linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
    return rewards
