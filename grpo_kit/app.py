"""The Modal app: what runs there is the kit's own code, on an image of the kit's own lock file.

    modal run grpo_kit/app.py                                  # train, by default the tiny model
    modal run grpo_kit/app.py::train --model-name google/gemma-2-2b-it --max-steps 100 --use-lora false
    modal run grpo_kit/app.py::upload_data                     # data/processed -> the volume training-data
    modal deploy grpo_kit/app.py                               # what train.remote() in a notebook does by itself

GPU, memory, time-out, retries and secrets are those of the call (see backends/api.py).
"""

import inspect
import sys
from pathlib import Path

import modal

from grpo_kit.backends.modal import client, container
from grpo_kit.config.tables import fields_of
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.prices import CORES

# Beside the package in a clone, and in it where the kit was installed.
LOCK_FILES = [folder / "requirements-gpu.lock" for folder in Path(__file__).resolve().parents[:2]]
DATA, CHECKPOINTS, MODELS = "/data", "/checkpoints", "/models"


def kit_image() -> modal.Image:
    """The versions that run here and what only a GPU can use; then the kit's source, data files included."""
    lock = next(str(file) for file in LOCK_FILES if file.exists())
    return (
        modal.Image.debian_slim(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
        .uv_pip_install(requirements=[lock])
        # FlashInfer would compile its sampler with nvcc, which this image lacks; vLLM has one of its own.
        .env({"HF_HOME": MODELS, "TOKENIZERS_PARALLELISM": "false", "VLLM_USE_FLASHINFER_SAMPLER": "0"})
        .add_local_python_source("grpo_kit", ignore=["**/__pycache__"])
    )


app = modal.App(client.APP, image=kit_image() if modal.is_local() else None)
mounted = {
    DATA: client.volume(client.DATA_VOLUME),
    CHECKPOINTS: client.volume(client.RUNS_VOLUME),
    MODELS: client.volume(client.MODELS_VOLUME),
}
places = container.Volumes(Path(DATA), Path(CHECKPOINTS), Path(MODELS), mounted)


@app.function(name="open_run", volumes=mounted, timeout=3600, memory=8192)
def open_run(settings: dict, rewards: bytes | None, files: dict, python: str, launch: dict) -> dict:
    """On a CPU: checks the run, fetches its model, makes its directory."""
    return container.in_words(lambda: container.open_run(places, settings, rewards, files, python, launch))


@app.function(name="train", volumes=mounted, cpu=float(CORES), single_use_containers=True)
def train_run(run_id: str) -> dict:
    return container.in_words(lambda: container.train(places, run_id))


@app.function(name="evaluate", volumes=mounted, cpu=float(CORES), single_use_containers=True)
def evaluate_run(run_id: str, settings: dict, files: dict) -> dict:
    return container.in_words(lambda: container.evaluate(places, run_id, settings, files))


@app.function(volumes=mounted, timeout=3600, memory=8192)
def download_model(model_name: str) -> dict:
    """On a CPU: fetches a model from the hub to the volume, so that no GPU is paid to wait for it."""
    return container.in_words(lambda: container.download(places, model_name))


@app.function(name="examine", volumes=mounted)
def examine(settings: dict) -> dict:
    """For `grpo-kit doctor`: what is installed here, and whether model and judge can be had."""
    return container.in_words(lambda: container.examine(settings))


def train(**flags: str | None) -> None:
    """Trains on Modal and waits for it; every setting of TrainConfig is a flag."""
    from grpo_kit.backends.modal.launch import train_on_modal
    from grpo_kit.backends.watch import watch
    from grpo_kit.cli import errors_on_one_line
    from grpo_kit.runs.directory import UNFINISHED

    with errors_on_one_line():
        run = train_on_modal(TrainConfig.from_text(flags), find={"open_run": open_run, "train": train_run}.get)
        # Modal's command fills a folder that is there, and fails where there is none.
        fetch = f"mkdir -p local_models && modal volume get {client.RUNS_VOLUME} runs/{run.id} ./local_models"
        print(f"Its files: {fetch}")
        again = f"modal run grpo_kit/app.py --run-id {run.id}"
        watch(
            run, detached=f"Interrupted. Without --detach Modal ends the run with this command; {again} goes on with it"
        )
        if run.status["state"] in UNFINISHED:
            sys.exit(130)


flags = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in fields_of(TrainConfig)]
train.__signature__ = inspect.Signature(flags)
train.__annotations__ = dict.fromkeys(fields_of(TrainConfig), str | None)
train = app.local_entrypoint()(train)

# `modal run` with no name takes the module's only entry point, which is train. So this one is its own app's.
upload_data = modal.App("grpo-upload-data")


def _upload(path: str = "data/processed", name: str = "") -> None:
    from grpo_kit.backends.modal.upload import upload
    from grpo_kit.backends.upload import data_to_upload
    from grpo_kit.cli import errors_on_one_line

    with errors_on_one_line():
        for file in upload(data_to_upload(path), name or None):
            print(file)


upload_data.local_entrypoint(name="main")(_upload)
