"""`kit.Run`: a run wherever it is, and what can be done with it: watch, stop, kill, resume, download, delete."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_kit.config.backend import chosen_backend
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import KitError, RunError
from grpo_kit.runs.directory import RUNS_DIR, STOP_FILE, UNFINISHED, WORKER_FILE, RunDirectory, is_run, no_such_run, now
from grpo_kit.runs.storage import SERVING_FILE, LocalStorage
from grpo_kit.utils.files import CACHE, as_json, check_folder, replacing

if TYPE_CHECKING:
    import pandas

    from grpo_kit.evaluation.result import Evaluation
    from grpo_kit.rewards.travel import Rewards

COLUMNS = """
    run where state step reward reward_sd best_checkpoint minutes quoted_minutes quoted_minutes_low quoted_minutes_high
    usd quoted_usd model_name learning_rate num_generations seed started
""".split()


class Run(RunDirectory):
    """A handle on a run. It reads and writes only the run's files, so any process may hold one."""

    def __init__(self, run_id: str | Path, runs_dir: str | Path = RUNS_DIR):
        """`run_id` is a name under `runs_dir` or on Modal's volume, or the path of a run directory.

        A run on this machine comes first. Raises RunError if there is no such run.
        """
        here = is_run(Path(runs_dir) / run_id) or is_run(Path(run_id))
        if here or chosen_backend() == "local":
            super().__init__(run_id, runs_dir)
            return
        from grpo_kit.backends.modal.storage import VolumeStorage, runs_on_volume

        on_volume = runs_on_volume()
        if str(run_id) not in on_volume:
            raise no_such_run(run_id, runs_dir, on_volume)
        self.storage, self.id = VolumeStorage(str(run_id)), str(run_id)

    @staticmethod
    def of(run: "Run | str | Path", runs_dir: str | Path = RUNS_DIR) -> "Run":
        """The run itself, or the one of that name."""
        return run if isinstance(run, Run) else Run(run, runs_dir)

    def watch(self, figure: bool = True) -> "Run":
        """Waits for the run's end with a progress bar, and in a notebook a live plot, unless `figure` is False.
        Interrupting it is harmless.

        Raises RunError, with the traceback in its message, where the run fails.
        """
        from grpo_kit.backends.watch import watch

        watch(self, with_figure=figure)
        return self

    def stop(self) -> None:
        """Ends the run at its next step, with a checkpoint. One that still waits for its machine makes no step."""
        self._check_unfinished("stop")
        self.storage.write(STOP_FILE, b"")
        print(f"Run {self.id} stops at its next step; run.resume() or `grpo-kit resume` continues it")

    def kill(self) -> None:
        """Ends the run at once. Steps since its last checkpoint are made again when it is resumed."""
        self._check_unfinished("kill")
        self.storage.kill(self.worker)
        status = self._read_json("status.json")
        if status["state"] in UNFINISHED:  # else it had just ended
            reason = "killed; run.resume() continues it from its last checkpoint"
            status |= {"state": "killed", "heartbeat": now(), "reason": reason}
            self.storage.write("status.json", as_json(status))
        print(f"Run {self.id} is {status['reason'] or status['state']}")

    def _check_unfinished(self, verb: str) -> None:
        if (state := self.status_after(0)["state"]) not in UNFINISHED:
            raise RunError(f"run {self.id} is {state} already", f"There is nothing to {verb}")

    def resume(self, rewards: "Rewards" = (), trust: bool = False, **settings: Any) -> "Run":
        """Resumes the run where its files are, from its last checkpoint, and returns at once.

        `rewards` are needed where the run was trained by a process that waited for it; others keep their own. Those
        that another machine pickled are run only with `trust`: to resume somebody else's run is to run their code.
        `settings` may change what changes no score, such as `gpu` and `timeout`.
        """
        from grpo_kit.backends.start import start

        config = TrainConfig(**{"model_name": self.config.model_name, **settings}, run_id=self.id)
        on_modal = self.storage.backend == "modal"
        return Run.at(start(config, rewards, RUNS_DIR if on_modal else self.path.parent, on_modal, trust).storage)

    def download(self, to: str | Path) -> "Run":
        """Copies the run's folder to the folder `to`, which is made, or is empty, and returns the run there."""
        to = Path(to)
        if not to.name or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
            raise RunError(f"{to} exists already", f"Name a new folder to download run {self.id} to")
        if self.storage.backend == "local" and to.resolve().is_relative_to(Path(self.storage.root).resolve()):
            raise RunError(f"{to} is inside run {self.id}", "Name a folder elsewhere to copy it to")
        check_folder(to)
        to.parent.mkdir(parents=True, exist_ok=True)
        with replacing(to) as partial:
            self.storage.download(partial)
            for name in (WORKER_FILE, STOP_FILE, SERVING_FILE):  # nothing trains the copy
                (partial / name).unlink(missing_ok=True)
        return Run.at(LocalStorage(to))

    def evaluations(self) -> "list[Evaluation]":
        """The run's evaluations, newest last; for a run on Modal, those that were started from this machine."""
        from grpo_kit.evaluation.result import Evaluation

        folder = self.path / "eval" if self.storage.backend == "local" else CACHE / "evaluations" / self.id
        samples = folder.glob("*.samples.jsonl")  # result.json, where a notebook put one, has none
        found = [Evaluation.load(path.with_name(path.name.replace(".samples.jsonl", ".json"))) for path in samples]
        return sorted(found, key=lambda evaluation: evaluation.results["made"])

    def delete(self) -> None:
        """Deletes the run's folder for good. Raises RunError for a run that is under way or served."""
        if (state := self.status_after(0)["state"]) in UNFINISHED:
            raise RunError(f"run {self.id} is {state}", "End it first: run.stop() or `grpo-kit stop`")
        if self.storage.is_served():
            name = self.id if self.storage.backend == "modal" else self.path
            raise RunError(f"run {self.id} is being served", f"End that first: `grpo-kit serve {name} --stop`")
        self.storage.delete()
        print(f"Run {self.id} is deleted: {self.storage}")


