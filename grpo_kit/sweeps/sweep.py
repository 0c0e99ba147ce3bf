"""A sweep: its runs, several at a time, within a budget, until all are done. results.py reads what they left."""

import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich import get_console
from rich.live import Live
from rich.table import Table

from grpo_kit.backends.modal.launch import deployed_function
from grpo_kit.errors import RunError
from grpo_kit.sweeps.grid import read_grid
from grpo_kit.sweeps.halving import Halving
from grpo_kit.sweeps.notebooks import find_notebook
from grpo_kit.sweeps.plan import plan
from grpo_kit.sweeps.progress import line_of, progress_table, row_of
from grpo_kit.sweeps.quote import BudgetPool, SweepQuote, quote_of
from grpo_kit.sweeps.results import Results
from grpo_kit.sweeps.run import NOT_RUN, PRUNED, PlannedRun, read_json
from grpo_kit.sweeps.runner import Runner
from grpo_kit.utils.files import write_json
from grpo_kit.utils.text import dollars

SWEEP_FILE = "sweep.json"
JOBS_HERE, JOBS_ON_MODAL = 2, 8
REFRESH_SECONDS = {"local": 1.0, "modal": 3.0}
GRACE_SECONDS = 10  # for kernels to end after an interrupt


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
        # Whole paths, since papermill, to write a file, goes to another folder for a moment with all threads.
        self.notebook, self.grid, out = find_notebook(notebook).resolve(), read_grid(grid), Path(out).resolve()
        super().__init__(out, plan(self.notebook, self.grid, out, backend))

    @classmethod
    def load(cls, out: str | Path) -> "Sweep":
        """The sweep that was run in the folder `out`. Raises RunError where there was none, ConfigError where its
        notebook is gone."""
        known = read_json(Path(out) / SWEEP_FILE)
        if not known:
            raise RunError(f"no sweep was run in {out}: there is no {SWEEP_FILE}")
        return cls(known["notebook"], known["grid"], out, known["backend"])

    def __repr__(self) -> str:
        return f"Sweep({self.folder}: {len(self.runs)} runs of {self.notebook.stem}, {self.counts()})"

    def quote(self, jobs: int | None = None, budget: float | None = None, halving: int | None = None) -> SweepQuote:
        """The runs that are left, and the time and dollars they will take, with `halving` at most. Print it."""
        spent = BudgetPool(budget, self.runs, self._jobs(jobs)).spent() if budget is not None else 0.0
        quotes = tuple(quote_of(run) for run in self._left(halving))
        return SweepQuote(quotes, len(self.runs), self._jobs(jobs), budget, spent)

    def run(self, jobs: int | None = None, budget: float | None = None, halving: int | None = None) -> "Sweep":
        """Does what is not done yet, and shows how it goes. Returns itself when nothing is left to do.

        `jobs` runs at a time: 2 here and up to 8 on Modal, unless it says otherwise. `budget` is in US dollars for all
        runs together, those of earlier calls included: each run gets a max_usd, and those that it does not pay for are
        not run. `halving` stops runs that are behind others at that many steps, twice as many, and so on; see
        grpo_kit.sweeps.halving. A run that fails does not stop the others. An interrupt ends those under way, with a
        checkpoint.

        Raises RunError where another process runs the sweep, ConfigError where a budget can't be kept.
        """
        jobs = self._jobs(jobs)
        if self.backend == "modal" and any(run.config for run in self.runs):
            deployed_function("train")  # once, for all
        pool = BudgetPool(budget, self.runs, jobs) if budget is not None else None
        halves = Halving(halving, self.runs) if halving else None
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.out / ".lock").acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"another process is running the sweep in {self.out}", fix="Wait for it, or end it"
            ) from None
        with lock:
            about = {"notebook": str(self.notebook), "grid": self.grid, "backend": self.backend}
            write_json(self.out / SWEEP_FILE, about)
            try:
                self._run(jobs, pool, halves)
            finally:
                self.write()
                if _is_watched():
                    get_console().print(self._table())
        if any(run.record["state"] == NOT_RUN for run in self.runs):
            print(f"The budget of ${budget:g} is reached; the same command with a larger one continues.")
        if pool and budget and (spent := pool.spent()) > budget:
            print(f"{dollars(spent)} was spent, more than the budget of ${budget:g}: some runs had no quote.")
        return self

    def _left(self, halving: object) -> deque[PlannedRun]:
        """The runs that are not done. Those that were stopped for being behind stay so as long as runs are halved."""
        return deque(r for r in self.runs if not r.is_done and not (halving and r.record["state"] == PRUNED))

    def _run(self, jobs: int, pool: BudgetPool | None, halves: Halving | None) -> None:
        waiting = self._left(halves)
        for run in waiting:
            if run.folder.exists():
                run.write(state="waiting", error=None)
        threads = max(1, (os.cpu_count() or 1) // jobs) if self.backend == "local" else None
        under_way: dict[Future, Runner] = {}
        live = Live(auto_refresh=False, transient=True)  # shows nothing where nobody watches
        with ThreadPoolExecutor(jobs, thread_name_prefix="sweep") as executor, live:
            try:
                while waiting or under_way:
                    while waiting and len(under_way) < jobs:
                        max_usd = pool.reserve(waiting[0]) if pool else 0.0
                        if max_usd is None and under_way:
                            break  # they may cost less than was reserved for them
                        runner = Runner(waiting.popleft(), threads)
                        if max_usd is None:
                            runner.run.write(state=NOT_RUN)
                        else:
                            under_way[executor.submit(runner.execute, max_usd or None)] = runner
                    live.update(self._table(under_way.values()), refresh=True)
                    done, _ = wait(under_way, REFRESH_SECONDS[self.backend], FIRST_COMPLETED)
                    for runner in under_way.values():
                        if halves and (why := halves.why_behind(runner.run)):
                            runner.prune(why)
                    for future in done:
                        runner = under_way.pop(future)
                        future.result()
                        if pool:
                            pool.release(runner.run)
                        if not _is_watched():
                            print(line_of(runner.run), flush=True)
                        self.write()
            except BaseException:
                for runner in under_way.values():
                    runner.end()
                if wait(under_way, GRACE_SECONDS).not_done:
                    for runner in under_way.values():
                        runner.signal(signal.SIGKILL)
                    wait(under_way, GRACE_SECONDS)
                print("Interrupted: runs under way stop at their next step. The same command resumes them.")
                raise

    def _table(self, runners: Iterable[Runner] = ()) -> Table:
        seconds = {runner.run.name: time.monotonic() - runner.since for runner in runners}
        return progress_table(row_of(run, seconds.get(run.name, 0.0)) for run in self.runs)

    def _jobs(self, jobs: int | None) -> int:
        most = JOBS_HERE if self.backend == "local" else JOBS_ON_MODAL
        return max(1, min(len(self.runs), most if jobs is None else jobs))


def _is_watched() -> bool:
    """Whether the output is a terminal or a notebook, rather than a file."""
    return get_console().is_terminal or get_console().is_jupyter
