"""`kit.doctor` and `grpo-kit doctor`: what could keep a run from its end, here and on Modal."""

import os
from typing import Any

from grpo_kit.config.backend import asked_backend, chosen_backend
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DATA_FILES
from grpo_kit.preflight.doctor import (
    NOT_CHECKED,
    OK,
    PROBLEM,
    SECONDS,
    SECONDS_FOR_DATA,
    SECONDS_TO_START,
    Check,
    Checks,
    data,
    judge,
    listed,
    model,
    tried,
)
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
        yield from _checks_on_modal(config)
        return
    for name in DATA_FILES:
        yield from tried(name, data, config, name, seconds=SECONDS_FOR_DATA)
    yield from tried("model", model, config)
    yield from tried("judge", judge, config)


def _all_checks(config: TrainConfig) -> Checks:
    backend, asked = chosen_backend(), asked_backend()
    if asked:
        why = "chosen by " + ("GRPO_KIT_BACKEND" if os.environ.get("GRPO_KIT_BACKEND") == asked else "kit.backend()")
    else:
        account = "a" if backend == "modal" else "no"
        why = f"{account} Modal account is set up here" + ("" if backend == "modal" else " (`modal setup` does)")
    yield Check("backend", OK, f"{backend}: {why}")
    if backend == "local":
        yield Check("Modal", NOT_CHECKED, "the work is done on this machine")
        yield from checks_of(config, on_modal=False)
        yield Check("versions", OK, listed(versions()))
        return
    found = []
    for check in checks_of(config, on_modal=True):
        found.append(check)
        yield check
    if found[0].state == OK:
        from grpo_kit.backends.modal.checks import app

        usable = {check.name for check in found if check.state == OK}
        yield from tried("app", app, config, usable, seconds=SECONDS_TO_START + SECONDS)


def _checks_on_modal(config: TrainConfig) -> Checks:
    from grpo_kit.backends.modal import checks

    token = tried("Modal token", checks.token, seconds=SECONDS / 2)
    yield from token
    has_hub_secret = True  # it may have, where that can't be asked
    if token[0].state == OK:
        secrets = tried("secrets", checks.secrets, config)
        yield from secrets
        has_hub_secret = (checks.HUB_SECRET, OK) in [(check.name, check.state) for check in secrets]
        yield from tried("volumes", checks.volumes)
        for name in DATA_FILES:
            yield from tried(name, checks.data, config, name, seconds=SECONDS_FOR_DATA)
    else:
        yield Check("the rest of Modal", NOT_CHECKED, "secrets, volumes, data and app: the token comes first")
    yield from tried("model", checks.model, config, has_hub_secret)
    if "gemini" in config.judge and not os.environ.get("GEMINI_API_KEY"):
        yield Check("judge", NOT_CHECKED, "no GEMINI_API_KEY here, so Gemini is asked on Modal, when the run begins")
    else:
        yield from tried("judge", judge, config)
