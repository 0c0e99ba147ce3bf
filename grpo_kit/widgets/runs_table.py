"""`runs()`: all runs in a table that is live, and what can be done with those that are selected: compare their curves
and answers, watch, stop, resume, clone, delete."""

import contextlib
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from grpo_kit.backends.report import report
from grpo_kit.backends.report.settings import asked_for
from grpo_kit.backends.run import COLUMNS, Run, row_of, runs as table_of_runs
from grpo_kit.backends.serving import serve, stop_serving
from grpo_kit.config.train import TrainConfig
from grpo_kit.plots import table
from grpo_kit.runs.directory import RUNS_DIR, UNFINISHED, RunDirectory, is_run
from grpo_kit.widgets.curves import Curves
from grpo_kit.widgets.launch_panel import LaunchPanel
from grpo_kit.widgets.live_table import LiveTable
from grpo_kit.widgets.monitor import Monitor, step_html
from grpo_kit.widgets.parts import Panel, button, error_html, in_background, note_html, shows_errors, text_html
from grpo_kit.widgets.side_by_side import SideBySide

SELECTED_AT_FIRST = 3
DRAWN = 24  # more lines than colours and dashes tell apart
POLL_SECONDS = 2.0
HIDDEN = ["where", "quoted cost", "group", "started"]  # columns, at first; a run's name has when it started
DONE = {"stop": "stops at the next step, with a checkpoint", "resume": "goes on from the last checkpoint"}
CURVES, SAMPLES, WATCH, CLONE = range(4)
TABS = ["Curves", "Side by side", "Watch", "Clone"]


