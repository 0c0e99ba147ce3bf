"""The settings of a training run, each with its name, type, default, range, unit and help.

Flags, papermill parameters and the README's tables come from these models. Names are TRL's own wherever TRL has the
setting. A wrong name is refused with the nearest right one.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from grpo_kit.config.base import Reporters, Weights
from grpo_kit.config.batching import nearest_batches
from grpo_kit.config.gpus import MOST_GPUS, gpu_and_count
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.modal import ModalConfig, processes_and_gpus
from grpo_kit.config.recipes import RECIPES

Auto = Literal["auto"]


# How the judge is called and watched, and where the run is made: a run may be resumed with others.
CHANGES_NO_SCORE = """
    gemini_timeout gemini_max_retries gemini_max_in_flight gemini_requests_per_minute gemini_input_price
    gemini_output_price gemini_sdk cache_from canaries max_failure_rate failure_window gpu memory timeout retries
    max_usd report_to
""".split()


def _judges(weights: dict[str, float]) -> dict[str, float]:
    if not weights or not weights.keys() <= set(JUDGES) or not all(weight > 0 for weight in weights.values()):
        raise ValueError(f"{' or '.join(JUDGES)}, or both with weights above 0, such as gemini=0.7,offline=0.3")
    return weights


def _rewards(weights: dict[str, float]) -> dict[str, float]:
    if not weights.keys() <= set(READY_REWARDS):
        raise ValueError(f"some of {', '.join(READY_REWARDS)}, with weights, such as length=0.1")
    return weights


JUDGES = ("offline", "gemini")
READY_REWARDS = ("length", "format", "repetition")


class TrainConfig(JudgeConfig, ModalConfig):
    """All that decides a training run. Two runs with the same settings and data give the same model."""

    # What is trained, on what
    model_name: str = Field(
        "tiny",
        description="A model on the Hugging Face hub, a folder, 'tiny' (shipped) or 'SmolLM2-135M-Instruct'.",
    )
    data: str = Field(
        "data/processed",
        description="Folder of train.jsonl and eval.jsonl; where the default has none, the demo's samples.",
    )
    run_id: str | None = Field(
        None,
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run. The same name again resumes it. None: grpo_YYYYMMDD_HHMMSS.",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seeds sampling, order of the data and LoRA's first weights.")

    # How long and how fast
    max_steps: int = Field(40, ge=1, description="Optimiser steps.")
    learning_rate: float = Field(5e-5, gt=0, le=1, description="Peak learning rate.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="How the learning rate falls over the run."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises to its peak.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are scaled down to it.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")

    # Batches
    num_generations: int = Field(8, ge=1, description="Completions per prompt, which are compared with each other.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Completions per forward and backward pass.")
    gradient_accumulation_steps: int = Field(4, ge=1, description="Passes per optimiser step.")
    num_processes: int = Field(
        1,
        ge=1,
        description="Processes that train together, each on a GPU of its own with a batch of its own; where gpu names "
        "several, as many.",
    )
    fsdp: bool | Auto = Field(
        "auto",
        description="Share the model's weights out among the processes, as PyTorch's FSDP does; auto: where they would "
        "not fit on each GPU.",
    )
    max_prompt_length: int = Field(
        512, ge=16, description="Tokens. A longer conversation loses its oldest turns, never its last."
    )
    max_completion_length: int = Field(128, ge=1, description="Tokens. A longer completion is cut.")

    # GRPO
    temperature: float = Field(1.0, gt=0, le=5, description="Sampling temperature of the completions.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: share of probability to sample from.")
    beta: float = Field(0.0, ge=0, description="Weight of the KL penalty towards the base model; 0 turns it off.")
    epsilon: float = Field(0.2, gt=0, lt=1, description="How far the probability ratio may move before it is clipped.")
    num_iterations: int = Field(1, ge=1, description="Updates made on each batch of completions.")
    max_staleness: int = Field(
        0,
        ge=0,
        le=8,
        description="Updates by which completions may be older than the weights that learn from them; above 0 the "
        "judge works while the model is updated and the next completions are made.",
    )
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = Field("dapo", description="How token losses are averaged.")
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="Whose standard deviation the advantages are divided by."
    )
    mask_truncated_completions: bool = Field(False, description="Leave completions that were cut out of the loss.")

    # LoRA
    use_lora: bool = Field(True, description="Train a LoRA adapter; false trains all weights.")
    lora_r: int = Field(16, ge=1, description="Rank of the adapter.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the adapter; alpha / r multiplies it.")
    load_in_4bit: bool = Field(
        False,
        description="Hold the weights under the adapter in 4 bits (QLoRA); needs an NVIDIA GPU and bitsandbytes, and "
        "generates without vLLM.",
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")

    # Reward
    judge: Annotated[Weights, AfterValidator(_judges)] = Field(
        "offline",
        validate_default=True,
        description="Who scores the answers: offline, gemini (also where gemini_model is given), or both with weights "
        "(gemini=0.7,offline=0.3).",
    )
    reward_funcs: Annotated[Weights, AfterValidator(_rewards)] = Field(
        {}, description="Ready rewards that are added, with weights: length=0.1,format=0.1,repetition=0.1."
    )
    canaries: Literal["off", "warn", "block"] = Field(
        "warn",
        description="What is done when the judge rewards answers that game it: nothing, say so, or do not train.",
    )
    max_failure_rate: float = Field(
        0.5, ge=0, le=1, description="The run stops when more than this share of the last judgements failed."
    )
    failure_window: int = Field(32, ge=1, description="How many judgements are the last ones.")

    # Saving and the machine
    max_usd: float | None = Field(
        None,
        gt=0,
        description="US dollars for GPU, CPU, memory and judge together; before the step that would pass it the run "
        "stops with a checkpoint. None: no limit.",
    )
    report_to: Reporters = Field(
        [], description="TRL's reporters that get the metrics too: trackio, wandb, tensorboard, one or several."
    )
    save_steps: int = Field(20, ge=1, description="Steps between checkpoints.")
    save_total_limit: int | None = Field(None, ge=1, description="Checkpoints to keep, the newest; None keeps all.")
    bf16: bool | Auto = Field("auto", description="Compute in bfloat16; auto: where the GPU can.")
    gradient_checkpointing: bool | Auto = Field(
        "auto", description="Spend time to save memory in the backward pass; auto: on a GPU."
    )
    use_vllm: bool | Auto = Field("auto", description="Generate with vLLM; auto: on a GPU where it is installed.")
    torch_threads: int | None = Field(None, ge=1, description="CPU threads for torch; None leaves it to torch.")

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        recipe = RECIPES.get(given.get("model_name", cls.model_fields["model_name"].default), {})
        # Whoever names a Gemini model wants it to judge.
        judge = {"judge": "gemini"} if "gemini_model" in given and "judge" not in given else {}
        return {**recipe, **judge, **processes_and_gpus(given), **given}

    @model_validator(mode="after")
    def _batches_work(self):
        group, processes, per_step = self.num_generations, self.num_processes, self.completions_per_step
        if group < 2:
            raise ValueError(
                "num_generations=1 cannot work: GRPO compares the completions of a prompt with each other, so it needs "
                "at least 2. Use num_generations=2."
            )
        kind, gpus = gpu_and_count(self.gpu)
        if gpus != processes <= MOST_GPUS:
            raise ValueError(
                f"num_processes={processes} and gpu={self.gpu} do not go together: each process has a GPU of its own. "
                f"Use gpu={kind}{f':{processes}' if processes > 1 else ''}, or leave num_processes out."
            )
        if per_step % group:
            batch, passes = self.per_device_train_batch_size, self.gradient_accumulation_steps
            batch, passes = nearest_batches(batch, passes, processes, group)
            by = f" x num_processes={processes}" if processes > 1 else ""
            raise ValueError(
                f"per_device_train_batch_size={self.per_device_train_batch_size} x gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps}{by} makes {per_step} completions a step, which groups of "
                f"num_generations={group} do not divide. Nearest that works: per_device_train_batch_size={batch} "
                f"gradient_accumulation_steps={passes} ({batch * passes * processes} completions a step)."
            )
        if "gemini" in self.judge and self.gemini_mode == "group" and self.completions_per_process % group:
            raise ValueError(
                f"gemini_mode=group compares whole groups, and each process judges its own completions, which are "
                f"{self.completions_per_process}: make that a multiple of num_generations={group}, or use "
                f"gemini_mode=absolute."
            )
        if self.load_in_4bit and (not self.use_lora or self.use_vllm is True):
            other = "use_vllm=True" if self.use_lora else "use_lora=False"
            raise ValueError(f"load_in_4bit holds weights that an adapter is trained on, and {other} can't use them.")
        if self.fsdp is True and (self.num_processes == 1 or self.load_in_4bit):
            other = "load_in_4bit=True keeps them whole" if self.load_in_4bit else "num_processes=1 has them all"
            raise ValueError(f"fsdp=True shares weights out among processes, and {other}: leave one of the two out.")
        for name in ("gemini_max_in_flight", "gemini_requests_per_minute"):
            if "gemini" in self.judge and (getattr(self, name) or self.num_processes) < self.num_processes:
                raise ValueError(
                    f"{name}={getattr(self, name)} can't be shared out to num_processes={self.num_processes}, each of "
                    f"which asks by itself: use {self.num_processes} or more."
                )
        if self.max_staleness and self.num_iterations > 1:
            raise ValueError(
                f"max_staleness={self.max_staleness} makes completions ahead, and num_iterations={self.num_iterations} "
                f"learns from the same ones again: use one of the two."
            )
        if self.save_steps % self.num_iterations:
            raise ValueError(
                f"save_steps={self.save_steps} should be a multiple of num_iterations={self.num_iterations}, so that "
                f"a checkpoint falls between generations and resumes exactly. Nearest: save_steps="
                f"{max(1, round(self.save_steps / self.num_iterations)) * self.num_iterations}."
            )
        return self

    @property
    def completions_per_process(self) -> int:
        """Of a step, those that one process makes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def completions_per_step(self) -> int:
        return self.completions_per_process * self.num_processes

    @property
    def prompts_per_step(self) -> int:
        return self.completions_per_step // self.num_generations
