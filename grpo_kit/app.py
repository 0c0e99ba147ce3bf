"""The Modal app: the kit's own code, on an image of the kit's own lock file.

    modal run grpo_kit/app.py                                  # train, by default the tiny model
    modal run grpo_kit/app.py::train --model-name google/gemma-2-2b-it --max-steps 100 --use-lora false
    modal run grpo_kit/app.py::upload_data                     # data/processed -> the volume training-data
    modal deploy grpo_kit/app.py                               # what train.remote() in a notebook does by itself

GPU, memory, time-out, retries and secrets are those of the call (see backends/modal/launch.py).
"""

import os
import sys
from pathlib import Path
from typing import Any

import modal

from grpo_kit.backends.modal import client, container
from grpo_kit.cli import errors_on_one_line
from grpo_kit.cli.flags import with_flags
from grpo_kit.config.gpus import CORES
from grpo_kit.config.train import TrainConfig

# Beside the package in a clone, and in it where the kit was installed.
LOCK_FILES = [folder / "requirements-gpu.lock" for folder in Path(__file__).resolve().parents[:2]]


def kit_image() -> modal.Image:
    """The versions that run here and what only a GPU can use, and image_packages; then the kit's source, data files
    included, and the module of an environment that lies here."""
    lock = next(str(file) for file in LOCK_FILES if file.exists())
    packages, modules = (os.environ.get(name, "").split() for name in (client.IMAGE_PACKAGES, client.IMAGE_MODULES))
    return (
        modal.Image.debian_slim(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
        .uv_pip_install(requirements=[lock])
        .uv_pip_install(*packages)
        # FlashInfer would compile its sampler with nvcc, which this image lacks; vLLM has one of its own.
        .env({"HF_HOME": str(container.MODELS), "TOKENIZERS_PARALLELISM": "false", "VLLM_USE_FLASHINFER_SAMPLER": "0"})
        .add_local_python_source("grpo_kit", *modules, ignore=["**/__pycache__"])
    )


app = modal.App(client.APP, image=kit_image() if modal.is_local() else None)
volumes: dict[Any, Any] = {path: client.volume(name) for path, name in container.MOUNTED.items()}
on_gpu = {"volumes": volumes, "cpu": float(CORES), "single_use_containers": True}
app.function(name="open_run", volumes=volumes, timeout=3600, memory=8192)(container.open_run)
app.function(name="train", **on_gpu)(container.train_run)
app.function(name="evaluate", **on_gpu)(container.evaluate_run)


def train(**flags: str | None) -> None:
    """Trains on Modal and waits for it; every setting of TrainConfig is a flag."""
    from grpo_kit.backends.modal.launch import start_on_modal
    from grpo_kit.backends.watch import watch
    from grpo_kit.runs.directory import UNFINISHED

    with errors_on_one_line():
        run = start_on_modal(TrainConfig.from_text(flags), find=app.registered_functions.__getitem__)
        # Modal's command fills a folder that is there, and fails where there is none.
        fetch = f"mkdir -p local_models && modal volume get {client.RUNS_VOLUME} runs/{run.id} ./local_models"
        print(f"Its files: {fetch}")
        again = f"modal run grpo_kit/app.py --run-id {run.id}"
        watch(run, f"Interrupted. Without --detach the run on Modal ends with this command; {again} resumes it")
        if run.status["state"] in UNFINISHED:
            sys.exit(130)


train = app.local_entrypoint()(with_flags(train, TrainConfig))

# `modal run` with no name takes the module's only entry point, which is train. So this one is its own app's.
upload_data = modal.App("grpo-upload-data")


def _upload(path: str = "data/processed", name: str = "") -> None:
    from grpo_kit.backends.api import upload

    with errors_on_one_line():
        upload(path, name or None, to_modal=True)


upload_data.local_entrypoint(name="main")(_upload)
