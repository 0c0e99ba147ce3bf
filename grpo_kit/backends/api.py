"""`train`, `evaluate` and `upload_data` with .remote(), .spawn() and .local(): on Modal's machines or on this one.

Both places call the same functions and leave the same run directory behind.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_kit.backends.local import train_here
from grpo_kit.backends.modal.launch import evaluate_on_modal, train_on_modal
from grpo_kit.backends.run import Run
from grpo_kit.config.backend import asked_backend, chosen_backend
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.errors import ConfigError
from grpo_kit.preflight.check import launch_of
from grpo_kit.rewards.travel import Rewards, pickled_rewards
from grpo_kit.runs.directory import RUNS_DIR, is_run

if TYPE_CHECKING:
    from grpo_kit.backends.upload import Uploaded
    from grpo_kit.evaluation.result import Evaluation

_background = ThreadPoolExecutor(8, thread_name_prefix="grpo_kit")
_has_said_why_here = False


class _Train:
    """Trains a model by GRPO: here and now when it is called, or as its methods say."""

    def __call__(self, config: TrainConfig | None = None, **options) -> Run:
        return self.local(config, **options)

    def local(self, config: TrainConfig | None = None, **options) -> Run:
        """Trains in this process, or in several that it waits for. See grpo_kit.training.launch.train."""
        from grpo_kit.training.launch import train

        settings = {name: options.pop(name) for name in list(options) if name not in ("rewards", "runs_dir", "echo")}
        config, runs_dir = (config or TrainConfig()).replace(**settings), Path(options.get("runs_dir", RUNS_DIR))
        known = Run(config.run_id, runs_dir) if config.run_id and is_run(runs_dir / config.run_id) else None
        return Run.of(train(config, launch=launch_of(config, runs_dir, "local", known), **options))

    def spawn(
        self,
        config: TrainConfig | None = None,
        *,
        rewards: Rewards = (),
        runs_dir: str | Path = RUNS_DIR,
        **settings,
    ) -> Run:
        """Starts a run that goes on by itself, on Modal or here (see kit.backend), and returns at once with the run.

        All that can be checked is checked before: ConfigError, BadTrace or RunError say what is wrong. `rewards` may be
        defined in the notebook. `runs_dir` is where runs made here go, and whose earlier runs tell how long this one
        takes.
        """
        config = (config or TrainConfig()).replace(**settings)
        pickled = pickled_rewards(rewards) if rewards else None
        if work_here():
            return Run.of(train_here(config, pickled, Path(runs_dir)))
        return Run.of(train_on_modal(config, pickled, runs_dir=runs_dir))

    def remote(self, config: TrainConfig | None = None, **options) -> Run:
        """Starts a run and waits for it with a progress bar, and in a notebook a live plot. To interrupt is to detach:
        the run goes on. Takes what `spawn` takes; RunError where the run fails."""
        return self.spawn(config, **options).watch()


class _Evaluate:
    """Compares a run's checkpoints with its base model: here and now when it is called, or as its methods say."""

    def __call__(self, target: Run | str | Path, config: EvalConfig | None = None, **options) -> "Evaluation":
        return self.local(target, config, **options)

    def local(self, target: Run | str | Path, config: EvalConfig | None = None, **options) -> "Evaluation":
        """Evaluates in this process. See grpo_kit.evaluation.evaluate.evaluate."""
        from grpo_kit.evaluation.evaluate import evaluate
        from grpo_kit.plots.evaluation import evaluation_figure

        return evaluate(target, config, draw=evaluation_figure, **options)

    def remote(
        self,
        target: Run | str | Path,
        config: EvalConfig | None = None,
        *,
        base_model: str | None = None,
        runs_dir: str | Path = RUNS_DIR,
        **settings,
    ) -> "Evaluation":
        """Evaluates a run where its files are, on Modal or here, and waits for the result."""
        run = target if isinstance(target, Run) else Run(target, runs_dir)
        if run.storage.backend == "local":
            return self.local(run, config, base_model=base_model, runs_dir=runs_dir, **settings)
        if base_model:
            raise ConfigError(f"base_model is for a folder here; run {run.id} on Modal is compared with its own base")
        return evaluate_on_modal(run, (config or EvalConfig()).replace(**settings))

    def spawn(self, target: Run | str | Path, config: EvalConfig | None = None, **options) -> "Future[Evaluation]":
        """As `remote`, in the background; .result() waits for the evaluation."""
        return _background.submit(self.remote, target, config, **options)


class _UploadData:
    """Puts train.jsonl and eval.jsonl where training looks for them."""

    def __call__(self, path: str | Path = DEFAULT_DATA, name: str | None = None) -> "list[Uploaded]":
        return self.remote(path, name)

    def local(self, path: str | Path = DEFAULT_DATA, name: str | None = None) -> "list[Uploaded]":
        """Checks the files and copies them to data/processed, or to data/NAME."""
        from grpo_kit.backends.upload import copy_here, data_to_upload

        return _say_what_was_uploaded(copy_here(data_to_upload(path), name))

    def remote(self, path: str | Path = DEFAULT_DATA, name: str | None = None) -> "list[Uploaded]":
        """Checks the files, uploads them to Modal's volume training-data and reads them back.

        `path` is a folder or one of the two files. With `name` they go to a folder of their own, for data=name.
        """
        from grpo_kit.backends.modal.upload import upload
        from grpo_kit.backends.upload import data_to_upload

        if work_here():
            return self.local(path, name)
        return _say_what_was_uploaded(upload(data_to_upload(path), name))

    def spawn(self, path: str | Path = DEFAULT_DATA, name: str | None = None) -> "Future[list[Uploaded]]":
        """As `remote`, in the background; .result() waits for it."""
        return _background.submit(self.remote, path, name)


train, evaluate, upload_data = _Train(), _Evaluate(), _UploadData()


def work_here() -> bool:
    """Whether the work is done on this machine; says so, once, where that is only for want of an account."""
    global _has_said_why_here
    if asked_backend() is None and chosen_backend() == "local" and not _has_said_why_here:
        print("No Modal account is set up here (`modal setup` does), so this is done on this machine")
        _has_said_why_here = True
    return chosen_backend() == "local"


def _say_what_was_uploaded(files: "list[Uploaded]") -> "list[Uploaded]":
    for file in files:
        print(file)
    return files
