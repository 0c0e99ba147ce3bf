"""Where the work is done: on Modal's machines or on this one."""

import os
from pathlib import Path

from grpo_kit.errors import ConfigError

BACKENDS = ("local", "modal")
_asked: str | None = None


def backend(name: str | None = None) -> str:
    """Chooses where `train.remote()` and its like do their work, "local" or "modal", and returns the choice.

    Without a name it only says what is chosen: what was last asked for here, else GRPO_KIT_BACKEND, else Modal where
    an account is set up, else this machine.
    """
    global _asked
    if name is not None:
        _asked = checked_backend(name)
    return chosen_backend()


def chosen_backend() -> str:
    settings = Path(os.environ.get("MODAL_CONFIG_PATH", "~/.modal.toml"))  # `modal setup` writes it
    has_account = bool(os.environ.get("MODAL_TOKEN_ID")) or settings.expanduser().exists()
    return asked_backend() or ("modal" if has_account else "local")


def asked_backend() -> str | None:
    """The backend that was asked for by name; None where none was."""
    if _asked:
        return _asked
    name = os.environ.get("GRPO_KIT_BACKEND")
    return checked_backend(name, "GRPO_KIT_BACKEND") if name else None


def checked_backend(name: str, what: str = "backend") -> str:
    if name not in BACKENDS:
        raise ConfigError(f"{what}={name!r} is not a backend", "Use local or modal")
    return name
