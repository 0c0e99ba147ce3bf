"""The Modal app: the kit's own code, on an image of the kit's own lock file.

    modal run grpo_kit/app.py                                  # train, by default the tiny model
    modal run grpo_kit/app.py::train --model-name google/gemma-2-2b-it --max-steps 100 --use-lora false
    modal run grpo_kit/app.py --config settings.yaml           # flags override the file
    modal run grpo_kit/app.py::upload_data                     # data/processed -> the volume training-data
    modal deploy grpo_kit/app.py                               # what train.remote() in a notebook does by itself

GPU, memory, time-out, retries and secrets are those of the call (see backends/modal/launch.py).
"""

import sys
from typing import Any

import modal

from grpo_kit.backends.modal import client, container
from grpo_kit.backends.modal.image import kit_image
from grpo_kit.cli import errors_on_one_line
from grpo_kit.cli.flags import with_flags
from grpo_kit.config.gpus import CORES
from grpo_kit.config.train import TrainConfig

app = modal.App(client.APP, image=kit_image() if modal.is_local() else None)
volumes: dict[Any, Any] = {path: client.volume(name) for path, name in container.MOUNTED.items()}
on_gpu = {"volumes": volumes, "cpu": float(CORES), "single_use_containers": True}
app.function(name="open_run", volumes=volumes, timeout=3600, memory=8192)(container.open_run)
app.function(name="train", **on_gpu)(container.train_run)
app.function(name="evaluate", **on_gpu)(container.evaluate_run)


@app.local_entrypoint()
@errors_on_one_line()
@with_flags(TrainConfig)
def train(settings: TrainConfig) -> None:
    """Trains on Modal and waits for it; every setting of TrainConfig is a flag."""
    from grpo_kit.backends.modal.launch import start_on_modal
    from grpo_kit.backends.watch import watch
    from grpo_kit.runs.directory import UNFINISHED

    run = start_on_modal(settings, find=app.registered_functions.__getitem__)
    # Modal's command fills a folder that is there, and fails where there is none.
    fetch = f"mkdir -p local_models && modal volume get {client.RUNS_VOLUME} runs/{run.id} ./local_models"
    print(f"Its files: {fetch}")
    again = f"modal run grpo_kit/app.py --run-id {run.id}"
    watch(run, f"Interrupted. Without --detach the run on Modal ends with this command; {again} resumes it")
    if run.status["state"] in UNFINISHED:
        sys.exit(130)


# `modal run` with no name takes the module's only entry point, which is train. So this one is its own app's.
upload_data = modal.App("grpo-upload-data")


@errors_on_one_line()
def _upload(path: str = "data/processed", name: str = "") -> None:
    from grpo_kit.backends.api import upload

    upload(path, name or None, to_modal=True)


upload_data.local_entrypoint(name="main")(_upload)
