"""A sweep: its runs several at a time, within a budget, until all are done; what came of it is in results.py."""

import fcntl
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_kit.backends.modal.launch import deployed_function
from grpo_kit.errors import RunError
from grpo_kit.sweeps.costs import Purse, SweepQuote, quote_of
from grpo_kit.sweeps.grid import read_grid
from grpo_kit.sweeps.halving import PRUNED, Halving
from grpo_kit.sweeps.notebooks import notebook_folder
from grpo_kit.sweeps.plan import PlannedRun, find_notebook, plan, read_json
from grpo_kit.sweeps.progress import NOT_RUN, display, row_of
from grpo_kit.sweeps.results import Results
from grpo_kit.sweeps.runner import GRACE_SECONDS, Runner
from grpo_kit.utils.files import write_json
from grpo_kit.utils.text import dollars

if TYPE_CHECKING:
    from grpo_kit.sweeps.progress import Display

SWEEP_FILE = "sweep.json"
JOBS_HERE, JOBS_ON_MODAL = 2, 8
REFRESH_SECONDS = {"local": 1.0, "modal": 3.0}


class Sweep(Results):
    """Runs of a notebook with the settings of a grid, in the folder `out`. Making one checks it and writes nothing."""

    def __init__(
        self,
        notebook: str | Path,
        grid: str | Path | Mapping[str, Any],
        out: str | Path,
        backend: str | None = None,
    ):
        """`notebook` is a path or the name of one of the kit's; for `grid` see grpo_kit.sweeps.grid; for
        `backend` kit.backend.

        Raises ConfigError, with all that is wrong in one message.
        """
        # Absolute, since papermill, to write a file, goes to another folder for a moment with all threads.
        self.notebook, self.grid, out = find_notebook(notebook).absolute(), read_grid(grid), Path(out).absolute()
        super().__init__(out, plan(self.notebook, self.grid, out, backend))

    @classmethod
    def load(cls, out: str | Path) -> "Sweep":
        """The sweep that was run in the folder `out`. RunError where there was none."""
        known = read_json(Path(out) / SWEEP_FILE)
        if not known:
            raise RunError(f"no sweep was run in {out}: there is no {SWEEP_FILE}")
        notebook = Path(known["notebook"])
        if notebook.is_absolute() and not notebook.is_file():
            raise RunError(
                f"the sweep in {out} ran {notebook}, which is not there: kit.Sweep(NOTEBOOK, …) names another"
            )
        return cls(notebook, known["grid"], out, known["backend"])

    def __repr__(self) -> str:
        states = [run.record["state"] for run in self.runs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"Sweep({self.folder}: {len(self.runs)} runs of {self.notebook.stem}, {counts})"

    @property
    def backend(self) -> str:
        return self.runs[0].backend

    def quote(self, jobs: int | None = None, budget: float | None = None, halving: int | None = None) -> SweepQuote:
        """What is left to do, and what that will take and cost, with `halving` at most. Print it."""
        quotes = tuple(quote_of(run) for run in self._left(halving))
        spent = Purse(budget, self.runs, self._jobs(jobs)).spent() if budget is not None else 0.0
        return SweepQuote(quotes, len(self.runs), self._jobs(jobs), budget, spent)

    def run(self, jobs: int | None = None, budget: float | None = None, halving: int | None = None) -> "Sweep":
        """Does what is not done yet, and shows how it goes on. Returns itself when nothing is left to do.

        `jobs` runs at a time: 2 here and up to 8 on Modal, unless it says otherwise. `budget` is in US dollars for all
        runs together, those of earlier calls included: each run gets a max_usd, and those that it does not pay for are
        not run. `halving` stops runs that are behind others at that many steps, twice as many, and so on; see
        grpo_kit.sweeps.halving. A run that fails does not stop the others. An interrupt ends those under way, with a
        checkpoint.

        Raises RunError where another process is at it, ConfigError where a budget can't be kept.
        """
        jobs = self._jobs(jobs)
        if self.backend == "modal" and any(run.config for run in self.runs):
            deployed_function("train")  # once, for all
        purse = Purse(budget, self.runs, jobs) if budget is not None else None
        halves = Halving(halving, self.runs) if halving else None
        with self._only_one():
            is_own = self.notebook.parent == notebook_folder().absolute()  # the kit's is found by its name anywhere
            notebook = self.notebook.stem if is_own else str(self.notebook.resolve())
            about = {"notebook": notebook, "grid": self.grid, "backend": self.backend}
            write_json(self.out / SWEEP_FILE, about)
            shown = display()
            try:
                self._run(jobs, purse, halves, shown)
            finally:
                shown.close()
                self.write()
        if any(run.record["state"] == NOT_RUN for run in self.runs):
            print(f"The budget of ${budget:g} is reached; the same command with a larger one goes on.")
        if purse and purse.spent() > budget:
            spent = dollars(purse.spent())
            print(f"{spent} was spent, more than the budget of ${budget:g}: what could not be quoted was under way.")
        return self

    def _left(self, halving: object) -> list[PlannedRun]:
        """The runs that are not done. What was stopped for being behind is left alone as long as runs are halved."""
        return [r for r in self.runs if not r.is_done() and not (halving and r.record["state"] == PRUNED)]

    def _run(self, jobs: int, purse: Purse | None, halves: Halving | None, shown: "Display") -> None:
        waiting = deque(self._left(halves))
        for run in waiting:
            if run.folder.exists():
                run.write(state="waiting", error=None)
        threads = max(1, (os.cpu_count() or 1) // jobs) if self.backend == "local" else None
        under_way: dict[Future, tuple[Runner, float]] = {}
        with ThreadPoolExecutor(jobs, thread_name_prefix="sweep") as pool:
            try:
                while waiting or under_way:
                    while waiting and len(under_way) < jobs:
                        max_usd = purse.lend(quote_of(waiting[0])) if purse else 0.0
                        if max_usd is None and under_way:
                            break  # they may cost less than they were lent
                        run = waiting.popleft()
                        if max_usd is None:
                            run.folder.mkdir(parents=True, exist_ok=True)
                            run.write(state=NOT_RUN)
                            continue
                        runner = Runner(run, threads)
                        under_way[pool.submit(runner.execute, max_usd or None)] = runner, time.monotonic()
                    self._show(shown, under_way)
                    done, _ = wait(under_way, REFRESH_SECONDS[self.backend], FIRST_COMPLETED)
                    for runner, _ in under_way.values() if halves else ():
                        if why := halves.why_behind(runner.run):
                            runner.prune(why)
                    for future in done:
                        runner, _ = under_way.pop(future)
                        future.result()
                        if purse:
                            purse.give_back(runner.run)
                        self.write()
                self._show(shown, under_way)
            except BaseException:
                _end([runner for runner, _ in under_way.values()], list(under_way))
                self._show(shown, {})
                print("Interrupted: what was under way stops at its next step. The same command goes on where it was.")
                raise

    def _show(self, shown: "Display", under_way: Mapping[Future, tuple[Runner, float]]) -> None:
        since = {runner.run.name: began for runner, began in under_way.values()}
        now = time.monotonic()
        shown.show([row_of(run, now - since.get(run.name, now)) for run in self.runs])

    def _jobs(self, jobs: int | None) -> int:
        most = JOBS_HERE if self.backend == "local" else JOBS_ON_MODAL
        return max(1, min(len(self.runs), most if jobs is None else jobs))

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another process is at the sweep in {self.out}: wait for it, or end it") from None
            yield


def _end(runners: list[Runner], futures: list[Future]) -> None:
    """Ends what is under way, and waits for its kernels to be gone."""
    for runner in runners:
        runner.end()
    if wait(futures, GRACE_SECONDS).not_done:
        for runner in runners:
            runner.kill()
        wait(futures, GRACE_SECONDS)
