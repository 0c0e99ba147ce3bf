"""Work on Modal: training and evaluating by calls of the deployed app, and deploying it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal

from grpo_kit.backends.modal.client import APP, IMAGE_MODULES, IMAGE_PACKAGES, LEASES, kit_errors, required_secrets
from grpo_kit.backends.modal.lease import acquire_lease
from grpo_kit.backends.modal.start import started_on_modal
from grpo_kit.backends.modal.storage import VolumeStorage, known_on_modal
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.gpus import gpu_and_count
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.modal import ModalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import KitError, RunError
from grpo_kit.preflight.check import launch_of
from grpo_kit.rewards.travel import PYTHON
from grpo_kit.runs.directory import RUNS_DIR, WORKER_FILE, RunDirectory
from grpo_kit.runs.resume import config_to_resume
from grpo_kit.utils.environment import PACKAGE, source_fingerprint
from grpo_kit.utils.files import CACHE, as_json, write_bytes

DEPLOYED = "GRPO_KIT_DEPLOYED"  # set for kernels of a sweep, so that not each of them deploys the app
_deployed: str | None = os.environ.get(DEPLOYED)  # the fingerprint of the source that was deployed for this process


def start_on_modal(
    config: TrainConfig,
    rewards: bytes | None = None,
    runs_dir: str | Path = RUNS_DIR,
    find: Callable[[str], modal.Function] | None = None,
) -> RunDirectory:
    """Starts a run on Modal and returns at once: it is checked on a CPU and quoted before a GPU is asked for.

    `rewards` are pickled. Earlier runs under `runs_dir` tell how long the run takes. `find` gives the app's functions
    by name; None: those of the deployed app, which is deployed first where it is not up to date.
    """
    find = find or deployed_function
    with kit_errors():
        config, known = started_on_modal(config), known_on_modal(config.run_id)
        planned = config_to_resume(known, config, check=False) if known else config
        image_for(planned, planned.environment)
        launch = launch_of(planned, runs_dir, "modal", known)
        secrets = required_secrets(planned.judge, planned.model_name, planned.notify, planned.simulated_user)
        call = find("open_run").with_options(secrets=secrets).spawn(_given(config), rewards, PYTHON, launch)
        run_id, is_complete = _result(call, "Interrupted: no run was started")
        run = RunDirectory.at(VolumeStorage(run_id))
        if is_complete:
            print(f"Run {run.id} is complete: {run.storage}")
            return run
        print(launch.notice)
        call = _on_gpu(find("train"), planned, secrets, planned.retries).spawn(run.id)
        try:
            acquire_lease(run.id, call.object_id)
        except RunError:  # someone else was quicker
            call.cancel()
            raise
        run.storage.write(WORKER_FILE, as_json({"call_id": call.object_id}))
    print(f"Run {run.id} on Modal ({planned.gpu}): {run.storage}")
    return run


def evaluate_on_modal(run: RunDirectory, config: EvalConfig) -> Path:
    """Evaluates a run on the volume, on one GPU like its own, and waits. Returns the result's file, fetched."""
    trained = run.config
    machine = {name: getattr(trained, name) for name in ModalConfig.model_fields if name not in config.given}
    gpu, _ = gpu_and_count(config.gpu if "gpu" in config.given else trained.gpu)
    config = config.replace(**machine | {"gpu": gpu})
    environment = config.environment or trained.environment
    image_for(config, environment)
    first_judge = config.judge or max(trained.judge, key=lambda name: trained.judge[name])
    with kit_errors():
        user = (config.simulated_user or trained.simulated_user) if environment == "user" else None
        secrets = required_secrets([first_judge, config.second_judge], trained.model_name, user=user)
        function = _on_gpu(deployed_function("evaluate"), config, secrets, retries=0)  # a retry would begin anew
        print(f"Evaluating run {run.id} on Modal ({config.gpu})")
        call = function.spawn(run.id, _given(config))
        name = _result(call, "Interrupted: the evaluation has ended")
    folder = CACHE / "evaluations" / run.id
    folder.mkdir(parents=True, exist_ok=True)
    for ending in (".samples.jsonl", ".png", ".json"):
        file = name.removesuffix(".json") + ending
        write_bytes(folder / file, run.storage.read(f"eval/{file}"))
    return folder / name


def deploy() -> None:
    """Makes the app on Modal as the kit's source is here. The first time its image is built, which takes minutes.
    Raises RunError, with Modal's own output, where that fails."""
    global _deployed
    with kit_errors():  # so that a wrong token is not the deployment's error
        modal.Dict.from_name(LEASES, create_if_missing=True).hydrate()
    print(f"Deploying the app {APP} on Modal (the first time it builds the image, which takes some minutes)")
    source = deployment()
    command = [sys.executable, "-m", "modal", "deploy", str(PACKAGE / "app.py")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        fix = f"`{' '.join(command[1:])}` tries it again. Modal says:\n{done.stdout}{done.stderr}"
        raise RunError("the app could not be deployed", fix)
    _deployed = source


def image_for(config: ModalConfig, environment: str | None) -> None:
    """Has the app deployed with these settings' packages, and with the environment's module where it lies here."""
    os.environ[IMAGE_PACKAGES] = " ".join(config.image_packages)
    module = (environment or "").partition(":")[0].partition(".")[0]
    is_here = module and (Path(f"{module}.py").exists() or Path(module, "__init__.py").exists())
    os.environ[IMAGE_MODULES] = module if is_here else ""


def deployment() -> str:
    """What tells deployments apart: the kit's source, and what `image_for` adds to it."""
    added = [os.environ.get(name, "") for name in (IMAGE_PACKAGES, IMAGE_MODULES)]
    return " ".join([source_fingerprint(), *filter(None, added)])


def deployed_function(name: str) -> modal.Function:
    """A function of the app, which is deployed first where this process has not deployed the source as it is now."""
    if _deployed != deployment():
        deploy()
    return modal.Function.from_name(APP, name)


def _on_gpu(function: modal.Function, config: ModalConfig, secrets: list, retries: int) -> modal.Function:
    return function.with_options(
        gpu=config.gpu, memory=config.memory, timeout=config.timeout, retries=retries, secrets=secrets
    )


def _result(call: modal.FunctionCall, interrupted: str) -> Any:
    """Returns what the call does, or raises the error that it met. An interrupt ends it and prints `interrupted`."""
    try:
        answer = call.get()
    except KeyboardInterrupt:
        call.cancel(terminate_containers=True)
        print(interrupted)
        raise
    if isinstance(answer, KitError):
        raise answer
    return answer


def _given(config: JudgeConfig) -> dict[str, Any]:
    """The settings that were given; in the place of a file's name its text, which must travel too."""
    prompt = config.judge_prompt
    return config.given | ({"judge_prompt": Path(prompt).read_text()} if prompt else {})
