# pyright: basic, reportPrivateImportUsage=false
"""TRL's GRPO trainer with the run's progress told as it goes, and checkpoints that are whole."""

import json
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from accelerate.utils import gather, gather_object
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from grpo_kit.data.samples import conversation_text
from grpo_kit.data.thoughts import CLOSE, answer_in, has_thought
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.models.generate import completion_text
from grpo_kit.models.load import gpu_gib, is_of_gpu, is_out_of_memory, torch_threads
from grpo_kit.models.prompts import prompt_tokens
from grpo_kit.rewards.functions import RewardFailed
from grpo_kit.rewards.judge_reward import JudgeReward, TooManyFailures
from grpo_kit.rewards.ready import text_of
from grpo_kit.runs.directory import checkpoint_step
from grpo_kit.training.evaluating import Evaluator
from grpo_kit.training.failures import out_of_memory
from grpo_kit.training.fsdp import gathered
from grpo_kit.training.progress import RunProgress
from grpo_kit.training.rollout import Rollout
from grpo_kit.training.rollouts_ahead import Ahead, wait_until_due
from grpo_kit.training.run_trainer import RunTrainer
from grpo_kit.utils.files import write_json


class KitTrainer(RunTrainer, GRPOTrainer):
    """Hooks into TRL 1.16's own steps; what is trained, and how, is left to TRL."""

    args: GRPOConfig
    model: PreTrainedModel
    train_dataset: Dataset

    def __init__(
        self,
        *args,
        progress: RunProgress,
        held_out: Sequence[dict[str, Any]] = (),
        rollout: Rollout | None = None,
        **kwargs,
    ):
        """`held_out` are rows as those of the data set, which are answered every eval_steps; `rollout` has dialogues
        where there is an environment."""
        super().__init__(*args, progress=progress, **kwargs)
        self.rollout_func: Any = rollout
        if self.args.use_vllm and progress.config.use_lora and not self.args.fsdp:
            sync = self.vllm_generation.sync_weights
            self.vllm_generation.sync_weights = partial(_sync_exactly, sync, _weights_under_adapter(self.model))
        self._judges = [reward for reward in self.reward_funcs if isinstance(reward, JudgeReward)]  # the first ones
        self._resumed_at = 0  # the step of the checkpoint that it resumes from
        self._is_whole = True  # no weight has been changed without the others
        self._random_states = TemporaryDirectory()  # all that the next completions are drawn from
        self._ahead = Ahead(self, self._config.max_staleness) if self._config.max_staleness else None
        self._evaluator = Evaluator(self, self._answered, held_out, progress) if held_out else None

    def train_from(self, checkpoint: Path | None) -> None:
        """Trains to max_steps, from the checkpoint where there is one. Raises RunStopped where it ends before."""
        self._resumed_at = checkpoint_step(checkpoint) if checkpoint else 0
        self._progress.begin(self._resumed_at)
        with torch_threads(self._config.torch_threads):
            if checkpoint and self._resumed_at >= self.args.max_steps:
                self._load_from_checkpoint(str(checkpoint))  # the run was killed while it saved its result
                return
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            for judge in self._judges:
                judge.finish()  # what was asked for steps that are not made is paid for, so it is kept and counted
            self._progress.finish(self.state.global_step)

    def save_into_run(self) -> None:
        """Puts the final weights into the run directory, each file in one move."""
        run = self._progress.run
        partial = run.path / ".partial"
        self.save_model(str(partial))
        if not self.is_world_process_zero():
            return
        # A whole model's own, whose entries the run's gets too, so that transformers can load the directory.
        if (config := partial / "config.json").exists():
            write_json(config, {**json.loads(config.read_text()), **run.about})
        for file in partial.iterdir():
            file.replace(run.path / file.name)
        partial.rmdir()

    def train(self, *args, **kwargs):
        """TRL's training. Raises RunStopped where memory runs out."""
        try:
            return super().train(*args, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            is_gpus = is_of_gpu(error)
        finally:
            if self._ahead:
                self._ahead.close()
        # Nothing holds the failed step's tensors here any more, so that there is room to save.
        decided = {name: bool(getattr(self.args, name)) for name in ("gradient_checkpointing", "use_vllm")}
        config, part, step = self._config.model_copy(update=decided), self._progress.part, self.state.global_step + 1
        problem = out_of_memory(config, self._progress.run.id, is_gpus, part, step, gpu_gib())
        if self.accelerator.num_processes > 1:  # which can't save without the others, and they wait for it
            raise self._progress.stopped(problem.what, step - 1, fix=problem.fix)
        self._stop(problem.what, problem.fix)

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 0 and self._step == 0:  # all is in place here, weights shared out too
            self._evaluate_base()
        self._progress.part, self._is_whole = "updating", True
        loss = super().training_step(*args, **kwargs)
        self._is_whole = False  # the optimiser is next; log() is after it
        return loss

    def _get_train_sampler(self, dataset=None):
        """TRL's, past a resumed run's epochs: the order of each comes from one generator, which no checkpoint has."""
        sampler = super()._get_train_sampler(dataset)
        steps_an_epoch = len(self.train_dataset) // self._config.prompts_per_step * self.args.num_iterations
        for _ in range(self._resumed_at // steps_an_epoch):
            next(iter(sampler))
        return sampler

    def _load_optimizer_and_scheduler(self, checkpoint):
        """Trainer's, with the rate of the next step as this run's max_steps has it: it may be longer than it was."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint:
            course: Any = self.lr_scheduler
            optimizer: Any = self.optimizer
            shares = [share(course.last_epoch) for share in course.lr_lambdas]
            course._last_lr = [peak * share for peak, share in zip(course.base_lrs, shares, strict=True)]
            for group, rate in zip(optimizer.param_groups, course._last_lr, strict=True):
                group["lr"] = rate

    def get_batch_samples(self, *args, **kwargs):
        draw = partial(super().get_batch_samples, *args, **kwargs)
        return self._ahead.draw(draw) if self._ahead else draw()

    def _tokenize_prompts(self, prompts):
        """The prompts as they are evaluated, each with its own tools. TRL takes one set of tools for all."""
        tools = [row["tools"] for row in self._rows]
        return [prompt_tokens(self.processing_class, *each) for each in zip(prompts, tools, strict=True)], None, {}

    def _generate(self, prompts):
        with self._progress.timed("generating"), gathered(self.model):
            prompt_ids, completion_ids, mask, completions, *others = super()._generate(prompts)
        if self.rollout_func:
            return prompt_ids, completion_ids, mask, self.rollout_func.completions, *others
        texts = [completion_text(self.processing_class, *each) for each in zip(prompts, completion_ids, strict=True)]
        wholes = [_whole(*each) for each in zip(completions, texts, strict=True)]
        return prompt_ids, completion_ids, mask, wholes, *others

    def _answered(self, rows: Sequence[dict[str, Any]]) -> tuple[list, torch.Tensor]:
        """Completions of held-out prompts, one each, and the scores of all processes' by reward."""
        if self.rollout_func:
            rows = self.rollout_func.begin(rows, self.processing_class)
        self._rows, prompts = rows, [row["prompt"] for row in rows]
        _, ids, _, completions, _, found, *_ = cast(tuple[Any, ...], self._generate(prompts))
        rows = [row | {name: found[name][i] for name in found} for i, row in enumerate(rows)]  # as TRL adds it
        if self._ahead:  # else a judge would give the scores that were asked for before
            for judge in self._judges:
                judge.begin(self.async_loop, rows, completions, is_next=True)
        with self._progress.timed("judging"):
            return completions, self._scores_of_all(rows, prompts, completions, ids)

    def _held_out_scores(self, step: int) -> dict[str, float]:
        """Held-out scores where they are due after `step`; where they can't be had, that ends the run."""
        if not self._evaluator or not self._config.is_evaluated(step):
            return {}
        try:
            with self._progress.evaluating():
                return self._evaluator.evaluate(step)
        except (TooManyFailures, ConfigError, RewardFailed) as error:
            self._progress.end_by = f"no held-out scores: {error}"
            self._progress.say(f"Warning: {self._progress.end_by}")
            return {}
        finally:
            self._load_rng_state(self._random_states.name)

    def _evaluate_base(self) -> None:
        self._save_rng_state(self._random_states.name)
        if logs := self._held_out_scores(0):
            super().log(logs)
            self._progress.record_base(logs)
        if self._progress.end_by:
            self._stop(self._progress.end_by)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._ahead:
            for judge in self._judges:
                judge.begin(self.async_loop, inputs, completions)
            wait_until_due()
        self._log_completion_extra("sample_id", [row["id"] for row in inputs])
        texts = [text_of(completion) for completion in completions]
        if any(map(has_thought, texts)):
            self._log_metric("thoughts/cut", sum(answer_in(text) is None for text in texts) / len(texts))
        with self._progress.timed("judging"):
            scores = self._scores_of_all(inputs, prompts, completions, completion_ids_list)
        self._scores = scores.tolist()
        # TRL would count a missing score as 0 beside those of other rewards. Here the completion takes no part at all.
        scores[scores[:, : len(self._judges)].isnan().any(dim=1)] = torch.nan
        return scores

    def _scores_of_all(self, inputs, prompts, completions, completion_ids_list) -> Any:
        """TRL's scores, gathered from all processes. Where one fails, it raises in all, so that none waits for it."""
        calculate = partial(super()._calculate_rewards, inputs, prompts, completions, completion_ids_list)

        def score() -> Any:
            if not (rollout := self.rollout_func):
                return calculate()
            rollout.check()
            scores = calculate()
            judged = scores[self.accelerator.process_index * len(prompts) :, 0].tolist()
            for name, value in rollout.measured(judged).items():
                self._log_metric(name, value)
            return scores

        if self.accelerator.num_processes == 1:
            return score()
        problem = None
        try:
            scores = score()
        except Exception as error:
            problem = error
            none = torch.full((len(prompts), len(self.reward_funcs)), torch.nan, device=self.accelerator.device)
            scores = gather(none)
        found = gather_object([(_travelling(problem), self._progress.writer.judged_usd())])
        others = [usd for _, usd in found[1:]]
        self._progress.writer.judged_elsewhere = None if None in others else sum(others)
        if met := problem or next((theirs for theirs, _ in found if theirs), None):
            raise met
        return scores

    def _make(self, rows):
        self._rows = self.rollout_func.begin(rows, self.processing_class) if self.rollout_func else rows
        return super()._generate_and_score_completions(self._rows)

    def _generate_and_score_completions(self, inputs):
        try:
            output = self._ahead.make(self._make, inputs) if self._ahead else self._make(inputs)
        except (TooManyFailures, ConfigError) as error:
            self._stop(str(error))
        except RewardFailed as error:
            self._stop(str(error), "Give it the corrected functions: rewards=[…]", error)
        if self.is_world_process_zero():
            # TRL keeps the batch it scored last, of all processes, for its own tables.
            logs, extra = self._logs, self._logs["extra"]
            texts = list(map(conversation_text if self.rollout_func else text_of, logs["completion"]))
            share = distinct_share(texts, self._config.num_generations)
            self._metrics["train"]["completions/distinct"].append(share)
            names = [judge.__name__ for judge in self._judges]
            reasons = [
                why[0] if len(why) == 1 else "; ".join(f"{name}: {each}" for name, each in zip(names, why, strict=True))
                for why in zip(*(extra[f"reason/{name}"] for name in names), strict=True)
            ]
            rows = [
                {
                    "step": self.state.global_step + 1,
                    "sample_id": extra["sample_id"][i],
                    "prompt": logs["prompt"][i],
                    "completion": texts[i],
                    "rewards": dict(zip(self.reward_func_names, self._scores[i], strict=True)),
                    "advantage": logs["advantages"][i],
                    "reason": reasons[i],
                    **({"messages": logs["completion"][i]} if self.rollout_func else {}),
                }
                for i in range(len(reasons))
            ]
            self._progress.writer.append("completions.jsonl", rows)
        return output

    def _stop(self, why: str, fix: str = "", failure: RewardFailed | None = None) -> None:
        """Ends the run within a step that can't be made: as failed where `failure` is given, else as stopped. Its
        checkpoint is that of the last whole step, as if it had been saved then: resumed, the run goes on as if nothing
        had happened."""
        step, failed = self.state.global_step, ""
        # Between two updates on the same completions a checkpoint would not resume exactly.
        can_save = step and self._is_whole and step % self.args.num_iterations == 0
        if can_save and not (self._run.path / f"checkpoint-{step}").exists():
            self._load_rng_state(self._random_states.name)
            try:
                self._save_checkpoint(self.model, trial=None)
            except Exception as error:  # whatever it is, why the run ends matters more
                failed = f"checkpoint-{step} could not be saved ({type(error).__name__}: {error}), "
        stopped = self._progress.stopped(why, step, failed, fix)
        if failure:
            failure.problem = stopped.problem
        raise failure or stopped from None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._save_rng_state(self._random_states.name)
        is_step, step = "loss" in logs, self.state.global_step  # else it is the summary of all steps
        if is_step:
            logs |= self._held_out_scores(step)
        super().log(logs, start_time)  # adds what TRL measured to `logs`
        self._is_whole = True
        if not is_step:
            return
        if self._progress.should_stop(step):
            self.control.should_save = self.control.should_training_stop = True
        if self.is_world_process_zero():
            self._progress.record_step(step, logs)

    def _superseded(self) -> list[Path]:
        best = self._progress.name_best()  # which is kept
        return [old for old in super()._superseded() if old.name != best]


def distinct_share(completions: list[str], group: int) -> float:
    """The share of completions that differ within their groups, which are so many in a row: 1 where none is equal to
    another, 1 / group where all are."""
    groups = [completions[i : i + group] for i in range(0, len(completions), group)]
    return sum(len(set(each)) for each in groups) / len(completions)


def _whole(completion: str | list[dict], text: str) -> str | list[dict]:
    """The completion with its thought, which `text`, all of it, has. Calls that the tokenizer has taken out stay so."""
    if isinstance(completion, str):
        return text
    thought, close, _ = text.rpartition(CLOSE)
    content = thought + close + completion[-1]["content"] if completion[-1].get("tool_calls") else text
    return [*completion[:-1], {**completion[-1], "content": content}]


def _travelling(problem: Exception | None) -> Exception | None:
    """The error as it can be sent to other processes, whatever it holds."""
    if problem is None or isinstance(problem, TooManyFailures | ConfigError | RewardFailed):
        return problem
    sent = RunError(f"{type(problem).__name__}: {problem}")
    sent.add_note("".join(traceback.format_exception(problem)))
    return sent


def _weights_under_adapter(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Those that an adapter is merged into, each with a copy in the machine's memory."""
    named = model.named_parameters()
    return [(weight, weight.detach().to("cpu", copy=True)) for name, weight in named if ".base_layer." in name]


def _sync_exactly(sync: Callable[[], None], kept: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """TRL's way of giving vLLM the weights, which adds the adapter to them and takes it off. What that rounds would add
    up, step by step, and no checkpoint has it."""
    sync()
    for weight, before in kept:
        weight.data.copy_(before)
