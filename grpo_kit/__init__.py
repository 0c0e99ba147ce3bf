"""grpo_kit: fine-tune small language models by GRPO on dialogue traces, from notebooks.

Modules that need torch are loaded when a name of theirs is first used, so that importing the kit stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from grpo_kit.backends.run import Run, runs  # now, so that kit.runs is the function and not the package
from grpo_kit.config.backend import backend
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import BadTrace, ConfigError, RunError, RunStopped

if TYPE_CHECKING:
    from grpo_kit.backends.api import evaluate, train, upload_data
    from grpo_kit.backends.modal.launch import deploy
    from grpo_kit.backends.quote import doctor, quote, smoke
    from grpo_kit.data.samples import Sample, read_samples
    from grpo_kit.data.splits import check_splits
    from grpo_kit.evaluation.result import Evaluation
    from grpo_kit.judges.prepare import prepare
    from grpo_kit.models.chat import chat
    from grpo_kit.models.merge import merge
    from grpo_kit.sweeps import Sweep, sweep, sweep_results

_LATER = {
    "backends.api": ("evaluate", "train", "upload_data"),
    "backends.modal.launch": ("deploy",),
    "backends.quote": ("doctor", "quote", "smoke"),
    "data.samples": ("Sample", "read_samples"),
    "data.splits": ("check_splits",),
    "evaluation.result": ("Evaluation",),
    "judges.prepare": ("prepare",),
    "models.chat": ("chat",),
    "models.merge": ("merge",),
    "sweeps": ("Sweep", "sweep", "sweep_results"),
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
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"grpo_kit.{module}"), name)
    raise AttributeError(f"grpo_kit has no {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
