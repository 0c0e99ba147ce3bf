"""The settings of a training run, each with its name, type, default, range, unit and help.

Command-line flags, widgets, papermill parameters and the README's tables come from these models. Names are TRL's own
wherever TRL has the setting.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from grpo_kit.config.base import (
    Listed,
    Mapped,
    RunName,
    Weights,
    batches,
    check_variable,
    grpo,
    lora,
    optimiser,
    reward,
    run,
    saving,
    setting,
    warm,
)
from grpo_kit.config.batching import filled_in, nearest_batches, nearest_multiple
from grpo_kit.config.environment import EnvironmentConfig, check_environment, in_environment
from grpo_kit.config.gpus import gpu_and_count, most_gpus
from grpo_kit.config.judge import CLOUD, JUDGES, NEED_MODEL, JudgeConfig, JudgeName, check_ladder, rungs
from grpo_kit.config.modal import ModalConfig, processes_and_gpus
from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.trl import checked_trl, trl_from_text
from grpo_kit.errors import ConfigError

Auto = Literal["auto"]
Count = Annotated[int, Field(gt=0, le=10_000)]  # no more is meant
Tokens = Annotated[int, Field(gt=0, le=2**20)]
# The functions of rewards/ready.py; the last five are an environment's scores.
ReadyReward = Literal["length", "format", "repetition", "tool_call", "call", "grounded", "goal", "turns", "environment"]
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


class TrainConfig(JudgeConfig, ModalConfig, EnvironmentConfig):
    """All that decides a training run. Two runs with the same settings and data give the same model."""

    # The model, the data, the run
    model_name: str = run(
        "tiny",
        "A model on the hub, a folder, 'tiny' (in the kit), 'SmolLM2-135M-Instruct', or a run or adapter.",
        "step",
        suggested=[*RECIPES, *SUGGESTED],
    )
    data: str = run(
        "data/processed", "Folder with train.jsonl and eval.jsonl. If the default has none: the demo's.", "scale"
    )
    run_id: RunName | None = run(None, "Name of the run. The same name again resumes it. None: grpo_YYYYMMDD_HHMMSS.")
    seed: NonNegativeInt = run(42, "Seeds sampling, order of the data and LoRA's first weights.", lt=2**32)

    # How long and how fast
    max_steps: PositiveInt = run(40, "Steps to train: updates of the weights.", slider=(1, 500))
    num_train_epochs: PositiveFloat | None = run(
        None, "Times to go through the data, in place of max_steps, which is counted from it.", le=10_000
    )
    learning_rate: PositiveFloat = run(5e-5, "Peak learning rate.", slider=LEARNING_RATES, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = optimiser(
        "linear", "How the learning rate falls over the run."
    )
    warmup_steps: NonNegativeInt = optimiser(0, "Steps over which the learning rate rises to its peak.")
    max_grad_norm: PositiveFloat = optimiser(1.0, "A longer gradient is scaled down to this length.")
    weight_decay: NonNegativeFloat = optimiser(0.0, "AdamW's weight decay.", le=10)

    num_generations: Count = run(8, "Completions for each prompt: a group to compare.", slider=(2, 32), ge=2)
    per_device_train_batch_size: Count = batches(
        8, "Completions in each pass. Given alone, accumulation follows: a step stays as large.", "spread", "size"
    )
    gradient_accumulation_steps: Count = batches(
        4, "Passes in each step. Given alone, the batch size changes so that a step stays as large.", "spread", "size"
    )
    num_processes: PositiveInt = setting(
        1, "Processes that train together, each on its own GPU; must match the number in gpu.", "spread", "step", le=128
    )
    fsdp: bool | Auto = setting(
        "auto", "Split the weights among processes (PyTorch's FSDP); auto: when they don't fit on each GPU.", "memory"
    )
    max_prompt_length: Tokens = batches(
        512, "Tokens. A longer prompt loses old tool results, then old turns, never the last.", "size", ge=16
    )
    chat_template_kwargs: Mapped = batches(
        {}, "Options of the chat template, such as {enable_thinking: true}; thinking is off unless asked for.", "step"
    )
    max_completion_length: Tokens = run(128, "Tokens. A longer completion is cut.", "size", slider=(8, 1024))

    temperature: PositiveFloat = run(1.0, "Sampling temperature of completions.", "memory", slider=TEMPERATURES, le=5)
    top_p: PositiveFloat = grpo(
        1.0, "Nucleus sampling: sample from the likeliest tokens with this share of probability.", "memory", le=1
    )
    beta: NonNegativeFloat = grpo(
        0.0, "Weight of the KL penalty, which keeps the model near the start model; 0: off.", "step", le=100
    )
    epsilon: PositiveFloat = grpo(0.2, "How far the probability ratio may move before it is clipped.", lt=1)
    num_iterations: PositiveInt = grpo(1, "Updates made on each batch of completions.", "step")
    max_staleness: NonNegativeInt = grpo(
        0, "How many updates old completions may be; above 0 the judge works while the model trains.", "step", le=8
    )
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = grpo(
        "dapo", "TRL's loss: how it clips the ratio and averages over tokens."
    )
    scale_rewards: Literal["group", "batch", "none"] = grpo(
        "group", "Divide advantages by the standard deviation of their group, of the batch, or not."
    )
    mask_truncated_completions: bool = grpo(False, "Leave completions that were cut out of the loss.")

    use_lora: bool = lora(True, "Train a LoRA adapter; false trains all weights.", "step")
    lora_r: Count = lora(16, "Rank of the adapter.", "memory")
    lora_alpha: Count = lora(32, "Scale of the adapter: its output is multiplied by alpha / r.")
    load_in_4bit: bool = lora(
        False, "Keep the weights below the adapter in 4 bits (QLoRA); needs bitsandbytes.", "step"
    )
    lora_dropout: NonNegativeFloat = lora(0.0, "Dropout on the adapter's input.", "memory", lt=1)
    adapter: str | None = lora(None, "Adapter folder, or run, to continue from; or name it as model_name.", "memory")

    warm_start: bool = warm(False, "First train on the samples' own replies (supervised), then GRPO.")
    sft_steps: NonNegativeInt = warm(
        0, "Steps of the warm start; 20 when only warm_start is given.", "memory", slider=(0, 200)
    )
    sft_learning_rate: PositiveFloat = warm(
        2e-4, "The warm start's peak learning rate, which falls to 0.", slider=LEARNING_RATES, le=1
    )
    sft_batch_size: PositiveInt | None = warm(
        None, "The warm start's samples in each step; None: as many as GRPO has completions.", "memory"
    )

    filter_difficulty: bool = reward(
        False,
        "First leave out prompts on which all of the start model's completions score (nearly) the same.",
        "scale",
        "memory",
    )
    judge: Weights[JudgeName] = run(
        "offline",
        "Who scores: offline, gemini, openai, anthropic, reward_model, exact or reference; several with weights: "
        "gemini=0.7,offline=0.3; 'offline>gemini' asks gemini only when offline is unsure.",
        "step",
        "scale",
        suggested=[*JUDGES, "offline>gemini", "gemini=0.7,offline=0.3"],
        validate_default=True,
    )
    reward_funcs: Weights[ReadyReward] = reward(
        {}, "Ready rewards to add, with weights: length=0.1,format=0.1,repetition=0.1,tool_call=1.", "scale"
    )
    canaries: Literal["off", "warn", "block"] = reward(
        "warn", "If the judge rewards worthless answers: off ignores it, warn says so, block does not train.", "resume"
    )
    max_failure_rate: float = reward(
        0.5, "Stop the run when more than this share of the last judgements failed.", "resume", ge=0, le=1
    )
    failure_window: PositiveInt = reward(32, "How many of the last judgements max_failure_rate looks at.", "resume")

    # Money, reports, saving and the machine
    max_usd: PositiveFloat | None = run(
        None, "US dollars for machine and judge: the run stops with a checkpoint before it costs more.", "resume"
    )
    report_to: Listed[Reporter] = saving(
        [],
        "Also send the metrics to trackio, wandb or tensorboard: one or several.",
        "resume",
        suggested=["trackio", "wandb", "tensorboard"],
    )
    logging_steps: PositiveInt = saving(
        10, "Steps between tables of completions in the terminal; metrics are recorded at every step.", "resume"
    )
    num_completions_to_print: NonNegativeInt = saving(
        4, "Completions in such a table, the best and worst to a prompt; 0: no table.", "resume"
    )
    notify: str | None = saving(
        None, "Environment variable with a webhook's URL, such as Slack's: it gets warnings and the end.", "resume"
    )
    eval_steps: PositiveInt | None = saving(
        None, "Steps between held-out scores while training; None: no such scores.", "resume"
    )
    eval_prompts: Count = saving(32, "Held-out prompts that are answered each time, the same ones.")
    early_stopping_patience: PositiveInt | None = saving(
        None, "Stop after this many held-out scores in a row surely below the best; None: never.", "resume"
    )
    save_steps: PositiveInt = saving(20, "Steps between checkpoints.")
    save_total_limit: PositiveInt | None = saving(None, "Checkpoints to keep, the newest; None keeps all.")
    bf16: bool | Auto = setting("auto", "Compute in bfloat16; auto: if the GPU can.", "step")
    gradient_checkpointing: bool | Auto = setting("auto", "Save memory at the price of time; auto: on a GPU.", "step")
    use_vllm: bool | Auto = setting("auto", "Generate with vLLM; auto: on a GPU, if it is installed.", "step")
    torch_threads: Count | None = setting(None, "CPU threads for torch; None leaves it to torch.", "step")
    trl: Annotated[dict[str, Any], BeforeValidator(trl_from_text)] = grpo(
        {}, "Further fields of TRL's GRPOConfig: epsilon_high=0.28,top_k=50, or YAML in braces.", "step"
    )

    @field_validator("trl")
    @classmethod
    def _checked_trl(cls, value: dict[str, Any]) -> dict[str, Any]:
        return checked_trl(value, cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        check_variable(given.get("notify"))
        recipe = RECIPES.get(given.get("model_name", cls.model_fields["model_name"].default), {})
        # Whoever names a Gemini model wants it to judge.
        judge = {"judge": "gemini"} if "gemini_model" in given and "judge" not in given else {}
        warm = {"warm_start": True} if given.get("sft_steps") not in (None, 0, "0") else {}
        asked = str(given.get("warm_start", False)).lower() in ("true", "1", "yes", "on")
        warm |= {"sft_steps": SFT_STEPS} if asked and "sft_steps" not in given else {}
        usual_there = in_environment(given.get("environment", recipe.get("environment")))
        given = {**usual_there, **judge, **warm, **processes_and_gpus(given), **given}
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
                f"{processes} makes {per_step} completions a step, not a multiple of num_generations={group}",
                f"Nearest that works: per_device_train_batch_size={nearest} gradient_accumulation_steps={near_passes} "
                f"({nearest * near_passes * processes} completions a step)",
            )
        check_environment(self)
        if min(self.judge.values(), default=0) < (0 if self.environment else 1e-9):  # an environment may reward alone
            raise ConfigError("judge needs a weight above 0", "Use for example judge=gemini=0.7,offline=0.3")
        for name in self.judge:
            check_ladder(name, self.judge_ladder_bounds)
        if self.max_staleness and self.num_iterations > 1:
            what = f"max_staleness={self.max_staleness} does not work with num_iterations={self.num_iterations}"
            raise ConfigError(what, "Use max_staleness=0 or num_iterations=1")
        for name, why in {
            "num_iterations": "a checkpoint resumes exactly",
            "eval_steps": "each one has its score",
        }.items():
            if (every := getattr(self, name)) and self.save_steps % every:
                what = f"save_steps={self.save_steps} should be a multiple of {name}={every}, so that {why}"
                raise ConfigError(what, f"Use save_steps={nearest_multiple(self.save_steps, every)}")
        if self.early_stopping_patience and not self.eval_steps:
            what = "early_stopping_patience needs held-out scores, and eval_steps=None makes none"
            raise ConfigError(what, f"Use eval_steps={self.save_steps} too")
        for name in NEED_MODEL.intersection(self.rungs):
            self.model_of(name)
        if self.eval_steps and self.cloud_judges and self.judge_mode == "group":
            what = "eval_steps needs each answer judged by itself, and judge_mode=group compares several"
            raise ConfigError(what, "Use judge_mode=absolute, or leave eval_steps out")
        corrects_by = self.trl.get("vllm_importance_sampling_mode", "")
        if self.loss_type == "vespo" and self.use_vllm and not corrects_by.startswith("token_"):
            fix = "Use trl=vllm_importance_sampling_mode=token_truncate"
            raise ConfigError("loss_type=vespo needs vLLM's probabilities token by token", fix)
        if self.trl.get("sync_ref_model") and (self.use_lora or not self.beta):
            what = "trl=sync_ref_model needs a reference model beside the trained one"
            raise ConfigError(what, "Use use_lora=false and a beta above 0, or leave sync_ref_model out")
        if self.warm_start != (self.sft_steps > 0):
            what = f"warm_start={self.warm_start} and sft_steps={self.sft_steps} contradict each other"
            raise ConfigError(what, "Leave one out")
        if self.samples_per_sft_step % processes:
            what = f"sft_batch_size={self.samples_per_sft_step} should be a multiple of num_processes={processes}"
            raise ConfigError(what, f"Use sft_batch_size={-(-self.samples_per_sft_step // processes) * processes}")
        if self.sft_steps and self.fsdp is True:
            what = "sft_steps with fsdp=True: a warm start needs the whole model in each process"
            raise ConfigError(what, "Leave one out, or make the warm start in a run of its own and set adapter to it")
        if self.adapter and not self.use_lora:
            raise ConfigError(f"adapter={self.adapter!r} does not work with use_lora=False", "Leave one out")
        if self.load_in_4bit and (not self.use_lora or self.use_vllm is True or self.fsdp is True):
            what = "load_in_4bit needs a LoRA adapter, and works with neither vLLM nor FSDP"
            raise ConfigError(what, "Leave load_in_4bit out, or use_lora=false, use_vllm=true, fsdp=true")
        if self.filter_difficulty and self.fsdp is True:
            what = "filter_difficulty needs the whole model in each process, and fsdp=True splits it"
            raise ConfigError(what, "Leave one out")
        if self.fsdp is True and processes == 1:
            raise ConfigError("fsdp=True splits the weights among processes, and num_processes=1", "Leave fsdp out")
        if self.cloud_judges and self.judge_mode == "group" and self.completions_per_process % group:
            own = f"each process judges {self.completions_per_process} completions"
            fix = f"Make that a multiple of num_generations={group}, or use judge_mode=absolute"
            raise ConfigError(f"judge_mode=group needs whole groups in each process, and {own}", fix)
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
