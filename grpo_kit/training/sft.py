# pyright: basic, reportPrivateImportUsage=false
"""The warm start: TRL's SFT trainer learns the samples' own replies, before GRPO goes on with the same weights.

The stage has its own lines, sft_metrics.jsonl, and its own checkpoint, checkpoint-sft-N, from which GRPO starts and
which is evaluated as a model of its own. A pass holds no more sequences than one of GRPO's, so it fits where that does.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from transformers import PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from grpo_kit.config.batching import batches
from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError
from grpo_kit.models.generate import end_tokens
from grpo_kit.models.load import gpu_gib, is_of_gpu, is_out_of_memory, load_tokenizer, torch_threads
from grpo_kit.models.prompts import fit_prompts, prompt_tokens, reply_tokens
from grpo_kit.models.vllm_engine import release_vllm
from grpo_kit.runs.checkpoints import newest_whole
from grpo_kit.runs.directory import checkpoint_step
from grpo_kit.training.failures import out_of_memory
from grpo_kit.training.grpo import grpo_arguments, starting_model
from grpo_kit.training.plan import NO_SHARING_WITH_SFT
from grpo_kit.training.progress import RunProgress, SftProgress
from grpo_kit.training.run_trainer import RunTrainer

# GRPO's arguments that hold for this stage too.
SHARED = """output_dir seed bf16 gradient_checkpointing use_cpu max_grad_norm weight_decay save_steps disable_tqdm
    ddp_find_unused_parameters""".split()


class WarmStartTrainer(RunTrainer, SFTTrainer):
    """TRL's, with the run's progress told, and checkpoints that are whole."""

    _prefix = "checkpoint-sft-"

    def __init__(self, *args, progress: RunProgress, **kwargs):
        super().__init__(*args, progress=progress, **kwargs)
        self._stage, self._logged = SftProgress(progress), time.perf_counter()

    def train_from(self, checkpoint: Path | None) -> None:
        """Raises RunStopped where it ends before sft_steps, or memory runs out."""
        self._stage.begin(checkpoint_step(checkpoint) if checkpoint else 0)
        self._logged = time.perf_counter()
        try:
            with torch_threads(self._config.torch_threads):
                self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            decided = {"gradient_checkpointing": self.args.gradient_checkpointing, "use_vllm": False}
            config, step = self._config.model_copy(update=decided), self.state.global_step + 1
            problem = out_of_memory(config, self._run.id, is_of_gpu(error), "updating", step, gpu_gib())
            raise self._stage.stopped(f"In the warm start: {problem.what}", problem.fix) from None
        self._stage.finish(self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" not in logs:  # the summary of all steps
            return
        step, now = self.state.global_step, time.perf_counter()
        seconds, self._logged = now - self._logged, now
        if self._stage.should_stop(step, seconds):
            self.control.should_save = self.control.should_training_stop = True
        if self.is_world_process_zero():
            self._stage.record_step(step, {**logs, "step_time": seconds})

    def _superseded(self) -> list[Path]:
        return [Path(old) for old in self._run.sft_checkpoints[:-1]]


def warm_up(samples: Sequence[Sample], progress: RunProgress) -> None:
    """Makes the stage, or what is left of it: then the run's folder has its last checkpoint. Raises RunStopped where it
    ends before, ConfigError where the model can't be loaded."""
    config, run = progress.config, progress.run
    release_vllm()  # of an earlier run in this process
    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()  # rank 0 has prepared the run
    checkpoint, _ = newest_whole(run, run.sft_checkpoints)
    if checkpoint and checkpoint_step(checkpoint) >= config.sft_steps:
        return
    tokenizer = load_tokenizer(config.model_name, config.chat_template_kwargs)
    shared = grpo_arguments(config, run.path)
    if shared.fsdp:
        raise ConfigError(NO_SHARING_WITH_SFT.what, NO_SHARING_WITH_SFT.fix)
    settings: dict[str, Any] = {name: getattr(shared, name) for name in SHARED}
    settings |= batches(config.samples_per_sft_step // config.num_processes, config.per_device_train_batch_size)
    arguments = SFTConfig(
        **settings,
        max_steps=config.sft_steps,
        learning_rate=config.sft_learning_rate,
        lr_scheduler_type="linear",
        logging_steps=1,
        report_to="none",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    arguments._n_gpu = shared._n_gpu
    set_seed(config.seed)  # before the adapter gets its first weights
    model, adapter = starting_model(progress, shared, before_sft=True)
    trainer = WarmStartTrainer(
        progress=progress,
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows_of(samples, tokenizer, model, progress)),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train_from(checkpoint)
    trainer.accelerator.free_memory()
    del trainer, model  # makes room for GRPO's
    clear_device_cache(garbage_collection=True)


def rows_of(samples: Sequence[Sample], tokenizer: Any, model: Any, progress: RunProgress) -> list[dict[str, list[int]]]:
    """Tokens and labels of as many samples as the stage takes, drawn by the seed: the prompt as GRPO has it, and the
    reply with its end token, which alone is learnt. A reply longer than a completion may be is cut."""
    config = progress.config
    drawn = np.random.default_rng(config.seed).permutation(len(samples))
    chosen = [samples[i] for i in drawn[: config.sft_steps * config.samples_per_sft_step]]
    prompts, tools = [each.prompt for each in chosen], [each.tools for each in chosen]
    fitted = fit_prompts(prompts, tokenizer, config.max_prompt_length, tools, progress.say)
    ends, rows, cut = end_tokens(model, tokenizer), [], 0
    for sample, fit in zip(chosen, fitted, strict=True):
        asked = prompt_tokens(tokenizer, fit.prompt, sample.tools)
        reply = reply_tokens(tokenizer, fit.prompt, sample.ground_truth, ends, sample.tools)
        cut += len(reply) > config.max_completion_length
        reply = reply[: config.max_completion_length]
        rows.append({"input_ids": asked + reply, "labels": [-100] * len(asked) + reply})
    if cut:
        progress.say(f"{cut} of {len(rows)} replies of the warm start are cut to max_completion_length")
    return rows
