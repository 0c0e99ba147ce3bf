"""What is served, and the command line of the server that does it: vLLM's where there is a GPU with it, else the kit's
own. The same here and in a container on Modal."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo_kit.config.train import Auto, TrainConfig
from grpo_kit.costs.memory import decided, device_of
from grpo_kit.models.chat_template import template_kwargs
from grpo_kit.models.checkpoints import BASE, Checkpoints, is_adapter
from grpo_kit.models.files import default_template
from grpo_kit.models.load import device_can_bf16, download_model
from grpo_kit.models.shapes import positions_of
from grpo_kit.models.vllm_engine import lora_rank

LONGEST = 4096  # tokens of a prompt with its answer, or more where the run was trained with more
VLLM = "vllm.entrypoints.cli.main"
GUARD = "grpo_kit.backends.serving.guard.OnlyV1"


@dataclass(frozen=True)
class Plan:
    """The models by the names under which they are asked for, and how they answer where a request does not say."""

    base: str | None  # the plain model's name or folder; None where only whole models are known
    base_name: str
    adapters: dict[str, str]  # their folders, of the plain model
    whole: dict[str, str]  # folders of models that were trained as a whole
    bf16: bool
    longest: int  # tokens of a prompt with its answer
    settings: dict[str, Any]  # temperature, top_p
    max_tokens: int  # of an answer
    chat_template_kwargs: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The base first, the newest checkpoint last."""
        return [*[self.base_name] * (self.base is not None), *self.adapters, *self.whole]


def plan_of(checkpoints: Checkpoints, names: Sequence[str] = ()) -> Plan:
    """The plan for the checkpoints of these names, or all of a run's; of whole models, each of which takes memory of
    its own, the newest. Downloads the base. Raises ConfigError or RunError for what is not there."""
    folders = [checkpoints.folder(name) for name in names] or checkpoints.folders
    if not names and not is_adapter(folders[-1]):
        folders = folders[-1:]
    adapters = {folder.resolve().name: str(folder) for folder in folders if is_adapter(folder)}
    started = {BASE: str(checkpoints.start)} if checkpoints.start else {}
    trained, base = checkpoints.settings, checkpoints.base
    template = default_template(download_model(checkpoints.source))
    positions = positions_of(base or str(folders[-1])) or LONGEST
    return Plan(
        base,
        "untrained" if started else BASE,  # what the run started from is its base
        started | adapters,
        {folder.resolve().name: str(folder) for folder in folders if not is_adapter(folder)},
        device_can_bf16() if trained.bf16 == "auto" else trained.bf16,
        min(positions, max(LONGEST, trained.max_prompt_length + trained.max_completion_length)),
        {"temperature": trained.temperature, "top_p": trained.top_p},
        trained.max_completion_length,
        template_kwargs(template, trained.chat_template_kwargs),
    )


def server_command(plan: Plan, host: str, port: int, gpu_share: float, use_vllm: bool | Auto = "auto") -> list[str]:
    """The command line of the server for this machine."""
    device = device_of(TrainConfig(), gpu=None)
    if decided(use_vllm, device.is_gpu and device.has_vllm):
        return [sys.executable, "-m", VLLM, "serve", *vllm_arguments(plan, host, port, gpu_share)]
    return [sys.executable, "-m", "grpo_kit.backends.serving.server", host, str(port), json.dumps(asdict(plan))]


def vllm_arguments(plan: Plan, host: str, port: int, gpu_share: float) -> list[str]:
    """What `vllm serve` is told: its key comes as VLLM_API_KEY. An engine serves one whole model, so that of several
    the newest is taken, and no base beside it."""
    name, source = list(plan.whole.items())[-1] if plan.whole else (plan.base_name, plan.base)
    options = {
        "host": host,
        "port": port,
        "served-model-name": name,
        "dtype": "bfloat16" if plan.bf16 else "float32",
        "max-model-len": plan.longest,
        "gpu-memory-utilization": gpu_share,
        # The model's own defaults for sampling stay out, as in training; the run's are taken.
        "generation-config": "vllm",
        "override-generation-config": json.dumps(plan.settings),
        "middleware": GUARD,
    }
    if plan.chat_template_kwargs:
        options["default-chat-template-kwargs"] = json.dumps(plan.chat_template_kwargs)
    more: list[str] = []
    if plan.adapters and not plan.whole:
        rank = lora_rank(map(Path, plan.adapters.values()))
        options |= {"max-lora-rank": rank, "max-loras": len(plan.adapters)}
        modules = (json.dumps({"name": name, "path": folder}) for name, folder in plan.adapters.items())
        more = ["--enable-lora", "--lora-modules", *modules]
    told = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    if not device_of(TrainConfig(), gpu=None).is_gpu:  # where a seeded prompt can't be read in parts
        more += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(plan.longest, LONGEST))]
    return [str(download_model(str(source))), *told, "--language-model-only", *more]
