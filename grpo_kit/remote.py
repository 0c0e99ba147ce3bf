"""`train`, `evaluate` and `upload_data` with .remote(), .spawn() and .local(): on Modal's machines or on this one.

Both places call the same functions and leave the same run directory behind.
"""

import linecache
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from grpo_kit.backends import asked_backend, chosen_backend
from grpo_kit.config import CACHE, ConfigError, EvalConfig, JudgeConfig, ModalConfig, TrainConfig
from grpo_kit.demo import DEFAULT_DATA
from grpo_kit.runs import (
    OUTPUT_FILE,
    REWARDS_FILE,
    RUNS_DIR,
    UNFINISHED,
    WORKER_FILE,
    Run,
    RunError,
    as_json,
    is_run,
    write_bytes,
)
from grpo_kit.versions import PACKAGE, source_fingerprint

if TYPE_CHECKING:
    import modal

    from grpo_kit.comparison import Evaluation
    from grpo_kit.rewards import RewardFunction

Rewards = Sequence["RewardFunction"] | Mapping["RewardFunction", float]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
INSTALLED = (PACKAGE, Path(sysconfig.get_path("stdlib")))
_background = ThreadPoolExecutor(8, thread_name_prefix="grpo_kit")
_deployed: str | None = None  # the fingerprint of the source that this process deployed


class _Train:
    """Trains a model by GRPO: here and now when it is called, or as its methods say."""

    def __call__(self, config: TrainConfig | None = None, **options) -> Run:
        return self.local(config, **options)

    def local(self, config: TrainConfig | None = None, **options) -> Run:
        """Trains in this process. See grpo_kit.training.train."""
        from grpo_kit.training import train

        return train(config, **options)

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
        defined in the notebook. `runs_dir` is used where the work is done here.
        """
        config = (config or TrainConfig()).replace(**settings)
        pickled = pickled_rewards(rewards) if rewards else None
        if work_here():
            return _start_here(config, pickled, Path(runs_dir))
        return launch(config, pickled)

    def remote(self, config: TrainConfig | None = None, **options) -> Run:
        """Starts a run and waits for it with a progress bar, and in a notebook a live plot. To interrupt is to detach:
        the run goes on. Takes what `spawn` takes; RunError where the run fails."""
        return self.spawn(config, **options).watch()


class _Evaluate:
    """Compares a run's checkpoints with its base model: here and now when it is called, or as its methods say."""

    def __call__(self, target: Run | str | Path, config: EvalConfig | None = None, **options) -> "Evaluation":
        return self.local(target, config, **options)

    def local(self, target: Run | str | Path, config: EvalConfig | None = None, **options) -> "Evaluation":
        """Evaluates in this process. See grpo_kit.evaluation.evaluate."""
        from grpo_kit.evaluation import evaluate

        return evaluate(target, config, **options)

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
        if run.place.backend == "local":
            return self.local(run, config, base_model=base_model, runs_dir=runs_dir, **settings)
        if base_model:
            raise ConfigError(f"base_model is for a folder here; run {run.id} on Modal is compared with its own base")
        return _evaluate_on_modal(run, (config or EvalConfig()).replace(**settings))

    def spawn(self, target: Run | str | Path, config: EvalConfig | None = None, **options) -> "Future[Evaluation]":
        """As `remote`, in the background; .result() waits for the evaluation."""
        return _background.submit(self.remote, target, config, **options)


class _UploadData:
    """Puts train.jsonl and eval.jsonl where training looks for them."""

    def __call__(self, path: str | Path = DEFAULT_DATA, name: str | None = None):
        return self.remote(path, name)

    def local(self, path: str | Path = DEFAULT_DATA, name: str | None = None):
        """Checks the files and copies them to data/processed, or to data/NAME."""
        from grpo_kit.volumes import copy_here, data_to_upload

        return _say_what_was_uploaded(copy_here(data_to_upload(path), name))

    def remote(self, path: str | Path = DEFAULT_DATA, name: str | None = None):
        """Checks the files, uploads them to Modal's volume training-data and reads them back.

        `path` is a folder or one of the two files. With `name` they go to a folder of their own, for data=name.
        """
        from grpo_kit.volumes import data_to_upload, upload

        if work_here():
            return self.local(path, name)
        return _say_what_was_uploaded(upload(data_to_upload(path), name))

    def spawn(self, path: str | Path = DEFAULT_DATA, name: str | None = None) -> Future:
        """As `remote`, in the background; .result() waits for it."""
        return _background.submit(self.remote, path, name)


