"""Modal's client: names of what the kit uses there, its errors in the kit's words, secrets, and how a call ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import modal

from grpo_kit.errors import ConfigError, OutOfReach, RunError

APP = "grpo-training"
DATA_VOLUME, RUNS_VOLUME, MODELS_VOLUME = "training-data", "grpo-checkpoints", "huggingface-cache"
GEMINI_SECRET, HUB_SECRET = "gemini-secret", "huggingface-secret"
CLAIMS = "grpo-claims"  # a modal.Dict: which call may write which run
RUNS = PurePosixPath("/runs")
PASSING = (modal.exception.ServiceError, modal.exception.InternalError, modal.exception.ResourceExhaustedError)


def volume(name: str) -> modal.Volume:
    return modal.Volume.from_name(name, create_if_missing=True)


@contextmanager
def modal_in_words() -> Iterator[None]:
    """Turns Modal's own errors into a RunError that says what to do."""
    try:
        yield
    except ValueError as error:
        if "metadata value" not in str(error):
            raise
        # Its text has the token.
        raise RunError("the Modal token holds characters that are in no token: run `modal setup`") from None
    except modal.exception.AuthError as error:
        raise RunError(f"Modal refuses the token: run `modal setup`. It says: {error}") from None
    except PASSING as error:
        raise OutOfReach(f"Modal can't answer now ({error}): try again in a while") from None
    except modal.exception.ConnectionError as error:
        raise OutOfReach(f"Modal can't be reached ({error}): check the network, or kit.backend('local')") from None


def call_exit_reason(call_id: str) -> str | None:
    """How a call ended, in words; None while it works or waits for a machine."""
    try:
        with modal_in_words():
            modal.FunctionCall.from_id(call_id).get(timeout=0)
    except TimeoutError:
        return None
    except modal.exception.FunctionTimeoutError:
        return "it ran out of its time, and of its retries"
    except RunError:  # Modal can't be asked; the kit's own errors are returned by its calls and not raised
        raise
    except (Exception, modal.exception.InputCancellation) as error:  # a remote error comes as the type that it was
        said = f"{type(error).__name__} {error}".strip()
        return f"its container ended: {said} (`modal app logs {APP}` has what it printed)"
    return f"its container ended without a word (`modal app logs {APP}` has what it printed)"


def required_secrets(judges: dict[str, float], model_name: str) -> list[modal.Secret]:
    """The secrets that a run needs; the hub's only where it is there, since most models are free to download.

    Raises ConfigError for one that is missing.
    """
    secrets = []
    if "gemini" in judges:
        secret = modal.Secret.from_name(GEMINI_SECRET, required_keys=["GEMINI_API_KEY"])
        if not _exists(secret):
            force = "--force " if _exists(modal.Secret.from_name(GEMINI_SECRET)) else ""
            raise ConfigError(
                f"judge=gemini needs the Modal secret {GEMINI_SECRET} with GEMINI_API_KEY. Make it with\n"
                f"    modal secret create {force}{GEMINI_SECRET} GEMINI_API_KEY=…\n"
                f"(a key: https://aistudio.google.com/apikey), or take judge=offline"
            )
        secrets.append(secret)
    if "/" in model_name and _exists(secret := modal.Secret.from_name(HUB_SECRET)):
        secrets.append(secret)
    return secrets


def _exists(secret: modal.Secret) -> bool:
    with modal_in_words():
        try:
            secret.hydrate()
        except modal.exception.NotFoundError:
            return False
        return True
