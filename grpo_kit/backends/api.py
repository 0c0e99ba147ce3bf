"""`train`, `evaluate` and `upload_data` with .remote(), .spawn() and .local(): on Modal's machines or on this one.

Both places call the same functions and leave the same run directory behind.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from grpo_kit.backends.modal.launch import evaluate_on_modal
from grpo_kit.backends.run import Run
from grpo_kit.backends.start import start
from grpo_kit.backends.upload import Uploaded, upload
from grpo_kit.config.backend import asked_backend, chosen_backend
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.errors import ConfigError
from grpo_kit.preflight.check import launch_of
from grpo_kit.rewards.travel import Rewards
from grpo_kit.runs.directory import RUNS_DIR, find_run

if TYPE_CHECKING:
    from grpo_kit.evaluation.result import Evaluation

_background = ThreadPoolExecutor(8, thread_name_prefix="grpo_kit")


class _Train:
    """Trains a model by GRPO: here and now when it is called, or as its methods say.

    `config`, or TrainConfig's settings as keywords, say how. `rewards` are reward functions of your own, in a list or
    with weights in a dictionary; they may be defined in the notebook. `runs_dir` is where runs made here go, and whose
    earlier runs tell how long this one takes.
    """

    def local(
        self,
        config: TrainConfig | None = None,
        *,
        rewards: Rewards = (),
        runs_dir: str | Path = RUNS_DIR,
        echo: Callable[[str], None] = tqdm.write,
        **settings: Any,
    ) -> Run:
        """Trains in this process, or in several that it waits for. Raises as training.launch.plan_and_train does.

        `echo` is given the lines that a run prints, in place of the terminal.
        """
        from grpo_kit.training.launch import plan_and_train

        config = (config or TrainConfig()).replace(**settings)
        launch = launch_of(config, runs_dir, "local", find_run(config.run_id, runs_dir))
        return Run.at(plan_and_train(config, rewards=rewards, runs_dir=runs_dir, launch=launch, echo=echo).storage)

    __call__ = local

    def spawn(
        self,
        config: TrainConfig | None = None,
        *,
        rewards: Rewards = (),
        runs_dir: str | Path = RUNS_DIR,
        **settings: Any,
    ) -> Run:
        """Starts a run that goes on by itself, on Modal or here (see kit.backend), and returns at once with the run.

        Raises ConfigError, BadTrace or RunError, before anything is started, for what cannot work.
        """
        config = (config or TrainConfig()).replace(**settings)
        return Run.at(start(config, rewards, runs_dir, _is_on_modal()).storage)

    def remote(self, config: TrainConfig | None = None, **options: Any) -> Run:
        """Starts a run and waits for it with a progress bar, and in a notebook a live plot. To interrupt is to detach:
        the run goes on. Takes what `spawn` takes; raises RunError where the run fails."""
        return self.spawn(config, **options).watch()


class _Evaluate:
    """Compares a run's checkpoints with its base model: here and now when it is called, or as its methods say."""

    def local(self, target: Run | str | Path, config: EvalConfig | None = None, **options: Any) -> "Evaluation":
        """Evaluates in this process. See grpo_kit.evaluation.evaluate.evaluate."""
        from grpo_kit.evaluation.evaluate import evaluate
        from grpo_kit.plots.evaluation import evaluation_figure

        return evaluate(target, config, draw=evaluation_figure, **options)

    __call__ = local

    def remote(
        self,
        target: Run | str | Path,
        config: EvalConfig | None = None,
        *,
        base_model: str | None = None,
        runs_dir: str | Path = RUNS_DIR,
        **settings: Any,
    ) -> "Evaluation":
        """Evaluates a run where its files are, on Modal or here, and waits for the result."""
        run = target if isinstance(target, Run) else Run(target, runs_dir)
        if run.storage.backend == "local":
            return self.local(run, config, base_model=base_model, runs_dir=runs_dir, **settings)
        if base_model:
            raise ConfigError(f"base_model is for a folder here; run {run.id} on Modal is compared with its own base")
        return evaluate_on_modal(run, (config or EvalConfig()).replace(**settings))

    def spawn(self, target: Run | str | Path, config: EvalConfig | None = None, **options) -> "Future[Evaluation]":
        """Does what `remote` does, in the background; .result() waits for the evaluation."""
        return _background.submit(self.remote, target, config, **options)


class _UploadData:
    """Puts train.jsonl and eval.jsonl where training looks for them. Raises as grpo_kit.backends.upload.upload does.

    `path` is a folder or one of the two files. With `name` they go to a folder of their own, for data=name.
    """

    def local(self, path: str | Path = DEFAULT_DATA, name: str | None = None) -> list[Uploaded]:
        """Checks the files and copies them to data/processed, or to data/NAME."""
        return upload(path, name, to_modal=False)

    def remote(self, path: str | Path = DEFAULT_DATA, name: str | None = None) -> list[Uploaded]:
        """Checks the files, uploads them to Modal's volume training-data and reads them back."""
        return upload(path, name, to_modal=_is_on_modal())

    __call__ = remote

    def spawn(self, path: str | Path = DEFAULT_DATA, name: str | None = None) -> Future[list[Uploaded]]:
        """Does what `remote` does, in the background; .result() waits for it."""
        return _background.submit(self.remote, path, name)


train, evaluate, upload_data = _Train(), _Evaluate(), _UploadData()


def _is_on_modal() -> bool:
    """Whether work is done on Modal."""
    if not (is_on_modal := chosen_backend() == "modal") and not asked_backend():
        _say_why_local()
    return is_on_modal


@cache
def _say_why_local() -> None:
    """Prints it once in a process."""
    print("No Modal account is set up here (`modal setup` does), so this is done on this machine")
