"""Work on Modal: training and evaluating by calls of the deployed app, and deploying it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.gpus import gpu_and_count
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.modal import ModalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.preflight.check import launch_of
from grpo_kit.rewards.travel import PYTHON
from grpo_kit.runs.directory import RUNS_DIR, WORKER_FILE, RunDirectory
from grpo_kit.runs.resume import to_go_on_with
from grpo_kit.utils.environment import PACKAGE, source_fingerprint
from grpo_kit.utils.files import CACHE, as_json, write_bytes

if TYPE_CHECKING:
    import modal

    from grpo_kit.evaluation.result import Evaluation

DEPLOYED = "GRPO_KIT_DEPLOYED"  # set for kernels of a sweep, so that not each of them deploys the app
_deployed: str | None = os.environ.get(DEPLOYED)  # the fingerprint of the source that was deployed for this process


def train_on_modal(
    config: TrainConfig,
    rewards: bytes | None = None,
    find: Callable[[str], "modal.Function"] | None = None,
    runs_dir: str | Path = RUNS_DIR,
) -> RunDirectory:
    """Starts a run on Modal: checked on a CPU first, then it is said what it will take, then a GPU is asked for.

    Returns at once. `find` gives the app's functions by name; None: those of the deployed app, deployed now where that
    is needed. Earlier runs under `runs_dir` tell how long it takes.
    """
    from grpo_kit.backends.modal.client import modal_in_words, required_secrets
    from grpo_kit.backends.modal.lease import Claim
    from grpo_kit.backends.modal.storage import VolumeStorage, known_on_modal

    with modal_in_words():
        known = known_on_modal(config.run_id)
        machine = to_go_on_with(known, config) if known else config
        launch = launch_of(machine, runs_dir, "modal", known)
        secrets = required_secrets(machine.judge, machine.model_name)
        find = find or deployed_function
        check = find("open_run").with_options(secrets=secrets)
        call = check.spawn(config.given, rewards, _files(config), PYTHON, launch.as_sent())
        opened = _wait(call, "Interrupted: no run was started")
        run = RunDirectory.at(VolumeStorage(opened["run_id"]), opened["run_id"])
        if opened["complete"]:
            print(f"Run {run.id} is complete: {run.storage}")
            return run
        print(launch.notice)
        call = _on_gpu(find("train"), machine, secrets, machine.retries).spawn(run.id)
        try:
            Claim(run.id, call.object_id)
        except RunError:  # someone else was quicker
            call.cancel()
            raise
        run.storage.write(WORKER_FILE, as_json({"call_id": call.object_id}))
    print(f"Run {run.id} on Modal ({machine.gpu}): {run.storage}")
    return run


def evaluate_on_modal(run: RunDirectory, config: EvalConfig) -> "Evaluation":
    from grpo_kit.backends.modal.client import modal_in_words, required_secrets
    from grpo_kit.evaluation.result import Evaluation

    trained = run.config
    machine = {name: getattr(trained, name) for name in ModalConfig.model_fields if name not in config.given}
    machine["gpu"] = gpu_and_count(config.gpu if "gpu" in config.given else trained.gpu)[0]  # it is done in one process
    config = config.replace(**machine)
    judges = {config.judge or max(trained.judge, key=trained.judge.get): 1.0}
    if config.second_judge:
        judges[config.second_judge] = 1.0
    with modal_in_words():
        secrets = required_secrets(judges, trained.model_name)
        # Not tried again: it would begin anew.
        function = _on_gpu(deployed_function("evaluate"), config, secrets, retries=0)
        print(f"Evaluating run {run.id} on Modal ({config.gpu})")
        found = _wait(function.spawn(run.id, config.given, _files(config)), "Interrupted: the evaluation is ended")
    folder = CACHE / "evaluations" / run.id
    folder.mkdir(parents=True, exist_ok=True)
    stem = found["name"].removesuffix(".json")
    for name in (f"{stem}.samples.jsonl", f"{stem}.png", f"{stem}.json"):
        write_bytes(folder / name, run.storage.read(f"eval/{name}"))
    return Evaluation.load(folder / found["name"])


def _on_gpu(function: "modal.Function", config: ModalConfig, secrets: list, retries: int) -> "modal.Function":
    return function.with_options(
        gpu=config.gpu, memory=config.memory, timeout=config.timeout, retries=retries, secrets=secrets
    )


def _wait(call: "modal.FunctionCall", interrupted: str) -> dict[str, Any]:
    """What the call returns; the error that it met there, raised here. An interrupt ends it, and is said in words."""
    try:
        return _result(call.get())
    except KeyboardInterrupt:
        call.cancel(terminate_containers=True)
        print(interrupted)
        raise


def _files(config: JudgeConfig) -> dict[str, str]:
    """The texts of settings that name a file here, which must travel too."""
    return {"gemini_prompt": Path(config.gemini_prompt).read_text()} if config.gemini_prompt else {}


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    """What a function on Modal returned; the error that it met there, raised here."""
    if "error" not in answer:
        return answer
    kinds = {kind.__name__: kind for kind in (ConfigError, RunError)}
    raise kinds.get(answer["kind"], RunError)(answer["error"])


def deploy() -> None:
    """Makes the app on Modal as the kit's source is here. The first time its image is built, which takes minutes.

    Raises RunError, with Modal's own output, where that fails.
    """
    global _deployed
    import modal

    from grpo_kit.backends.modal.client import CLAIMS, modal_in_words

    with modal_in_words():  # so that a wrong token is not the deployment's error
        modal.Dict.from_name(CLAIMS, create_if_missing=True).hydrate()
    print("Deploying the app grpo-training on Modal (the first time its image is built: some minutes)")
    source = source_fingerprint()
    done = subprocess.run(
        [sys.executable, "-m", "modal", "deploy", str(PACKAGE / "app.py")],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise RunError(f"the app could not be deployed. Modal says:\n{done.stdout}{done.stderr}")
    _deployed = source


def deployed_function(name: str) -> "modal.Function":
    """A function of the deployed app, which is deployed first where this process has not done so since the kit's
    source last changed."""
    import modal

    from grpo_kit.backends.modal.client import APP

    if _deployed != source_fingerprint():
        deploy()
    return modal.Function.from_name(APP, name)
