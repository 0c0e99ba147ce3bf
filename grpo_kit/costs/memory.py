"""The memory that a run needs, counted from the model's shape, which takes no time, and the memory that there is."""

import math
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import psutil

from grpo_kit.config.batching import BATCH, PASSES
from grpo_kit.config.gpus import listed_gpu
from grpo_kit.config.train import TrainConfig
from grpo_kit.models.shapes import Shape
from grpo_kit.utils.environment import version_of

GIB = 2**30
FILLED = 0.9  # of the memory may be planned with; the rest is lost between blocks
HEAD_TILE = 4096, 32768  # tokens and words that TRL's fused head looks at together (trl/kernels/chunked_logprob.py)
CPU_TILES = 7.25  # copies of a tile that it makes on the way back where there is no Triton kernel
GPU_OVERHEAD, CPU_OVERHEAD = 1.0, 0.6  # GiB: CUDA's context and libraries; Python, torch and TRL
AT_ONCE, AT_ONCE_BY_VLLM = 64, 256  # completions, where no step says how many; vLLM has room of its own for them
VLLM_SHARE = 0.3  # of the GPU's memory: TRL's vllm_gpu_memory_utilization
VLLM_OVERHEAD = 0.5  # GiB of its share that are neither weights nor cache


class Device(NamedTuple):
    """Where it is trained, as far as memory depends on it."""

    is_gpu: bool
    gib: float  # what a program can have; NaN where that is not known
    has_vllm: bool = False


def device_of(config: TrainConfig, gpu: str | None) -> Device:
    """One of Modal's GPUs, where requirements-gpu.lock has vLLM, or this machine, whose memory the processes share."""
    if gpu:
        return Device(True, listed_gpu(gpu).get("usable_gib", math.nan), has_vllm=True)
    here = _this_machine()
    return here if here.is_gpu else here._replace(gib=here.gib / config.num_processes)


@lru_cache(1)
def _this_machine() -> Device:
    """This machine's GPU where torch can use one, else its memory. torch itself is not asked: importing it is slow."""
    asker = shutil.which("nvidia-smi")
    if asker and "+cpu" not in (version_of("torch") or "+cpu"):
        query = [asker, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=5)
            return Device(True, int(done.stdout.split()[0]) / 1024, version_of("vllm") is not None)
        except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
            pass  # a driver with no GPU
    return Device(False, psutil.virtual_memory().total / GIB)


@dataclass(frozen=True)
class Memory:
    """GiB that a run needs at its peak. Generating and updating follow each other: the larger of the two counts."""

    weights: float
    trained: float  # adapter or none, AdamW's two moments, the reference model: there in all phases
    updating: float  # activations, the head's tiles, gradients
    generating: float  # keys and values, activations of one layer, the logits of one token
    vllm: float  # vLLM's share, where it generates
    overhead: float  # what the process needs beside tensors
    vllm_least: float = 0.0  # of its share that vLLM needs to start
    shares: int = 1  # of the weights, each in a process of its own
    host: float = 0.0  # of the machine's own memory, beside a GPU's: all weights are loaded through it

    @property
    def needed(self) -> float:
        return self.weights + self.trained + max(self.updating, self.generating) + self.vllm + self.overhead

    @property
    def phase(self) -> str:
        """The part of a step with the peak, as training.failures names it."""
        return "updating" if self.updating >= self.generating else "generating"


