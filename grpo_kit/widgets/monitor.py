"""A run as it goes on, in a notebook, with its verbs as buttons. A thread reads the run's files, so that the kernel is
free for other cells, and a page that was reloaded goes on showing it."""

import html
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets

from grpo_kit.backends.run import Run
from grpo_kit.backends.watch import PATIENCE_SECONDS, POLL_SECONDS, handle
from grpo_kit.errors import OutOfReach
from grpo_kit.plots.live import LiveFigure
from grpo_kit.plots.runs import learning_curve
from grpo_kit.plots.style import NotebookFigure
from grpo_kit.runs.directory import RUNS_DIR, UNFINISHED
from grpo_kit.training.diagnostics import signs
from grpo_kit.utils.text import duration
from grpo_kit.widgets.parts import BORDER, FAINT, WARN, error_html, message_line, text_html

if TYPE_CHECKING:
    import pandas

NEWEST = 4  # completions shown
RECENT = 10  # steps whose median time tells the time left


def monitor(run: Run | str | Path, runs_dir: str | Path = RUNS_DIR) -> "Monitor":
    """Shows a run, or the one of that name, as it goes on: also one that another kernel started."""
    shown = Monitor()
    shown.follow(run if isinstance(run, Run) else Run(run, runs_dir))
    return shown


class Monitor(ipywidgets.VBox):
    """Progress, live figure, newest completions and signs of trouble of a run; buttons to stop, leave and resume it.

    `run` is the run that is shown, None before there is one.
    """

    def __init__(self, buttons: tuple[ipywidgets.Button, ...] = ()):
        """`buttons` are a larger panel's, put beside the monitor's own."""
        self.run: Run | None = None
        self.stop_button = button("Stop", "End the run at its next step, with a checkpoint", "warning")
        self.detach_button = button("Detach", "Look away; the run goes on, and Watch comes back to it")
        self.resume_button = button("Resume", "Go on with the run from its last checkpoint")
        self.message = message_line()
        self.message.add_class("grpo-kit-message")
        self._bar = ipywidgets.IntProgress(layout={"width": "100%"})
        self._progress, self._signs, self._newest = (ipywidgets.HTML() for _ in range(3))
        self._row = ipywidgets.VBox([self._bar, self._progress], layout={"display": "none"})
        self._live = LiveFigure(self._draw)
        self.figure = self._live.widget
        self._follower: threading.Thread | None = None
        self._state, self._is_busy, self._seconds_a_step = "", False, 0.0
        self.stop_button.on_click(lambda _: self.act("Stopping …", self._stop))
        self.detach_button.on_click(lambda _: self.detach() if self._follower else self.follow(self.run))
        self.resume_button.on_click(lambda _: self.act("Resuming …", self._resume))
        self.other_buttons = buttons
        verbs = ipywidgets.HBox([*buttons, self.stop_button, self.detach_button, self.resume_button])
        self.status = ipywidgets.VBox([verbs, self.message, self._row, self._signs])
        self.pictures = ipywidgets.VBox([self.figure, self._newest])
        super().__init__([self.status, self.pictures])
        self.enable()

    def follow(self, run: Run) -> None:
        """Shows `run` from now on, until it ends or `detach`."""
        self.run, self._config, self._state = run, run.config, run.status["state"]
        self._follower = threading.Thread(target=self._keep, name=f"monitor {run.id}", daemon=True)
        self._follower.start()
        self.enable()

    def detach(self) -> None:
        """Looks away. The run goes on."""
        self._follower = None
        self.say(
            f"Detached; run {self.run.id} goes on. Watch, or widgets.monitor({handle(self.run)}), comes back to it"
        )
        self.enable()

    def act(self, what: str, action: Callable[[], str]) -> None:
        """Does `action` in the background, so that the kernel is free, and shows what it returns, or its error. One at
        a time: a second click, which comes before a browser knows that it can't be clicked, does nothing."""
        if self._is_busy:
            return
        self.say(what)
        self._is_busy = True
        self.enable()

        def work() -> None:
            try:
                self.say(action())
            except Exception as error:  # in a thread of a notebook nobody else would show it
                self.message.value = error_html(error)
            self._is_busy = False
            self.enable()

        threading.Thread(target=work, daemon=True).start()

    def say(self, text: str) -> None:
        self.message.value = text_html(text) if text else ""

    def enable(self) -> None:
        """Only what can be done now can be clicked."""
        goes_on = self.run is not None and self._state in UNFINISHED
        for other in self.other_buttons:
            other.disabled = self._is_busy
        self.stop_button.disabled = self._is_busy or not goes_on
        self.detach_button.disabled = self._is_busy or not goes_on
        self.detach_button.description = "Watch" if goes_on and not self._follower else "Detach"
        self.resume_button.disabled = self._is_busy or self.run is None or goes_on or self._state == "complete"

    def _stop(self) -> str:
        self.run.stop()
        if not self._follower:  # it was detached: its end is worth a look
            self.follow(self.run)
        return f"Run {self.run.id} stops at its next step, with a checkpoint; Resume goes on with it"

    def _resume(self) -> str:
        self.follow(self.run.resume())
        return f"Run {self.run.id} goes on from its last checkpoint"

    def _keep(self) -> None:
        """Shows what is new until the run ends; the thread's work."""
        run, has_failed = self.run, False
        while self._follower is threading.current_thread():
            is_over = True  # unless the status says that it goes on
            try:
                status = run.status_after(PATIENCE_SECONDS)
                is_over = status["state"] not in UNFINISHED
                self._show_status(run, status)
                self._live.update(run, status["step"], is_over)
                if self._follower is not threading.current_thread():  # something else is shown since
                    return
                if is_over:
                    self.say(f"Run {run.id} is {status['state']}: {status['reason'] or run.storage}")
                elif has_failed:
                    self.say("")
                has_failed = False
            except Exception as error:  # of what it shows; how the run stands is known all the same
                self.message.value, has_failed = error_html(error), True
                is_over = is_over and not isinstance(error, OutOfReach)
            if is_over and self._follower is threading.current_thread():
                self._follower = None
                self.enable()
            time.sleep(POLL_SECONDS)

    def _show_status(self, run: Run, status: dict) -> None:
        if self.run is not run:  # another is shown since
            return
        self._state = status["state"]
        if not status["step"]:  # also where a run without a checkpoint is begun anew
            self._seconds_a_step = 0.0
        self._bar.max, self._bar.value = status["max_steps"], status["step"]
        self._bar.bar_style = {"complete": "success", "failed": "danger", "lost": "danger"}.get(self._state, "")
        at = f"step {status['step']}/{status['max_steps']}"
        reward = "" if status["reward"] is None else f"reward {status['reward']:.3f}"
        parts = [at, self._state, self._left(status), self._spent(status), reward]
        self._progress.value = " · ".join(html.escape(part) for part in parts if part)
        self._row.layout.display = None
        self.enable()

    def _draw(self, run: Run) -> NotebookFigure | None:
        """The run's figure; what else changes with its steps is shown with it."""
        metrics, completions = run.metrics(), newest_html(run.completions())
        warnings, figure = signs(metrics, self._config), learning_curve(run)
        if self.run is not run or metrics.empty:  # the latter while a run is begun anew
            return None
        style = f"border-left: 3px solid {WARN}; padding-left: 0.6em; margin: 0.2em 0"
        self._signs.value = "".join(text_html(warning, style) for warning in warnings)
        self._newest.value, self._seconds_a_step = completions, metrics["step_time"].tail(RECENT).median()
        return figure

    def _left(self, status: dict) -> str:
        """The time left in words; empty before there is a step to tell it."""
        left = self._seconds_a_step * (status["max_steps"] - status["step"])
        return f"{duration(left)} left" if left and status["state"] == "running" else ""

    def _spent(self, status: dict) -> str:
        """Dollars so far, those of Modal's machine at list prices. Empty where nothing is paid for."""
        parts = []
        if status["usd_machine"]:
            parts.append(f"${status['usd_machine']:.2f} for the GPU")
        if status["usd_judge"] is None:
            parts.append("a judge whose price is not known")
        elif status["usd_judge"]:
            parts.append(f"${status['usd_judge']:.3f} for the judge")
        return ", ".join(parts)


