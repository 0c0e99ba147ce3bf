"""The GRPO run: settings and samples in, a run directory out. TRL trains, PEFT adapts; nothing here knows of Modal."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, set_seed
from trl import GRPOConfig

from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import Budget, Launch
from grpo_kit.costs.memory import Device, is_sharded
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError, RunStopped
from grpo_kit.judges.base import Judge
from grpo_kit.judges.batch import run_async
from grpo_kit.judges.cache import CACHE_FILE, RewardCache, caches_to_start_from
from grpo_kit.judges.canaries import complaint, try_canaries
from grpo_kit.models.load import device_can_bf16, fit_prompt, load_model, load_tokenizer, torch_threads
from grpo_kit.models.memory_errors import gpu_gib
from grpo_kit.models.shapes import shape_of
from grpo_kit.rewards.judge_reward import FailureWatch, JudgeReward, TooManyFailures
from grpo_kit.rewards.travel import RewardFunction
from grpo_kit.runs.directory import STOP_FILE, UNFINISHED, RunDirectory
from grpo_kit.runs.resume import keep_changed_settings
from grpo_kit.runs.writer import NullRunWriter, RunWriter, only_writer, open_run
from grpo_kit.training.fsdp import allow_on_cpus
from grpo_kit.training.peak_memory import peak_gib, start_peak
from grpo_kit.training.plan import Plan
from grpo_kit.training.trainer import KitTrainer
from grpo_kit.utils.environment import rank, version_of
from grpo_kit.utils.files import write_json

# Settings that TRL has too, and that go to it under the same name.
TRL_SETTINGS = sorted({field.name for field in fields(GRPOConfig)} & TrainConfig.model_fields.keys() - {"report_to"})


def train(plan: Plan, runs_dir: str | Path, echo: Callable[[str], None], launch: Launch) -> RunDirectory:
    """What one process does of a run, which by itself or with others is all of it. See processes.py's `train`."""
    if rank():
        return _train_beside(plan, RunDirectory(plan.config.run_id, runs_dir), runs_dir)
    run = open_run(plan.config, plan.about, runs_dir, launch.quoted)
    if run.status["state"] == "complete":
        echo(f"Run {run.id} is complete: {run.path}")
        return run
    if run.status["state"] not in UNFINISHED:
        run.storage.remove(STOP_FILE)  # to go on with a run that was stopped is to want it no longer stopped
    if launch.notice:
        echo(launch.notice)
    with only_writer(run):
        keep_changed_settings(run, plan.config, plan.about)
        with RunWriter(run, plan.config, launch.usd_per_hour, launch.since) as writer:

            def say(text: str) -> None:
                echo(text)
                writer.log(text)

            work(plan, run, writer, runs_dir, say)
    echo(f"Done in {run.status['seconds']:.0f} s: {run.path}")
    return run


def _train_beside(plan: Plan, run: RunDirectory, runs_dir: str | Path) -> RunDirectory:
    """Takes part in a run that another process writes."""
    with NullRunWriter(run, plan.config) as writer:
        work(plan, run, writer, runs_dir, echo=lambda text: None)
    return run


def work(plan: Plan, run: RunDirectory, writer: RunWriter, runs_dir: str | Path, echo: Callable[[str], None]) -> None:
    """The run itself, from its last checkpoint to its end."""
    config, judges = plan.config, plan.judges
    start_peak()
    processes = PartialState(cpu=not torch.cuda.is_available())  # finds the others, where there are any
    with closing(RewardCache(run.path / CACHE_FILE)) as cache, torch_threads(config.torch_threads):
        writer.judged_usd, writer.peak_gib = lambda: dollars(judges), peak_gib
        watch = FailureWatch(config.max_failure_rate, config.failure_window)
        samples = {sample.id: sample for sample in plan.samples}
        reward_functions = {JudgeReward(judge, cache, watch, samples): weight for judge, weight in judges.items()}
        try:
            with processes.main_process_first():
                checkpoint = writer.rewind()
                if processes.is_main_process:
                    echo(f"Run {run.id}: {run.path}" + (f", resumed from {checkpoint.name}" if checkpoint else ""))
                    prepare(plan, cache, watch, writer, runs_dir, is_new=checkpoint is None, echo=echo)
            trainer = build_trainer(
                config, plan.samples, reward_functions | plan.functions, len(judges), run.path, writer, echo
            )
            trainer.train_from(checkpoint)
            save_into_run(trainer, run)
        except KeyboardInterrupt:
            echo(f"Stopped at step {writer.status['step']}. To go on: grpo-kit train --run-id {run.id}")
            raise
        finally:
            for reward in list(reward_functions):
                reward.close()
            for judge in judges:
                judge.close()


def prepare(
    plan: Plan,
    cache: RewardCache,
    watch: FailureWatch,
    writer: RunWriter,
    runs_dir: str | Path,
    is_new: bool,
    echo: Callable[[str], None],
) -> None:
    """What comes before the model is loaded, once for all processes: judgements taken over, canaries, a price."""
    if plan.is_demo:
        echo(f"There is no {DEFAULT_DATA}/train.jsonl, so it trains on the samples that come with the kit")
    for path in caches_to_start_from(plan.config.cache_from, runs_dir):
        echo(f"{cache.copy_from(path)} judgements taken over from {path}")
    if is_new:
        release_canaries(plan.config, plan.judges, cache, plan.samples, watch, writer, echo)
    if why := Budget(writer).see_start():
        raise RunStopped(f"{why}. Stopped before anything was loaded; run_id {writer.run.id} goes on")


