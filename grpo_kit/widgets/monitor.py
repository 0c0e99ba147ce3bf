"""`monitor(run)`: a run as it goes on, in a notebook, with buttons to stop and resume it.

A thread reads the run's files, so that the kernel is free for other cells, and a page that was reloaded still shows it.
"""

import html
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ipywidgets
import pandas
from IPython.display import display

from grpo_kit.backends.run import Run
from grpo_kit.backends.watch import PATIENCE_SECONDS, POLL_SECONDS
from grpo_kit.data.samples import last_turn
from grpo_kit.plots.live import Redraw
from grpo_kit.runs.directory import RUNS_DIR, UNFINISHED, RunDirectory, timed_phase_of, warm_start_of
from grpo_kit.training.console import best_and_worst, numbers
from grpo_kit.training.diagnostics import diagnose
from grpo_kit.utils.text import printable
from grpo_kit.widgets.curves import Curves
from grpo_kit.widgets.helps import Helps
from grpo_kit.widgets.parts import (
    WARN,
    Panel,
    button,
    completions_html,
    error_html,
    in_background,
    note_html,
    text_html,
)

NEWEST = 4  # completions shown


def monitor(run: Run | str | Path, runs_dir: str | Path = RUNS_DIR) -> "Monitor":
    """Shows a run, or the one of that name, as it goes on: also one that another kernel started or resumes."""
    shown = Monitor()
    shown.follow(Run.of(run, runs_dir))
    return shown


class Monitor(Panel):
    """Progress, curves, newest completions and signs of trouble of a run; buttons to stop and resume it.
    A click on a point of a curve shows that step's completions below the curves, a second one hides them.

    `run` is the run that is shown, None before there is one. `changed` is called when another is shown, or it ends.
    """

    changed: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, buttons: tuple[ipywidgets.Button, ...] = (), on_end: Callable[[], None] | None = None):
        """`buttons` are a larger panel's, put beside the monitor's own. `on_end` is called when a run has ended."""
        self.run: Run | None = None
        self._on_end = on_end or self.keep
        self._step, self._completions = None, pandas.DataFrame()  # the step that was clicked, of these
        self._state, self._is_busy = "", False
        self._off: tuple[ipywidgets.Button, ...] = ()
        self._afterwards: list[tuple[ipywidgets.VBox, Callable[[Run], Iterable[Any]]]] = []
        self.stop_button = button("Stop", "End the run at its next step, with a checkpoint", "warning")
        self.resume_button = button("Resume", "Continue the run from its last checkpoint")
        self.stop_button.on_click(lambda _: self.act("Stopping …", self._stop))
        self.resume_button.on_click(lambda _: self.act("Resuming …", self._resume))
        self.other_buttons = buttons
        self.message, self._progress, self._signs, self.picked, self.newest = (ipywidgets.HTML() for _ in range(5))
        self.message.add_class("grpo-kit-message")
        self.picked.add_class("grpo-kit-picked")
        self._progress.add_class("grpo-kit-progress")
        self._bar = ipywidgets.IntProgress(layout={"width": "auto"}, tooltip="Steps made")
        self._row = ipywidgets.VBox([self._bar, self._progress], layout={"display": "none"})
        self._redraw = Redraw(self._draw)
        self.curves = Curves(on_step=self._pick)
        verbs = [*buttons, self.stop_button, self.resume_button]
        verbs = ipywidgets.HBox(verbs, layout={"flex_flow": "row wrap"})
        self.status = ipywidgets.VBox([verbs, self.message, self._row, self._signs])
        super().__init__()
        self.children = [Helps(self), self.status, self.curves, self.picked, self.newest]
        self._enable()

    def follow(self, run: Run) -> None:
        """Shows `run` from now on, until another is shown: also how it goes on where it is resumed elsewhere."""
        if self.run and run.id != self.run.id:  # what is shown is the other's
            self.newest.value = self.picked.value = self._signs.value = ""
            self.curves.show([])
        self.run, self._config, self._state = run, run.config, run.status["state"]
        threading.Thread(target=self._keep, args=(run,), name=f"monitor {run.id}", daemon=True).start()
        self._enable()
        self.changed()

    def after(self, show: Callable[[Run], Iterable[Any]]) -> None:
        """Displays what `show(run)` gives of a run that made a step: at once where the run that is shown is over, so
        that a saved notebook keeps it; else in this place, each time that a run has ended here."""
        if self.run and self._state not in UNFINISHED and self.run.status["step"]:
            for each in show(self.run):
                print(each) if isinstance(each, str) else display(each)
            return
        place = ipywidgets.VBox([ipywidgets.HTML(note_html("It is shown here as soon as the run has ended."))])
        self._afterwards.append((place, show))
        display(place)

    def act(self, what: str, action: Callable[[], str]) -> None:
        """Does `action` in the background, so that the kernel is free, and shows what it returns, or its error. A
        second click, made before the browser shows that the button is disabled, does nothing."""
        if self._is_busy:
            return
        self._is_busy = True
        self._enable()
        in_background(self.message, what, action, self._is_free)

    def _is_free(self) -> None:
        self._is_busy = False
        self._enable()

    def turn_off(self, *buttons: ipywidgets.Button) -> None:
        """Disables these of the larger panel's buttons until it is called again, and enables the others."""
        self._off = buttons
        self._enable()

    def _enable(self) -> None:
        """Disables the buttons that can do nothing now."""
        goes_on = self._state in UNFINISHED
        for other in self.other_buttons:
            other.disabled = self._is_busy or other in self._off
        self.stop_button.disabled = self._is_busy or not goes_on
        self.resume_button.disabled = self._is_busy or goes_on or self._state in ("", "complete")

    def _stop(self) -> str:
        assert self.run, "the button is disabled before there is a run"
        self.run.stop()
        return f"Run {self.run.id} stops at its next step, with a checkpoint; Resume continues it"

    def _resume(self) -> str:
        assert self.run, "the button is disabled before there is a run"
        self.follow(self.run.resume())
        return f"Run {self.run.id} continues from its last checkpoint"

    def _keep(self, run: Run) -> None:
        """Shows what is new until another run is shown; the thread's work."""
        shown: dict[str, Any] | None = None
        while self.run is run:
            try:
                status = run.status_after(PATIENCE_SECONDS)
                if self.run is run and (status != shown or status["state"] in UNFINISHED):
                    self._show(run, status)
                    shown = status
            except Exception as error:  # Modal out of reach, or a broken file: shown until there is a picture again
                if run.storage.backend == "local" and not run.path.exists():
                    self._state, self.message.value = "", text_html(f"Run {run.id} is deleted")
                    return self._enable()
                shown, self._signs.value = None, error_html(error)
            is_idle = run.storage.backend == "modal" and self._state not in UNFINISHED
            time.sleep(PATIENCE_SECONDS if is_idle else POLL_SECONDS)

    def _show(self, run: Run, status: dict) -> None:
        """Shows how the run stands."""
        if self._state not in ("", *UNFINISHED) and status["state"] in UNFINISHED:
            self.message.value = text_html(f"Run {run.id} goes on")
        self._state, step = status["state"], status["step"]
        self._bar.max, self._bar.value = status["max_steps"], step
        self._bar.bar_style = {"complete": "success", "failed": "danger", "lost": "danger"}.get(self._state, "")
        phase = timed_phase_of(status) or self._state
        parts = [run.id, warm_start_of(status) or f"step {step}/{status['max_steps']}", phase]
        is_over = self._state not in UNFINISHED
        parts.append("" if is_over else numbers(status))
        self._progress.value = html.escape(" · ".join(filter(None, parts)))
        self._row.layout.display = None
        self._enable()
        if is_over:
            self.message.value = text_html(f"Run {run.id} is {self._state}: {status['reason'] or run.storage}")
        self._redraw.update(run, step, is_over)
        if is_over:
            self._progress.value += html.escape(f" · {run.headline()}") if step else ""
            self.changed()
            for place, show in self._afterwards if step else ():
                place.children = in_place(show, run)
            self._on_end()

    def _draw(self, run: RunDirectory) -> bool:
        """Shows the run's curves, and the warnings and completions, which change with them; whether there are any."""
        metrics, completions = run.metrics(), run.completions()
        warnings = diagnose(metrics, self._config)
        if self.run is not run or metrics.empty:  # the latter while a run starts again
            return False
        self.curves.show([run])
        style = f"border-left: 3px solid {WARN}; padding-left: 0.6em; margin: 0.2em 0"
        self._signs.value = "".join(text_html(str(warning), style) for warning in warnings)
        self._completions = completions
        self._read()
        return True

    def _pick(self, run: RunDirectory | None, step: int | None) -> None:
        self._step = step
        self._read()

    def _read(self) -> None:
        """Shows the completions of the step that was clicked, below the curves, and the newest."""
        self.picked.value = step_html(self._completions, self._step) if self._step else ""
        self.newest.value = newest_html(self._completions)


