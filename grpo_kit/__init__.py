"""grpo_kit: fine-tune small language models by GRPO on dialogue traces, from notebooks.

What needs torch is loaded when it is first used, so that importing the kit stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from grpo_kit.config import ConfigError, EvalConfig, JudgeConfig, TrainConfig
from grpo_kit.runs import Run, RunError, runs  # now, so that kit.runs is the function and not the module

if TYPE_CHECKING:
    from grpo_kit.comparison import Evaluation
    from grpo_kit.evaluation import evaluate
    from grpo_kit.samples import BadTrace, Sample, check_splits, read_samples
    from grpo_kit.traces import prepare
    from grpo_kit.training import train

_LATER = {
    "Evaluation": "comparison",
    "evaluate": "evaluation",
    "BadTrace": "samples",
    "Sample": "samples",
    "check_splits": "samples",
    "read_samples": "samples",
    "prepare": "traces",
    "train": "training",
}
__all__ = [
    "BadTrace",
    "ConfigError",
    "EvalConfig",
    "Evaluation",
    "JudgeConfig",
    "Run",
    "RunError",
    "Sample",
    "TrainConfig",
    "check_splits",
    "evaluate",
    "prepare",
    "read_samples",
    "runs",
    "train",
]


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"grpo_kit has no {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(f"grpo_kit.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return __all__
