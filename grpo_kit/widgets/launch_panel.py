"""The launch panel: every setting as a control, what it will take and cost beside it, and the run that it launches."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets

from grpo_kit.backends.api import train
from grpo_kit.backends.before_launch import quote
from grpo_kit.backends.run import Run, runs_under_way
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import Problem
from grpo_kit.models.start import started
from grpo_kit.rewards.travel import Rewards
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.training.probe import cost_of_probe, known_probe, probe
from grpo_kit.utils.text import settings_text
from grpo_kit.widgets.controls import controls_in_groups, hide, settings_in, show, without_effect
from grpo_kit.widgets.helps import Helps
from grpo_kit.widgets.monitor import Monitor
from grpo_kit.widgets.parts import ERROR, SHADE, WARN, Panel, button, error_html, text_html

DOUBLE_CLICK_SECONDS = 0.7
LATE_SECONDS = 0.3  # by which JupyterLab may tell of a text that was left after the click that left it


class LaunchPanel(Panel):
    """Settings to change, their quote, and a button that launches the run, here or on Modal (see kit.backend); beside
    them how the run stands and its figure, below its newest completions.

    `rewards` are reward functions as `kit.train.spawn` takes them. `panel.config` gives the settings back as code,
    `panel.run` the run, `panel.follow(run)` shows another run, and `panel.after(show)` displays what `show(run)` gives
    once the run has ended. Settings that nobody asked for follow the model's recipe, and those without effect are not
    shown. Launch is off where it would be refused, and wants a second click where a run is under way, the verdict is
    red (see kit.will_it_learn) or the run may not come to its end. Probe says what a probe of the model takes and
    costs, and makes it at its second click.
    """

    def __init__(self, config: TrainConfig | None = None, rewards: Rewards = (), runs_dir: str | Path = RUNS_DIR):
        config, self._rewards, self._runs_dir = config or TrainConfig(), rewards, Path(runs_dir)
        self._given = {name: "none" if value is None else value for name, value in config.given.items()}
        self.controls, laid_out = controls_in_groups(config)
        self._folded: Any = laid_out.children[1]
        for name, control in self.controls.items():
            self.on_change([control], partial(self._changed, name))
        self._quote, self._problems, self.under_way = ipywidgets.HTML(), ipywidgets.VBox(), ipywidgets.HBox()
        self._quote.add_class("grpo-kit-quote")
        self.under_way.layout.flex_flow, self._looking = "row wrap", threading.Lock()
        self.launch_button = button("Launch", "Check everything, then start the run", "success")
        self.probe_button = button("Probe", "Have the model answer 8 prompts here, judged as in training")
        self.monitor = Monitor(buttons=(self.launch_button, self.probe_button), on_end=self.keep)
        self.monitor.changed = self._look
        launching, probing = "Checking, then launching …", "The model answers eight prompts …"
        self.launch_button.on_click(lambda clicked: self._ask_or(clicked, self._doubts, launching, self._launch))
        self.probe_button.on_click(lambda clicked: self._ask_or(clicked, self._cost, probing, self._probe))
        # The button whose click was answered by words, those words, and when that was, by time.monotonic().
        self._asked: tuple[ipywidgets.Button, TrainConfig] | None = None
        self._answer, self._asked_at = "", 0.0
        shown = [self.monitor.status, self.under_way, self._problems, self.monitor.curves, self._quote]
        beside = ipywidgets.VBox([*shown, self.monitor.picked], layout={"flex": "1 1 24em", "min_width": "0"})
        super().__init__()
        helps = Helps(self, {name: str(field.description) for name, field in TrainConfig.model_fields.items()})
        # In a narrow window the second is above the first: Launch and the figure stay in sight.
        both = ipywidgets.HBox([laid_out, beside], layout={"flex_flow": "row wrap-reverse", "grid_gap": "1em 2em"})
        self.children = [helps, both, self.monitor.newest]
        self._refresh()
        self._look()

    @property
    def config(self) -> TrainConfig:
        """The settings as they stand. Raises ConfigError where they cannot work."""
        return TrainConfig.from_text(self._given)

    @property
    def run(self) -> Run | None:
        """The run that is shown; None before there is one."""
        return self.monitor.run

    def follow(self, run: Run) -> None:
        """Shows `run` from now on."""
        self.monitor.follow(run)

    def after(self, show: Callable[[Run], Iterable[Any]]) -> None:
        """Displays what `show(run)` gives once the run has ended: see Monitor.after."""
        self.monitor.after(show)

    def _changed(self, name: str) -> None:
        value = self.controls[name].value
        self._given[name] = value.strip() if isinstance(value, str) else value
        if self._given[name] == "":  # asks for nothing
            del self._given[name]
        self._refresh()

    def _refresh(self, fixed: Iterable[str] = ()) -> None:
        """Shows what follows from what was asked for, those that a fix changed among it: the other settings, what
        stands in the way, the quote, the code."""
        if self._asked and self.monitor.message.value == text_html(self._answer):  # it was about other settings
            self._asked, self.monitor.message.value = None, ""
        try:
            config = self.config
            quoted = quote(config, self._runs_dir, ask=False)
        except Exception as error:  # in a widget's callback nobody else would show it
            self._quote.add_class("grpo-kit-old")
            self._problems.children = [self._row(error_html(error), getattr(error, "problem", Problem("")).fix)]
            self.monitor.turn_off(self.launch_button, self.probe_button)
            return
        with self.filling():  # nobody asked for these
            for name, control in self.controls.items():
                if name not in self._given or name in fixed:
                    show(control, getattr(config, name))
        hide(self.controls, self._folded, without_effect(config, quoted.on_modal, quoted.device.is_gpu))
        self._quoted = quoted
        looks = {True: f"color: {WARN}", False: f"color: {ERROR}"}  # red is what would be refused
        rows = [self._row(text_html(str(each), looks[each.is_forecast]), each.fix) for each in quoted.problems]
        cautions = filter(None, [*quoted.warnings, quoted.slow])
        rows += [self._row(text_html(text, looks[True]), text.rpartition(". ")[2]) for text in cautions]
        self._problems.children = rows
        self._quote.remove_class("grpo-kit-old")
        look = f"font-family: monospace; background: {SHADE}; padding: 0.4em; margin-top: 1em"
        told = replace(quoted, problems=(), warnings=(), slow="")._repr_html_()
        self._quote.value = told + text_html(f"kit.{config!r}", look)
        is_refused = not all(problem.is_forecast for problem in quoted.problems)
        self.monitor.turn_off(*[self.launch_button] * is_refused)

    def _row(self, told: str, fix: str) -> ipywidgets.Widget:
        """What is wrong, and beside it a button that applies its fix, where that names settings."""
        said = ipywidgets.HTML(told)
        if not (settings := settings_in(fix)):
            return said
        said.layout.flex = "1 1 16em"
        apply = button("Apply fix", f"Set {settings_text(settings)}")

        def set_them(_) -> None:
            self._given |= settings
            self._refresh(settings)

        apply.on_click(set_them)
        return ipywidgets.HBox([said, apply], layout={"flex_flow": "row wrap"})

    def _ask_or(self, clicked: ipywidgets.Button, ask: Callable[[], str], what: str, act: Callable[[], str]) -> None:
        """Does `what`; where `ask` has something to say, only at a second click on the same settings. A double click is
        one."""
        if time.monotonic() - self._asked_at < DOUBLE_CLICK_SECONDS:
            return

        def work() -> str:
            time.sleep(LATE_SECONDS)
            asked = (clicked, self.config)
            is_second, self._asked = self._asked == asked, None
            if is_second or not (said := ask()):
                return act()
            self._asked, self._asked_at = asked, time.monotonic()
            self._answer = f"{said}\nClick {clicked.description} again to do it all the same."
            return self._answer

        self.monitor.act(what, work)

    def _doubts(self) -> str:
        """What speaks against a launch, though it would not be refused."""
        said = [f"Run {run.id} is under way: this would be one more" for run in runs_under_way(self._runs_dir)]
        said += [*map(str, self._quoted.problems), *filter(None, [self._quoted.slow])]
        return "\n".join([*said, *([str(self._quoted.verdict)] if self._quoted.verdict.level == "red" else [])])

    def _cost(self) -> str:
        config = started(self.config, self._runs_dir)
        return "" if known_probe(config, self._runs_dir) else f"{cost_of_probe(config, self._runs_dir)}."

    def _probe(self) -> str:
        made = probe(self.config, runs_dir=self._runs_dir, echo=lambda line: None)
        self._refresh()
        return str(made)

    def _launch(self) -> str:
        run = train.spawn(self.config, rewards=self._rewards, runs_dir=self._runs_dir)
        self.monitor.follow(run)
        return f"Run {run.id} is on its way: {run.storage}"

    def _look(self) -> None:
        """Looks for runs under way, in the background: Modal's volume may take its time to answer."""
        threading.Thread(target=self._show_under_way, daemon=True).start()

    def _show_under_way(self) -> None:
        with self._looking:  # the last to look shows what it found
            shown = self.run and self.run.id
            found = [run for run in runs_under_way(self._runs_dir) if run.id != shown]
            many = f"{len(found)} {'other run' if shown else 'run'}{'s' * (len(found) != 1)} under way:"
            watch = [button(f"Watch {run.id}", f"Show {run.storage} here", width="auto") for run in found]
            for run, each in zip(found, watch, strict=True):
                each.on_click(partial(self._watch, run))
            self.under_way.children = [ipywidgets.Label(many), *watch] if found else []

    def _watch(self, run: Run, _: ipywidgets.Button) -> None:
        self.monitor.message.value = text_html(f"Run {run.id}: {run.storage}")
        self.monitor.follow(run)


launch_panel = LaunchPanel
