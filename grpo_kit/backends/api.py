"""`train`, `evaluate` and `upload_data` with .remote(), .spawn() and .local(): on Modal's machines or on this one.

Both places call the same functions and leave the same run directory behind.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from grpo_kit.backends.run import Run
from grpo_kit.backends.start import start
from grpo_kit.config.backend import asked_backend, chosen_backend
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DATA_FILES, DEFAULT_DATA
from grpo_kit.data.samples import read_samples
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.preflight.check import launch_of
from grpo_kit.rewards.travel import Rewards
from grpo_kit.runs.directory import RUNS_DIR, find_run
from grpo_kit.runs.storage import LocalStorage
from grpo_kit.utils.text import say_once

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
        return Run.at(plan_and_train(config, rewards, runs_dir, launch, echo).storage)

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

    def remote(self, config: TrainConfig | None = None, *, figure: bool = True, **options: Any) -> Run:
        """Starts a run and waits for it with a progress bar, and in a notebook a live `figure`. To interrupt is to
        detach: the run goes on. Takes what `spawn` takes; raises RunError where the run fails."""
        return self.spawn(config, **options).watch(figure=figure)


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
        run = Run.of(target, runs_dir)
        if run.storage.backend == "local":
            return self.local(run, config, base_model=base_model, runs_dir=runs_dir, **settings)
        if base_model:
            what = f"run {run.id} is on Modal and is compared with its own base model"
            raise ConfigError(what, "Leave base_model out")
        from grpo_kit.backends.modal.launch import evaluate_on_modal
        from grpo_kit.evaluation.result import Evaluation

        return Evaluation.load(evaluate_on_modal(run, (config or EvalConfig()).replace(**settings)))

    def spawn(self, target: Run | str | Path, config: EvalConfig | None = None, **options) -> "Future[Evaluation]":
        """Does what `remote` does, in the background; .result() waits for the evaluation."""
        return _background.submit(self.remote, target, config, **options)


class Uploaded(NamedTuple):
    """A file of samples where training looks for it, which was read back and is what was sent."""

    path: str
    bytes: int
    samples: int

    def __str__(self) -> str:
        return f"{self.path}: {self.samples} samples, {self.bytes} bytes, read back and compared"


class _UploadData:
    """Puts train.jsonl and eval.jsonl where training looks for them. Raises as `upload` does.

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


def upload(path: str | Path, name: str | None, to_modal: bool) -> list[Uploaded]:
    """Puts the samples that `path` names, a folder or one of its two files, where `data=name` finds them; None: where
    the default finds them. Prints a line for each file.

    Raises ConfigError where there are none, BadTrace where one is not valid, and RunError where one was changed on its
    way.
    """
    path, done = Path(path), []
    files = [path / name for name in DATA_FILES if (path / name).is_file()] if path.is_dir() else [path]
    if not files or not path.exists():
        fix = f"`grpo-kit prepare TRACES --out {DEFAULT_DATA}` makes one from your traces"
        raise ConfigError(f"no train.jsonl in {path}", fix)
    if odd := [file.name for file in files if file.name not in DATA_FILES]:
        raise ConfigError(f"{odd[0]} is not a name that training looks for", "Call it train.jsonl or eval.jsonl")
    samples = {file: sum(1 for _ in read_samples(file)) for file in files}
    if to_modal:
        from grpo_kit.backends.modal.client import DATA_VOLUME
        from grpo_kit.backends.modal.storage import VolumeStorage

        storage, prefix = VolumeStorage(name or "", DATA_VOLUME, PurePosixPath("/")), f"{DATA_VOLUME}:"
    else:
        storage, prefix = LocalStorage(Path("data", name) if name else Path(DEFAULT_DATA)), ""
        storage.root.mkdir(parents=True, exist_ok=True)
    for file in files:
        content, where = file.read_bytes(), f"{prefix}{storage.root / file.name}"
        storage.write(file.name, content)
        if storage.read(file.name) != content:
            raise RunError(f"{file} arrived changed at {where}", "Upload it again")
        done.append(Uploaded(where, len(content), samples[file]))
        print(done[-1])
    return done


def _is_on_modal() -> bool:
    if not (is_on_modal := chosen_backend() == "modal") and not asked_backend():
        say_once("No Modal account is set up here (`modal setup` does), so this machine does the work")
    return is_on_modal
