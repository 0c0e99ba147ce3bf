"""The settings of Modal's machines."""

from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt

from grpo_kit.config.base import Listed, Settings, run, setting
from grpo_kit.config.gpus import NAMES, checked_gpu, gpu_and_count, most_gpus


class ModalConfig(Settings):
    """The machine that Modal is asked for, by Modal's own names. Without effect on this machine."""

    gpu: Annotated[str, AfterValidator(checked_gpu)] = run(
        "A10", "Modal's GPU to run on; A100-80GB:4 means four, each with its own process.", "resume", suggested=NAMES
    )
    memory: int = setting(32768, "MiB of memory for the container, besides the GPU's.", "resume", ge=1024)
    timeout: int = setting(7200, "Seconds until a container ends; a new one continues.", "resume", ge=10, le=86400)
    retries: NonNegativeInt = setting(3, "New containers for a run after crashes or timeouts.", "resume", le=10)
    image_packages: Listed[str] = setting(
        [], "Packages that Modal's image gets besides the kit's, such as those of an environment.", "resume"
    )


def processes_and_gpus(given: dict[str, Any]) -> dict[str, Any]:
    """A process on each GPU: what num_processes says of gpu, or gpu of num_processes, where one of them is given."""
    gpu, processes = str(given.get("gpu", ModalConfig.model_fields["gpu"].default)), str(given.get("num_processes", 1))
    kind, count = gpu_and_count(gpu)
    if count > 1:
        return {"num_processes": count}
    if processes.isdecimal() and 1 < int(processes) <= most_gpus(kind) and "gpu" not in given:
        return {"gpu": f"{kind}:{processes}"}
    return {}
