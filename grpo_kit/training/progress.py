"""A run's steps: what each leaves in the run directory, and whether another one follows. Needs no torch."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from tqdm import tqdm

from grpo_kit.costs.budget import Budget
from grpo_kit.data.samples import Sample
from grpo_kit.errors import RunStopped
from grpo_kit.runs.alarms import kind_of
from grpo_kit.runs.directory import SCORES_FILE, SFT_METRICS, STOP_FILE
from grpo_kit.runs.writer import RunWriter
from grpo_kit.training.console import completions_text, numbers
from grpo_kit.training.diagnostics import WINDOW, diagnose
from grpo_kit.training.held_out import HeldOutScores, best_checkpoint, scores_in, versus_best, why_to_stop
from grpo_kit.utils.environment import processes, rank
from grpo_kit.utils.json_lines import read_lines

RECENT = 10  # steps, whose median time gives the time left


class RunProgress:
    """A trainer calls it in this order: `begin` once all is loaded, then for each step `timed`, `should_stop` and
    `record_step`, and `finish` after the last one. The step's completions go to `writer`.

    With eval_steps it answers the `held_out` samples within `evaluating`, keeps their scores by `keep_scores`, and
    calls `name_best` once a checkpoint is saved."""

    def __init__(self, writer: RunWriter, echo: Callable[[str], None], held_out: Sequence[Sample] = ()):
        self.writer, self.config, self.run = writer, writer.config, writer.run
        self.held_out = held_out
        self.end_by = ""  # why an evaluation ends the run
        self._evaluations: list[HeldOutScores] = []
        self.budget = Budget(writer)
        self.part = "loading"  # what the trainer is doing, for the advice when memory runs out
        self.agree: Callable[[Any], Any] = lambda value: value  # rank 0's value in all processes
        self.sft_seconds, self.measuring_seconds = 0.0, 0.0  # of a warm start and filter_difficulty, in this process
        self._echo, self._bar, self._why = echo, tqdm(disable=True), ""
        self._seconds = {"generating": 0.0, "judging": 0.0}
        self._step_seconds = deque[float](maxlen=RECENT)
        self._stood: dict[str, int] = {}  # for how many steps in a row each kind of sign was seen

    def say(self, text: str) -> None:
        """Shows a line to the user and adds it to the run's log."""
        self._echo(text)
        self.writer.log(text)

    def begin(self, step: int) -> None:
        """Starts after `step`, the checkpoint's (0: none), with the model loaded. Raises RunStopped where the run was
        asked to stop, or max_usd does not pay for the first step."""
        if self.agree(self.is_asked_to_stop):
            raise RunStopped(f"stopped before step {step + 1}, as asked; run_id {self.run.id} resumes it")
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        before_steps = self.sft_seconds + self.measuring_seconds
        self.writer.begin(f"making step {step + 1}")
        self.writer.update(starting_seconds=round(self.writer.seconds - before_steps, 1))
        self._evaluations = scores_in(read_lines(self.run.path / SCORES_FILE))
        self.name_best()
        if step < self.config.max_steps and (unpaid := self.agree(self.budget.see_start())):
            raise RunStopped(f"{unpaid}. Stopped before a step; run_id {self.run.id} resumes it")
        self._bar = tqdm(total=self.config.max_steps, unit="step", disable=True if rank() else None)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Counts the seconds of generating or judging; the rest of a step is updating."""
        started, self.part = time.perf_counter(), part
        yield
        self.part = "updating"
        self._seconds[part] += time.perf_counter() - started

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Counts the seconds and the cost of an evaluation apart from those of the steps."""
        of_the_step = dict(self._seconds)
        self.writer.begin("answering held-out prompts")
        with self.budget.evaluating():
            yield
        self.writer.begin(f"making step {self.writer.status['step'] + 1}")
        self._seconds = of_the_step

    def keep_scores(self, step: int, rows: list[dict]) -> dict[str, float]:
        """Adds an evaluation to eval_scores.jsonl, and returns what it is compared with the best before it."""
        self.writer.append(SCORES_FILE, rows)
        if not (found := scores_in(rows)):  # no answer was judged
            return {}
        self._evaluations += found
        self.end_by = why_to_stop(self._evaluations, self.config.early_stopping_patience, self.config.seed)
        return versus_best(self._evaluations, self.config.seed)

    def name_best(self) -> str | None:
        """The best checkpoint by held-out score, which status.json gets too; None where there is none yet."""
        best = best_checkpoint(self._evaluations, self.run.checkpoints)
        if self._evaluations:
            self.writer.update(best_checkpoint=best)
        return best

    def record_base(self, logs: dict[str, float]) -> None:
        """Adds the evaluation before the first step to metrics.jsonl, as step 0."""
        self.writer.append("metrics.jsonl", [{"step": 0, **logs}])
        self.writer.update(eval_reward=logs.get("eval_reward"))
        scored = f"held-out={logs['eval_reward']:.3f}" if "eval_reward" in logs else "no held-out answer was judged"
        self.say(f"Before the first step: {scored}")

    def record_step(self, step: int, logs: dict[str, float]) -> None:
        """Adds a step to metrics.jsonl and the status. `logs` are TRL's, with loss and step_time (seconds)."""
        for name in logs:  # TRL gives the mean over processes of what each has counted
            if name.startswith("judge/") and not name.endswith("/seconds"):
                logs[name] *= processes()
        seconds = {**self._seconds, "updating": logs["step_time"] - sum(self._seconds.values())}
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        measured = {f"seconds/{part}": round(spent, 4) for part, spent in seconds.items()}
        self.writer.append("metrics.jsonl", [{"step": step, **logs, **measured}])
        # A step whose judgements all failed, or which learns from earlier completions again (num_iterations), has none.
        reward = logs.get("reward")
        is_known = reward is not None and not math.isnan(reward)
        held_out = {"eval_reward": logs["eval_reward"]} if "eval_reward" in logs else {}
        self._step_seconds.append(logs["step_time"])
        left = round((self.config.max_steps - step) * median(self._step_seconds), 1)
        told = {"reward": reward, "reward_std": logs.get("reward_std")} if is_known else {}
        self.writer.update(step=step, phase=None, loss=logs["loss"], seconds_left=left, **told, **held_out)
        of_the_step = {"reward": math.nan, "eval_reward": None} | told | held_out
        self.say(f"Step {step}/{self.config.max_steps}: {numbers(self.writer.status | of_the_step)}")
        if self.config.num_completions_to_print and step % self.config.logging_steps == 0:
            self._echo(completions_text(self.run, step))
        self._bar.update(step - self._bar.n)
        if self.config.notify or "trackio" in self.config.report_to:
            with self.writer.alarms.harmless():
                self._tell_signs(step)

    def _tell_signs(self, step: int) -> None:
        """Tells a sign that has stood for WINDOW steps, or that the run ends with: one that goes well may show a sign
        for a step or two."""
        signs = {kind_of(sign): sign for sign in diagnose(self.run.metrics(), self.config)}
        self._stood = {kind: self._stood.get(kind, 0) + 1 for kind in signs}
        for kind, sign in signs.items():
            if self._stood[kind] >= WINDOW or step == self.config.max_steps:
                self.writer.show_sign(sign)

    def should_stop(self, step: int) -> bool:
        """Whether the run ends after this step, with a checkpoint: it was asked to, max_usd is used up, or held-out
        scores fall."""
        unpaid = self.budget.see_step(step)
        if step % self.config.num_iterations:
            return False  # a checkpoint between two updates on the same completions would not resume exactly
        why = ", as asked" if self.is_asked_to_stop else f": {unpaid or self.end_by}" if unpaid or self.end_by else ""
        self._why = self.agree(why)
        return bool(self._why)

    @property
    def is_asked_to_stop(self) -> bool:
        return (self.run.path / STOP_FILE).exists()

    def finish(self, step: int) -> None:
        """Raises RunStopped where training ended before max_steps."""
        if step < self.config.max_steps:
            best, saved = self.writer.status.get("best_checkpoint"), f"checkpoint-{step}"
            named = f"{best} is the best; " if best not in (None, saved) else ""
            kept = f"{saved} is saved, run_id {self.run.id} resumes it"
            raise RunStopped(f"stopped at step {step}{self._why}; {named}{kept}")

    def stopped(self, why: str, step: int, failed: str = "", fix: str = "") -> RunStopped:
        """The error that ends a run within a step; `failed` says why the last whole step, `step`, is not saved."""
        kept = self.run.checkpoints
        saved = f"{kept[-1].name} is saved" if kept else "no step is saved" if step else "no step was made"
        return RunStopped(f"{why}. Stopped, {failed}{saved}; run_id {self.run.id} resumes it", fix)

    def close(self) -> None:
        self._bar.close()


