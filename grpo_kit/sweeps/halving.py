"""Successive halving: a run whose reward is behind that of others at the same step is stopped early. Optuna decides.

Its pruner is the asynchronous one (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020): at steps
FIRST, 2 x FIRST, 4 x FIRST … a run continues if it is in the better half of those that have come so far. So the first
to arrive always continues, and more runs at a time decide better.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from grpo_kit.config.base import names_where
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.sweeps.grid import varied
from grpo_kit.sweeps.run import PRUNED, PlannedRun

if TYPE_CHECKING:
    from optuna import Trial


class Halving:
    """Compares the runs of a sweep while they train, by the mean reward of their last `first` steps."""

    def __init__(self, first: int, runs: Sequence[PlannedRun]):
        """`first`: the step at which the first half is stopped. Raises ConfigError where rewards do not compare."""
        if not all(run.config for run in runs):
            raise ConfigError("halving needs runs that train, and this notebook trains nothing", "Leave halving out")
        if differing := set(varied([run.settings for run in runs])) & set(names_where(TrainConfig, "scale")):
            what = f"halving compares rewards, and rewards of runs with another {min(differing)} can't be compared"
            raise ConfigError(what, "Leave halving out, or make a sweep for each")
        try:
            import optuna
        except ImportError:
            raise ConfigError("halving needs Optuna", "pip install optuna") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
        self._study, self._first = optuna.create_study(direction="maximize", pruner=pruner), first
        self._trials: dict[str, Trial] = {}
        self.behind: dict[str, str] = {}  # why runs were stopped, by their names
        for run in runs:  # those of earlier calls are compared with too
            if run.is_done or run.record["state"] == PRUNED:
                self.is_behind(run)

    def is_behind(self, run: PlannedRun) -> bool:
        """Whether the run should be stopped. Not where it has not come far enough."""
        with suppress(RunError, FileNotFoundError):  # there is nothing yet
            trained = run.trained()
            if trained is None or (metrics := trained.metrics()).empty:
                return False
            trial = self._trials[run.name] = self._trials.get(run.name) or self._study.ask()
            rewards = metrics.set_index("step")["reward"].dropna().rolling(self._first, min_periods=1).mean()
            known = self._study.trials[trial.number].intermediate_values
            for step, reward in rewards.drop(list(known), errors="ignore").items():
                trial.report(reward, int(str(step)))
                if trial.should_prune():
                    self.behind[run.name] = f"its reward of {reward:.2f} at step {step} is not in the better half"
                    return True
        return False
