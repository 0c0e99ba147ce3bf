"""TRL's GRPO trainer as a run's settings want it. Everything in training that needs torch is loaded from here."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PrinterCallback, set_seed
from trl.trainer.grpo_config import GRPOConfig

from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.memory import Device, decided, is_sharded, uses_vllm
from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.models.checkpoints import adapted
from grpo_kit.models.load import device_can_bf16, gpu_gib, load_model, load_tokenizer
from grpo_kit.models.prompts import FittedPrompt, fit_prompts
from grpo_kit.models.shapes import shape_of
from grpo_kit.models.vllm_engine import release_vllm
from grpo_kit.rewards.judge_reward import JudgeReward
from grpo_kit.rewards.travel import RewardFunction
from grpo_kit.runs.checkpoints import newest_whole
from grpo_kit.runs.directory import START, checkpoint_step
from grpo_kit.training.fsdp import allow_on_cpus
from grpo_kit.training.progress import RunProgress
from grpo_kit.training.rollout import Rollout
from grpo_kit.training.trainer import KitTrainer
from grpo_kit.utils.environment import version_of

# TRL has them too, and they mean something else here.
_TO_THE_KIT = {"num_train_epochs", "report_to", "eval_steps", "logging_steps", "num_completions_to_print"}
# Those that go to it under the same name.
TRL_SETTINGS = sorted({field.name for field in fields(GRPOConfig)} & TrainConfig.model_fields.keys() - _TO_THE_KIT)


def build_trainer(
    samples: Sequence[Sample],
    rewards: Mapping[RewardFunction | JudgeReward, float],
    progress: RunProgress,
    rollout: Rollout | None = None,
) -> KitTrainer:
    """The trainer of `progress.run`, with the model loaded. `rewards` have their weights, and the judges are the first
    of them; `rollout` is needed in an environment. Raises ConfigError where the model can't be loaded."""
    config = progress.config
    release_vllm()  # of an earlier run in this process
    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()  # rank 0 has prepared the run
    tokenizer = load_tokenizer(config.model_name, config.chat_template_kwargs)
    started, prompts, tools = time.monotonic(), [sample.prompt for sample in samples], [each.tools for each in samples]
    fitted = fit_prompts(prompts, tokenizer, config.max_prompt_length, tools, progress.say)
    seconds = round(time.monotonic() - started, 1)
    rows = _rows(samples, fitted)
    shortened, too_long = sum(fit.is_shortened for fit in fitted), sum(fit.is_too_long for fit in fitted)
    if shortened:
        progress.say(f"{shortened} of {len(rows)} prompts lost old tool results or turns to fit max_prompt_length")
    if too_long:
        progress.say(f"{too_long} of {len(rows)} prompts are still longer than max_prompt_length")
    asked = [sample.prompt for sample in progress.held_out], [sample.tools for sample in progress.held_out]
    held_out = fit_prompts(asked[0], tokenizer, config.max_prompt_length, asked[1], progress.say)
    longer = bool(too_long) or any(fit.is_too_long for fit in held_out)
    arguments = grpo_arguments(config, progress.run.path, may_be_longer=longer)
    arguments.reward_weights = list(rewards.values())
    counted = {"prompts_shortened": shortened, "prompts_too_long": too_long, "fitting_seconds": seconds}
    progress.writer.update(**counted, fsdp=arguments.fsdp)
    if arguments.fsdp:
        allow_on_cpus()
    set_seed(config.seed)  # before the adapter gets its first weights
    model, adapter = starting_model(progress, arguments)
    how: dict[str, Any] = {"args": arguments, "processing_class": tokenizer, "peft_config": adapter}
    how |= {"train_dataset": dataset_of(rows), "held_out": _rows(progress.held_out, held_out)}
    trainer = KitTrainer(model=model, reward_funcs=list(rewards), progress=progress, rollout=rollout, **how)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _rows(samples: Sequence[Sample], fitted: Sequence[FittedPrompt]) -> list[dict[str, Any]]:
    return [
        {"id": sample.id, "prompt": fit.prompt, "tools": sample.tools}  # rewards look the rest up by the id
        for sample, fit in zip(samples, fitted, strict=True)
    ]


