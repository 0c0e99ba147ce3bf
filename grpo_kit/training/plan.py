"""A run before it is made: every setting decided, the data read, and all refused that cannot work. Needs no model."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import LOCAL, Launch, check_price_known, shortfall_at_start
from grpo_kit.data.demo import DEFAULT_DATA, data_folder
from grpo_kit.data.samples import Sample, fingerprint, read_samples
from grpo_kit.errors import ConfigError, Problem
from grpo_kit.judges.base import Judge
from grpo_kit.judges.cache import caches_to_start_from
from grpo_kit.judges.registry import make_judge
from grpo_kit.models.load import has_chat_template
from grpo_kit.rewards.ready import READY
from grpo_kit.rewards.travel import RewardFunction, weighted
from grpo_kit.runs.directory import RUNS_DIR, STOP_FILE, UNFINISHED, RunDirectory, is_run, now
from grpo_kit.runs.resume import is_complete, keep_changed_settings, resume_config
from grpo_kit.runs.spending import spent_on
from grpo_kit.runs.writer import only_writer, open_run
from grpo_kit.utils.environment import processes, version_of, versions
from grpo_kit.utils.files import write_json
from grpo_kit.utils.garbage import loading_libraries
from grpo_kit.utils.json_lines import read_lines


@dataclass(frozen=True)
class Plan:
    """A run as it is going to be: every setting decided, the data read, the judges asked whether they are there."""

    config: TrainConfig
    samples: list[Sample]
    judges: dict[Judge, float]
    functions: dict[RewardFunction, float]
    about: dict  # what config.json holds beside the settings
    is_demo: bool  # there is no data of the user's own, so the demo's is taken


def make_plan(
    config: TrainConfig,
    rewards: Sequence[RewardFunction] | Mapping[RewardFunction, float] = (),
    runs_dir: str | Path = RUNS_DIR,
    launch: Launch = LOCAL,
) -> Plan:
    """Checks all that can be checked before a model is loaded; writes nothing. Raises as `train` does."""
    config = resume_config(config, runs_dir)
    refuse_unpaid_step(config, runs_dir, launch)
    data = data_folder(config.data).absolute()
    is_demo = config.data == DEFAULT_DATA and data != Path(DEFAULT_DATA).absolute()
    samples = list(read_samples(data / "train.jsonl"))
    functions = {READY[name]: weight for name, weight in config.reward_funcs.items()} | weighted(rewards)
    names = [*config.judge, *(getattr(function, "__name__", "") for function in functions)]
    refuse_what_cannot_work(config, samples, names, runs_dir)
    if launch.machine == LOCAL.machine:
        refuse_too_few_gpus(config)
    judges: dict[Judge, float] = {}
    if not is_complete(config.run_id, runs_dir):
        asking = a_share_of_limits(config, processes())
        judges = {make_judge(name, asking): weight for name, weight in config.judge.items()}
        for judge in judges:
            judge.check()
    # An absolute folder, so that the run can be gone on with from anywhere; the demo's is made anew where it is needed.
    folder = config.data if is_demo else str(data)
    about = {
        "versions": versions(),
        "data": {"folder": folder, "fingerprint": fingerprint([data / "train.jsonl"]), "samples": len(samples)},
        "git_commit": _git_commit(),
        "machine": launch.machine,
        "usd_per_hour": launch.usd_per_hour,
        "rewards": names,
        "reward_weights": [*config.judge.values(), *functions.values()],
        "judges": {judge.name: judge.version for judge in judges},
    }
    return Plan(config, samples, judges, functions, about, is_demo)


def queue(
    config: TrainConfig,
    rewards: Sequence[RewardFunction] | Mapping[RewardFunction, float] = (),
    runs_dir: str | Path = RUNS_DIR,
    launch: Launch = LOCAL,
) -> RunDirectory:
    """Checks all that `train` checks and makes the run's directory, for `train` to be called with its run_id elsewhere.

    A run that was asked to stop is no longer asked to. A complete run is left as it is. Raises as `train` does.
    """
    plan = make_plan(config, rewards, runs_dir, launch)
    for judge in plan.judges:
        judge.close()
    run = open_run(plan.config, plan.about, runs_dir, launch.quoted)
    with only_writer(run):
        status = run.status
        if status["state"] != "complete":
            keep_changed_settings(run, plan.config, plan.about)
            run.storage.remove(STOP_FILE)
            write_json(run.path / "status.json", {**status, "state": "queued", "heartbeat": now(), "reason": None})
    return run


def a_share_of_limits(config: TrainConfig, count: int) -> TrainConfig:
    """What each of `count` processes may ask of Gemini, so that together they keep the limits that were set."""
    limits = {"gemini_max_in_flight": config.gemini_max_in_flight // count}
    if config.gemini_requests_per_minute:
        limits["gemini_requests_per_minute"] = config.gemini_requests_per_minute // count
    return config.model_copy(update=limits)


def refuse_unpaid_step(config: TrainConfig, runs_dir: str | Path, launch: Launch) -> None:
    """Raises ConfigError where max_usd does not pay for another step of a run that is launched, or can't be kept.

    A run that is under way, whose container ended, is no launch: it stops in good order instead.
    """
    check_price_known(config)
    status, steps = {"quoted": launch.quoted}, []
    if config.run_id and is_run(Path(runs_dir) / config.run_id):
        run = RunDirectory(config.run_id, runs_dir)
        status, steps = run.status, read_lines(run.path / "metrics.jsonl")
        if status["state"] in (*UNFINISHED, "complete"):
            return
    if problem := shortfall_at_start(config, spent_on(status), status, steps, launch.usd_per_hour):
        raise ConfigError(problem.what, problem.fix)


def refuse_what_cannot_work(
    config: TrainConfig, samples: Sequence[Sample], rewards: Sequence[str], runs_dir: str | Path
) -> None:
    """Raises ConfigError for what would fail later, before anything is written. `rewards` are the rewards' names."""
    if len(samples) < config.prompts_per_step:
        raise ConfigError(
            f"a step takes {config.prompts_per_step} prompts and {config.data} has {len(samples)}. Use more samples, "
            f"or per_device_train_batch_size={len(samples) * config.num_generations} gradient_accumulation_steps=1"
        )
    kinds = {type(sample.prompt) for sample in samples}
    if len(kinds) > 1:
        odd = next(sample for sample in samples if type(sample.prompt) is not type(samples[0].prompt))
        raise ConfigError(
            f"{config.data}: prompts should be all texts or all messages; {odd.id} is not as the first is"
        )
    [(commonest, count)] = Counter(sample.id for sample in samples).most_common(1)
    if count > 1:
        fix = "Give each sample its own id, or leave the ids out"
        raise ConfigError(f"{config.data}: {count} samples have the id {commonest}, by which rewards are given", fix)
    if "" in rewards or len(set(rewards)) < len(rewards):
        raise ConfigError(
            f"rewards should be functions with names of their own, by which metrics are kept; given: "
            f"{', '.join(name or 'one without a name (write a def around it)' for name in rewards)}"
        )
    caches_to_start_from(config.cache_from, runs_dir)
    if problem := missing_package(config):
        raise ConfigError(problem.what, problem.fix)
    if not has_chat_template(config.model_name) and kinds == {list}:
        raise ConfigError(
            f"{config.model_name} has no chat template, and the prompts are conversations. Use its instruction-tuned "
            f"version (…-it, …-Instruct), or prompts that are texts"
        )