def step_html(completions: pandas.DataFrame, step: int) -> str:
    """All completions of a step, prompt by prompt."""
    found = completions[completions["step"] == step] if len(completions) else completions
    told = f"Step {step}: " + ("click its point again to close it" if len(found) else "it has no completions")
    groups = [
        f"<details open><summary>{html.escape(printable(last_turn(group['prompt'].iloc[0])))}</summary>"
        f"{completions_html(group.sort_values('advantage', ascending=False, kind='stable'))}</details>"
        for _, group in found.groupby("sample_id", sort=False)
    ]
    return text_html(told, "font-weight: bold") + "".join(groups)


def in_place(show: Callable[[Run], Iterable[Any]], run: Run) -> list[ipywidgets.Widget]:
    """What `show(run)` gives, as widgets; its error, where a thread would lose it."""
    found: list[ipywidgets.Widget] = []
    try:
        for each in show(run):
            if isinstance(each, str):
                each = ipywidgets.HTML(text_html(each))
            elif not isinstance(each, ipywidgets.Widget):
                output, value = ipywidgets.Output(), each
                output.append_display_data(value)
                each = output
            found.append(each)
    except Exception as error:
        found.append(ipywidgets.HTML(error_html(error)))
    return found


def newest_html(completions: pandas.DataFrame) -> str:
    """One prompt of the newest step: its best and its worst completions, with scores and reasons."""
    if completions.empty:
        return ""
    shown = best_and_worst(completions, NEWEST)
    title = f"Step {shown['step'].iloc[0]}, best and worst answers to: {last_turn(shown['prompt'].iloc[0])}"
    return text_html(title, "font-weight: bold") + completions_html(shown)
