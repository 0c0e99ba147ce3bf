"""The secrets on Modal that a run needs, and how to make one that is missing."""

import modal

from grpo_kit.backends.modal.client import kit_errors
from grpo_kit.errors import ConfigError, Problem

GEMINI_SECRET, HUB_SECRET = "gemini-secret", "huggingface-secret"
KEYS = {GEMINI_SECRET: "GEMINI_API_KEY", HUB_SECRET: "HF_TOKEN"}


def missing_secret(name: str) -> Problem | None:
    """None where the secret is there, with its key."""
    if exists(modal.Secret.from_name(name, required_keys=[KEYS[name]])):
        return None
    if exists(modal.Secret.from_name(name)):
        return Problem(f"it has no {KEYS[name]}", f"modal secret create --force {name} {KEYS[name]}=…")
    return Problem("not there", f"modal secret create {name} {KEYS[name]}=…")


def required_secrets(judges: dict[str, float], model_name: str) -> list[modal.Secret]:
    """The secrets that a run needs; the hub's only where it is there, since most models are free to download.

    Raises ConfigError for one that is missing.
    """
    secrets = []
    if "gemini" in judges:
        if missing := missing_secret(GEMINI_SECRET):
            raise ConfigError(
                f"judge=gemini needs the Modal secret {GEMINI_SECRET} with GEMINI_API_KEY",
                f"Make it with\n    {missing.fix}\n(a key: https://aistudio.google.com/apikey), or take judge=offline",
            )
        secrets.append(modal.Secret.from_name(GEMINI_SECRET))
    if "/" in model_name and missing_secret(HUB_SECRET) is None:
        secrets.append(modal.Secret.from_name(HUB_SECRET))
    return secrets


def exists(thing: modal.Secret | modal.Volume | modal.Function) -> bool:
    with kit_errors():
        try:
            thing.hydrate()
        except modal.exception.NotFoundError:
            return False
        return True
