"""A run before it is made: every setting decided, the data read, everything checked that can be. Needs no model."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_kit.agents.asked_user import AskedUser, asked_user
from grpo_kit.agents.episodes import episodes
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.budget import LOCAL, Launch, check_price_known, shortfall_at_start
from grpo_kit.data.demo import data_folder
from grpo_kit.data.samples import Sample, fingerprint, read_samples
from grpo_kit.errors import ConfigError, Problem
from grpo_kit.judges.base import Judge, Usage, make_judge
from grpo_kit.judges.cache import CACHE_FILE, RewardCache, caches_to_start_from
from grpo_kit.models.load import check_model, check_template, has_chat_template, no_template
from grpo_kit.models.start import keep_start, started
from grpo_kit.rewards.functions import reward_functions
from grpo_kit.rewards.ready import READY
from grpo_kit.rewards.travel import RewardFunction, Rewards, load_rewards, weighted
from grpo_kit.runs.alarms import webhook_problem
from grpo_kit.runs.directory import REWARDS_FILE, STOP_FILE, RunDirectory, find_run, spent_on
from grpo_kit.runs.resume import check_unchanged, config_to_resume, is_done, record_settings
from grpo_kit.runs.writer import mark_queued, only_writer, open_run
from grpo_kit.training.held_out import choose
from grpo_kit.utils.environment import processes, version_of, versions
from grpo_kit.utils.files import check_folder
from grpo_kit.utils.garbage import loading_libraries
from grpo_kit.utils.json_lines import read_lines

NO_SHARING_WITH_SFT = Problem(
    "sft_steps needs the whole model in each process, and FSDP splits it",
    "Use larger GPUs or load_in_4bit, or make the warm start elsewhere and set adapter to its run",
)


@dataclass(frozen=True)
class Plan:
    """A run as it is going to be: every setting decided, the data read, the judges asked whether they are there."""

    config: TrainConfig
    samples: list[Sample]  # in an environment, one a dialogue
    to_imitate: list[Sample]  # those of a warm start, which learns single replies and calls
    held_out: list[Sample]  # which are answered every eval_steps
    judges: dict[Judge, float]
    functions: dict[RewardFunction, float]
    about: dict[str, Any]  # what config.json holds beside the settings
    user: list[AskedUser]  # the model that speaks for simulated users; empty where none does

    def judged_usd(self) -> float | None:
        """Dollars that judges and user have cost so far; None where a price is not known."""
        return Usage.of([*self.judges, *self.user]).usd

    def close(self) -> None:
        for judge in [*self.judges, *self.user]:
            judge.close()


def make_plan(config: TrainConfig, rewards: Rewards, runs_dir: str | Path, launch: Launch) -> Plan:
    """Checks all that can be checked before a model is loaded; writes nothing. Raises as `plan_and_train` does."""
    check_folder(Path(runs_dir))
    known, config = find_run(config.run_id, runs_dir), started(config, runs_dir)
    config = config_to_resume(known, config) if known else config
    check_price_known(config, launch.usd_per_hour)
    plan = _read(config, rewards)
    caches_to_start_from(config.cache_from, runs_dir)
    if not known or not is_done(known.status, config):  # of a complete run, the model may be gone
        for problem in _problems(plan, known, launch):
            raise ConfigError(problem.what, problem.fix)
        _add_judges(plan)
    machine = {"machine": launch.machine, "usd_per_hour": launch.usd_per_hour}
    plan.about.update({"versions": versions(), "git_commit": _git_commit(), **machine})
    return plan


def plan_of(run: RunDirectory) -> Plan:
    """The plan of a run that `open_planned` opened, with the reward functions that lie in its folder.

    Checks only what may have changed since `make_plan` made all checks. Raises RunError for other data, rewards or
    judges, ConfigError for a judge that is not there.
    """
    pickled = own_rewards(run)
    rewards = () if pickled is None else load_rewards(pickled)
    plan = _read(config_to_resume(run, TrainConfig(run_id=run.id)), rewards)
    _add_judges(plan)
    check_unchanged(run, plan.about)
    return plan


def own_rewards(run: RunDirectory) -> bytes | None:
    """The run's rewards.pkl, where its config.json names reward functions beside judges and ready ones."""
    config = run.config
    names = run.about["rewards"][len(config.judge) + len(config.reward_funcs) :]
    return run.storage.read(REWARDS_FILE) if names and REWARDS_FILE in run.storage.names() else None


