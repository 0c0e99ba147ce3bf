"""The settings of a training run, each with its name, type, default, range, unit and help.

Command-line flags, widgets, papermill parameters and the README's tables come from these models. Names are TRL's own
wherever TRL has the setting.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from grpo_kit.config.base import Reporters, Weights, setting
from grpo_kit.config.batching import nearest_batches
from grpo_kit.config.gpus import MOST_GPUS, gpu_and_count
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.modal import ModalConfig, processes_and_gpus
from grpo_kit.config.recipes import RECIPES
from grpo_kit.errors import ConfigError, Problem

Auto = Literal["auto"]
JUDGES = ("offline", "gemini")
READY_REWARDS = ("length", "format", "repetition")
TEMPERATURES = [round(0.05 * i, 2) for i in range(2, 41)]
LEARNING_RATES = [float(f"{digit}e{power}") for power in range(-7, -2) for digit in (1, 1.5, 2, 3, 5, 7)]


def _judges(weights: dict[str, float]) -> dict[str, float]:
    if not weights or not weights.keys() <= set(JUDGES) or not all(weight > 0 for weight in weights.values()):
        raise ValueError(f"{' or '.join(JUDGES)}, or both with weights above 0, such as gemini=0.7,offline=0.3")
    return weights


def _rewards(weights: dict[str, float]) -> dict[str, float]:
    if not weights.keys() <= set(READY_REWARDS):
        raise ValueError(f"some of {', '.join(READY_REWARDS)}, with weights, such as length=0.1")
    return weights


class TrainConfig(JudgeConfig, ModalConfig):
    """All that decides a training run. Two runs with the same settings and data give the same model."""

    # What is trained, on what
    model_name: str = setting(
        "tiny",
        "A model on the Hugging Face hub, a folder, 'tiny' (shipped) or 'SmolLM2-135M-Instruct'.",
        "step",
        group="Run",
        suggested=[*RECIPES, "google/gemma-2-2b-it", "google/gemma-3-270m-it", "Qwen/Qwen2.5-0.5B-Instruct"],
    )
    data: str = setting(
        "data/processed",
        "Folder of train.jsonl and eval.jsonl; where the default has none, the demo's samples.",
        "scale",
        group="Run",
    )
    run_id: str | None = setting(
        None,
        "Name of the run. The same name again resumes it. None: grpo_YYYYMMDD_HHMMSS.",
        group="Run",
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    seed: NonNegativeInt = setting(
        42, "Seeds sampling, order of the data and LoRA's first weights.", group="Run", lt=2**32
    )

    # How long and how fast
    max_steps: PositiveInt = setting(40, "Optimiser steps.", group="Run", slider=(1, 500))
    learning_rate: PositiveFloat = setting(5e-5, "Peak learning rate.", group="Run", slider=LEARNING_RATES, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = setting(
        "linear", "How the learning rate falls over the run.", group="Optimiser"
    )
    warmup_steps: NonNegativeInt = setting(
        0, "Steps over which the learning rate rises to its peak.", group="Optimiser"
    )
    max_grad_norm: PositiveFloat = setting(1.0, "Gradients longer than this are scaled down to it.", group="Optimiser")
    weight_decay: NonNegativeFloat = setting(0.0, "AdamW's weight decay.", group="Optimiser")

    # Batches
    num_generations: PositiveInt = setting(
        8, "Completions per prompt, which are compared with each other.", group="Run", slider=(2, 32)
    )
    per_device_train_batch_size: PositiveInt = setting(
        8, "Completions per forward and backward pass.", "spread", "size", group="Batches and lengths"
    )
    gradient_accumulation_steps: PositiveInt = setting(
        4, "Passes per optimiser step.", "spread", "size", group="Batches and lengths"
    )
    num_processes: PositiveInt = setting(
        1,
        "Processes that train together, each on a GPU of its own with a batch of its own; where gpu names several, as "
        "many.",
        "spread",
        "step",
    )
    fsdp: bool | Auto = setting(
        "auto",
        "Share the model's weights out among the processes, as PyTorch's FSDP does; auto: where they would not fit on "
        "each GPU.",
    )
    max_prompt_length: int = setting(
        512,
        "Tokens. A longer conversation loses its oldest turns, never its last.",
        "size",
        group="Batches and lengths",
        ge=16,
    )
    max_completion_length: PositiveInt = setting(
        128, "Tokens. A longer completion is cut.", "size", group="Run", slider=(8, 1024)
    )

    # GRPO
    temperature: PositiveFloat = setting(
        1.0, "Sampling temperature of the completions.", group="Run", slider=TEMPERATURES, le=5
    )
    top_p: PositiveFloat = setting(1.0, "Nucleus sampling: share of probability to sample from.", group="GRPO", le=1)
    beta: NonNegativeFloat = setting(
        0.0, "Weight of the KL penalty towards the base model; 0 turns it off.", "step", group="GRPO"
    )
    epsilon: PositiveFloat = setting(
        0.2, "How far the probability ratio may move before it is clipped.", group="GRPO", lt=1
    )
    num_iterations: PositiveInt = setting(1, "Updates made on each batch of completions.", "step", group="GRPO")
    max_staleness: NonNegativeInt = setting(
        0,
        "Updates by which completions may be older than the weights that learn from them; above 0 the judge works "
        "while the model is updated and the next completions are made.",
        "step",
        group="GRPO",
        le=8,
    )
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = setting(
        "dapo", "How token losses are averaged.", group="GRPO"
    )
    scale_rewards: Literal["group", "batch", "none"] = setting(
        "group", "Whose standard deviation the advantages are divided by.", group="GRPO"
    )
    mask_truncated_completions: bool = setting(False, "Leave completions that were cut out of the loss.", group="GRPO")

    # LoRA
    use_lora: bool = setting(True, "Train a LoRA adapter; false trains all weights.", "step", group="LoRA")
    lora_r: PositiveInt = setting(16, "Rank of the adapter.", group="LoRA")
    lora_alpha: PositiveInt = setting(32, "Scale of the adapter; alpha / r multiplies it.", group="LoRA")
    load_in_4bit: bool = setting(
        False,
        "Hold the weights under the adapter in 4 bits (QLoRA); needs an NVIDIA GPU and bitsandbytes, and generates "
        "without vLLM.",
        "step",
    )
    lora_dropout: NonNegativeFloat = setting(0.0, "Dropout on the adapter's input.", group="LoRA", lt=1)

    # Reward
    judge: Annotated[Weights, AfterValidator(_judges)] = setting(
        "offline",
        "Who scores the answers: offline, gemini (also where gemini_model is given), or both with weights "
        "(gemini=0.7,offline=0.3).",
        "step",
        "scale",
        group="Run",
        suggested=[*JUDGES, "gemini=0.7,offline=0.3"],
        validate_default=True,
    )
    reward_funcs: Annotated[Weights, AfterValidator(_rewards)] = setting(
        {}, "Ready rewards that are added, with weights: length=0.1,format=0.1,repetition=0.1.", "scale", group="Reward"
    )
    canaries: Literal["off", "warn", "block"] = setting(
        "warn",
        "What is done when the judge rewards answers that game it: nothing, say so, or do not train.",
        "resume",
        group="Reward",
    )
    max_failure_rate: float = setting(
        0.5,
        "The run stops when more than this share of the last judgements failed.",
        "resume",
        group="Reward",
        ge=0,
        le=1,
    )
    failure_window: PositiveInt = setting(32, "How many judgements are the last ones.", "resume", group="Reward")

    # Saving and the machine
    max_usd: PositiveFloat | None = setting(
        None,
        "US dollars for GPU, CPU, memory and judge together; before the step that would pass it the run stops with a "
        "checkpoint. None: no limit.",
        "resume",
    )
    report_to: Reporters = setting(
        [],
        "TRL's reporters that get the metrics too: trackio, wandb, tensorboard, one or several.",
        "resume",
        suggested=["trackio", "wandb", "tensorboard"],
    )
    save_steps: PositiveInt = setting(20, "Steps between checkpoints.")
    save_total_limit: PositiveInt | None = setting(None, "Checkpoints to keep, the newest; None keeps all.")
    bf16: bool | Auto = setting("auto", "Compute in bfloat16; auto: where the GPU can.", "step")
    gradient_checkpointing: bool | Auto = setting(
        "auto", "Spend time to save memory in the backward pass; auto: on a GPU.", "step"
    )
    use_vllm: bool | Auto = setting("auto", "Generate with vLLM; auto: on a GPU where it is installed.", "step")
    torch_threads: PositiveInt | None = setting(None, "CPU threads for torch; None leaves it to torch.", "step")

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        recipe = RECIPES.get(given.get("model_name", cls.model_fields["model_name"].default), {})
        # Whoever names a Gemini model wants it to judge.
        judge = {"judge": "gemini"} if "gemini_model" in given and "judge" not in given else {}
        return {**recipe, **judge, **processes_and_gpus(given), **given}

    @model_validator(mode="after")
    def _works_together(self):
        if problem := next(self._conflicts(), None):
            raise ConfigError(problem.what, problem.fix)
        return self

    def _conflicts(self) -> Iterator[Problem]:
        """Settings that cannot work together, each with what would work."""
        group, processes, per_step = self.num_generations, self.num_processes, self.completions_per_step
        if group < 2:
            yield Problem(
                "num_generations=1 cannot work: GRPO compares the completions of a prompt with each other",
                "Use num_generations=2 or more",
            )
            return
        kind, gpus = gpu_and_count(self.gpu)
        if gpus != processes <= MOST_GPUS:
            yield Problem(
                f"num_processes={processes} and gpu={self.gpu} do not go together: each process has a GPU of its own",
                f"Use gpu={kind}{f':{processes}' if processes > 1 else ''}, or leave num_processes out",
            )
        if per_step % group:
            batch, passes = self.per_device_train_batch_size, self.gradient_accumulation_steps
            nearest, near_passes = nearest_batches(batch, passes, processes, group)
            by = f" x num_processes={processes}" if processes > 1 else ""
            yield Problem(
                f"per_device_train_batch_size={batch} x gradient_accumulation_steps={passes}{by} makes {per_step} "
                f"completions a step, which groups of num_generations={group} do not divide",
                f"Nearest that works: per_device_train_batch_size={nearest} gradient_accumulation_steps={near_passes} "
                f"({nearest * near_passes * processes} completions a step)",
            )
        if self.max_staleness and self.num_iterations > 1:
            yield Problem(
                f"max_staleness={self.max_staleness} makes completions ahead, and num_iterations={self.num_iterations} "
                f"learns from the same ones again",
                "Use one of the two",
            )
        if self.save_steps % self.num_iterations:
            yield Problem(
                f"save_steps={self.save_steps} should be a multiple of num_iterations={self.num_iterations}, so that "
                f"a checkpoint falls between generations and resumes exactly",
                f"Nearest: save_steps={max(1, round(self.save_steps / self.num_iterations)) * self.num_iterations}",
            )
        if self.load_in_4bit and (not self.use_lora or self.use_vllm is True):
            other = "use_vllm=True" if self.use_lora else "use_lora=False"
            yield Problem(f"load_in_4bit holds weights that an adapter is trained on, and {other} can't use them")
        if self.fsdp is True and (processes == 1 or self.load_in_4bit):
            other = "load_in_4bit=True keeps them whole" if self.load_in_4bit else "num_processes=1 has them all"
            yield Problem(f"fsdp=True shares weights out among processes, and {other}", "Leave one of the two out")
        if "gemini" in self.judge:
            yield from self._conflicts_with_gemini()

    def _conflicts_with_gemini(self) -> Iterator[Problem]:
        if self.gemini_mode == "group" and self.completions_per_process % self.num_generations:
            yield Problem(
                f"gemini_mode=group compares whole groups, and each process judges its own completions, which are "
                f"{self.completions_per_process}",
                f"Make that a multiple of num_generations={self.num_generations}, or use gemini_mode=absolute",
            )
        for name in ("gemini_max_in_flight", "gemini_requests_per_minute"):
            limit = getattr(self, name)
            if limit and limit < self.num_processes:
                yield Problem(
                    f"{name}={limit} can't be shared out to num_processes={self.num_processes}, each of which asks by "
                    f"itself",
                    f"Use {self.num_processes} or more",
                )

    @property
    def completions_per_process(self) -> int:
        """Those that one process makes in a step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def completions_per_step(self) -> int:
        return self.completions_per_process * self.num_processes

    @property
    def prompts_per_step(self) -> int:
        return self.completions_per_step // self.num_generations
