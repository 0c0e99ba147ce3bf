"""Serving in a container on Modal: the same command as here, which Modal passes requests on to."""

import os
import subprocess
import threading

from grpo_kit.backends.modal.container import RUNS, fetch_runs
from grpo_kit.backends.serving.command import plan_of, server_command
from grpo_kit.models.checkpoints import checkpoints_of
from grpo_kit.models.endpoint import KEY
from grpo_kit.runs.directory import RunDirectory

PORT = 8000
RUN, NAMES = "SERVE_RUN", "SERVE_CHECKPOINTS"  # variables that say what is served
GPU_SHARE = 0.9


def serve() -> None:
    """Starts the server of the run. When that ends the container ends too, so that Modal starts another."""
    run = RunDirectory(os.environ[RUN], RUNS)
    fetch_runs(run.config)
    plan = plan_of(checkpoints_of(run, None, RUNS), os.environ[NAMES].split())
    # Modal's proxy comes by the network, not by loopback.
    command = server_command(plan, "0.0.0.0", PORT, GPU_SHARE)
    process = subprocess.Popen(command, env=os.environ | {"VLLM_API_KEY": os.environ[KEY]})
    threading.Thread(target=lambda: os._exit(process.wait() or 1), daemon=True).start()
