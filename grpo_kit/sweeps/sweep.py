"""A sweep: its runs, several at a time, within a budget, until all are done. results.py reads what they left."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pandas
from filelock import FileLock, Timeout
from rich import get_console
from rich.live import Live
from rich.text import Text

from grpo_kit.backends.modal.launch import DEPLOYED, deployed_function, deployment
from grpo_kit.errors import RunError
from grpo_kit.plots.tables import Table, table
from grpo_kit.sweeps.costs import BudgetPool, SweepQuote, quote_of
from grpo_kit.sweeps.grid import Grid, read_grid
from grpo_kit.sweeps.halving import Halving
from grpo_kit.sweeps.notebooks import find_notebook
from grpo_kit.sweeps.plan import plan
from grpo_kit.sweeps.results import Results
from grpo_kit.sweeps.run import NOT_RUN, PRUNED, PlannedRun, read_json
from grpo_kit.utils.environment import in_notebook
from grpo_kit.utils.files import check_folder, write_json

Show = Callable[[pandas.DataFrame], None]
SWEEP_FILE = "sweep.json"
JOBS = {"local": 2, "modal": 8}
REFRESH_SECONDS = {"local": 1.0, "modal": 3.0}
SHOWN = ["run", "state", "step", "reward", "trained", "difference", "seconds", "usd"]  # columns, while it runs
GRACE_SECONDS = 10  # for kernels to end after an interrupt


class Sweep(Results):
    """Runs of a notebook with the settings of a grid, in the folder `out`. Making one checks it and writes nothing."""

    def __init__(self, notebook: str | Path, grid: Grid, out: str | Path, backend: str | None = None):
        """`notebook` is a path or the name of one of the kit's; for `grid` see grpo_kit.sweeps.grid; for `backend`
        kit.backend. Raises ConfigError for names and values that cannot work."""
        # Whole paths, since papermill, to write a file, goes to another folder for a moment with all threads.
        self.notebook, self.grid = find_notebook(notebook).resolve(), read_grid(grid)
        super().__init__(Path(out), plan(self.notebook, self.grid, Path(out).resolve(), backend))

    @classmethod
    def load(cls, out: str | Path) -> "Sweep":
        """The sweep that was run in the folder `out`. Raises RunError where there was none, ConfigError where its
        notebook is gone."""
        known = read_json(Path(out) / SWEEP_FILE)
        if not known:
            raise RunError(f"no sweep was run in {out}: it has no {SWEEP_FILE}", "Name the folder that --out named")
        return cls(known["notebook"], known["grid"], out, known["backend"])

    def __repr__(self) -> str:
        return f"Sweep({self.folder}: {len(self.runs)} runs of {self.notebook.stem}, {self.counts()})"

    def quote(self, jobs: int | None = None, budget: float | None = None, halving: int | None = None) -> SweepQuote:
        """The runs that are left, and the time and dollars they will take, with `halving` at most. Print it."""
        jobs, spent = self._jobs(jobs), sum(run.usd() or 0.0 for run in self.runs)
        return SweepQuote(tuple(map(quote_of, self._left(halving))), len(self.runs), jobs, budget, spent)

    def run(self, jobs: int | None = None, budget: float | None = None, halving: int | None = None) -> "Sweep":
        """Does what is not done yet, and shows how it goes. Returns itself when nothing is left to do.

        `jobs` runs at a time: 2 here and up to 8 on Modal, unless it says otherwise. `budget` is in US dollars for all
        runs together, those of earlier calls included: each run gets a max_usd, and those that it does not pay for are
        not run. `halving` stops runs that are behind others at that many steps, twice as many, and so on; see
        grpo_kit.sweeps.halving. A run that fails does not stop the others. An interrupt ends those under way, with a
        checkpoint.

        Raises RunError where another process runs the sweep, ConfigError where a budget can't be kept.
        """
        check_folder(self.out)
        jobs = self._jobs(jobs)
        pool = BudgetPool(budget, self.runs, jobs) if budget is not None else None
        halves = Halving(halving, self.runs) if halving else None
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.out / ".lock").acquire(timeout=0)
        except Timeout:
            raise RunError(f"another process is running the sweep in {self.out}", "Wait for it, or end it") from None
        with lock, _live_table() as show:
            about = {"notebook": str(self.notebook), "grid": self.grid, "backend": self.backend}
            write_json(self.out / SWEEP_FILE, about)
            try:
                self._run(jobs, pool, halves, show)
            finally:
                self.write()
                show(self.results())
        if any(run.record["state"] == NOT_RUN for run in self.runs):
            print(f"The budget of ${budget:g} is reached; the same command with a larger one continues.")
        return self

    def _left(self, halving: object) -> deque[PlannedRun]:
        """The runs that are not done. Those that were stopped for being behind stay so as long as runs are halved."""
        return deque(r for r in self.runs if not r.is_done and not (halving and r.record["state"] == PRUNED))

    def _run(self, jobs: int, pool: BudgetPool | None, halves: Halving | None, show: Show) -> None:
        waiting, under_way = self._left(halves), dict[Future, PlannedRun]()
        for run in waiting:
            run.queue()
        env = os.environ | {"GRPO_KIT_BACKEND": self.backend}
        if self.backend == "local":
            env = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} | env
        elif self.runs[0].config:
            deployed_function("train")  # once, for all
            env[DEPLOYED] = deployment()
        with ThreadPoolExecutor(jobs, thread_name_prefix="sweep") as executor:
            try:
                while waiting or under_way:
                    while waiting and len(under_way) < jobs:
                        max_usd = pool.reserve(waiting[0]) if pool else 0.0
                        if max_usd is None and under_way:
                            break  # they may cost less than was reserved for them
                        run = waiting.popleft()
                        if max_usd is None:
                            run.write(state=NOT_RUN)
                        else:
                            under_way[executor.submit(run.execute, max_usd, env)] = run
                    show(self.results())
                    done, _ = wait(under_way, REFRESH_SECONDS[self.backend], FIRST_COMPLETED)
                    for run in under_way.values():
                        if halves and run.name not in halves.behind and halves.is_behind(run):
                            run.stop_training()
                    for future in done:
                        run = under_way.pop(future)
                        future.result()
                        if halves and run.name in halves.behind and run.record["state"] == "stopped":
                            run.write(state=PRUNED, error=halves.behind[run.name])
                        if pool:
                            pool.release(run)
                        self.write()
                        if not (get_console().is_terminal or in_notebook()):
                            print(f"{run.name}: {run.how_it_ended()}", flush=True)
            except BaseException:
                for number in (signal.SIGINT, signal.SIGKILL):
                    for run in under_way.values():
                        run.end(number)
                    if not wait(under_way, GRACE_SECONDS).not_done:
                        break
                print("Interrupted: runs under way stop at their next step. The same command resumes them.")
                raise

    def _jobs(self, jobs: int | None) -> int:
        return max(1, min(len(self.runs), JOBS[self.backend] if jobs is None else jobs))


def sweep(
    notebook: str | Path,
    grid: Grid,
    out: str | Path,
    *,
    jobs: int | None = None,
    budget: float | None = None,
    halving: int | None = None,
) -> Sweep:
    """Runs a notebook with every setting of a grid and returns the sweep. The same call again does what is missing.

        kit.sweep("03_launch_training", {"learning_rate": [1e-3, 2e-3], "seed": [1, 2]}, out="sweeps/rates").results()

    `notebook` is a path, or the name of one of the kit's; for `grid`, a mapping, a YAML file or its text, see
    grpo_kit.sweeps.grid. The trained models of 03 are evaluated by 04 too. A quote is printed first; for `jobs`,
    `budget`, `halving` and what is raised see Sweep and Sweep.run.
    """
    found = Sweep(notebook, grid, out)
    print(found.quote(jobs, budget, halving))
    return found.run(jobs, budget, halving)


def sweep_results(out: str | Path) -> pandas.DataFrame:
    """The results of the sweep that was run in the folder `out`; see Sweep.results. RunError where there was none."""
    return Sweep.load(out).results()


@contextmanager
def _live_table() -> Iterator[Show]:
    """Gives a function that shows results in place of those before; in a file nothing."""

    def short(results: pandas.DataFrame) -> Table:
        return table(results[results.columns.intersection(SHOWN, sort=False)])

    if not in_notebook():
        with Live(auto_refresh=False, transient=not get_console().is_terminal) as live:
            yield lambda results: live.update(Text(repr(short(results))), refresh=True)
        return
    import ipywidgets
    from IPython.display import HTML, DisplayHandle

    handle, widget = DisplayHandle(), ipywidgets.HTML()  # a widget goes on when the page is reloaded

    def show(results: pandas.DataFrame) -> None:
        widget.value = short(results)._repr_html_()

    handle.display(widget)
    try:
        yield show
    finally:
        handle.update(HTML(widget.value))  # a saved notebook keeps it
