"""`kit.doctor` and `grpo-kit doctor`: what could keep a run from its end, here and on Modal."""

import os

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
    judging,
    listed,
    model,
    tried,
)
from grpo_kit.utils.environment import versions


def doctor(config: TrainConfig | None = None, **settings) -> bool:
    """Prints each check of a run with these settings as it is made. Returns whether no problem was found."""
    problems = []
    for check in _checks((config or TrainConfig()).replace(**settings)):
        print(check, flush=True)
        problems += [check.name] if check.state == PROBLEM else []
    print(f"\nTo be mended first: {', '.join(problems)}" if problems else "\nNothing stands in the way of this run")
    return not problems


def what_it_needs(config: TrainConfig, on_modal: bool) -> Checks:
    """Data, model, secrets and judge of a run here or on Modal, where no container is started to answer."""
    if on_modal:
        yield from _needs_on_modal(config)
        return
    for name in DATA_FILES:
        yield from tried(name, data, config, name, seconds=SECONDS_FOR_DATA)
    yield from tried("model", model, config)
    yield from judging(config)


def _checks(config: TrainConfig) -> Checks:
    on_modal, asked = chosen_backend() == "modal", asked_backend()
    by = "GRPO_KIT_BACKEND" if os.environ.get("GRPO_KIT_BACKEND") == asked else "kit.backend()"
    account = "a Modal account is set up here" if on_modal else "no Modal account is set up here (`modal setup` does)"
    yield Check("backend", OK, f"{chosen_backend()}: " + (f"chosen by {by}" if asked else account))
    if not on_modal:
        yield Check("Modal", NOT_CHECKED, "the work is done on this machine")
    found = []
    for check in what_it_needs(config, on_modal):
        found.append(check)
        yield check
    if not on_modal:
        yield Check("versions", OK, listed(versions()))
    elif found[0].state == OK:
        from grpo_kit.backends.modal.checks import app

        usable = {check.name for check in found if check.state == OK}
        yield from tried("app", app, config, usable, seconds=SECONDS_TO_START + SECONDS)


def _needs_on_modal(config: TrainConfig) -> Checks:
    from grpo_kit.backends.modal import checks as there

    yield (token := tried("Modal token", there.token, seconds=SECONDS / 2)[0])
    reached, usable = token.state == OK, {there.GEMINI_SECRET, there.HUB_SECRET}
    if reached:
        secrets = tried(there.GEMINI_SECRET, there.gemini_secret, config)
        secrets += tried(there.HUB_SECRET, there.hub_secret, config)
        yield from secrets
        usable = {check.name for check in secrets if check.state == OK}
        yield from tried("volumes", there.volumes)
        for name in DATA_FILES:
            yield from tried(name, there.data, config, name, seconds=SECONDS_FOR_DATA)
    else:
        yield Check("the rest of Modal", NOT_CHECKED, "secrets, volumes, data and app: the token comes first")
    yield from tried("model", there.model, config, there.HUB_SECRET in usable)
    if "gemini" in config.judge and not os.environ.get("GEMINI_API_KEY"):
        yield Check("judge", NOT_CHECKED, "no GEMINI_API_KEY here, so Gemini is asked on Modal, when the run begins")
    else:
        yield from judging(config)