def _read(config: TrainConfig, rewards: Rewards) -> Plan:
    data = data_folder(config.data).absolute()
    to_imitate = list(read_samples(data / "train.jsonl"))
    samples = episodes(to_imitate, config.environment, config.data, config.judge_replies)
    held_out: list[Sample] = []
    if config.eval_steps:
        there = list(read_samples(held_out_file(config)))
        found = episodes(there, config.environment, config.data, config.judge_replies)
        held_out = choose(found, config.eval_prompts, config.seed, {sample.id for sample in samples})
    functions = plain_rewards(config, rewards, [*samples, *held_out])
    # An absolute folder, so that the run resumes from anywhere; the demo's is made anew where it is needed.
    folder = str(data) if data == Path(config.data).absolute() else config.data
    about = {
        "data": {"folder": folder, "fingerprint": fingerprint([data / "train.jsonl"]), "samples": len(to_imitate)},
        "rewards": [*config.judge, *(function.__name__ for function in functions)],
        "reward_weights": [*config.judge.values(), *functions.values()],
        "judges": {},
    }
    return Plan(config, samples, to_imitate, held_out, {}, functions, about, [])


def held_out_file(config: TrainConfig) -> Path:
    """The eval.jsonl that eval_steps needs. Raises ConfigError where there is none."""
    file = data_folder(config.data) / "eval.jsonl"
    if not file.exists():
        raise no_held_out(config, f"there is no {file}")
    return file


def no_held_out(config: TrainConfig, why: str) -> ConfigError:
    fix = "`grpo-kit prepare` makes one beside train.jsonl; or leave eval_steps out"
    return ConfigError(f"eval_steps={config.eval_steps} needs held-out prompts, and {why}", fix)


def plain_rewards(config: TrainConfig, rewards: Rewards, samples: list[Sample]) -> dict[RewardFunction, float]:
    """The ready rewards and the user's own, with their weights. Raises ConfigError as `reward_functions` does."""
    ready = [(READY[name], weight) for name, weight in config.reward_funcs.items()]
    given, data = [*ready, *weighted(rewards)], f"{config.data}/train.jsonl"
    return reward_functions(given, samples, config.judge, data, has_environment=config.environment is not None)


