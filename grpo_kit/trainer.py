"""TRL's GRPO trainer, with the run directory kept as it goes: metrics, completions, timings, whole checkpoints."""

import json
import random
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from trl import GRPOTrainer

from grpo_kit.config import ConfigError
from grpo_kit.rewards import TooManyFailures, text_of
from grpo_kit.runs import Run, RunStopped, RunWriter, checkpoint_step, write_json


class KitTrainer(GRPOTrainer):
    """What it adds hooks into TRL 1.16's own steps; what is trained, and how, is left to TRL."""

    def __init__(self, *args, judges: int, writer: RunWriter, base_model: str, echo: Callable[[str], None], **kwargs):
        """`judges` is how many of the reward functions, the first ones, are judges."""
        super().__init__(*args, **kwargs)
        self._judges, self._writer, self._base_model, self._echo = judges, writer, base_model, echo
        self._seconds = {"generating": 0.0, "judging": 0.0}
        self._output_dir = self.args.output_dir
        self._bar = tqdm(total=self.args.max_steps, unit="step", disable=None)  # None: only on a terminal

    def train_from(self, checkpoint: Path | None) -> None:
        """Trains to max_steps, from the checkpoint where there is one."""
        with self._bar:
            if checkpoint and checkpoint_step(checkpoint) >= self.args.max_steps:
                self._load_from_checkpoint(str(checkpoint))  # the run was killed while it saved its result
            else:
                self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _generate(self, prompts):
        with self._timed("generating"):
            return super()._generate(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self._log_completion_extra("sample_id", [row["id"] for row in inputs])
        with self._timed("judging"):
            scores = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._scores = scores.tolist()
        # TRL would count a missing score as 0 beside those of other rewards. What a judge could not score takes no part
        # at all.
        scores[scores[:, : self._judges].isnan().any(dim=1)] = torch.nan
        return scores

    @contextmanager
    def _timed(self, part: str):
        started = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - started

    def _generate_and_score_completions(self, inputs):
        before = _random_states()
        try:
            output = super()._generate_and_score_completions(inputs)
        except (TooManyFailures, ConfigError) as error:
            _set_random_states(before)
            self._stop(error)
        if self.is_world_process_zero():
            # TRL keeps the batch it scored last, of all processes, for its own tables.
            logs, extra = self._logs, self._logs["extra"]
            rows = [
                {
                    "step": self.state.global_step + 1,
                    "sample_id": extra["sample_id"][i],
                    "prompt": logs["prompt"][i],
                    "completion": text_of(logs["completion"][i]),
                    "rewards": dict(zip(self.reward_func_names, self._scores[i], strict=True)),
                    "advantage": logs["advantages"][i],
                    "reason": self._reason(i),
                }
                for i in range(len(logs["prompt"]))
            ]
            self._writer.append("completions.jsonl", rows)
        return output

    def _reason(self, i: int) -> str:
        """Why the judges scored completion `i` as they did."""
        reasons = {name: self._logs["extra"][f"reason/{name}"][i] for name in self.reward_func_names[: self._judges]}
        if len(reasons) == 1:
            return next(iter(reasons.values()))
        return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())

    def _stop(self, why: Exception) -> None:
        """Ends the run before the step whose completions could not be judged. Its checkpoint is that of the last whole
        step, as if it had been saved then: resumed, the run goes on as if nothing had happened."""
        step = self.state.global_step
        if step and not (Path(self.args.output_dir) / f"checkpoint-{step}").exists():
            self._save_checkpoint(self.model, trial=None)
        saved = f"checkpoint-{step} is saved" if step else "no step was made"
        raise RunStopped(f"{why}. Stopped, {saved}; run_id {self._writer.run.id} resumes it") from None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)  # adds what TRL measured to `logs`
        if "loss" not in logs or not self.is_world_process_zero():
            return
        step = self.state.global_step
        seconds = {f"seconds/{part}": round(spent, 4) for part, spent in self._seconds.items()}
        seconds["seconds/updating"] = round(logs["step_time"] - sum(self._seconds.values()), 4)
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self._writer.append("metrics.jsonl", [{"step": step, **logs, **seconds}])
        self._writer.update(step=step)
        # A step that learns from an earlier step's completions again (num_iterations) has no reward of its own.
        reward = "none" if logs.get("reward") is None else f"{logs['reward']:.3f}"
        self._echo(f"Step {step}/{self.args.max_steps}: loss={logs['loss']:.3f} reward={reward}")
        self._bar.update(step - self._bar.n)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        adapter = folder / "adapter_config.json"
        if adapter.exists():  # a name that holds on other machines, where a shipped model lies elsewhere
            write_json(adapter, {**json.loads(adapter.read_text()), "base_model_name_or_path": self._base_model})

    def _save_checkpoint(self, model, trial):
        """A checkpoint is written aside and moved into place whole, so that a kill leaves it complete or absent."""
        target = Path(self.args.output_dir)
        partial = target / ".partial"
        self._output_dir = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._output_dir = str(target)
        name = f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            shutil.rmtree(target / name, ignore_errors=True)
            (partial / name).rename(target / name)
            if self.args.save_total_limit:
                for old in Run(target).checkpoints[: -self.args.save_total_limit]:
                    old.rename(partial / old.name)
            shutil.rmtree(partial)

    def _get_output_dir(self, trial=None) -> str:
        return self._output_dir

    def create_model_card(self, *args, **kwargs) -> None:
        """No model card: config.json says how the model was made, and TRL's card would ask the hub."""


def _random_states() -> tuple:
    """All that the next completions are drawn from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_random_states(states: tuple) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
