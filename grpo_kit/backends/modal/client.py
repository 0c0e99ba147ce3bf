"""Modal's client: names of what the kit uses there, secrets that a run needs, and Modal's errors as the kit's own."""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import modal

from grpo_kit.config.judge import CLOUD, rungs
from grpo_kit.errors import ConfigError, OutOfReach, Problem, RunError

APP = "grpo-training"
DATA_VOLUME, RUNS_VOLUME, MODELS_VOLUME = "training-data", "grpo-checkpoints", "huggingface-cache"
LEASES = "grpo-claims"  # a modal.Dict: which call may write which run
RUNS = PurePosixPath("/runs")  # on the runs' volume
# Variables by which a deployment is told what its image has besides: words with blanks between.
IMAGE_PACKAGES, IMAGE_MODULES = "GRPO_KIT_IMAGE_PACKAGES", "GRPO_KIT_IMAGE_MODULES"
HUB_SECRET, NOTIFY_SECRET, SERVE_SECRET = "huggingface-secret", "notify-secret", "serve-secret"
JUDGE_SECRETS = {judge: f"{judge}-secret" for judge in CLOUD}
KEYS = {HUB_SECRET: "HF_TOKEN"} | {secret: CLOUD[judge].keys[0] for judge, secret in JUDGE_SECRETS.items()}
NO_ANSWER = (modal.exception.ServiceError, modal.exception.InternalError, modal.exception.ResourceExhaustedError)


def volume(name: str) -> modal.Volume:
    return modal.Volume.from_name(name, create_if_missing=True)


@contextmanager
def kit_errors() -> Iterator[None]:
    """Raises RunError, or OutOfReach where trying again may help, in place of Modal's own errors."""
    try:
        yield
    except ValueError as error:
        if "metadata value" not in str(error):
            raise
        # The error's text has the token in it.
        raise RunError("the Modal token has characters that no token has", "Run `modal setup`") from None
    except modal.exception.AuthError as error:
        raise RunError(f"Modal refuses the token ({error})", "Run `modal setup`") from None
    except NO_ANSWER as error:
        raise OutOfReach(f"Modal can't answer now ({error})", "Try again in a while") from None
    except modal.exception.ConnectionError as error:
        raise OutOfReach(f"Modal can't be reached ({error})", "Check the network, or kit.backend('local')") from None


def call_exit_reason(call_id: str) -> str | None:
    """Why a call ended; None while it runs or waits for a machine."""
    logs = f"(`modal app logs {APP}` has what it printed)"
    try:
        with kit_errors():
            modal.FunctionCall.from_id(call_id).get(timeout=0)
    except TimeoutError:
        return None
    except modal.exception.FunctionTimeoutError:
        return "it used up its time and its retries"
    except RunError:  # Modal can't be asked; the kit's own errors are returned by its calls and not raised
        raise
    except (Exception, modal.exception.InputCancellation) as error:  # a remote error comes as the type that it was
        return f"its container ended: {type(error).__name__} {error} {logs}"
    return f"its container ended without a word {logs}"


def serving_app(run_id: str) -> str:
    """The app that serves a run. Modal's names have fewer than 64 letters."""
    name = f"grpo-serve-{run_id}"
    return name if len(name) < 64 else f"{name[:50]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def serving_url(run_id: str) -> str | None:
    """Where Modal serves the run; None where it does not."""
    with kit_errors():
        try:
            return modal.Function.from_name(serving_app(run_id), "serve").hydrate().get_web_url()
        except modal.exception.NotFoundError:
            return None


def missing_secret(name: str, key: str = "") -> Problem | None:
    """The secret that is not on Modal, or is without its key; None where all is there."""
    key = key or KEYS[name]
    try:
        with kit_errors():
            modal.Secret.from_name(name, required_keys=[key]).hydrate()
    except modal.exception.NotFoundError:
        make = f"modal secret create --force {name} {key}=…"
        return Problem(f"there is no Modal secret {name} with {key}", f"Make it with `{make}`")
    return None


def required_secrets(
    judges: Collection[str | None], model_name: str, notify: str | None = None, user: str | None = None
) -> list[modal.Secret]:
    """The secrets that a run needs; the hub's only where it is there, since most models are free to download. `user`
    is its simulated_user. Raises ConfigError for one that is missing."""
    asked = {name: ("judge", "offline") for name in rungs(judges)}
    asked |= {} if user is None or user in asked else {user: ("simulated_user", "rules")}
    asked = {name: about for name, about in asked.items() if name in CLOUD}
    names = [JUDGE_SECRETS[judge] for judge in asked]
    for judge, (setting, free) in asked.items():
        if missing := missing_secret(JUDGE_SECRETS[judge]):
            fix = f"{missing.fix} (a key: {CLOUD[judge].key_page}), or use {setting}={free}"
            raise ConfigError(f"{missing.what}, which {setting}={judge} needs", fix)
    if notify:
        if missing := missing_secret(NOTIFY_SECRET, notify):
            raise ConfigError(f"{missing.what}, which notify={notify} needs", f"{missing.fix}, or notify=None")
        names.append(NOTIFY_SECRET)
    if "/" in model_name and not missing_secret(HUB_SECRET):
        names.append(HUB_SECRET)
    return [modal.Secret.from_name(name) for name in names]
