"""`kit.doctor` and `grpo-kit doctor`: what could keep a run from its end, here and on Modal."""

from typing import Any

from grpo_kit.config.backend import asked_backend, chosen_backend
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DATA_FILES
from grpo_kit.preflight.doctor import OK, PROBLEM, SECONDS_FOR_DATA, Check, Checks, data, judge, model, tried
from grpo_kit.utils.environment import versions


def doctor(config: TrainConfig | None = None, **settings: Any) -> bool:
    """Prints each check of a run with these settings as it is made. Returns whether no problem was found."""
    problems = []
    for check in _all_checks((config or TrainConfig()).replace(**settings)):
        print(check, flush=True)
        problems += [check.name] if check.state == PROBLEM else []
    print(f"\nTo be mended first: {', '.join(problems)}" if problems else "\nNothing stands in the way of this run")
    return not problems


def checks_of(config: TrainConfig, on_modal: bool) -> Checks:
    """Data, model, secrets and judge of a run here or on Modal, where no container is started to answer."""
    if on_modal:
        from grpo_kit.backends.modal.checks import checks_on_modal

        yield from checks_on_modal(config)
        return
    for name in DATA_FILES:
        yield tried(name, data, config, name, seconds=SECONDS_FOR_DATA)
    yield tried("model", model, config)
    yield tried("judge", judge, config)


def _all_checks(config: TrainConfig) -> Checks:
    backend = chosen_backend()
    account = {
        "modal": "a Modal account is set up here",
        "local": "no Modal account is set up here (`modal setup` does)",
    }
    why = "chosen by kit.backend() or GRPO_KIT_BACKEND" if asked_backend() else account[backend]
    yield Check("backend", OK, f"{backend}: {why}")
    yield from checks_of(config, backend == "modal")
    yield Check("versions", OK, ", ".join(f"{name} {number}" for name, number in versions().items()))
