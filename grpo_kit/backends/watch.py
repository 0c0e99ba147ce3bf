"""Watching a run: a progress bar, and in a notebook a live figure. It only reads, so ending it changes nothing."""

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed
from tqdm.auto import tqdm

from grpo_kit.costs.earlier import remember
from grpo_kit.errors import OutOfReach, RunError
from grpo_kit.runs.directory import (
    LOG_FILE,
    OUTPUT_FILE,
    RUNS_DIR,
    UNFINISHED,
    RunDirectory,
    phase_of,
    place_of,
    timed_phase_of,
    warm_start_of,
)
from grpo_kit.training.console import completions_text, numbers
from grpo_kit.utils.environment import in_notebook

if TYPE_CHECKING:
    from grpo_kit.plots.live import CellFigure

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 15  # three heartbeats
OUT_OF_REACH_SECONDS = 300  # a network may be down so long before watching gives up


def watch(run: RunDirectory, detached: str | None = None, with_figure: bool = True) -> RunDirectory:
    """Follows the run until it ends, and returns it. An interrupt (Ctrl-C, the stop button) only stops the watching.

    `detached` is printed then, in place of the line that says how to come back. Raises RunError where the run failed or
    was lost.
    """
    figure = None
    if with_figure and in_notebook():
        from grpo_kit.plots.live import CellFigure

        figure = CellFigure()
    try:
        status = _follow(run, figure)
        if run.storage.backend == "modal":
            with suppress(OSError, RunError):  # a help for the next quote, and no part of this run
                remember(run, RUNS_DIR)
    except KeyboardInterrupt:
        elsewhere = run.storage.backend == "local" and run.path.absolute().parent != RUNS_DIR.absolute()
        handle = f"kit.Run({str(run.path) if elsewhere else run.id!r})"
        verbs = f"{handle}.watch() continues watching, .stop() ends it at its next step, .kill() at once"
        print(detached or f"Detached; run {run.id} continues. {verbs}")
        return run
    finally:
        if figure:
            figure.settle()
    if status["state"] in ("failed", "lost"):
        how = "failed" if status["state"] == "failed" else "was lost"
        what = f"run {run.id} {how} at {place_of(status)}: {status['reason']}".rstrip(".")
        raise RunError(what, f"`grpo-kit resume {run.id}` resumes it{_last_output(run, status)}")
    print(f"Run {run.id} is {status['state']}: {status['reason'] or run.storage}")
    return run


def _follow(run: RunDirectory, figure: "CellFigure | None") -> dict[str, Any]:
    """Shows the run's progress until it ends; its last status. Without a terminal or a notebook, a line per change.
    Without a notebook, which has a figure, every few steps a table of completions."""
    status, last_line, config = run.status, "", run.config
    shown = in_notebook()  # it has a bar, and a figure or a widget, in place of lines
    told = math.inf if shown or not config.num_completions_to_print else status["step"]  # whose table is not needed
    look: dict[str, Any] = {"unit": "step", "desc": run.id, "bar_format": "{l_bar}{bar}| {n_fmt}/{total_fmt} {postfix}"}
    is_hidden = False if shown else None  # None: only where the output is no terminal
    with tqdm(total=status["max_steps"], initial=status["step"], disable=is_hidden, **look) as bar:
        while True:
            status = _status(run, bar)
            is_over = status["state"] not in UNFINISHED
            bar.set_postfix_str(_progress(status, timed_phase_of(status)), refresh=False)
            bar.update(status["step"] - bar.n)
            bar.refresh()
            if figure:
                figure.update(run, status["step"], is_over)
            step = status["step"] - status["step"] % config.logging_steps
            if step > told:
                with suppress(OutOfReach):
                    tqdm.write(completions_text(run, told := step))
            if is_over:
                return status
            line = f"Run {run.id}: step {status['step']}/{status['max_steps']} {_progress(status, phase_of(status))}"
            if bar.disable and line != last_line:
                print(last_line := line, flush=True)
            time.sleep(POLL_SECONDS)


@retry(
    retry=retry_if_exception_type(OutOfReach),
    stop=stop_after_delay(OUT_OF_REACH_SECONDS),
    wait=wait_fixed(5),
    before_sleep=lambda call: call.args[1].set_postfix_str("out of reach, trying again"),
    reraise=True,
)
def _status(run: RunDirectory, bar: tqdm) -> dict[str, Any]:
    """The run's status now; asked for again, for a while, where Modal can't be reached."""
    return run.status_after(PATIENCE_SECONDS)


def _progress(status: dict[str, Any], phase: str) -> str:
    """ "loss=0.012 reward=0.512±0.301 40 s left $0.40"; while no steps are made, the phase or the state is added."""
    measured = status.get("difficulty") or {}
    measuring = "measuring {measured}/{prompts}".format(**measured) if "measured" in measured else ""
    state = "" if status["state"] == "running" and status["step"] else status["state"]
    return " ".join(filter(None, (warm_start_of(status), measuring, numbers(status), phase or state)))


def _last_output(run: RunDirectory, status: dict[str, Any]) -> str:
    """The traceback of a run that failed; the last lines that a lost one's process printed."""
    if status["state"] == "failed":
        _, found, trace = run.read_text(LOG_FILE).rpartition("Traceback (most recent call last)")
        return f"\n\n{found}{trace}".rstrip()
    printed = run.read_text(OUTPUT_FILE).splitlines()[-10:]
    return "\n".join(["\n\nIts last lines:", *printed]) if printed else ""