def newest_html(completions: "pandas.DataFrame") -> str:
    """One prompt of the newest step: its best and its worst completions, with scores and reasons."""
    if completions.empty:
        return ""
    last = completions[completions["step"] == completions["step"].max()]
    group = last[last["sample_id"] == last["sample_id"].iloc[0]]
    order = group["advantage"].fillna(float("-inf")).sort_values(ascending=False, kind="stable").index
    half = NEWEST // 2
    shown = group.loc[order if len(order) <= NEWEST else [*order[:half], *order[-half:]]]
    prompt = shown["prompt"].iloc[0]
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    cell = f"border-top: 1px solid {BORDER}; padding: 0.2em 0.6em; text-align: left; vertical-align: top"
    rows = [
        f'<tr><td style="{cell}; white-space: nowrap">{text_html(_scores(row.rewards))}</td>'
        f'<td style="{cell}">{text_html(row.completion)}</td>'
        f'<td style="{cell}; color: {FAINT}">{text_html(row.reason or "")}</td></tr>'
        for row in shown.itertuples()
    ]
    heads = "".join(f'<th style="{cell}">{name}</th>' for name in ("score", "completion", "reason"))
    title = text_html(f"Step {last['step'].iloc[0]}, best and worst answers to: {asked}", "font-weight: bold")
    return f'{title}<table style="border-collapse: collapse; width: 100%"><tr>{heads}</tr>{"".join(rows)}</table>'


def _scores(rewards: dict) -> str:
    texts = {name: "none" if score is None else f"{score:.2f}" for name, score in rewards.items()}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def button(name: str, help: str, style: str = "") -> ipywidgets.Button:
    return ipywidgets.Button(description=name, tooltip=help, button_style=style, layout={"width": "7em"})
