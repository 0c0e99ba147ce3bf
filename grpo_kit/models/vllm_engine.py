# pyright: reportMissingImports=false
"""Generating with vLLM: an engine for a model and the adapters that were trained on it."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo_kit.errors import ConfigError
from grpo_kit.models.load import download_model
from grpo_kit.utils.environment import processes, version_of

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, for which vLLM can make room
GPU_SHARE = 0.9  # of the GPU's free memory


@dataclass(frozen=True)
class VllmModel:
    """An engine's model, with an adapter or without."""

    llm: Any  # vllm.LLM
    generation_config: Any  # transformers' GenerationConfig
    adapters: dict[Path, Any]  # vLLM's LoRARequests by folder
    adapter: Any = None

    def with_adapter(self, folder: Path) -> "VllmModel":
        return replace(self, adapter=self.adapters[folder])

    def answers(
        self, prompts: Sequence[list[int]], ends: list[int], length: int, temperature: float, top_p: float, seed: int
    ) -> list[list[int]]:
        """Each prompt's answer as tokens, up to one of `ends`. A prompt has a seed of its own, so that its answer
        depends on no other."""
        from vllm import SamplingParams

        shared = {"max_tokens": length, "stop_token_ids": ends, "detokenize": False}
        drawn = [
            SamplingParams(temperature=temperature, top_p=top_p, seed=seed + i, **shared) for i in range(len(prompts))
        ]
        asked = [{"prompt_token_ids": tokens} for tokens in prompts]
        outputs = self.llm.generate(asked, drawn, lora_request=self.adapter, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


def check_vllm(use_vllm: bool | str) -> None:
    """Raises ConfigError where vLLM is asked for, and is not installed."""
    if use_vllm is True and version_of("vllm") is None:
        raise ConfigError("use_vllm=True, and vllm is not installed here", "`pip install vllm`, or leave it out")


def lora_rank(adapters: Iterable[Path]) -> int:
    """The least rank that vLLM can make room for and these adapters fit in. Raises ConfigError where there is none."""
    rank = max(json.loads((adapter / "adapter_config.json").read_text())["r"] for adapter in adapters)
    if rank > RANKS[-1]:
        raise ConfigError(f"an adapter has rank {rank}, and vLLM takes {RANKS[-1]} at most", "Use use_vllm=False")
    return min(room for room in RANKS if room >= rank)


def release_vllm() -> None:
    """Takes out of this process what engines, TRL's among them, leave behind: their memory, and a process group of one
    with its environment, in which a later trainer or engine would look for others."""
    if "vllm" not in sys.modules or processes() > 1:
        return
    from accelerate.state import AcceleratorState
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


@contextmanager
def vllm_model(name: str, bf16: bool, longest: int, adapters: Sequence[Path] = ()) -> Iterator[VllmModel]:
    """The model in an engine that reads and writes up to `longest` tokens; its memory is free again after the block.
    Raises ConfigError where vLLM takes the model, or one of the adapters, not.

    The engine is part of this process: one of its own would run the user's script again where it has no main guard.
    """
    folder = download_model(name)
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its lines would drown the kit's own
    import torch
    from transformers import GenerationConfig
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    options: dict[str, Any] = {"dtype": "bfloat16" if bf16 else "float32", "max_model_len": longest}
    options |= {"skip_tokenizer_init": True, "language_model_only": True}  # prompts come as tokens, without images
    options["use_tqdm_on_load"] = False
    release_vllm()
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        options["gpu_memory_utilization"] = GPU_SHARE * free / total
    else:  # where a seeded prompt can't be read in parts
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(longest, 4096)}
    llm: Any = None
    try:
        try:
            if adapters:
                options |= {"enable_lora": True, "max_lora_rank": lora_rank(adapters)}
            llm = LLM(str(folder), **options)
            requests = {each: LoRARequest(str(each), i, str(each)) for i, each in enumerate(adapters, start=1)}
            for request in requests.values():
                llm.llm_engine.add_lora(request)
            generation_config = GenerationConfig(**llm.model_config.try_get_generation_config())
        except Exception as error:  # of many kinds; an engine that does not start may raise anything
            said = " ".join(str(error).split())[:300]
            raise ConfigError(f"vLLM can't generate with {name}: {said}", "Use use_vllm=False") from error
        yield VllmModel(llm, generation_config, requests)
    finally:
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            vars(llm).clear()  # whoever still holds it
        release_vllm()
