"""The GRPO run: settings and samples in, a run directory out. TRL trains, PEFT adapts; nothing here knows of Modal."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from tqdm import tqdm
from transformers import PrinterCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from grpo_kit.cache import RewardCache
from grpo_kit.config import TrainConfig
from grpo_kit.demo import data_folder
from grpo_kit.models import device_can_bf16, fit_prompt, load_model, load_tokenizer, torch_threads
from grpo_kit.rewards import RewardFunction, judge_reward, make_judge, text_of
from grpo_kit.runs import RUNS_DIR, Run, RunWriter, only_writer, open_run, with_the_runs_own_settings, write_json
from grpo_kit.samples import Sample, fingerprint, read_samples

# Settings that go to TRL's GRPOConfig under the same name.
TRL_SETTINGS = """
    max_steps learning_rate lr_scheduler_type warmup_steps max_grad_norm weight_decay num_generations
    per_device_train_batch_size gradient_accumulation_steps max_completion_length temperature top_p beta epsilon
    num_iterations loss_type scale_rewards mask_truncated_completions save_steps save_total_limit seed
""".split()
PACKAGES = ("grpo_kit", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "vllm")


def train(
    config: TrainConfig | None = None,
    *,
    rewards: Sequence[RewardFunction] = (),
    runs_dir: str | Path = RUNS_DIR,
    echo: Callable[[str], None] = tqdm.write,
    **settings,
) -> Run:
    """Trains `config.model_name` by GRPO and returns the run, whose directory holds everything.

    `settings` are TrainConfig's, in place of a config or to change one. `rewards` are plain TRL reward functions,
    whose scores are added to the judge's. A run_id that is there already is gone on with from its last checkpoint,
    and left alone where it is complete. Raises ConfigError for settings that cannot work, BadTrace for data that is
    not valid, RunError for a run that cannot be gone on with.
    """
    config = with_the_runs_own_settings((config or TrainConfig()).replace(**settings), runs_dir)
    data = data_folder(config.data)
    samples = list(read_samples(data / "train.jsonl"))
    load_tokenizer(config.model_name)  # a wrong name ends here, before anything is written
    judge = make_judge(config.judge)
    about = {
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "data": {"folder": str(data), "fingerprint": fingerprint([data / "train.jsonl"]), "samples": len(samples)},
        "git_commit": _git_commit(),
        "rewards": [judge.name, *(function.__name__ for function in rewards)],
    }
    run = open_run(config, about, runs_dir)
    if run.status["state"] == "complete":
        echo(f"Run {run.id} is complete: {run.path}")
        return run
    with only_writer(run), RunWriter(run, config) as writer:
        checkpoint = writer.rewind()
        echo(f"Run {run.id}: {run.path}" + (f", resumed from {checkpoint.name}" if checkpoint else ""))
        cache = RewardCache(run.path / "rewards.cache.sqlite")
        reward_functions = [judge_reward(judge, cache), *rewards]
        trainer = build_trainer(config, samples, reward_functions, run.path, writer, echo)
        with torch_threads(config.torch_threads):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        save_into_run(trainer, run)
        cache.close()
    echo(f"Done in {run.status['seconds']:.0f} s: {run.path}")
    return run


def build_trainer(
    config: TrainConfig,
    samples: Sequence[Sample],
    reward_functions: Sequence[RewardFunction],
    run_dir: Path,
    writer: RunWriter,
    echo: Callable[[str], None],
) -> "KitTrainer":
    """TRL's trainer with the run directory's writers attached."""
    tokenizer = load_tokenizer(config.model_name)
    rows, shortened = [], 0
    for sample in samples:
        prompt, was_shortened = fit_prompt(sample.prompt, tokenizer, config.max_prompt_length)
        rows.append({**sample.to_dict(), "prompt": prompt})
        shortened += was_shortened
    if shortened:
        echo(f"{shortened} of {len(rows)} prompts lost their oldest turns to fit max_prompt_length")
    writer.update(prompts_shortened=shortened)
    arguments = grpo_arguments(config, run_dir)
    set_seed(config.seed)  # before the adapter gets its first weights
    adapter = None
    if config.use_lora:
        adapter = LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    trainer = KitTrainer(
        writer=writer,
        base_model=config.model_name,
        model=load_model(config.model_name, bf16=arguments.bf16),
        reward_funcs=list(reward_functions),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter,
        echo=echo,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def save_into_run(trainer: "KitTrainer", run: Run) -> None:
    """Puts the final weights into the run directory, each file in one move.

    A whole model has a config.json of its own. The run's is given its entries too, so that transformers can load the
    directory.
    """
    partial = run.path / ".partial"
    trainer.save_model(str(partial))
    config = partial / "config.json"
    if config.exists():
        write_json(config, {**json.loads(config.read_text()), **run.about})
    for file in partial.iterdir():
        file.replace(run.path / file.name)
    partial.rmdir()


def grpo_arguments(config: TrainConfig, run_dir: Path) -> GRPOConfig:
    """The settings as TRL takes them, each "auto" decided for this machine."""
    on_gpu = torch.cuda.is_available()

    def decide(setting, auto: bool) -> bool:
        return auto if setting == "auto" else setting

    return GRPOConfig(
        output_dir=str(run_dir),
        **{name: getattr(config, name) for name in TRL_SETTINGS},
        bf16=decide(config.bf16, device_can_bf16()),
        gradient_checkpointing=decide(config.gradient_checkpointing, on_gpu),
        use_vllm=decide(config.use_vllm, on_gpu and _version("vllm") is not None),
        use_cpu=not on_gpu,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )


class KitTrainer(GRPOTrainer):
    """TRL's trainer, which also keeps the run directory: timings, metrics, completions, whole checkpoints."""

    def __init__(self, *args, writer: RunWriter, base_model: str, echo: Callable[[str], None], **kwargs):
        super().__init__(*args, **kwargs)
        self._writer, self._base_model, self._echo = writer, base_model, echo
        self._seconds = {"generating": 0.0, "judging": 0.0}
        self._output_dir = self.args.output_dir
        self._bar = tqdm(total=self.args.max_steps, unit="step", disable=None)  # None: only on a terminal

    def _generate(self, prompts):
        with self._timed("generating"):
            return super()._generate(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self._log_completion_extra("sample_id", [row["id"] for row in inputs])
        with self._timed("judging"):
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    @contextmanager
    def _timed(self, part: str):
        started = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - started

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.is_world_process_zero():
            # TRL keeps the batch it scored last, of all processes, for its own tables.
            logs, extra = self._logs, self._logs["extra"]
            rows = [
                {
                    "step": self.state.global_step + 1,
                    "sample_id": extra["sample_id"][i],
                    "prompt": logs["prompt"][i],
                    "completion": text_of(logs["completion"][i]),
                    "rewards": {name: scores[i] for name, scores in logs["rewards"].items()},
                    "advantage": logs["advantages"][i],
                    "reason": extra["reason"][i],
                }
                for i in range(len(logs["prompt"]))
            ]
            self._writer.append("completions.jsonl", rows)
        return output

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
        reward = "none" if logs["reward"] is None else f"{logs['reward']:.3f}"
        self._echo(f"Step {step}/{self.args.max_steps}: loss={logs['loss']:.3f} reward={reward}")
        self._bar.update(step - self._bar.n)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        adapter = Path(output_dir or self.args.output_dir) / "adapter_config.json"
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the folder that the run is started from, where it is one of git's."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
