"""`kit.serve`: a run's base model and checkpoints behind an OpenAI-compatible endpoint, here or on Modal."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_kit.backends.run import Run
from grpo_kit.config.train import Auto
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.models.checkpoints import checkpoint_name
from grpo_kit.models.endpoint import Endpoint
from grpo_kit.runs.directory import RUNS_DIR

PORT = 8000


@dataclass(frozen=True)
class Served(Endpoint):
    """The endpoint of a run: `url`, `models()`, `ask(model, messages)`, and `stop()`."""

    run: Run

    def stop(self) -> None:
        """Ends it, and returns when nothing of it is left running."""
        stop_serving(self.run)


def serve(
    run: Run | str | Path,
    *checkpoints: str | int,
    port: int = PORT,
    gpu: str | None = None,
    idle_seconds: int = 300,
    use_vllm: bool | Auto = "auto",
    runs_dir: str | Path = RUNS_DIR,
    echo: Callable[[str], None] = print,
) -> Served:
    """Serves a run where its files are, until it is stopped, and returns its endpoint: the base model as "base" and
    each of `checkpoints`, names or steps (by default all; of whole models the newest), under its own name, to any
    client of OpenAI's. A run that is being served already stays as it is.

    Here vLLM serves, where there is a GPU with it or `use_vllm` is true, else the kit's own small server, on `port` (0:
    one that is free) of loopback. On Modal vLLM serves on one `gpu` (the run's by default), which starts with the first
    request and ends `idle_seconds` after the last; its key is in the secret serve-secret. SERVE_KEY is the key here.
    `echo` is given what it costs and where it is.

    Raises ConfigError for a port that is taken and a key that is missing, RunError for a run without such checkpoints
    and for a server that does not start.
    """
    run = Run.of(run, runs_dir)
    if found := endpoint_of(run):
        echo(f"Run {run.id} is being served already, at {found.url}. To serve it in another way, stop that first")
        return found
    if idle_seconds < 2:
        raise ConfigError(f"idle_seconds={idle_seconds} is too short for Modal", "Use 2 or more")
    names, place = [str(checkpoint_name(each)) for each in checkpoints], _place(run)
    how = (gpu, idle_seconds) if run.storage.backend == "modal" else (port, use_vllm)
    return Served(place.start(run, names, *how, echo).url, run)


def _place(run: Run) -> Any:
    """The module that knows of endpoints where the run's files are."""
    if run.storage.backend == "modal":
        from grpo_kit.backends.serving import on_modal as place
    else:
        from grpo_kit.backends.serving import here as place
    return place


def endpoint_of(run: Run) -> Served | None:
    """The endpoint of a run that is being served; None where it is not."""
    return Served(found.url, run) if (found := _place(run).served(run)) else None


def stop_serving(run: Run, echo: Callable[[str], None] = print) -> None:
    """Ends the endpoint of a run, and returns when nothing of it is left running. Raises RunError where there is none,
    and where it does not end."""
    if not _place(run).stop(run):
        raise RunError(f"run {run.id} is not being served", "There is nothing to stop")
    echo(f"Run {run.id} is no longer served; nothing is left running")