def starting_model(
    progress: RunProgress, arguments: GRPOConfig, before_sft: bool = False
) -> tuple[Any, LoraConfig | None]:
    """The model that training starts with, and the adapter that it is to get; None where it has one or needs none.

    GRPO starts from the warm start's checkpoint where there was one (not `before_sft`), else from the adapter that the
    run goes on from, else from the plain model. Raises RunError where the warm start's checkpoint is damaged.
    """
    config, run, start, source = progress.config, progress.run, None, progress.config.model_name
    if config.adapter:
        start = run.path / START
    if config.sft_steps and not before_sft:
        start, damaged = newest_whole(run, run.sft_checkpoints)
        if start is None or checkpoint_step(start) < config.sft_steps:
            what = f"run {run.id} can't resume: the checkpoint of its warm start is missing or damaged {damaged or ''}"
            raise RunError(what.rstrip(), "Put it back, or begin anew with another run_id")
    if start and not config.use_lora:
        source, start = str(start), None
    model = load_model(
        source,
        # Under an adapter the weights only need to be read; trained themselves, bfloat16 would lose small updates.
        bf16=bool(arguments.bf16) and config.use_lora,
        in_4bit=config.load_in_4bit,
        to_gpu=not arguments.fsdp,  # each GPU gets its share, later
    )
    others = freeze_eyes_and_ears(model)
    if start:  # with beta above 0, TRL keeps a copy of it as the reference
        return adapted(model, start, is_trainable=True), None
    lora: dict[str, Any] = {"r": config.lora_r, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    lora |= {"target_modules": "all-linear", "exclude_modules": others, "task_type": "CAUSAL_LM"}
    return model, LoraConfig(**lora) if config.use_lora else None


def freeze_eyes_and_ears(model: PreTrainedModel) -> str | None:
    """Leaves what texts don't pass through, such as a vision tower, out of training. Returns the regular expression of
    its modules' names; None where the language model is all there is."""
    language, head = model.get_decoder(), model.get_output_embeddings()
    used = {*map(id, language.parameters()), *map(id, head.parameters() if head else ())}
    others = [weight for weight in model.parameters() if id(weight) not in used]
    for weight in others:
        weight.requires_grad = False
    name = next(name for name, module in model.named_modules() if module is language)
    return rf"(?!{re.escape(name)}\.).*" if others else None


def dataset_of(rows: Sequence[dict[str, Any]]) -> Dataset:
    """The rows as TRL takes them, each kept as JSON: Arrow would give every tool call the arguments of all others."""
    names = list(rows[0])  # datasets pickles all that `read` refers to, to tell it from others

    def read(batch: dict[str, list]) -> dict[str, list]:
        found = [orjson.loads(row) for row in batch["row"]]
        return {name: [row[name] for row in found] for name in names}

    return Dataset.from_dict({"row": [orjson.dumps(row).decode() for row in rows]}).with_transform(read)


def grpo_arguments(config: TrainConfig, run_dir: Path, may_be_longer: bool = False) -> GRPOConfig:
    """The settings as TRL takes them, each "auto" decided for this machine.

    vLLM must hold one sequence of the length that it is told, which by default is all that the model was made for; it
    is told the longest there can be, unless a prompt `may_be_longer` than max_prompt_length. Raises ConfigError for
    fields in `config.trl` that TRL refuses together.
    """
    on_gpu, shape = torch.cuda.is_available(), shape_of(config.model_name)
    device = Device(on_gpu, gpu_gib() or 0.0, version_of("vllm") is not None)
    settings: dict[str, Any] = {name: getattr(config, name) for name in TRL_SETTINGS} | {
        "bf16": decided(config.bf16, device_can_bf16()),
        "gradient_checkpointing": decided(config.gradient_checkpointing, on_gpu),
        "use_vllm": uses_vllm(config, device),
        "fsdp": is_sharded(config, shape, device) if shape else config.fsdp is True,
    }
    settings |= {"output_dir": str(run_dir), "run_name": run_dir.name, "report_to": list(config.report_to) or "none"}
    settings |= {"use_cpu": not on_gpu, "logging_steps": 1, "disable_tqdm": True}
    settings |= {"ddp_find_unused_parameters": False, "num_generations_eval": 1}
    if settings["use_vllm"] and shape and not may_be_longer:
        settings["vllm_max_model_length"] = shape.longest_sequence(config)
    try:
        arguments = GRPOConfig(**settings, **config.trl)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"TRL refuses trl={config.trl}: {error}", "Correct it, or leave it out") from None
    arguments._n_gpu = min(1, arguments.n_gpu)  # else one process would spread its batch over all GPUs that it sees
    return arguments