class RunTable(Panel):
    """All runs under `runs_dir` and, where an account is set up, on Modal, at first with the newest three selected.

    A thread reads what changes here, and runs under way wherever they are; Refresh finds new ones on Modal. `selected`
    are the runs chosen, `panel` the launch panel that a run was cloned into.
    """

    def __init__(self, runs_dir: str | Path = RUNS_DIR):
        self.runs_dir, self.table = Path(runs_dir), pd.DataFrame(columns=COLUMNS)  # of kit.runs()
        self.panel: LaunchPanel | None = None
        self._printed, self._stamps, self._reading = "", dict[str, int](), threading.Lock()
        self.message, self.note, self.picked = (ipywidgets.HTML(layout={"margin": "0"}) for _ in range(3))
        self.picked.add_class("grpo-kit-picked")
        self.curves = Curves(on_step=self._pick, compares=True)
        self.list = LiveTable(name="runs", label="Runs", hidden=HIDDEN)
        self.watch_button = button("Watch", "Show the run as it goes on, below", width="auto")
        self.stop_button = button("Stop", "End these runs at their next step, with a checkpoint", width="auto")
        self.resume_button = button("Resume", "Go on with these runs from their last checkpoints", width="auto")
        self.clone_button = button("Clone into panel", "Its settings below, to change and launch anew", width="auto")
        self.from_its_end = ipywidgets.Checkbox(False, description="from its checkpoint", indent=False)
        self.from_its_end.layout.width = "auto"
        self.report_button = button("Report", "Write a page about the run to send, and a model card", width="auto")
        self.serve_button = button("Serve", "Base and checkpoints to any client of OpenAI's", width="auto")
        self.end_button = button("End serving", "Stop its endpoint, and see that nothing is left running", width="auto")
        self.delete_button = button("Delete", "Delete these runs' folders for good; asks first", width="auto")
        self.refresh_button = button("Refresh", "Read all runs again, those on Modal too", width="auto", icon="refresh")
        self.sure_button = button("Delete for good", "It can't be undone", "danger", width="auto")
        self.keep_button = button("Keep", "Delete nothing", width="auto")
        self._question = ipywidgets.HTML()
        row = {"flex_flow": "row wrap", "align_items": "center"}
        verbs = [self.watch_button, self.stop_button, self.resume_button, self.clone_button, self.from_its_end]
        verbs += [self.report_button, self.serve_button, self.end_button, self.delete_button, self.refresh_button]
        verbs = ipywidgets.HBox(verbs, layout=row)
        asking = [self._question, self.sure_button, self.keep_button]
        self.asking = ipywidgets.HBox(asking, layout=row | {"display": "none"})
        self.samples, self.monitor = SideBySide(self.message), Monitor()
        self._cloned = ipywidgets.VBox([ipywidgets.HTML(note_html("Select a run, then Clone into panel."))])
        pages = [ipywidgets.VBox([self.curves, self.picked]), self.samples, self.monitor, self._cloned]
        self.tabs = ipywidgets.Tab(pages, titles=TABS)
        super().__init__([self.list, self.note, verbs, self.asking, self.message, self.tabs])
        self.add_class("grpo-kit-hub")
        self.list.observe(self._callback(self._choose), "ticked")
        self.tabs.observe(self._callback(self._show_samples), "selected_index")
        actions = {
            self.watch_button: self._watch,
            self.stop_button: lambda: self._for_each("stop"),
            self.resume_button: lambda: self._for_each("resume"),
            self.clone_button: self._clone,
            self.report_button: self._report,
            self.serve_button: self._serve,
            self.end_button: self._end,
            self.delete_button: self._ask,
            self.keep_button: lambda: self._ask(False),
            self.sure_button: self._delete,
            self.refresh_button: self.refresh,
        }
        for each, action in actions.items():
            each.on_click(self._callback(action))
        self._callback(self.refresh)()
        self.list.ticked = _keys(self.table.tail(SELECTED_AT_FIRST))[::-1]
        threading.Thread(target=self._keep, name=f"runs in {runs_dir}", daemon=True).start()

    @property
    def selected(self) -> list[Run]:
        """The runs chosen, in the order shown."""
        return [self._run(*key.split(" ", 1)) for key in self.list.ticked]

    def refresh(self) -> None:
        """Reads all runs again; the same ones stay selected."""
        with self._reading, contextlib.redirect_stdout(io.StringIO()) as printed:  # lost in a callback otherwise
            self._stamps = self._statuses()
            found = table_of_runs(self.runs_dir)
        self._printed = printed.getvalue().strip()
        self._take(found)

    def _callback(self, action: Callable[[], Any]) -> Callable[..., None]:
        return shows_errors(self.message, action)

    def _run(self, where: str, name: str) -> Run:
        return Run(self.runs_dir / name) if where == "here" else _on_volume(name)

    def _statuses(self) -> dict[str, int]:
        """When each run here has last said something."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.runs_dir.glob("*/status.json")}

    def _keep(self) -> None:
        """Shows what changes; the thread's work."""
        failed = ""
        while True:
            time.sleep(POLL_SECONDS)
            try:
                self._read_changes()
                if failed and self.message.value == failed:  # it has passed
                    self.message.value = ""
                failed = ""
            except Exception as error:  # a folder that is just being deleted, or Modal out of reach
                failed = self.message.value = error_html(error)

    def _read_changes(self) -> None:
        """Reads runs that have said something, are under way, are new or are gone."""
        with self._reading:
            stamps, table = self._statuses(), self.table
            here = table["where"] == "here"
            changed = {name for name, stamp in stamps.items() if self._stamps.get(name) != stamp}
            is_old = table["state"].isin(UNFINISHED) | here & table["run"].isin(changed | self._stamps.keys() - stamps)
            old = table.loc[is_old, ["where", "run"]]
            keys = {*old.itertuples(index=False, name=None), *(("here", name) for name in changed)}
            self._stamps = stamps
            there = [key for key in keys if key[0] != "here" or is_run(self.runs_dir / key[1])]
            rows = pd.DataFrame([row_of(self._run(*key)) for key in there], columns=COLUMNS)
        if keys:
            found = pd.concat([each for each in (table[~is_old], rows) if len(each)] or [rows])
            self._take(found.sort_values("started", ignore_index=True, na_position="first"))

    def _take(self, found: pd.DataFrame) -> None:
        """Shows this table of runs in place of the one before."""
        if found.equals(self.table) and self.list.html:
            return
        have_changed = list(found["state"]) != list(self.table["state"])
        self.table = found
        self.list.show(table(found[::-1]), _keys(found)[::-1])
        text = f"No runs under {self.runs_dir} yet: Launch in widgets.launch_panel() makes one." if found.empty else ""
        self.note.value = note_html(f"{text}\n{self._printed}".strip())
        self._choose()
        if have_changed:
            self.keep()

    def _choose(self) -> None:
        """Shows what is selected, and which buttons can do something with it."""
        states = self._states()
        for each in (self.watch_button, self.clone_button, self.report_button, self.serve_button, self.end_button):
            each.disabled = len(states) != 1 or "unreadable" in states
        self.stop_button.disabled = not any(state in UNFINISHED for state in states)
        self.resume_button.disabled = not states or any(state in (*UNFINISHED, "complete") for state in states)
        self.delete_button.disabled = not states or any(state in UNFINISHED for state in states)
        self._ask(False)
        self._draw()
        self._show_samples()

    def _states(self) -> list[str]:
        return list(self.table["state"][[key in self.list.ticked for key in _keys(self.table)]])

    def _draw(self) -> None:
        """The curves of the runs selected, in one figure."""
        runs = self.selected[:DRAWN]
        self._pick(None, None)
        self.curves.show(runs)

    def _pick(self, run: RunDirectory | None, step: int | None) -> None:
        """Shows the completions of the step whose point was clicked."""
        empty = "" if self.list.ticked else note_html("Select runs above to see their curves on each other.")
        self.picked.value = step_html(run.completions(), step) if run and step else empty

    def _show_samples(self) -> None:
        if self.tabs.selected_index == SAMPLES:
            self.samples.show(self.selected)

    def _watch(self) -> None:
        self.monitor.follow(self.selected[0])
        self.tabs.selected_index = WATCH

    def _for_each(self, verb: str) -> None:
        """Stops or resumes the runs selected, in the background: a launch takes seconds."""
        runs = [run for run in self.selected if verb != "stop" or run.status["state"] in UNFINISHED]
        names = ", ".join(run.id for run in runs)

        def act() -> str:
            for run in runs:
                getattr(run, verb)()
            return f"{names}: {DONE[verb]}."

        in_background(self.message, f"{verb} {names} …", act)

    def _report(self) -> None:
        [run] = self.selected
        said = f"Writing a report of {run.id} …"
        in_background(self.message, said, lambda: f"{report(run)}: open it in a browser, or send it.")

    def _serve(self) -> None:
        [run] = self.selected
        said = list[str]()

        def act() -> str:
            serve(run, port=0, echo=said.append)
            return ". ".join([*said, "End serving ends it."])

        in_background(self.message, f"Serving {run.id} …", act)

    def _end(self) -> None:
        [run] = self.selected
        said = list[str]()
        in_background(self.message, f"Ending what serves {run.id} …", lambda: stop_serving(run, said.append) or said[0])

    def _clone(self) -> None:
        """Opens the launch panel with the settings of the run selected."""
        [run] = self.selected
        settings: dict[str, Any] = asked_for(run.config) | ({"notify": run.config.notify} if run.config.notify else {})
        if self.from_its_end.value:
            left_out = ("adapter", "sft_steps", "warm_start")  # which the run has behind it
            settings = {name: value for name, value in settings.items() if name not in left_out}
            settings["model_name"] = run.id
        self.panel = LaunchPanel(TrainConfig(**settings), runs_dir=self.runs_dir)
        self._cloned.children = [self.panel]
        self.tabs.selected_index = CLONE
        said = f"A new run with the settings of {run.id}."
        if set(run.about["rewards"]) - run.config.judge.keys() - run.config.reward_funcs.keys():
            said += " Its own reward functions are no settings: widgets.launch_panel(config, rewards) takes them."
        self.message.value = text_html(said)

    def _ask(self, ask: bool = True) -> None:
        names = ", ".join(run.split(" ", 1)[1] for run in self.list.ticked)
        self._question.value = text_html(f"Delete {names} for good?") if ask else ""
        self.asking.layout.display = None if ask else "none"

    def _delete(self) -> None:
        for run in self.selected:
            run.delete()
        self.refresh()


runs = RunTable


def _keys(table: pd.DataFrame) -> list[str]:
    """ "here first": a row's key, as a run here and one on Modal may have the same name."""
    return [f"{where} {name}" for where, name in zip(table["where"], table["run"], strict=True)]


def _on_volume(name: str) -> Run:
    from grpo_kit.backends.modal.storage import VolumeStorage  # Modal's library takes half a second to load

    return Run.at(VolumeStorage(name))