def _add_judges(plan: Plan) -> None:
    """Makes the judges, and the user that is asked, with this process's share of the limits. Raises ConfigError where
    one is not there."""
    config, count = plan.config, processes()
    limits = {name: getattr(config, name) for name in ("judge_max_in_flight", "judge_requests_per_minute")}
    share = config.model_copy(update={name: limit and max(1, limit // count) for name, limit in limits.items()})
    for name, weight in config.judge.items():
        plan.judges[make_judge(name, share)] = weight
    plan.user.extend(filter(None, [asked_user(share)]))
    for judge in [*plan.judges, *plan.user]:
        judge.check()
        plan.about["judges"][judge.name] = judge.version


def open_planned(plan: Plan, runs_dir: str | Path, launch: Launch, echo: Callable[[str], None] = print) -> RunDirectory:
    """The run's directory, made or taken up again, queued for `work_on` to train it here or elsewhere.

    Judgements of cache_from are taken over. A run that was asked to stop no longer is. A complete run is left as it
    is. Raises BeingTrained where another process trains it, RunError where it had other rewards, judges or data.
    """
    run = open_run(plan.config, plan.about, runs_dir, launch.quoted)
    with only_writer(run):
        status = run.status
        if is_done(status, plan.config):
            return run
        if status["state"] == "complete":
            echo(_goes_on(run, plan.config))
        if plan.config.adapter:
            keep_start(run, plan.config.adapter, runs_dir)
        record_settings(run, plan.config, plan.about)
        if plan.config.cache_from:
            with closing(RewardCache(run.path / CACHE_FILE)) as cache:
                for path in caches_to_start_from(plan.config.cache_from, runs_dir):
                    echo(f"{cache.copy_from(path)} judgements used again from {path}")
        (run.path / STOP_FILE).unlink(missing_ok=True)
        waits = "starting Python" if launch.machine == LOCAL.machine else "waiting for a container"
        mark_queued(run, waits, max_steps=plan.config.max_steps)
    return run


def _goes_on(run: RunDirectory, config: TrainConfig) -> str:
    """What happens with the learning rate of a complete run that is to make more steps."""
    rate = f"the learning rate follows its {config.lr_scheduler_type} course to step {config.max_steps}"
    rate += "" if config.lr_scheduler_type.startswith("constant") else ", so it rises again from where it had fallen to"
    return f"Run {run.id} goes on from step {run.status['step']}: {rate}"


def queue(config: TrainConfig, rewards: Rewards, runs_dir: str | Path, launch: Launch = LOCAL) -> RunDirectory:
    """Plans a run and opens it for another process to train. Raises as `plan_and_train` does."""
    with closing(make_plan(config, rewards, runs_dir, launch)) as plan:
        return open_planned(plan, runs_dir, launch)


def _problems(plan: Plan, known: RunDirectory | None, launch: Launch) -> Iterator[Problem]:
    """Problems that would end the run later. Raises ConfigError where there is no such model."""
    config, samples = plan.config, plan.samples
    yield from too_few_samples(config, len(samples))
    if config.sft_steps and (empty := [sample.id for sample in plan.to_imitate if not sample.ground_truth.strip()]):
        what = f"sft_steps={config.sft_steps} learns the samples' own replies, and {len(empty)} of {config.data} have "
        yield Problem(f"{what}none, such as {empty[0]}", "Add their ground_truth, or use sft_steps=0")
    kind = type(samples[0].prompt)
    if odd := next((sample for sample in samples if type(sample.prompt) is not kind), None):
        what = f"{config.data}: some prompts are texts and some are messages; {odd.id} is not like the first"
        yield Problem(what, "Prepare the data again, which makes all of them messages")
    [(commonest, count)] = Counter(sample.id for sample in samples).most_common(1)
    if count > 1:
        what = f"{config.data}: {count} samples have the same id {commonest}, and rewards are given by id"
        yield Problem(what, "Give each sample its own id, or leave the ids out")
    if problem := _unpaid(config, known, launch) or missing_package(config) or webhook_problem(config):
        yield problem
    # has_chat_template comes first: it also finds that there is no such model.
    if not has_chat_template(config.model_name) and kind is list:
        yield no_template(config.model_name).problem
    check_model(config.model_name, config)
    if kind is list:
        check_template(config.model_name, config.chat_template_kwargs)
    check_trl(config, may_have_vllm=launch.machine != LOCAL.machine)
    if launch.machine == LOCAL.machine:
        yield from _problems_with_gpus(config)


def _unpaid(config: TrainConfig, known: RunDirectory | None, launch: Launch) -> Problem | None:
    """Why max_usd does not pay for another step.

    A run whose container ended is not planned again: it stops at its budget, with a checkpoint.
    """
    status, steps = {"quoted": launch.quoted}, []
    if known:
        status, steps = known.status, read_lines(known.path / "metrics.jsonl")
    return shortfall_at_start(config, spent_on(status), status, steps, launch.usd_per_hour or 0.0)


def too_few_samples(config: TrainConfig, there: int) -> Iterator[Problem]:
    if there < config.prompts_per_step:
        batch = there * config.num_generations
        fewer = f", or per_device_train_batch_size={batch} gradient_accumulation_steps=1" if there else ""
        what = f"A step takes {config.prompts_per_step} prompts and {config.data} has {there}"
        yield Problem(what, f"Use more samples{fewer}")


def check_trl(config: TrainConfig, may_have_vllm: bool = False, elsewhere: bool = False) -> None:
    """Has TRL itself look at `trl`, whose fields may not go together, and at their values what TRL hands them on to;
    loading these takes seconds. `may_have_vllm`: where it trains, `elsewhere` if not here. Raises ConfigError."""
    if config.trl:
        with loading_libraries():
            from grpo_kit.training.grpo import grpo_arguments
            from grpo_kit.training.trl_values import check_values
        arguments = grpo_arguments(config, Path(config.run_id or "run"))
        with_vllm = arguments.use_vllm or (may_have_vllm and config.use_vllm == "auto")
        check_values(arguments, config.trl, with_vllm, elsewhere)


def missing_package(config: TrainConfig) -> Problem | None:
    """The package that a setting needs and that is not installed here; None where all is there."""
    needed = {f"report_to={name}": name for name in config.report_to}
    needed |= {"use_vllm=True": "vllm"} if config.use_vllm is True else {}
    needed |= {"load_in_4bit=True": "bitsandbytes"} if config.load_in_4bit else {}
    needed |= {"trl=use_liger_kernel=True": "liger-kernel"} if config.trl.get("use_liger_kernel") else {}
    for setting, name in needed.items():
        if version_of(name) is None and (name != "tensorboard" or version_of("tensorboardX") is None):
            return Problem(f"{setting}, and {name} is not installed here", f"`pip install {name}`, or leave it out")
    return None


def _problems_with_gpus(config: TrainConfig) -> Iterator[Problem]:
    """Those of this machine that are not what a run needs. Without any, processes share cores."""
    gpus = 0
    if shutil.which("nvidia-smi"):  # else torch, which takes seconds to load, finds none
        with loading_libraries():
            import torch

        gpus = torch.cuda.device_count()
    if 0 < gpus < config.num_processes:
        what = f"num_processes={config.num_processes} needs as many GPUs, and this machine has {gpus}"
        yield Problem(what, f"Use num_processes={gpus}")


def _git_commit() -> str | None:
    """The commit of the folder that the run is started from, where it is one of git's."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None
