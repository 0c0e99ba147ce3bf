"""A run as it goes on: a progress bar, and in a notebook a live plot. It only reads, so to end it changes nothing."""

import time
from collections.abc import Callable

from grpo_kit.runs import UNFINISHED, Run, RunError

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 15  # three heartbeats


def watch(run: Run) -> Run:
    """Follows the run until it ends, and returns it. An interrupt (Ctrl-C, the stop button) only stops the watching.

    Raises RunError where the run failed or was lost.
    """
    from tqdm.auto import tqdm

    in_notebook = _in_notebook()
    show = _live_plot() if in_notebook else lambda run: None
    status = run.status
    try:
        with tqdm(
            total=status["max_steps"],
            initial=status["step"],
            unit="step",
            desc=run.id,
            disable=False if in_notebook else None,
        ) as bar:
            while True:
                status = run.status_after(PATIENCE_SECONDS)
                if status["step"] != bar.n or status["state"] not in UNFINISHED:
                    bar.update(status["step"] - bar.n)
                    show(run)
                bar.set_postfix_str(_in_words(status))
                if status["state"] not in UNFINISHED:
                    break
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print(
            f"Detached; run {run.id} goes on. kit.Run({run.id!r}).watch() comes back, .stop() ends it at its next "
            f"step, .kill() at once"
        )
        return run
    if status["state"] in ("failed", "lost"):
        raise RunError(
            f"run {run.id} {'failed' if status['state'] == 'failed' else 'was lost'} at step {status['step']}: "
            f"{status['reason']}{_last_traceback(run)}"
        )
    print(f"Run {run.id} is {status['state']}" + (f": {status['reason']}" if status["reason"] else f": {run.place}"))
    return run


def _in_words(status: dict) -> str:
    reward = "" if status.get("reward") is None else f"reward={status['reward']:.3f} "
    usd = "" if not status["usd"] else f"${status['usd']:.2f} "
    return f"{reward}{usd}{status['state'] if status['state'] != 'running' or not status['step'] else ''}"


def _last_traceback(run: Run) -> str:
    from grpo_kit.runs import LOG_FILE

    try:
        log = run.place.read(LOG_FILE).decode()
    except FileNotFoundError:
        return ""
    _, found, trace = log.rpartition("Traceback (most recent call last)")
    return f"\n\n{found}{trace}".rstrip() if found else ""


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")


def _live_plot() -> Callable[[Run], None]:
    """Shows a picture that is redrawn when it is called; at the end of the run it stays as a figure.

    A picture in a widget survives a reload of the page, where a figure's display handle does not.
    """
    import io

    import ipywidgets
    from IPython.display import display
    from matplotlib import pyplot

    from grpo_kit.plots import learning_curve

    picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    shown = False

    def show(run: Run) -> None:
        nonlocal shown
        if run.metrics().empty:
            return
        if not shown:
            display(picture)
            shown = True
        figure = learning_curve(run)
        with io.BytesIO() as png:
            figure.savefig(png, format="png", dpi=100)
            picture.value = png.getvalue()
        pyplot.close(figure)
        if run.status["state"] not in UNFINISHED:
            display(figure)
            picture.layout.display = "none"

    return show