train, evaluate, upload_data = _Train(), _Evaluate(), _UploadData()


def launch(
    config: TrainConfig, rewards: bytes | None = None, find: Callable[[str], "modal.Function"] | None = None
) -> Run:
    """Starts a run on Modal: checked on a CPU first, then a GPU is asked for. Returns at once.

    `find` gives the app's functions by name; None: those of the deployed app, deployed now where that is needed.
    """
    from grpo_kit.volumes import VolumeFolder, modal_in_words, required_secrets

    with modal_in_words():
        secrets = required_secrets(config.judge, config.model_name)
        find = find or deployed_function
        opened = _result(
            find("open_run").with_options(secrets=secrets).remote(config.given, rewards, _files(config), PYTHON)
        )
        run = Run.at(VolumeFolder(opened["run_id"]), opened["run_id"])
        if opened["complete"]:
            print(f"Run {run.id} is complete: {run.place}")
            return run
        call = _on_gpu(find("train"), config, secrets).spawn(run.id)
        run.place.write(WORKER_FILE, as_json({"call_id": call.object_id}))
    print(f"Run {run.id} on Modal ({config.gpu}): {run.place}")
    return run


def resume(run: Run, rewards: Rewards, settings: dict[str, Any]) -> Run:
    """See Run.resume."""
    config = TrainConfig(run_id=run.id, model_name=run.config.model_name, **settings)
    pickled = pickled_rewards(rewards) if rewards else None
    if run.place.backend == "modal":
        return launch(config, pickled)
    return _start_here(config, pickled, run.path.parent)


def work_here() -> bool:
    """Whether the work is done on this machine; says so where that is only for want of an account."""
    if asked_backend() is None and chosen_backend() == "local":
        print("No Modal account is set up here (`modal setup` does), so this is done on this machine")
    return chosen_backend() == "local"