class SftProgress:
    """The same of the warm start's steps, which have a file of their own, so that metrics.jsonl is GRPO's alone."""

    def __init__(self, progress: RunProgress):
        self._all, self._writer, self._why = progress, progress.writer, ""
        self._run, self._steps = progress.run, progress.config.sft_steps

    def begin(self, step: int) -> None:
        """Starts after `step`, the checkpoint's. Raises RunStopped where the run was asked to stop."""
        if self._all.agree(self._all.is_asked_to_stop):
            raise RunStopped(f"stopped before step {step + 1} of the warm start, as asked; {self._resumes}")
        self._writer.update(sft_step=step, sft_steps=self._steps, phase=None)

    def record_step(self, step: int, logs: dict[str, float]) -> None:
        self._writer.append(SFT_METRICS, [{"step": step, **logs}])
        self._writer.update(sft_step=step)
        self._all.say(f"Warm start {step}/{self._steps}: loss={logs['loss']:.3f}")

    def should_stop(self, step: int, seconds: float) -> bool:
        """Whether the run ends after this step, which took so many seconds, with a checkpoint."""
        self._all.sft_seconds += seconds
        unpaid = self._all.budget.see_sft_step(step, seconds)
        why = ", as asked" if self._all.is_asked_to_stop else f": {unpaid}" if unpaid else ""
        self._why = self._all.agree(why)
        return bool(self._why)

    def finish(self, step: int) -> None:
        """Raises RunStopped where the stage ended before its last step."""
        if step < self._steps:
            saved = f"checkpoint-sft-{step} is saved, {self._resumes}"
            raise RunStopped(f"stopped at step {step} of the warm start{self._why}; {saved}")

    def stopped(self, why: str, fix: str) -> RunStopped:
        return RunStopped(f"{why}. Stopped; {self._resumes}", fix)

    @property
    def _resumes(self) -> str:
        return f"run_id {self._run.id} resumes it"