def runs(runs_dir: str | Path = RUNS_DIR) -> "pandas.DataFrame":
    """A table of all runs under `runs_dir` and on Modal's volume, newest last: state, step, reward (the mean of the
    last tenth of the steps, with its standard deviation from step to step), best checkpoint by held-out score, minutes
    and dollars with what was quoted, settings."""
    import pandas

    with ThreadPoolExecutor(8) as pool:  # each run on the volume takes some requests
        table = pandas.DataFrame(pool.map(row_of, _found(runs_dir)), columns=COLUMNS)
    return table.sort_values("started", ignore_index=True, na_position="first")


def runs_under_way(runs_dir: str | Path = RUNS_DIR) -> list[Run]:
    """The runs under `runs_dir` and on Modal's volume that are queued or running, by name."""
    found = sorted(_found(runs_dir, say=lambda text: None), key=lambda run: run.id)
    with ThreadPoolExecutor(8) as pool:
        return [run for run, goes_on in zip(found, pool.map(_goes_on, found), strict=True) if goes_on]


def _goes_on(run: Run) -> bool:
    try:
        return run.status["state"] in UNFINISHED
    except KitError:  # the table of all runs says that it can't be read
        return False


def _found(runs_dir: str | Path, say: Callable[[str], None] = print) -> list[Run]:
    """All runs under `runs_dir` and on Modal's volume; says what can't be read."""
    folders = {folder: is_run(folder) for folder in Path(runs_dir).glob("*")}
    found = [Run(folder) for folder, is_one in folders.items() if is_one]
    for folder, is_one in folders.items():
        if not is_one and (folder / "status.json").is_file():
            say(f"Unreadable: {folder / 'config.json'} is missing, or can't be read")
    if chosen_backend() == "modal":
        from grpo_kit.backends.modal.storage import VolumeStorage, runs_on_volume

        try:
            found += [Run.at(VolumeStorage(name)) for name in runs_on_volume()]
        except RunError as error:
            say(f"Only the runs here: {error}")
    return found


def row_of(run: Run) -> dict[str, Any]:
    """The run's row of `runs`. One that can't be read says so and prints why; the others stand."""
    row: dict[str, Any] = {"run": run.id, "where": "here" if run.storage.backend == "local" else "modal"}
    try:
        status, settings = run.status, run.about["settings"]
        quoted = status.get("quoted") or {}
        row |= {name: settings[name] for name in COLUMNS if name in settings}
        row |= {name: status[name] for name in ("state", "usd", "started")}
        row["reward"], row["reward_sd"] = run.recent_reward()
        row |= {"best_checkpoint": status.get("best_checkpoint")}
        row |= {f"quoted_{name}": quoted.get(name) for name in ("minutes", "minutes_low", "minutes_high", "usd")}
        return row | {"step": f"{status['step']}/{status['max_steps']}", "minutes": status["seconds"] / 60}
    except Exception as error:  # a folder that another program, or another kit, wrote may be odd in any way
        print(f"Unreadable: {error}" if isinstance(error, RunError) else f"Unreadable: {run.id} ({error!r})")
        return {**row, "state": "unreadable"}
