"""The image of the kit's containers on Modal."""

import os
import sys

import modal

from grpo_kit.backends.modal.client import IMAGE_MODULES, IMAGE_PACKAGES
from grpo_kit.backends.modal.container import MODELS
from grpo_kit.utils.environment import PACKAGE

# Beside the package in a clone, and in it where the kit was installed.
LOCK_FILES = [folder / "requirements-gpu.lock" for folder in (PACKAGE.resolve().parent, PACKAGE)]


def kit_image() -> modal.Image:
    """The versions that run here and what only a GPU can use, and image_packages; then the kit's source, data files
    included, and the module of an environment that lies here."""
    lock = next(str(file) for file in LOCK_FILES if file.exists())
    packages, modules = (os.environ.get(name, "").split() for name in (IMAGE_PACKAGES, IMAGE_MODULES))
    return (
        modal.Image.debian_slim(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
        .uv_pip_install(requirements=[lock])
        .uv_pip_install(*packages)
        # FlashInfer would compile its sampler with nvcc, which this image lacks; vLLM has one of its own.
        .env({"HF_HOME": str(MODELS), "TOKENIZERS_PARALLELISM": "false", "VLLM_USE_FLASHINFER_SAMPLER": "0"})
        .add_local_python_source("grpo_kit", *modules, ignore=["**/__pycache__"])
    )
