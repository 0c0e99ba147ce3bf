"""The settings of a training run, each with its name, type, default, range, unit and help.

Command-line flags, widgets, papermill parameters and the README's tables come from these models. Names are TRL's own
wherever TRL has the setting.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from grpo_kit.config.base import (
    Listed,
    Mapped,
    Weights,
    batches,
    grpo,
    lora,
    optimiser,
    reward,
    run,
    saving,
    setting,
    warm,
)
from grpo_kit.config.batching import filled_in, nearest_batches
from grpo_kit.config.gpus import gpu_and_count, most_gpus
from grpo_kit.config.judge import CLOUD, JUDGES, NEED_MODEL, JudgeConfig, JudgeName, rungs
from grpo_kit.config.modal import ModalConfig, processes_and_gpus
from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.trl import checked_trl, trl_from_text
from grpo_kit.errors import ConfigError, SecretGiven

Auto = Literal["auto"]
ReadyReward = Literal["length", "format", "repetition", "tool_call"]  # the functions of rewards/ready.py
Reporter = Literal["trackio", "wandb", "tensorboard"]
TEMPERATURES = [round(0.05 * i, 2) for i in range(2, 41)]
# By size. docs/models.md says which of them were run, and what each needs.
SUGGESTED = """
    google/gemma-3-270m-it Qwen/Qwen2.5-0.5B-Instruct Qwen/Qwen3-0.6B Qwen/Qwen3.5-0.8B google/gemma-3-1b-it
    LiquidAI/LFM2.5-1.2B-Instruct Qwen/Qwen3-1.7B google/gemma-2-2b-it HuggingFaceTB/SmolLM3-3B Qwen/Qwen3-4B
    google/gemma-3-4b-it google/gemma-4-E2B-it