def pickled_rewards(rewards: Rewards) -> bytes:
    """The reward functions as they travel: by value, those from modules of the user's own too.

    Raises ConfigError for one that can't be pickled.
    """
    import cloudpickle

    modules = [module for module in list(sys.modules.values()) if _is_own(module)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    files = {function.__code__.co_filename for function in rewards if hasattr(function, "__code__")}
    sources = {file: linecache.getlines(file) for file in files}  # a traceback shows the line of the cell with them
    try:
        for function in rewards:
            try:
                cloudpickle.dumps(function)
            except Exception as error:  # whatever pickling an object may raise
                raise ConfigError(
                    f"the reward {getattr(function, '__name__', function)} can't travel to where the run is made: "
                    f"{error}. What it uses (a client, a lock, an open file) should be made inside the function"
                ) from None
        return cloudpickle.dumps((rewards if isinstance(rewards, Mapping) else list(rewards), sources))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _is_own(module) -> bool:
    """Whether a module is neither installed nor the notebook itself, which travels by value anyhow."""
    if not isinstance(module, ModuleType) or module.__name__ == "__main__":
        return False
    if sys.modules.get(module.__name__) is not module:  # known by another name, which pickle would not find
        return False
    file = Path(vars(module).get("__file__") or "")
    is_installed = {"site-packages", "dist-packages"} & {*file.parts} or any(map(file.is_relative_to, INSTALLED))
    return not is_installed and file.is_file()


def _start_here(config: TrainConfig, rewards: bytes | None, runs_dir: Path) -> Run:
    """Starts a process that trains and outlives this one. A run that is gone on with has its rewards already."""
    import psutil

    from grpo_kit.training import queue
    from grpo_kit.worker import load_rewards
    from grpo_kit.writing import only_writer

    known = Run(config.run_id, runs_dir) if config.run_id and is_run(runs_dir / config.run_id) else None
    earlier = known.read_text(WORKER_FILE) if known else ""
    if earlier and known.status["state"] in UNFINISHED and known.place.fate(known.worker) is None:
        raise RunError(f"run {known.id} is being trained by another process; watch it, or stop that one")
    if known and not rewards and REWARDS_FILE in known.place.names():
        rewards = known.place.read(REWARDS_FILE)
    run = queue(config, load_rewards(rewards) if rewards else (), runs_dir)
    if run.status["state"] == "complete":
        print(f"Run {run.id} is complete: {run.path}")
        return run
    with only_writer(run):
        if run.read_text(WORKER_FILE) != earlier:
            raise RunError(f"run {run.id} was started by another process at the same moment; watch it")
        if rewards:
            write_bytes(run.path / REWARDS_FILE, rewards)
        with (run.path / OUTPUT_FILE).open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "grpo_kit.worker", str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        worker = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        run.place.write(WORKER_FILE, as_json(worker))
    print(f"Run {run.id} on this machine: {run.path}")
    return run


def _evaluate_on_modal(run: Run, config: EvalConfig) -> "Evaluation":
    from grpo_kit.comparison import Evaluation
    from grpo_kit.volumes import modal_in_words, required_secrets

    trained = run.config
    machine = {name: getattr(trained, name) for name in ModalConfig.model_fields if name not in config.given}
    config = config.replace(**machine)
    judge = config.judge or max(trained.judge, key=trained.judge.get)
    with modal_in_words():
        secrets = required_secrets({judge: 1.0}, trained.model_name)
        function = _on_gpu(deployed_function("evaluate"), config, secrets)
        print(f"Evaluating run {run.id} on Modal ({config.gpu})")
        found = _result(function.remote(run.id, config.given, _files(config)))
    folder = CACHE / "evaluations" / run.id
    folder.mkdir(parents=True, exist_ok=True)
    stem = found["name"].removesuffix(".json")
    for name in (f"{stem}.samples.jsonl", f"{stem}.png", f"{stem}.json"):
        write_bytes(folder / name, run.place.read(f"eval/{name}"))
    return Evaluation.load(folder / found["name"])


def _on_gpu(function: "modal.Function", config: ModalConfig, secrets: list) -> "modal.Function":
    return function.with_options(
        gpu=config.gpu, memory=config.memory, timeout=config.timeout, retries=config.retries, secrets=secrets
    )


def _files(config: JudgeConfig) -> dict[str, str]:
    """The texts of settings that name a file here, which must travel too."""
    return {"gemini_prompt": Path(config.gemini_prompt).read_text()} if config.gemini_prompt else {}


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    """What a function on Modal returned; the error that it met there, raised here."""
    if "error" not in answer:
        return answer
    kinds = {kind.__name__: kind for kind in (ConfigError, RunError)}
    raise kinds.get(answer["kind"], RunError)(answer["error"])


def deploy() -> None:
    """Makes the app on Modal as the kit's source is here. The first time its image is built, which takes minutes.

    Raises RunError, with Modal's own output, where that fails.
    """
    global _deployed
    print("Deploying the app grpo-training on Modal (the first time its image is built: some minutes)")
    source = source_fingerprint()
    done = subprocess.run(
        [sys.executable, "-m", "modal", "deploy", str(PACKAGE / "app.py")],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise RunError(f"the app could not be deployed. Modal says:\n{done.stdout}{done.stderr}")
    _deployed = source


def deployed_function(name: str) -> "modal.Function":
    """A function of the deployed app, which is deployed first where this process has not done so since the kit's
    source last changed."""
    import modal

    from grpo_kit.volumes import APP

    if _deployed != source_fingerprint():
        deploy()
    return modal.Function.from_name(APP, name)


def _say_what_was_uploaded(files):
    for file in files:
        print(f"{file.path}: {file.samples} samples, {file.bytes} bytes, read back and the same")
    return files


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """For a shell: what the user can mend is one message on stderr and exit code 2, with no traceback."""
    from grpo_kit.samples import BadTrace

    try:
        yield
    except (ConfigError, RunError, BadTrace) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