def refuse_too_few_gpus(config: TrainConfig) -> None:
    """Raises ConfigError where this machine's GPUs are not what a run needs. Without any, processes share cores."""
    gpus = 0
    if shutil.which("nvidia-smi"):  # else torch, which takes seconds to load, has none to tell of
        with loading_libraries():
            import torch

        gpus = torch.cuda.device_count()
    if config.load_in_4bit and not gpus:
        raise ConfigError("load_in_4bit needs an NVIDIA GPU, and this machine has none. Leave it out, or use Modal")
    if 0 < gpus < config.num_processes:
        raise ConfigError(
            f"num_processes={config.num_processes} needs as many GPUs, and this machine has {gpus}. Use "
            f"num_processes={gpus}"
        )


def _git_commit() -> str | None:
    """The commit of the folder that the run is started from, where it is one of git's."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def missing_package(config: TrainConfig) -> Problem | None:
    """A package that a setting needs and that is not installed here; None where all are."""
    if config.use_vllm is True and version_of("vllm") is None:
        return Problem("use_vllm=True, and vLLM is not installed here", "Leave use_vllm to auto")
    if config.load_in_4bit and version_of("bitsandbytes") is None:
        wrong = "load_in_4bit=True, and bitsandbytes is not installed here"
        return Problem(wrong, "`pip install bitsandbytes`, or leave it out")
    for name in config.report_to:
        if version_of(name) is None and (name != "tensorboard" or version_of("tensorboardX") is None):
            wrong = f"report_to={name}, and {name} is not installed here"
            return Problem(wrong, f"`pip install {name}`, or leave it out")
    return None