""".split()
SFT_STEPS = 20  # where only warm_start is given
LEARNING_RATES = [float(f"{digit}e{power}") for power in range(-7, -2) for digit in (1, 1.5, 2, 3, 5, 7)]


def _checked_trl(value: dict[str, Any]) -> dict[str, Any]:
    return checked_trl(value, TrainConfig.model_fields)


class TrainConfig(JudgeConfig, ModalConfig):
    """All that decides a training run. Two runs with the same settings and data give the same model."""

    # The model, the data, the run
    model_name: str = run(
        "tiny",
        "A model on the hub, a folder, 'tiny' (shipped), 'SmolLM2-135M-Instruct', or a run or adapter to go on from.",
        "step",
        suggested=[*RECIPES, *SUGGESTED],
    )
    data: str = run(
        "data/processed", "Folder of train.jsonl and eval.jsonl; the demo's where the default has none.", "scale"
    )
    run_id: str | None = run(
        None,
        "Name of the run. The same name again resumes it. None: grpo_YYYYMMDD_HHMMSS.",
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    seed: NonNegativeInt = run(42, "Seeds sampling, order of the data and LoRA's first weights.", lt=2**32)

    # How long and how fast
    max_steps: PositiveInt = run(40, "Optimiser steps.", slider=(1, 500))
    learning_rate: PositiveFloat = run(5e-5, "Peak learning rate.", slider=LEARNING_RATES, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = optimiser(
        "linear", "How the learning rate falls over the run."
    )
    warmup_steps: NonNegativeInt = optimiser(0, "Steps over which the learning rate rises to its peak.")
    max_grad_norm: PositiveFloat = optimiser(1.0, "Gradients longer than this are scaled down to it.")
    weight_decay: NonNegativeFloat = optimiser(0.0, "AdamW's weight decay.")

    # Batches
    num_generations: int = run(8, "Completions per prompt, which are compared with each other.", slider=(2, 32), ge=2)
    per_device_train_batch_size: PositiveInt = batches(
        8, "Completions per pass, forward and back. Alone it leaves a step as large, by accumulation.", "spread", "size"
    )
    gradient_accumulation_steps: PositiveInt = batches(
        4, "Passes per optimiser step. Alone it leaves a step as large, by batch size.", "spread", "size"
    )
    num_processes: PositiveInt = setting(
        1, "Processes that train together, each on a GPU of its own; as many as gpu names.", "spread", "step"
    )
    fsdp: bool | Auto = setting(
        "auto", "Share the weights out among the processes (PyTorch's FSDP); auto: where they don't fit on each GPU."
    )
    max_prompt_length: int = batches(
        512, "Tokens. A longer one loses old tool results, then old turns, never the last.", "size", ge=16
    )
    chat_template_kwargs: Mapped = batches(
        {}, "What the chat template is told, such as {enable_thinking: true}; thinking is off unless asked for.", "step"
    )
    max_completion_length: PositiveInt = run(128, "Tokens. A longer completion is cut.", "size", slider=(8, 1024))

    # GRPO
    temperature: PositiveFloat = run(1.0, "Sampling temperature of the completions.", slider=TEMPERATURES, le=5)
    top_p: PositiveFloat = grpo(1.0, "Nucleus sampling: share of probability to sample from.", le=1)
    beta: NonNegativeFloat = grpo(0.0, "Weight of the KL penalty towards what GRPO starts from; 0: off.", "step")
    epsilon: PositiveFloat = grpo(0.2, "How far the probability ratio may move before it is clipped.", lt=1)
    num_iterations: PositiveInt = grpo(1, "Updates made on each batch of completions.", "step")
    max_staleness: NonNegativeInt = grpo(
        0, "Updates by which completions may be older than weights; above 0 the judge works meanwhile.", "step", le=8
    )
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = grpo(
        "dapo", "TRL's loss: how the ratio is clipped, and token losses are averaged."
    )
    scale_rewards: Literal["group", "batch", "none"] = grpo("group", "Whose standard deviation divides the advantages.")
    mask_truncated_completions: bool = grpo(False, "Leave completions that were cut out of the loss.")

    # LoRA
    use_lora: bool = lora(True, "Train a LoRA adapter; false trains all weights.", "step")
    lora_r: PositiveInt = lora(16, "Rank of the adapter.")
    lora_alpha: PositiveInt = lora(32, "Scale of the adapter; alpha / r multiplies it.")
    load_in_4bit: bool = lora(
        False, "Hold the weights under the adapter in 4 bits (QLoRA); needs bitsandbytes.", "step"
    )
    lora_dropout: NonNegativeFloat = lora(0.0, "Dropout on the adapter's input.", lt=1)

    adapter: str | None = lora(
        None, "Folder of an adapter, or a run, that is trained on; model_name may name it too, and is then its base."
    )

    # Warm start
    warm_start: bool = warm(False, "Begin with a stage of supervised training on the samples' own replies.")
    sft_steps: NonNegativeInt = warm(0, "Optimiser steps of that stage; with warm_start alone 20.", slider=(0, 200))
    sft_learning_rate: PositiveFloat = warm(
        2e-4, "Its peak learning rate, which falls to 0 at its end.", slider=LEARNING_RATES, le=1
    )
    sft_batch_size: PositiveInt | None = warm(None, "Its samples a step; None: as many as GRPO has completions.")

    # Reward
    filter_difficulty: bool = reward(
        False,
        "First leave out prompts whose completions by the start model all earn (nearly) the same.",
        "scale",
    )
    judge: Weights[JudgeName] = run(
        "offline",
        "Who scores: offline, gemini, openai, anthropic, reward_model, exact or reference; several: gemini,offline=1; "
        "'offline>gemini' asks gemini where offline is unsure.",
        "step",
        "scale",
        suggested=[*JUDGES, "offline>gemini", "gemini=0.7,offline=0.3"],
        validate_default=True,
    )
    reward_funcs: Weights[ReadyReward] = reward(
        {}, "Ready rewards that are added, with weights: length=0.1,format=0.1,repetition=0.1,tool_call=1.", "scale"
    )
    canaries: Literal["off", "warn", "block"] = reward(
        "warn", "What is done when the judge rewards answers that game it: nothing, say so, or do not train.", "resume"
    )
    max_failure_rate: float = reward(
        0.5, "The run stops when more than this share of the last judgements failed.", "resume", ge=0, le=1
    )
    failure_window: PositiveInt = reward(32, "How many judgements are the last ones.", "resume")

    # Money, reports, saving and the machine
    max_usd: PositiveFloat | None = run(
        None, "US dollars for machine and judge; a run stops with a checkpoint before it costs more.", "resume"
    )
    report_to: Listed[Reporter] = saving(
        [],
        "TRL's reporters that get the metrics too: trackio, wandb, tensorboard, one or several.",
        "resume",
        suggested=["trackio", "wandb", "tensorboard"],
    )
    notify: str | None = saving(
        None,
        "Environment variable with a webhook's URL (Slack, Discord, Mattermost), which is told ends and signs.",
        "resume",
    )
    eval_steps: PositiveInt | None = saving(
        None, "Steps between held-out scores, from before the first to the last; None: none while training.", "resume"
    )
    eval_prompts: PositiveInt = saving(32, "Held-out prompts that are answered each time, the same ones.")
    early_stopping_patience: PositiveInt | None = saving(
        None, "Stop when so many held-out scores in a row are surely below the best; None: never.", "resume"
    )
    save_steps: PositiveInt = saving(20, "Steps between checkpoints.")
    save_total_limit: PositiveInt | None = saving(None, "Checkpoints to keep, the newest; None keeps all.")
    bf16: bool | Auto = setting("auto", "Compute in bfloat16; auto: where the GPU can.", "step")
    gradient_checkpointing: bool | Auto = setting("auto", "Spend time to save memory; auto: on a GPU.", "step")
    use_vllm: bool | Auto = setting("auto", "Generate with vLLM; auto: on a GPU where it is installed.", "step")
    torch_threads: PositiveInt | None = setting(None, "CPU threads for torch; None leaves it to torch.", "step")
    trl: Annotated[dict[str, Any], BeforeValidator(trl_from_text), AfterValidator(_checked_trl)] = grpo(
        {}, "Further fields of TRL's GRPOConfig: epsilon_high=0.28,top_k=50, or YAML in braces.", "step"
    )

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        if not re.fullmatch("[A-Z_][A-Z0-9_]*", str(given.get("notify") or "NONE")):
            raise SecretGiven(
                "notify should be the name of an environment variable, in capitals. A webhook's URL is a secret, and "
                "settings are written down",
                "`export GRPO_KIT_NOTIFY_URL=https://…`, and notify=GRPO_KIT_NOTIFY_URL",
            )
        recipe = RECIPES.get(given.get("model_name", cls.model_fields["model_name"].default), {})
        # Whoever names a Gemini model wants it to judge.
        judge = {"judge": "gemini"} if "gemini_model" in given and "judge" not in given else {}
        warm = {"warm_start": True} if given.get("sft_steps") not in (None, 0, "0") else {}
        asked = str(given.get("warm_start", False)).lower() in ("true", "1", "yes", "on")
        warm |= {"sft_steps": SFT_STEPS} if asked and "sft_steps" not in given else {}
        given = {**judge, **warm, **processes_and_gpus(given), **given}
        usual = {name: field.default for name, field in cls.model_fields.items()} | recipe
        return {**recipe, **filled_in(given, usual), **given}

    @model_validator(mode="after")
    def _works_together(self):
        """Raises ConfigError for settings that can't work together, with what would work."""
        group, processes, per_step = self.num_generations, self.num_processes, self.completions_per_step
        kind, gpus = gpu_and_count(self.gpu)
        if gpus != processes <= most_gpus(kind):
            what = f"num_processes={processes} and gpu={self.gpu} do not go together: each process has a GPU of its own"
            gpu = f"{kind}:{processes}" if processes > 1 else kind
            raise ConfigError(what, f"Use gpu={gpu}, or leave num_processes out")
        if per_step % group:
            batch, passes = self.per_device_train_batch_size, self.gradient_accumulation_steps
            nearest, near_passes = nearest_batches(batch, passes, processes, group)
            raise ConfigError(
                f"per_device_train_batch_size={batch} x gradient_accumulation_steps={passes} x num_processes="
                f"{processes} makes {per_step} completions a step, which num_generations={group} do not divide",
                f"Nearest that works: per_device_train_batch_size={nearest} gradient_accumulation_steps={near_passes} "
                f"({nearest * near_passes * processes} completions a step)",
            )
        if min(self.judge.values(), default=0) <= 0:
            raise ConfigError("judge should be one or more, with weights above 0, such as gemini=0.7,offline=0.3")
        if self.max_staleness and self.num_iterations > 1:
            again = f"num_iterations={self.num_iterations} learns from the same ones again"
            what = f"max_staleness={self.max_staleness} makes completions ahead, and {again}"
            raise ConfigError(what, "Use one of the two")
        if self.save_steps % self.num_iterations:
            nearest = max(1, round(self.save_steps / self.num_iterations)) * self.num_iterations
            what = f"save_steps={self.save_steps} should be a multiple of num_iterations={self.num_iterations}"
            raise ConfigError(f"{what}, so that a checkpoint resumes exactly", f"Nearest: save_steps={nearest}")
        if self.eval_steps and self.save_steps % self.eval_steps:
            nearest = max(1, round(self.save_steps / self.eval_steps)) * self.eval_steps
            what = f"save_steps={self.save_steps} should be a multiple of eval_steps={self.eval_steps}"
            raise ConfigError(f"{what}, so that each checkpoint has its score", f"Nearest: save_steps={nearest}")
        if self.early_stopping_patience and not self.eval_steps:
            what = "early_stopping_patience goes by held-out scores, of which eval_steps=None has none"
            raise ConfigError(what, f"Use eval_steps={self.save_steps} too")
        for name in NEED_MODEL.intersection(self.rungs):
            self.model_of(name)
        if self.eval_steps and self.cloud_judges and self.judge_mode == "group":
            what = "eval_steps has each answer judged by itself, and judge_mode=group compares several"
            raise ConfigError(what, "Use judge_mode=absolute, or leave eval_steps out")
        corrects_by = self.trl.get("vllm_importance_sampling_mode", "")
        if self.loss_type == "vespo" and self.use_vllm and not corrects_by.startswith("token_"):
            fix = "Use trl=vllm_importance_sampling_mode=token_truncate"
            raise ConfigError("loss_type=vespo takes vLLM's probabilities token by token", fix)
        if self.trl.get("sync_ref_model") and (self.use_lora or not self.beta):
            what = "trl's sync_ref_model needs a reference model beside the trained one"
            raise ConfigError(what, "Use use_lora=false and a beta above 0, or leave it out")
        if self.warm_start != (self.sft_steps > 0):
            what = f"warm_start={self.warm_start} and sft_steps={self.sft_steps} contradict each other"
            raise ConfigError(what, "Leave one out")
        if self.samples_per_sft_step % processes:
            what = f"sft_batch_size={self.samples_per_sft_step} should be a multiple of num_processes={processes}"
            raise ConfigError(what, f"Nearest: sft_batch_size={-(-self.samples_per_sft_step // processes) * processes}")
        if self.sft_steps and self.fsdp is True:
            what = "sft_steps with fsdp=True: a warm start needs the whole model in each process"
            raise ConfigError(what, "Leave one out, or make the warm start in a run of its own and set adapter to it")
        if self.adapter and not self.use_lora:
            raise ConfigError(f"use_lora=False, and adapter={self.adapter!r} is one", "Leave one out")
        if self.load_in_4bit and (not self.use_lora or self.use_vllm is True or self.fsdp is True):
            raise ConfigError("load_in_4bit goes with a LoRA adapter, and with neither vLLM nor FSDP", "Leave one out")
        if self.filter_difficulty and self.fsdp is True:
            what = "filter_difficulty needs the whole model in each process, and fsdp=True shares it out"
            raise ConfigError(what, "Leave one out")
        if self.fsdp is True and processes == 1:
            raise ConfigError("fsdp=True shares weights out among processes, and num_processes=1", "Leave one out")
        if self.cloud_judges and self.judge_mode == "group" and self.completions_per_process % group:
            own = f"each process judges its own completions, which are {self.completions_per_process}"
            fix = f"Make that a multiple of num_generations={group}, or use judge_mode=absolute"
            raise ConfigError(f"judge_mode=group compares whole groups, and {own}", fix)
        return self

    @property
    def rungs(self) -> list[str]:
        """Its judges, those that its ladders consist of among them."""
        return rungs(self.judge)

    @property
    def has_ladder(self) -> bool:
        return any(">" in name for name in self.judge)

    @property
    def cloud_judges(self) -> list[str]:
        """Those of them that are asked over the network."""
        return [name for name in self.rungs if name in CLOUD]

    @property
    def completions_per_process(self) -> int:
        """Those that one process makes in a step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def completions_per_step(self) -> int:
        return self.completions_per_process * self.num_processes

    @property
    def samples_per_sft_step(self) -> int:
        return self.sft_batch_size or self.completions_per_step

    @property
    def prompts_per_step(self) -> int:
        return self.completions_per_step // self.num_generations

    def is_evaluated(self, step: int) -> bool:
        """Whether held-out prompts are answered after this step; 0: before the first."""
        return self.eval_steps is not None and (step % self.eval_steps == 0 or step == self.max_steps)

    def evaluations(self, after: int = -1) -> int:
        """How many times that is done after step `after`; by default in the whole run."""
        return sum(map(self.is_evaluated, range(after + 1, self.max_steps + 1))) if self.eval_steps else 0
