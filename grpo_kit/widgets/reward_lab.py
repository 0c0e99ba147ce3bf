"""`reward_lab(samples, judge)`: a reward is edited in place, and the same answers are scored before and after it."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import ipywidgets
import pandas as pd
from anyio import to_thread

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Sample, read_samples
from grpo_kit.errors import ConfigError
from grpo_kit.judges.batch import run_async
from grpo_kit.judges.cache import CACHE_FILE, RewardCache
from grpo_kit.rewards.travel import RewardFunction
from grpo_kit.rewards.trials import TYPED, Trial, Trials, answers_to
from grpo_kit.rewards.versions import ASKED, REWARD, Bench, Version, python_reward
from grpo_kit.utils.text import on_a_line
from grpo_kit.widgets import tables
from grpo_kit.widgets.keys import Keys
from grpo_kit.widgets.parts import SHADE, button, error_html, note_html, shows_errors, text_html
from grpo_kit.widgets.samples import Pages, names_filter, prompt_html
from grpo_kit.widgets.scores import trial_html

PYTHON = 'def polite(completions, **_):\n    return [float("please" in c[-1]["content"]) for c in completions]'
FIELDS = {  # by the names of a Version: heading, and what is shown where there is nothing
    "rubric": ("Rubric", "What a good reply must do"),
    "reference": ("Reference: a good reply", ""),
    "acts": ("Dialogue acts, one a line", "REQUEST city\nOFFER name = Sipan | Alma"),
    "prompt": ("The judge’s prompt, for all samples", ""),
    "reward": ("Python reward, for all samples", PYTHON),
}
HELP = """<kbd>Ctrl</kbd> <kbd>Enter</kbd> to score, also while you type; <kbd>b</kbd> or <kbd>f</kbd> for the version
    before or the next, <kbd>k</kbd> or <kbd>j</kbd> for the sample before or the next, <kbd>x</kbd> to stop scoring,
    <kbd>s</kbd> to save."""


class RewardLab(Pages):
    """A sample, all that its reward is made of, to be edited, and answers scored by the version before and by this one.

    `rubric` is that of the sample that is shown, as it stands. `config`, `rewards` and `code` are what trains with all
    edits, whose files are saved first. Versions are in versions.jsonl in the folder `out`, with what they scored.
    Answers are scored on another thread, in the order that is asked for; all else happens on the kernel's own.
    """

    orders = tables.PROTOTYPE_ORDERS
    _loop: asyncio.AbstractEventLoop | None = None  # the kernel's

    def __init__(
        self,
        samples: Sequence[Sample] | str | Path,
        judge: str = "offline",
        judge_config: JudgeConfig | None = None,
        answers: Mapping[str, Sequence[str]] | Callable[[Sample], Sequence[str]] | None = None,
        out: str | Path = "runs/prototype",
        interactive: bool | None = None,
    ):
        """`samples` are the kit's, or a data folder, whose train.jsonl is read. `answers` are the model's: texts by the
        sample's id, or a function of a sample, called where that is scored.

        Where `interactive` is False, in a batch, a line says what the panel is for; None: unless this is JupyterLab.
        Raises ConfigError for a judge that can't work.
        """
        judge_config = judge_config or JudgeConfig()
        TrainConfig(judge={judge: 1.0}, **judge_config.given)  # raises for a judge that there is not
        self.message, self.out = ipywidgets.HTML(layout={"margin": "0"}), Path(out)
        self._source = Path(samples) if isinstance(samples, str | Path) else None
        self._samples = list(read_samples(self._source / "train.jsonl") if self._source else samples)  # pyright: ignore
        if not self._samples:
            raise ConfigError("there are no samples to try a reward on", "Give some, or the folder of prepared data")
        self._answers = answers if callable(answers) else lambda sample: (answers or {}).get(sample.id, ())
        self._bench = Bench(judge, judge_config, RewardCache(self.out / CACHE_FILE))
        self._trials, self._table = Trials(self.out, self._bench), tables.prototypes(self._samples)
        self._sample = next(iter(self._samples))
        self._trial = self._trials.of(self._sample)[-1]
        self._scoring: set[asyncio.Task[None]] = set()
        self._turn, self._thread = asyncio.Lock(), threading.current_thread()
        with suppress(RuntimeError):  # where no loop is running
            self._loop = asyncio.get_running_loop()
        self.service, self.act = (names_filter(self._table, column) for column in ("services", "acts"))
        super().__init__([self.service, self.act], self.message)
        self._build()
        self.fill()
        if not ("JPY_SESSION_NAME" in os.environ if interactive is None else interactive):
            print(f"The reward panel is for JupyterLab: {len(self._samples):,} samples, judged by {judge}")

    @property
    def rubric(self) -> str:
        return self.fields["rubric"].value

    @property
    def config(self) -> TrainConfig:
        self._keep_asked()
        edited, last = self._trials.latest() | {self._sample.id: self._trial.version}, self._version()
        return TrainConfig(**self._bench.save(self.out, self._samples, edited, last, self._source))

    @property
    def rewards(self) -> list[RewardFunction]:
        """Raises ConfigError where the Python can't be run."""
        source = self.fields["reward"].value
        return [python_reward(source)] if source.strip() else []

    @property
    def code(self) -> str:
        lines = ["import grpo_kit as kit", f"config = kit.{self.config!r}", "kit.train(config)"]
        for reward in self.rewards:
            found = f"runpy.run_path({str(self.out / REWARD)!r})[{reward.__name__!r}]"
            lines = ["import runpy", *lines[:-1], f"kit.train(config, rewards=[{found}])"]
        return "\n".join(lines)

    def find_rows(self) -> pd.DataFrame:
        service, act, order = (str(each.value) for each in (self.service, self.act, self.sort))
        return tables.narrowed(self._table, self.orders[order], self.find.value, services=service, acts=act)

    def page_of(self, row: pd.Series) -> str:
        sample = self._samples[row["place"]]
        return prompt_html(sample.prompt, sample.id) + text_html(f"The reply in the trace: {sample.ground_truth}")

    def press(self, key: str) -> None:
        """Does what the key means. Errors are shown."""
        steps: dict[str, Callable[[], object]] = {
            "ctrl+enter": self._score,
            "x": self._stop,
            "s": self._save,
            "b": lambda: self.walk(self.version, -1),
            "f": lambda: self.walk(self.version, 1),
            "k": lambda: self.walk(self.choice, -1),
            "j": lambda: self.walk(self.choice, 1),
        }
        act = shows_errors(self.message, steps[key])
        if self._loop and threading.current_thread() is not self._thread:  # JupyterLab asks on several
            self._loop.call_soon_threadsafe(act)
        else:
            act()

    def _build(self) -> None:
        """The controls below the sample."""
        look = {"width": "auto", "height": "110px"}
        self.fields = {
            name: ipywidgets.Textarea(
                getattr(self._trial.version, name), placeholder=hint, continuous_update=False, layout=look
            )
            for name, (_, hint) in FIELDS.items()
        }
        hint = "An answer of your own, which is scored beside the others"
        slim = look | {"height": "50px", "margin": "2px 10px 2px 2px"}
        self.typed = ipywidgets.Textarea(placeholder=hint, continuous_update=False, layout=slim)
        self.fields["prompt"].value, self.fields["reward"].value = self._trials.shared()
        lacks = {"acts": self._bench.judge != "offline", "prompt": not self._bench.has_prompt}
        shown = {name: field for name, field in self.fields.items() if not lacks.get(name)}
        look = {"flex": "1 1 320px", "margin": "0 8px 0 0"}
        headed = [[ipywidgets.HTML(note_html(FIELDS[name][0])), field] for name, field in shown.items()]
        editors = [ipywidgets.VBox(each, layout=look) for each in headed]
        self.version = ipywidgets.Dropdown(options=[], layout={"width": "auto", "flex": "1 1 220px"})
        self.buttons = {
            "ctrl+enter": button("Score", "or press Ctrl+Enter", "primary"),
            "x": button("Stop", "Give up what is being scored; or press x", icon="stop"),
            "s": button("Save", "Write what is edited as files that training takes; or press s"),
            "b": button("", "The version before; or press b", width="40px", icon="chevron-left"),
            "f": button("", "The next version; or press f", width="40px", icon="chevron-right"),
        }
        self.reads, self.state, self.results = (ipywidgets.HTML(layout={"margin": "0"}) for _ in range(3))
        for part, name in ((self.state, "state"), (self.results, "results"), (self.message, "message")):
            part.add_class(f"grpo-kit-{name}")
        self.keyboard = Keys(self, self.press, HELP, self.buttons, texts=[*shown.values(), self.typed])
        self.keyboard.heard = [*self.buttons, "k", "j"]
        self.on_change([self.version], shows_errors(self.message, self._restore))
        self.on_change(self.fields.values(), self._tell)
        row = {"flex_flow": "row wrap", "align_items": "center"}
        verbs = ipywidgets.HBox([*self.buttons.values(), self.version], layout=row)
        fields = ipywidgets.HBox(editors, layout={"flex_flow": "row wrap"})
        self._all += [self.reads, fields, self.typed, verbs, self.state, self.message, self.keyboard, self.results]

    def _label(self, row: dict) -> str:
        return f"{row['place'] + 1}  {on_a_line(row['asked'])}"

    def _show(self) -> None:
        super()._show()
        self._keep_asked()
        self.buttons["ctrl+enter"].disabled = self.choice.value is None
        if self.choice.value is not None:
            self._sample = self._samples[self.rows.iloc[self.choice.value]["place"]]
            self._open(self._trials.of(self._sample)[-1], ASKED)

    def _open(self, trial: Trial, names: Iterable[str]) -> None:
        """Shows a trial, and puts its version's texts of these names into the fields."""
        self._trial = trial
        with self.filling():
            for name in names:
                self.fields[name].value = getattr(trial.version, name)
            self.typed.value = trial.answers.get(TYPED, "")
        self._draw()

    def _draw(self) -> None:
        """Shows the versions, what this one scored, and by what the judge goes."""
        own = self._trials.of(self._sample)
        names = [f"{number}: {self._name(trial)}" for number, trial in enumerate(own, 1)]
        with self.filling():
            self.version.options = [(f"version {name}", place) for place, name in enumerate(names)]
            self.version.value = here = own.index(self._trial)
        self.buttons["b"].disabled, self.buttons["f"].disabled = here == 0, here == len(own) - 1
        self.results.value = trial_html(self._trial, (names[self._trial.before or 0], names[here]))
        self._tell()

    def _name(self, trial: Trial) -> str:
        said = "as in the data"
        if trial.before is not None:
            before = self._trials.of(self._sample)[trial.before].version
            said = f"{', '.join(trial.version.changes(before))} edited"
        return said if trial.scored else f"{said}, not scored"

    def _tell(self) -> None:
        """Says by what the judge goes, and what is edited since it scored."""
        edits = self._edits()
        what = f": {', '.join(edits)} edited" * bool(edits)
        self.state.value = note_html(f"Not scored yet{what}." if edits or not self._trial.scored else "")
        try:
            asked = self._version().applied(self._sample)
        except ConfigError:  # acts that are said to be none where they are scored
            asked = self._sample
        by, before = self._bench.reads(asked), self._bench.reads(self._sample)
        self.reads.value = text_html(by + f" Before the edit: {before}" * (by != before))

    def _version(self) -> Version:
        return Version(**{name: field.value for name, field in self.fields.items()})

    def _edits(self) -> list[str]:
        """What the fields have that the version that is shown has not."""
        return self._version().changes(self._trial.version)

    def _keep_asked(self) -> None:
        """Keeps what is edited of the sample; prompt and Python stay in their fields."""
        if set(ASKED) & {*self._edits()}:
            self._keep()

    def _keep(self) -> None:
        """Makes what stands in the fields a version, where it is none."""
        self._trial = self._trials.add(self._sample, self._version(), self._trial)

    def _restore(self) -> None:
        """Goes to another version, once what is in the fields is one."""
        wanted = self._trials.of(self._sample)[int(str(self.version.value))]
        self._keep()
        self._open(wanted, FIELDS)

    def _save(self) -> None:
        self._keep()
        self._trial = self._trials.restore(self._trial, self._sample)
        self._draw()
        self.message.value = text_html(self.code, f"font-family: monospace; background: {SHADE}; padding: 8px")

    def _score(self) -> None:
        """Begins to score what stands in the fields now; acts and reference that can't be used are said before."""
        self._version().applied(self._sample)
        self._keep()
        self._draw()
        work = self._work(self._trial, self._sample, self.typed.value.strip())
        try:
            task = asyncio.get_running_loop().create_task(work)
        except RuntimeError:  # no kernel that must be free
            return run_async(work)
        self.state.value = note_html("Scoring …")
        self._scoring.add(task)
        task.add_done_callback(self._scoring.discard)

    def _stop(self) -> None:
        for task in self._scoring:
            task.cancel()
        self._bench.stop()

    async def _work(self, trial: Trial, sample: Sample, typed: str) -> None:
        said = failed = ""
        try:
            async with self._turn:
                before = self._bench.spent()
                tried = self._try, trial, sample, typed, self._bench.stops
                (await to_thread.run_sync(*tried, abandon_on_cancel=True))()
                said = note_html("Scoring …" if len(self._scoring) > 1 else self._bench.cost_since(before))
        except asyncio.CancelledError:
            said = note_html("Stopped.")
        except BaseException as error:  # a person's Python may even exit
            failed = error_html(error)
        if self._trial is trial:
            self._draw()
            self.state.value = said or self.state.value
        self.message.value = failed or self.message.value

    def _try(self, trial: Trial, sample: Sample, typed: str, stops: int) -> Callable[[], None]:
        self._bench.begin(stops)
        given = self._answers(sample)
        models = [given] if isinstance(given, str) else given
        return self._trials.score(trial, sample, answers_to(sample, trial.version, models, typed))


reward_lab = RewardLab