def dollars(judges: Iterable[Judge]) -> float | None:
    """What the judges have cost so far; None where a price is not known."""
    spent = [judge.usage.usd for judge in judges if judge.usage]
    return None if None in spent else sum(spent)


def release_canaries(
    config: TrainConfig,
    judges: Iterable[Judge],
    cache: RewardCache,
    samples: Sequence[Sample],
    watch: FailureWatch,
    writer: RunWriter,
    echo: Callable[[str], None],
) -> None:
    """Tries the judges on answers that are worth nothing; where one is rewarded, says so or raises ConfigError."""
    if config.canaries == "off":
        return
    for judge in judges:
        results, made = run_async(try_canaries(judge, cache, samples, seed=config.seed))
        try:
            watch.see(judge.name, made)
        except TooManyFailures as error:
            raise RunStopped(f"{error}. Stopped before the first step; run_id {writer.run.id} starts it") from None
        if problem := complaint(judge, results):
            if config.canaries == "block":
                raise ConfigError(f"{problem}. canaries=warn trains all the same")
            echo(f"Warning: {problem}")


def build_trainer(
    config: TrainConfig,
    samples: Sequence[Sample],
    reward_functions: Mapping[RewardFunction, float],
    judges: int,
    run_dir: Path,
    writer: RunWriter,
    echo: Callable[[str], None],
) -> KitTrainer:
    """TRL's trainer with the run directory's writers attached. The first `judges` of the weighted functions are
    judges."""
    tokenizer = load_tokenizer(config.model_name)
    fitted = [fit_prompt(sample.prompt, tokenizer, config.max_prompt_length) for sample in samples]
    rows = [{**sample.to_dict(), "prompt": fit.prompt} for sample, fit in zip(samples, fitted, strict=True)]
    shortened, too_long = sum(fit.is_shortened for fit in fitted), sum(fit.is_too_long for fit in fitted)
    if shortened:
        echo(f"{shortened} of {len(rows)} prompts lost their oldest turns to fit max_prompt_length")
    if too_long:
        echo(f"{too_long} of {len(rows)} prompts are longer than max_prompt_length all the same")
    writer.update(prompts_shortened=shortened, prompts_too_long=too_long)
    arguments = grpo_arguments(config, run_dir, may_be_longer=bool(too_long))
    writer.update(fsdp=arguments.fsdp)
    if arguments.fsdp:
        allow_on_cpus()
    arguments.reward_weights = list(reward_functions.values())
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
        judges=judges,
        writer=writer,
        base_model=config.model_name,
        # Under an adapter the weights only need to be read; trained themselves, bfloat16 would lose small updates.
        model=load_model(
            config.model_name,
            bf16=arguments.bf16 and config.use_lora,
            in_4bit=config.load_in_4bit,
            to_gpu=not arguments.fsdp,  # each GPU gets its share, later
        ),
        reward_funcs=list(reward_functions),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter,
        echo=echo,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def save_into_run(trainer: KitTrainer, run: RunDirectory) -> None:
    """Puts the final weights into the run directory, each file in one move.

    A whole model has a config.json of its own. The run's is given its entries too, so that transformers can load the
    directory.
    """
    partial = run.path / ".partial"
    trainer.save_model(str(partial))
    if not trainer.is_world_process_zero():
        return
    config = partial / "config.json"
    if config.exists():
        write_json(config, {**json.loads(config.read_text()), **run.about})
    for file in partial.iterdir():
        file.replace(run.path / file.name)
    partial.rmdir()


def grpo_arguments(config: TrainConfig, run_dir: Path, may_be_longer: bool = False) -> GRPOConfig:
    """The settings as TRL takes them, each "auto" decided for this machine.

    vLLM must hold one sequence of the length that it is told, which by default is all that the model was made for; it
    is told the longest there can be, unless a prompt `may_be_longer` than max_prompt_length.
    """
    on_gpu = torch.cuda.is_available()

    def decide(setting, auto: bool) -> bool:
        return auto if setting == "auto" else setting

    settings = {name: getattr(config, name) for name in TRL_SETTINGS} | {
        "bf16": decide(config.bf16, device_can_bf16()),
        "gradient_checkpointing": decide(config.gradient_checkpointing, on_gpu),
        "use_vllm": decide(config.use_vllm, on_gpu and version_of("vllm") is not None and not config.load_in_4bit),
    }
    shape = shape_of(config.model_name)
    device = Device(on_gpu, gpu_gib() or 0.0, bool(settings["use_vllm"]))
    settings["fsdp"] = is_sharded(config, shape, device) if shape else config.fsdp is True
    if settings["use_vllm"] and shape and not may_be_longer:
        settings["vllm_max_model_length"] = shape.longest_sequence(config)
    arguments = GRPOConfig(
        **settings,
        output_dir=str(run_dir),
        use_cpu=not on_gpu,
        logging_steps=1,
        report_to=config.report_to or "none",
        run_name=run_dir.name,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # else one process would spread its batch over all GPUs that it sees
    return arguments
