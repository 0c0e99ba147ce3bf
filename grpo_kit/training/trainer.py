# pyright: basic, reportPrivateImportUsage=false
"""TRL's GRPO trainer with the run's progress told as it goes, and checkpoints that are whole."""

import json
import random
import shutil
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather, gather_object
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from grpo_kit.errors import ConfigError, RunError, RunStopped
from grpo_kit.models.load import torch_threads
from grpo_kit.models.memory_errors import gpu_gib, loading, shortage_in
from grpo_kit.rewards.judge_reward import TooManyFailures
from grpo_kit.rewards.ready import text_of
from grpo_kit.runs.directory import checkpoint_step
from grpo_kit.training.failures import Machine, out_of_memory
from grpo_kit.training.fsdp import gathered
from grpo_kit.training.progress import RunProgress
from grpo_kit.training.rollouts_ahead import Ahead, wait_until_due
from grpo_kit.utils.environment import WORD_SECONDS
from grpo_kit.utils.files import write_json


class KitTrainer(GRPOTrainer):
    """Hooks into TRL 1.16's own steps; what is trained, and how, is left to TRL."""

    args: GRPOConfig
    model: PreTrainedModel
    train_dataset: Dataset

    def __init__(self, *args, judges: int, progress: RunProgress, **kwargs):
        """`judges` is how many of the reward functions, the first ones, are judges."""
        with loading(progress.config.model_name):
            super().__init__(*args, **kwargs)
        self._judges: list[Any] = list(self.reward_funcs[:judges])
        self._progress, self._config, self._folder = progress, progress.config, progress.run.path
        progress.machine = Machine(gpu_gib(), bool(self.args.gradient_checkpointing), bool(self.args.use_vllm))
        progress.agree = _of_rank_0
        self._output_dir = str(self._folder)
        self._resumed_at = 0  # the step of the checkpoint that it resumes from
        self._is_whole = True  # no weight has been changed without the others
        self._ahead = Ahead(self, self._config.max_staleness) if self._config.max_staleness else None
        self.add_callback(_Stops(progress))

    def train_from(self, checkpoint: Path | None) -> None:
        """Trains to max_steps, from the checkpoint where there is one. Raises RunStopped where it ends before."""
        self._resumed_at = checkpoint_step(checkpoint) if checkpoint else 0
        self._progress.begin(self._resumed_at)
        with torch_threads(self._config.torch_threads):
            if checkpoint and self._resumed_at >= self.args.max_steps:
                self._load_from_checkpoint(str(checkpoint))  # the run was killed while it saved its result
                return
            self._progress.check_budget()
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            for judge in self._judges:
                judge.finish()  # what was asked for steps that are not made is paid for, so it is kept and counted
            self._progress.finish(self.state.global_step)

    def save_into_run(self) -> None:
        """Puts the final weights into the run directory, each file in one move.

        A whole model has a config.json of its own. The run's gets its entries too, so that transformers can load the
        directory.
        """
        run = self._progress.run
        partial = run.path / ".partial"
        self.save_model(str(partial))
        if not self.is_world_process_zero():
            return
        config = partial / "config.json"
        if config.exists():
            write_json(config, {**json.loads(config.read_text()), **run.about})
        for file in partial.iterdir():
            file.replace(run.path / file.name)
        partial.rmdir()

    def train(self, *args, **kwargs):
        """TRL's training. Raises RunStopped where memory runs out."""
        try:
            return super().train(*args, **kwargs)
        except Exception as error:
            if (shortage := shortage_in(error)) is None:
                if "Connection closed by peer" in str(error):  # by another process that has ended, as this one is next
                    time.sleep(WORD_SECONDS)  # so that the reason is theirs, written down by who started all
                raise
        finally:
            if self._ahead:
                self._ahead.close()
        # Nothing holds the failed step's tensors here any more, so that there is room to save.
        progress, run_id, step = self._progress, self._progress.run.id, self.state.global_step + 1
        why = out_of_memory(self._config, run_id, shortage, progress.part, step, progress.machine)
        if self.accelerator.num_processes > 1:  # which can't save without the others, and they wait for it
            raise RunStopped(f"{why}. Stopped; run_id {run_id} goes on from its last checkpoint")
        self._stop(why)

    def training_step(self, *args, **kwargs):
        self._progress.part, self._is_whole = "updating", True
        loss = super().training_step(*args, **kwargs)
        self._is_whole = False  # the optimiser is next; log() is after it
        return loss

    def _get_train_sampler(self, dataset=None):
        """TRL's, as it stands after the epochs that a resumed run has behind it: it draws the order of each from one
        generator, which no checkpoint has."""
        sampler = super()._get_train_sampler(dataset)
        steps_an_epoch = len(self.train_dataset) // self._config.prompts_per_step * self.args.num_iterations
        for _ in range(self._resumed_at // steps_an_epoch):
            next(iter(sampler))
        return sampler

    def get_batch_samples(self, *args, **kwargs):
        draw = partial(super().get_batch_samples, *args, **kwargs)
        return self._ahead.draw(draw) if self._ahead else draw()

    def _generate(self, prompts):
        with self._progress.timed("generating"), gathered(self.model):
            return super()._generate(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._ahead:
            for judge in self._judges:
                judge.begin(self.async_loop, inputs, completions)
            wait_until_due()
        self._log_completion_extra("sample_id", [row["id"] for row in inputs])
        with self._progress.timed("judging"):
            scores = self._scores_of_all(inputs, prompts, completions, completion_ids_list)
        self._scores = scores.tolist()
        # TRL would count a missing score as 0 beside those of other rewards. What a judge could not score takes no part
        # at all.
        scores[scores[:, : len(self._judges)].isnan().any(dim=1)] = torch.nan
        return scores

    def _scores_of_all(self, inputs, prompts, completions, completion_ids_list) -> Any:
        """TRL's scores, which it gathers from all processes; where one of them fails, it raises in all, so that none
        waits for it."""
        problem = None
        try:
            scores = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        except Exception as error:
            if self.accelerator.num_processes == 1:
                raise
            problem = error
            none = torch.full((len(prompts), len(self.reward_funcs)), torch.nan, device=self.accelerator.device)
            scores = gather(none)
        if self.accelerator.num_processes > 1:
            found = gather_object([(_travelling(problem), self._progress.writer.judged_usd())])
            others = [usd for _, usd in found[1:]]
            self._progress.writer.judged_elsewhere = None if None in others else sum(others)
            if met := problem or next((theirs for theirs, _ in found if theirs), None):
                raise met
        return scores

    def _generate_and_score_completions(self, inputs):
        make = super()._generate_and_score_completions
        try:
            output = self._ahead.make(make, inputs) if self._ahead else make(inputs)
        except (TooManyFailures, ConfigError) as error:
            self._stop(str(error))
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
            self._progress.record_completions(rows)
        return output

    def _reason(self, i: int) -> str:
        """Why the judges scored completion `i` as they did."""
        reasons = {judge.__name__: self._logs["extra"][f"reason/{judge.__name__}"][i] for judge in self._judges}
        if len(reasons) == 1:
            return next(iter(reasons.values()))
        return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())

    def _stop(self, why: str) -> None:
        """Ends the run within a step that can't be made. Its checkpoint is that of the last whole step, as if it had
        been saved then: resumed, the run goes on as if nothing had happened."""
        step, failed = self.state.global_step, ""
        # Between two updates on the same completions a checkpoint would not resume exactly.
        can_save = step and self._is_whole and step % self.args.num_iterations == 0
        if can_save and not (self._folder / f"checkpoint-{step}").exists():
            _set_random_states(self._random_states)
            try:
                self._save_checkpoint(self.model, trial=None)
            except Exception as error:  # whatever it is, why the run ends matters more
                failed = f"checkpoint-{step} could not be saved ({type(error).__name__}: {error}), "
        raise self._progress.stopped(why, step, failed) from None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)  # adds what TRL measured to `logs`
        self._random_states, self._is_whole = _random_states(), True
        if "loss" in logs and self.is_world_process_zero():
            self._progress.record_step(self.state.global_step, logs)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self._folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        adapter = folder / "adapter_config.json"
        if adapter.exists():  # a name that holds on other machines, where a shipped model lies elsewhere
            write_json(adapter, {**json.loads(adapter.read_text()), "base_model_name_or_path": self._config.model_name})

    def _save_checkpoint(self, model, trial):
        """A checkpoint is written aside and moved into place whole, so that a kill leaves it complete or absent."""
        run, name = self._progress.run, f"checkpoint-{self.state.global_step}"
        partial = run.path / ".partial"
        self._output_dir = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._output_dir = str(run.path)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            shutil.rmtree(run.path / name, ignore_errors=True)
            (partial / name).rename(run.path / name)
            if self.args.save_total_limit:
                for old in run.checkpoints[: -self.args.save_total_limit]:
                    Path(old).rename(partial / old.name)
            shutil.rmtree(partial)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial=None) -> str:
        return self._output_dir

    def create_model_card(self, *args, **kwargs) -> None:
        """No model card: config.json says how the model was made, and TRL's card would ask the hub."""


class _Stops(TrainerCallback):
    """Ends training, with a checkpoint, after a step that is to be the last."""

    def __init__(self, progress: RunProgress):
        self._progress = progress

    def on_step_end(self, args, state, control, **kwargs):
        if self._progress.should_stop(state.global_step):
            control.should_save = control.should_training_stop = True


def _travelling(problem: Exception | None) -> Exception | None:
    """The error as it can be sent to other processes, whatever it holds."""
    if problem is None or isinstance(problem, TooManyFailures):
        return problem
    if isinstance(problem, ConfigError):
        return ConfigError(str(problem))
    sent = RunError(f"{type(problem).__name__}: {problem}")
    sent.add_note("".join(traceback.format_exception(problem)))
    return sent


def _of_rank_0(value):
    """Rank 0's value, in all processes."""
    return broadcast_object_list([value])[0]


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
