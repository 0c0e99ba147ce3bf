"""`kit.quote`, `kit.smoke` and `kit.doctor`: what a run will do, need and cost, and what stands in its way."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from grpo_kit.agents.world import OWN_SECONDS
from grpo_kit.backends.start import start
from grpo_kit.backends.watch import watch
from grpo_kit.config.backend import asked_backend, chosen_backend
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import EarlierRun, earlier_runs, remember
from grpo_kit.data.demo import DATA_FILES
from grpo_kit.data.epochs import in_steps
from grpo_kit.errors import BadTrace, ConfigError, RunError
from grpo_kit.models.start import started
from grpo_kit.preflight import doctor as look
from grpo_kit.preflight.check import quote_remaining
from grpo_kit.preflight.doctor import OK, PROBLEM, SECONDS, SECONDS_FOR_DATA, Check, Checks, tried
from grpo_kit.preflight.quote import Quote
from grpo_kit.preflight.verdict import will_it_learn
from grpo_kit.rewards.travel import Rewards
from grpo_kit.runs.directory import RUNS_DIR, find_run
from grpo_kit.runs.resume import config_to_resume
from grpo_kit.training.probe import probe
from grpo_kit.utils.environment import versions
from grpo_kit.utils.files import check_folder
from grpo_kit.utils.text import duration


def quote(
    config: TrainConfig | None = None,
    runs_dir: str | Path = RUNS_DIR,
    backend: str | None = None,
    earlier: Sequence[EarlierRun] | None = None,
    ask: bool = True,
    rewards: Rewards = (),
) -> Quote:
    """Says what a run with these settings will do, need and cost, and what stands in its way; see Quote.

    It takes seconds, in which data, `rewards`, hub, Modal and judge are asked as a launch asks them; without `ask`
    milliseconds. Times come from `earlier` runs, None: those under `runs_dir`. `backend`: "local" or "modal";
    None: the chosen one. A run that exists already is quoted for the steps that are left (on Modal only with `ask`).
    Print it, or leave it as a cell's last line.
    """
    config, known, status, checks = config or TrainConfig(), None, {}, []
    on_modal = (backend or chosen_backend()) == "modal"
    config, checks = _started(config, on_modal, runs_dir, ask)
    with suppress(ConfigError, RunError):  # the quote of what was asked for has it as a problem
        if on_modal and ask:
            from grpo_kit.backends.modal.storage import known_on_modal

            known = known_on_modal(config.run_id)
        elif not on_modal:
            known = find_run(config.run_id, runs_dir)
        if known:  # on Modal its data has another name
            config, status = config_to_resume(known, config, check=not on_modal), known.status
    checks = (*checks, *checks_of(config, on_modal, rewards, not checks)) if ask else ()
    return quote_remaining(config, status, runs_dir, on_modal, earlier, checks)


def smoke(
    config: TrainConfig | None = None,
    *,
    rewards: Rewards = (),
    runs_dir: str | Path = RUNS_DIR,
    backend: str | None = None,
    **settings: Any,
) -> Quote:
    """Makes one real step, as a run of its own called smoke_YYYYMMDD_HHMMSS, and quotes the whole run from it.

    The step's seconds and the memory at its peak are measured where the run will be made: on Modal's GPU, or in a
    process here. It is a first step, which is slower than those after it. `backend`: "local" or "modal"; None: the
    chosen one. Raises what a launch raises, and RunError where the step could not be made.
    """
    config, backend = (config or TrainConfig()).replace(**settings), backend or chosen_backend()
    check_folder(Path(runs_dir))
    steps = config.num_iterations  # which share their completions
    once = {"max_steps": steps, "save_steps": steps, "eval_steps": config.eval_steps and steps}
    once |= {"filter_difficulty": False, "notify": None}
    trial = config.replace(run_id=f"smoke_{datetime.now():%Y%m%d_%H%M%S}", **once)
    run = watch(start(trial, rewards, runs_dir, on_modal=backend == "modal"))
    if (status := run.status)["state"] != "complete":
        what = f"the smoke run {run.id} is {status['state']}: {status['reason']}"
        raise RunError(what, f"`grpo-kit logs {run.id}` shows what it printed")
    if backend == "modal":
        remember(run, runs_dir)
    seconds = run.metrics()["step_time"].dropna().iloc[0]
    print(f"One step took {seconds:.1f} s, its run {duration(status['seconds'])}. From that, the whole run:")
    alone = [each for each in earlier_runs(runs_dir) if each.id == run.id]
    return quote(config, runs_dir, backend, alone, ask=False)


def doctor(
    config: TrainConfig | None = None, *, with_probe: bool = False, with_message: bool = False, **settings: Any
) -> bool:
    """Prints each check of a run with these settings as it is made, and the verdict: whether it will learn.

    `with_probe` has the start model answer eight prompts here, which are judged; what that takes and costs is said
    before, and it is not done where a problem was found. `with_message` sends one to the webhook of `notify`. Returns
    whether no problem was found: the verdict, even red, is none.
    """
    config, backend = (config or TrainConfig()).replace(**settings), chosen_backend()
    on_modal = backend == "modal"
    account = "a Modal account is set up here" if on_modal else "no Modal account is set up here (`modal setup` does)"
    why = "chosen by --backend, kit.backend() or GRPO_KIT_BACKEND" if asked_backend() else account
    print(Check("backend", OK, f"{backend}: {why}"))
    problems = []
    config, start = _started(config, on_modal, RUNS_DIR, ask=True)
    sent = (tried("message", look.notify, config, True, seconds=2 * SECONDS) for _ in range(with_message))
    for check in chain(start, checks_of(config, on_modal, has_start=not start), sent):
        print(check, flush=True)
        problems += [check.name] if check.state == PROBLEM else []
    print(Check("versions", OK, ", ".join(f"{name} {number}" for name, number in versions().items())))
    print()
    if with_probe and not problems:
        print(probe(config, echo=lambda line: print(line, flush=True)), end="\n\n")
    elif with_probe:
        print("Correct this first; then the probe is made", end="\n\n")
    verdict = will_it_learn(config, on_modal=on_modal)
    print(verdict, end="\n\n")
    ends = "This run can start" + (", but it would learn nothing: see above" * (verdict.level == "red"))
    print(f"Correct first: {', '.join(problems)}" if problems else ends)
    return not problems


def _started(config: TrainConfig, on_modal: bool, runs_dir: str | Path, ask: bool) -> tuple[TrainConfig, list[Check]]:
    """The settings with epochs counted and the run or adapter that they start from taken apart, where it lies (on Modal
    only with `ask`); and as a check, why that can't be done."""
    try:
        if not on_modal:
            return started(config, runs_dir), []
        if not ask:
            return in_steps(config), []
        from grpo_kit.backends.modal.start import started_on_modal

        return started_on_modal(config), []
    except (BadTrace, ConfigError, RunError) as error:
        if on_modal and isinstance(error, RunError):  # which the check of Modal's token says
            return config, []
        return config, [Check("start", PROBLEM, error.problem.what, error.problem.fix)]


def checks_of(config: TrainConfig, on_modal: bool, rewards: Rewards = (), has_start: bool = True) -> Checks:
    """Rewards, TRL's own settings, data, model, secrets and judge of a run here or on Modal, where no container is
    started to answer. Where what it starts from can't be taken apart, no model is known that could be looked at."""
    if config.reward_funcs or rewards:
        yield tried("rewards", look.functions, config, rewards, on_modal, seconds=SECONDS_FOR_DATA)
    if config.trl:
        yield tried("trl", look.trl, config, on_modal, seconds=SECONDS_FOR_DATA)
    if on_modal:
        from grpo_kit.backends.modal.checks import checks_on_modal

        yield from checks_on_modal(config, has_start)
        return
    if config.notify:
        yield tried("notify", look.notify, config)
    for name in DATA_FILES:
        yield tried(name, look.data, config, name, seconds=SECONDS_FOR_DATA)
    if config.environment:
        yield tried("environment", look.environment, config, seconds=OWN_SECONDS)
    if has_start:
        yield tried("model", look.model, config)
    yield tried("judge", look.judge, config)