def prompts_at_once(config: TrainConfig, shape: Shape | None, device: Device) -> int:
    """How many prompts the start model answers together where difficulty is measured: those of a step, or more where a
    step has few and their completions fit."""
    group, least = config.num_generations, config.prompts_per_step
    if uses_vllm(config, device):
        return max(least, AT_ONCE_BY_VLLM // group)
    together = max(least, AT_ONCE // group)
    memory = memory_needed(config, shape, device) if shape else None
    while shape and memory and together > least:
        bf16 = decided(config.bf16, device.is_gpu)
        generating = _generating_bytes(in_one_pass(config, together), shape, device, bf16, memory.shares) / GIB
        if not shortage(replace(memory, updating=0.0, generating=generating), device):
            break
        together = max(least, together // 2)
    return together


def in_one_pass(config: TrainConfig, prompts: int) -> TrainConfig:
    """The settings with so many prompts a step, all of whose completions a process makes in one pass."""
    each = -(-prompts * config.num_generations // config.num_processes)
    return config.model_copy(update={BATCH: each, PASSES: 1})


def decided(setting: bool | str, auto: bool) -> bool:
    return auto if setting == "auto" else bool(setting)


def uses_vllm(config: TrainConfig, device: Device) -> bool:
    return decided(config.use_vllm, device.is_gpu and device.has_vllm and not config.load_in_4bit)


def shortage(memory: Memory, device: Device) -> str:
    """Why it does not fit; empty where it does."""
    most = FILLED * device.gib
    if memory.vllm and memory.vllm_least > memory.vllm:
        share = f"its share of the GPU's memory is {memory.vllm:.1f} GiB"
        return f"vLLM needs {memory.vllm_least:.1f} GiB to start, and {share}"
    if memory.needed > most:
        holds = f"the {'GPU' if device.is_gpu else 'machine'} has {device.gib:.1f}"
        return f"It needs {memory.needed:.1f} GiB, and {holds}: {most:.1f} GiB can be used with a margin"
    return ""


def is_sharded(config: TrainConfig, shape: Shape, device: Device) -> bool:
    """Whether FSDP shares the weights out among the processes; with "auto" only where the whole does not fit a GPU."""
    if config.fsdp != "auto":
        return config.fsdp
    if config.num_processes == 1 or config.load_in_4bit or not device.is_gpu:
        return False
    whole = config.model_copy(update={"fsdp": False})
    return bool(shortage(memory_needed(whole, shape, device), device))


def memory_needed(config: TrainConfig, shape: Shape, device: Device) -> Memory:
    """Counts memory as if every prompt and completion were as long as it may be.

    Weights take 2 bytes a parameter under an adapter where bf16 is on, else 4. Linear layers in 4 bits take 0.516, with
    nested constants (Dettmers et al., QLoRA, 2023, section 3). An adapter takes 12 bytes a parameter (the weight and
    AdamW's two moments, in float32); all weights take 8 more, and 4 for the reference model of a beta above 0. Several
    processes each hold all of it, and 4 bytes more for the buckets of torch's DDP. vLLM has a fixed share of the GPU,
    which must hold the weights and the cache of the longest sequence.

    With FSDP each process holds its share of the weights and of what is trained, and gathers what it works on: all
    weights while it generates, the head, the embedding and two layers while it updates.

    Compared with the tensors of real training on a CPU (benchmarks/memory.py has the shapes and the errors,
    tests/costs/test_memory.py some of them). Nothing was measured on a GPU.
    """
    bf16, processes = decided(config.bf16, device.is_gpu), config.num_processes
    trained_parameters = _trained_parameters(config, shape)
    trained = trained_parameters * (12 if config.use_lora else 8 + 4 * bool(config.beta))
    shares = processes if is_sharded(config, shape, device) else 1
    if shares < processes:
        trained += 4 * trained_parameters
    in_4bit = shape.layer_weights if config.load_in_4bit else 0
    weights = 0.516 * in_4bit + _width(config, bf16) * (shape.parameters - in_4bit)
    vllm = uses_vllm(config, device)
    longest = shape.cache_bytes(shape.longest_sequence(config), 2)
    # Each process loads all weights; to save a checkpoint of shared weights, one gathers all that it holds.
    saved = 12 * trained_parameters if shares > 1 else 0
    return Memory(
        weights=weights / shares / GIB,
        trained=trained / shares / GIB,
        updating=_updating_bytes(config, shape, device, bf16, shares) / GIB,
        generating=0.0 if vllm else _generating_bytes(config, shape, device, bf16, shares) / GIB,
        vllm=config.trl.get("vllm_gpu_memory_utilization", VLLM_SHARE) * device.gib if vllm else 0.0,
        overhead=GPU_OVERHEAD if device.is_gpu else CPU_OVERHEAD,
        vllm_least=(2 * shape.parameters + longest) / GIB + VLLM_OVERHEAD if vllm else 0.0,
        shares=shares,
        host=max(weights * processes, saved) / GIB,
    )


def _updating_bytes(config: TrainConfig, shape: Shape, device: Device, bf16: bool, shares: int) -> float:
    """Bytes at the larger of three moments of a pass, beside what is there in all phases.

    At the head: all that autograd keeps of the layers (`layer_bytes`; with gradient checkpointing each layer's input),
    and TRL's tile of the logits, however small the vocabulary. In a layer, on the way back: the gradients of its MLP's
    inside or of capped scores, and with checkpointing all that it keeps, made again. At the end: all gradients; with
    several passes they are there all along. Without an adapter the head and the embedding each give one before the two
    are added.
    """
    sequences, hidden, width = config.per_device_train_batch_size, shape.hidden, _width(config, bf16)
    length = config.max_prompt_length + config.max_completion_length
    tokens, checkpointing = sequences * length, decided(config.gradient_checkpointing, device.is_gpu)

    layer, stream = layer_bytes(config, shape, bf16, length) * tokens, width * hidden * tokens
    copies = _cast_bytes(config, shape, bf16) if shares == 1 else _gathered(shape, bf16, layers=2)
    table = 0 if config.use_lora else 4 * shape.vocab * hidden
    kept = stream + shape.layers * (stream if checkpointing else layer) + copies + table
    gradients = 4 * _trained_parameters(config, shape) / shares
    earlier = gradients if config.gradient_accumulation_steps > 1 else 0

    scored = sequences * config.max_completion_length if device.is_gpu else tokens  # without Triton all are
    rows, words = min(scored, HEAD_TILE[0]), min(shape.vocab, HEAD_TILE[1])
    at_head = rows * HEAD_TILE[1] * (2 if bf16 else 4) + (8 * tokens + width * scored) * hidden
    at_head += 0 if device.is_gpu else 4 * rows * words * (CPU_TILES + shape.has_softcap)
    inside = 2 * shape.intermediate * (2 if bf16 else 4) + 8 * hidden  # gradients in an MLP and of its two ends
    if shape.is_capped:  # two gradients of the scores, once what the MLP keeps is free
        inside = max(inside, length * shape.heads * (6 if bf16 else 8) - 4 * shape.intermediate * (2 if bf16 else 4))
    in_layer = inside * tokens + (layer if checkpointing else 0)
    return earlier + max(kept + at_head, kept + in_layer, gradients - earlier + table)


def _generating_bytes(config: TrainConfig, shape: Shape, device: Device, bf16: bool, shares: int) -> float:
    """Bytes at the larger of four moments of generating with transformers, for all of a process's completions of a step
    at once, beside what is there in all phases.

    Reading the prompts: keys and values of all layers, and the widest that one layer has, its MLP or its attention.
    Choosing the first token: with bfloat16 weights on a CPU, torch copies the head's for every completion. Writing the
    last token: all keys and values, and one layer's as attention takes them. Choosing it: its logits, and their copies
    that sampling makes in float32.
    """
    together, prompt, autocast = config.completions_per_process, config.max_prompt_length, bf16 and not config.use_lora
    length, width = prompt + config.max_completion_length, _width(config, bf16)
    mlp = shape.intermediate * (16 if config.use_lora else 6 if autocast else 12)
    scores = shape.heads * (9 if bf16 else 8) + 2 * width if shape.is_capped else 4
    attention = scores * prompt + (24 * shape.q if autocast else 8 * (shape.q + shape.repeated)) + _scan(shape, prompt)
    reading = prompt * ((shape.keys + shape.windowed) * width + max(mlp, attention) + 4 * width * shape.hidden)
    head = 2 * shape.vocab * shape.hidden if bf16 and config.use_lora and not device.is_gpu else 0
    repeated = 2 * shape.q * (6 if autocast else width) if 1 < shape.kv_heads < shape.heads else 0
    writing = length * max(repeated, shape.kv * width)
    choosing = shape.vocab * (width + 12 + 4 * (config.temperature != 1) + 22 * (config.top_p < 1))
    cache = shape.cache_bytes(length, width)
    copies = _cast_bytes(config, shape, bf16)
    if shares > 1:  # and what is gathered arrives in one piece before it is taken apart
        copies = _gathered(shape, bf16, shape.layers) + _gathered(shape, bf16, layers=2)
    return copies + together * max(reading, cache + max(head, writing, choosing))


def _trained_parameters(config: TrainConfig, shape: Shape) -> int:
    return shape.lora_parameters(config.lora_r) if config.use_lora else shape.parameters - shape.other_parameters


def _width(config: TrainConfig, bf16: bool) -> int:
    """Bytes of a weight, and of a number that runs from layer to layer."""
    return 2 if bf16 and config.use_lora else 4


def _cast_bytes(config: TrainConfig, shape: Shape, bf16: bool) -> int:
    """Bytes of the bfloat16 copies that autocast makes of float32 weights."""
    return 2 * shape.layer_weights if bf16 and not config.use_lora else 0


def _gathered(shape: Shape, bf16: bool, layers: int) -> float:
    """Bytes of the weights that FSDP gathers in a process: the head, the embedding and some of the layers."""
    return (2 if bf16 else 4) * (shape.parameters - (shape.layers - layers) * shape.layer_parameters)


def layer_bytes(config: TrainConfig, shape: Shape, bf16: bool, length: int) -> float:
    """Bytes that autograd keeps of one layer for each token of sequences of `length`.

    Counted with torch's saved_tensors_hooks for all families here: the norms' inputs in float32; queries, keys and
    values as `Shape.repeated`, and what attention gives; four times the MLP's width (gate, its activation, up, the
    product); what enters each adapter, which under autocast is a copy for each; and a row of the attention mask, or
    where attention is capped each head's scores, as its tanh and its softmax give them.
    """
    hidden, norms = shape.hidden, shape.norms * shape.hidden + shape.has_qk_norm * (shape.q + shape.kv)
    scores = 8 * shape.heads * length if shape.is_capped else (4 - 2 * bf16) * length  # or a row of the mask
    scores += _scan(shape, length)
    trains_norms = 1 if config.use_lora else 2  # what a norm gives is kept for its own weight's gradient
    ranks = 7 * config.lora_r if config.use_lora else 0
    if not bf16:
        attention = 2 * shape.q + 2 * shape.repeated
        return 4 * (2 * hidden + trains_norms * norms + attention + 4 * shape.intermediate + ranks) + scores
    attention = 3 * shape.q + 2 * shape.repeated if config.use_lora else 3 * shape.q + shape.repeated
    return 2 * (5 * hidden + attention + 4 * shape.intermediate + ranks) + 4 * trains_norms * norms + scores


def _scan(shape: Shape, length: int) -> float:
    """Bytes for each token of one layer, the mean over all, that linear attention takes in transformers' own code: 21
    for each number, as measured, of a sequence filled up to chunks of 64. flash-linear-attention needs less."""
    return 21 * shape.scanned / shape.layers * (-(-length // 64) * 64) / length
