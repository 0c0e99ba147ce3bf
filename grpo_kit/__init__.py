"""grpo_kit: fine-tune small language models by GRPO on dialogue traces, from notebooks.

What needs torch is loaded when it is first used, so that importing the kit stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from grpo_kit.backends import backend
from grpo_kit.config import ConfigError, EvalConfig, JudgeConfig, TrainConfig
from grpo_kit.doctor import doctor
from grpo_kit.runs import Run, RunError, RunStopped, runs  # now, so that kit.runs is the function and not the module

if TYPE_CHECKING:
    from grpo_kit.comparison import Evaluation
    from grpo_kit.export import merge
    from grpo_kit.launching import deploy
    from grpo_kit.preflight import quote
    from grpo_kit.remote import evaluate, train, upload_data
    from grpo_kit.samples import BadTrace, Sample, check_splits, read_samples
    from grpo_kit.smoke_run import smoke
    from grpo_kit.sweeps import Sweep, sweep, sweep_results
    from grpo_kit.talking import chat
    from grpo_kit.traces import prepare

_LATER = {
    "Evaluation": "comparison",
    "chat": "talking",
    "deploy": "launching",
    "evaluate": "remote",
    "merge": "export",
    "quote": "preflight",
    "BadTrace": "samples",
    "Sample": "samples",
    "Sweep": "sweeps",
    "check_splits": "samples",
    "read_samples": "samples",
    "prepare": "traces",
    "sweep": "sweeps",
    "sweep_results": "sweeps",
    "smoke": "smoke_run",
    "train": "remote",
    "upload_data": "remote",
}
__all__ = [
    "BadTrace",
    "ConfigError",
    "EvalConfig",
    "Evaluation",
    "JudgeConfig",
    "Run",
    "RunError",
    "RunStopped",
    "Sample",
    "Sweep",
    "TrainConfig",
    "backend",
    "chat",
    "check_splits",
    "deploy",
    "doctor",
    "evaluate",
    "merge",
    "prepare",
    "quote",
    "read_samples",
    "runs",
    "smoke",
    "sweep",
    "sweep_results",
    "train",
    "upload_data",
]


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"grpo_kit has no {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(f"grpo_kit.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return __all__
