"""The launch panel: every setting as a control, what it will take and cost beside it, and the run that it launches."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import ipywidgets

from grpo_kit.backends.api import train
from grpo_kit.backends.quote import quote
from grpo_kit.backends.run import Run
from grpo_kit.config.train import TrainConfig
from grpo_kit.models.start import started
from grpo_kit.rewards.travel import Rewards
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.training.probe import cost_of_probe, known_probe, probe
from grpo_kit.widgets.controls import controls_in_groups, show
from grpo_kit.widgets.monitor import Monitor
from grpo_kit.widgets.parts import SHADE, Panel, button, error_html, text_html


class LaunchPanel(Panel):
    """Settings to change, their quote, and a button that launches the run, here or on Modal (see kit.backend); below,
    how the run stands, its figure and newest completions.

    `rewards` are reward functions as `kit.train.spawn` takes them. `panel.config` gives the settings back as code,
    `panel.run` the run. Settings that nobody asked for follow the model's recipe. panel.monitor.follow(run) shows
    another run. Where the verdict is red (see kit.will_it_learn), Launch wants a second click. Probe says what a probe
    of the model takes and costs, and makes it at its second click.
    """

    def __init__(self, config: TrainConfig | None = None, rewards: Rewards = (), runs_dir: str | Path = RUNS_DIR):
        config, self._rewards, self._runs_dir = config or TrainConfig(), rewards, Path(runs_dir)
        self._given = {name: "none" if value is None else value for name, value in config.given.items()}
        self.controls, laid_out = controls_in_groups(config)
        for name, control in self.controls.items():
            self.on_change([control], partial(self._changed, name))
        self._quote = ipywidgets.HTML(layout={"margin": "0 0 1em 0"})
        self._quote.add_class("grpo-kit-quote")
        self.launch_button = button("Launch", "Check everything, then start the run", "success")
        self.probe_button = button("Probe", "Have the model answer 8 prompts here, judged as in training")
        self.monitor = Monitor(buttons=(self.launch_button, self.probe_button), on_end=self.keep)
        launching, probing = "Checking, then launching …", "The model answers eight prompts …"
        self.launch_button.on_click(lambda clicked: self._ask_or(clicked, self._doubts, launching, self._launch))
        self.probe_button.on_click(lambda clicked: self._ask_or(clicked, self._cost, probing, self._probe))
        self._asked: tuple[ipywidgets.Button, TrainConfig] | None = None  # the button whose click was answered by words
        beside = ipywidgets.VBox([self._quote, self.monitor.status], layout={"flex": "1 1 20em", "margin": "0 0 0 2em"})
        super().__init__([ipywidgets.HBox([laid_out, beside]), self.monitor.pictures])
        self._refresh()

    @property
    def config(self) -> TrainConfig:
        """The settings as they stand. Raises ConfigError where they cannot work."""
        return TrainConfig.from_text(self._given)

    @property
    def run(self) -> Run | None:
        """The run that is shown; None before there is one."""
        return self.monitor.run

    def _changed(self, name: str) -> None:
        value = self.controls[name].value
        self._given[name] = value.strip() if isinstance(value, str) else value
        if self._given[name] == "":  # asks for nothing
            del self._given[name]
        self._refresh()

    def _refresh(self) -> None:
        """Shows what follows from what was asked for: the other settings, the quote, the code."""
        try:
            config = self.config
            quoted = quote(config, self._runs_dir, ask=False)
        except Exception as error:  # in a widget's callback nobody else would show it
            self._quote.value = error_html(error)
            self.launch_button.disabled = self.probe_button.disabled = True
            return
        self.launch_button.disabled = self.probe_button.disabled = False
        self._verdict = quoted.verdict
        with self.filling():  # nobody asked for these
            for name, control in self.controls.items():
                if name not in self._given:
                    show(control, getattr(config, name))
        look = f"font-family: monospace; background: {SHADE}; padding: 0.4em; margin-top: 1em"
        self._quote.value = quoted._repr_html_() + text_html(f"kit.{config!r}", look)

    def _ask_or(self, clicked: ipywidgets.Button, ask: Callable[[], str], what: str, act: Callable[[], str]) -> None:
        """Says what `ask` has to say, and does `what` at the second click on the same settings, or where that is
        nothing."""
        try:
            asked = (clicked, self.config)
            said = "" if self._asked == asked else ask()
        except Exception as error:  # in a widget's callback nobody else would show it
            self.monitor.message.value = error_html(error)
            return
        self._asked = asked if said else None
        if said:
            self.monitor.message.value = text_html(f"{said}\nClick {clicked.description} again to do it all the same.")
        else:
            self.monitor.act(what, act)

    def _doubts(self) -> str:
        return str(self._verdict) if self._verdict.level == "red" else ""

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


launch_panel = LaunchPanel
