"""Serving a run on Modal: an app of its own, which is there until it is stopped, and whose machine is only there while
somebody asks."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import modal
from modal.types import AppState

from grpo_kit.backends.modal import client
from grpo_kit.backends.modal.container import MOUNTED
from grpo_kit.backends.modal.image import kit_image
from grpo_kit.backends.serving import container
from grpo_kit.config.gpus import CORES, checked_gpu, gpu_and_count, modal_usd_per_hour
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.models.endpoint import KEY, Endpoint, endpoint_at
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.utils.text import dollars, duration

SECONDS_TO_START, SECONDS_TO_STOP, SECONDS_AN_ANSWER = 900, 90, 900
AT_ONCE = 64  # requests that a machine is given together


def served(run: RunDirectory) -> Endpoint | None:
    """The endpoint of a run that is being served; None where it is not."""
    return endpoint_at(url) if (url := client.serving_url(run.id)) else None


def start(
    run: RunDirectory, checkpoints: Sequence[str], gpu: str | None, idle_seconds: int, echo: Callable[[str], None]
) -> Endpoint:
    """Says what it costs, and makes the endpoint. No machine starts before somebody asks. Raises ConfigError for a key
    or secret that is missing, RunError for a run without such checkpoints."""
    there = [each.name for each in [*run.sft_checkpoints, *run.checkpoints]]
    if not there:
        raise RunError(f"run {run.id} has no checkpoint yet", "Train it first")
    if lacking := [name for name in checkpoints if name not in there]:
        raise RunError(f"there is no {lacking[0]} in run {run.id}", f"Choose one of: {', '.join(there)}")
    config = run.config
    try:
        gpu, _ = gpu_and_count(checked_gpu(gpu or config.gpu))  # one is enough for the models that the kit trains
    except ValueError as error:
        raise ConfigError(f"gpu={gpu!r} can't be had", f"Use {error}") from None
    with client.kit_errors():
        secrets = _secrets(config.model_name)
        echo(price(gpu, config.memory, idle_seconds))
        app = modal.App(client.serving_app(run.id), image=kit_image())
        serve: Any = modal.web_server(container.PORT, startup_timeout=SECONDS_TO_START)(container.serve)
        app.function(
            name="serve",
            gpu=gpu,
            cpu=float(CORES),
            memory=config.memory,
            volumes={path: client.volume(name) for path, name in MOUNTED.items()},
            secrets=secrets,
            env={container.RUN: run.id, container.NAMES: " ".join(checkpoints)},
            min_containers=0,
            max_containers=1,
            scaledown_window=idle_seconds,
            timeout=SECONDS_AN_ANSWER,
        )(modal.concurrent(max_inputs=AT_ONCE)(serve))
        app.deploy()
    endpoint = served(run)
    if endpoint is None:
        raise RunError(f"Modal knows no endpoint of run {run.id} after deploying it", "Try again")
    echo(f"Run {run.id} is served at {endpoint.url}: base, {', '.join(checkpoints or there)}")
    echo(f"The first request starts the machine, which takes minutes. The key is that in {KEY}")
    return endpoint


def stop(run: RunDirectory) -> bool:
    """Ends the app with its machine, and returns when Modal says that both are gone; False where there was none. Raises
    RunError where they do not end."""
    with client.kit_errors():
        try:
            app = modal.App.lookup(client.serving_app(run.id))
        except modal.exception.NotFoundError:
            return False
        app.stop()
        deadline = time.monotonic() + SECONDS_TO_STOP
        while app.info(refresh=True).lifecycle.state != AppState.STOPPED:
            if time.monotonic() > deadline:
                fix = f"`modal app stop {client.serving_app(run.id)}`, and `modal app list` shows whether it runs"
                raise RunError(f"the endpoint of run {run.id} does not end", fix)
            time.sleep(0.2)
    return True


def price(gpu: str, memory: int, idle_seconds: int) -> str:
    """What an endpoint costs while it is asked, and while it is not."""
    usd = modal_usd_per_hour(gpu, memory)
    if usd is None:
        return f"{gpu}: its price is not known; idle, it costs nothing"
    tail = f"its machine waits {duration(idle_seconds)} for another request ({dollars(usd * idle_seconds / 3600)})"
    return f"{gpu}: {dollars(usd)} an hour while it answers, $0 an hour idle; {tail}"


def _secrets(model_name: str) -> list[modal.Secret]:
    make = f"export {KEY}=$(openssl rand -hex 24)"
    if missing := client.missing_secret(client.SERVE_SECRET, KEY):
        store = f"`{make}; modal secret create --force {client.SERVE_SECRET} {KEY}=${KEY}`"
        raise ConfigError(f"{missing.what}, the endpoint's key", f"Make both with {store}")
    if not os.environ.get(KEY):
        what = f"the endpoint's key is on Modal ({client.SERVE_SECRET}), and {KEY} is not set here"
        raise ConfigError(what, f"Set {KEY} to it, or make another: `{make}` and the secret anew")
    has_hub = "/" in model_name and not client.missing_secret(client.HUB_SECRET)
    return [modal.Secret.from_name(name) for name in (client.SERVE_SECRET, *[client.HUB_SECRET] * has_hub)]
