"""A run as it goes on: a progress bar, and in a notebook a live plot. It only reads, so to end it changes nothing."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from grpo_kit.costs.time import remember
from grpo_kit.errors import OutOfReach, RunError
from grpo_kit.runs.directory import LOG_FILE, OUTPUT_FILE, RUNS_DIR, UNFINISHED, RunDirectory

if TYPE_CHECKING:
    import ipywidgets
    from IPython.display import DisplayHandle
    from matplotlib.figure import Figure
    from tqdm import tqdm

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 15  # three heartbeats
OUT_OF_REACH_SECONDS = 300  # a network may be down so long before watching gives up
REDRAW_SECONDS = 2.0  # at least so long between two pictures,
REDRAW_COSTS = 5  # and so many times as long as it takes to read and draw one


def watch(run: RunDirectory, detached: str | None = None) -> RunDirectory:
    """Follows the run until it ends, and returns it. An interrupt (Ctrl-C, the stop button) only stops the watching.

    `detached` is what is said then, where it is not that the run goes on. Raises RunError where the run failed or was
    lost.
    """
    picture = None
    try:
        picture = _picture()
        status = _follow(run, picture)
        if run.storage.backend == "modal":
            with suppress(OSError, RunError):  # a help for the next quote, and no part of this run
                remember(run, RUNS_DIR)
    except KeyboardInterrupt:
        if picture:
            picture.settle()
        verbs = f"{handle(run)}.watch() comes back, .stop() ends it at its next step, .kill() at once"
        print(detached or f"Detached; run {run.id} goes on. {verbs}")
        return run
    if status["state"] in ("failed", "lost"):
        raise RunError(
            f"run {run.id} {'failed' if status['state'] == 'failed' else 'was lost'} at step {status['step']}: "
            f"{status['reason']}{_last_words(run, status['state'])}"
        )
    print(f"Run {run.id} is {status['state']}" + (f": {status['reason']}" if status["reason"] else f": {run.storage}"))
    return run


def _follow(run: RunDirectory, picture: "_Picture | None") -> dict:
    """Shows how far the run is until it ends; its last status. Where nobody looks, a line for what is new."""
    from tqdm.auto import tqdm

    status, said = run.status, ""
    with tqdm(
        total=status["max_steps"],
        initial=status["step"],
        unit="step",
        desc=run.id,
        disable=None if picture is None else False,  # None: only where it is no terminal
    ) as bar:
        while True:
            status = _status(run, bar)
            is_over = status["state"] not in UNFINISHED
            bar.set_postfix_str(_in_words(status), refresh=False)
            bar.update(status["step"] - bar.n)
            bar.refresh()
            if picture:
                picture.show(run, status["step"], is_over)
            if is_over:
                return status
            line = f"Run {run.id}: step {status['step']}/{status['max_steps']} {_in_words(status)}"
            if bar.disable and line != said:
                print(said := line, flush=True)
            time.sleep(POLL_SECONDS)


def _status(run: RunDirectory, bar: "tqdm") -> dict:
    """The run's status now. Asked again for a while where it is elsewhere and can't be reached."""
    for attempt in Retrying(
        retry=retry_if_exception_type(OutOfReach),
        stop=stop_after_delay(OUT_OF_REACH_SECONDS if run.storage.backend == "modal" else 0),
        wait=wait_fixed(5),
        before_sleep=lambda _: bar.set_postfix_str("out of reach, trying again"),
        reraise=True,
    ):
        with attempt:
            return run.status_after(PATIENCE_SECONDS)


def _in_words(status: dict) -> str:
    reward = "" if status.get("reward") is None else f"reward={status['reward']:.3f} "
    usd = "" if not status["usd"] else f"${status['usd']:.2f} "
    return f"{reward}{usd}{status['state'] if status['state'] != 'running' or not status['step'] else ''}".strip()


def handle(run: RunDirectory) -> str:
    """What to type in another process to have the run again."""
    elsewhere = run.storage.backend == "local" and run.path.absolute().parent != RUNS_DIR.absolute()
    return f"kit.Run({str(run.path) if elsewhere else run.id!r})"


def _last_words(run: RunDirectory, state: str) -> str:
    """The traceback of a run that failed; what a process last printed that was lost."""
    if state == "failed":
        _, found, trace = run.read_text(LOG_FILE).rpartition("Traceback (most recent call last)")
        return f"\n\n{found}{trace}".rstrip()
    printed = run.read_text(OUTPUT_FILE).splitlines()[-10:]
    return "\n".join(["\n\nThe last that it printed:", *printed]) if printed else ""


def _picture() -> "_Picture | None":
    """Where the run is drawn; None where there is no notebook to show it."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    if shell is None or not shell.has_trait("kernel"):
        return None
    import ipywidgets
    from IPython.display import DisplayHandle

    from grpo_kit.plots.runs import learning_curve

    return _Picture(learning_curve, ipywidgets.Image(format="png", layout={"max_width": "100%"}), DisplayHandle())


class _Picture:
    """The run's figure, shown as it grows.

    While it grows it is a widget, which goes on after the page is reloaded; in the end a plain figure takes the
    widget's place, which a saved notebook keeps.
    """

    def __init__(self, draw: Callable[[RunDirectory], "Figure"], widget: "ipywidgets.Image", handle: "DisplayHandle"):
        self._draw, self._widget, self._handle = draw, widget, handle
        self._figure, self._step, self._not_before = None, 0, 0.0

    def show(self, run: RunDirectory, step: int, is_last: bool) -> None:
        """Draws the run where there is something new, and not more often than what a picture costs allows."""
        started = time.monotonic()
        is_due = step > 1 and step != self._step and started >= self._not_before  # one step alone makes no line
        if is_due or (is_last and step):
            self._redraw(run, step)
            self._not_before = time.monotonic() + max(REDRAW_SECONDS, REDRAW_COSTS * (time.monotonic() - started))
        if is_last:
            self.settle()

    def _redraw(self, run: RunDirectory, step: int) -> None:
        try:
            figure = self._draw(run)
        except RunError:  # out of reach: what was drawn before stays
            return
        self._widget.value, self._step = figure._repr_png_(), step
        is_first, self._figure = self._figure is None, figure
        if is_first:
            self._handle.display(self._widget)

    def settle(self) -> None:
        """Puts the last figure in the widget's place."""
        if self._figure:
            self._handle.update(self._figure)
