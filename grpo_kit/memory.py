"""What a run needs of memory, counted from the model's shape: weights, what training adds, the larger of its phases.

Nothing is loaded or measured here, so it takes no time. How near it comes is said at `memory_needed`.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from grpo_kit.config import CACHE, TrainConfig
from grpo_kit.demo import TINY_MODEL

GIB = 2**30
SHAPES = Path(__file__).with_name("shapes.json")
FAMILIES = ("gemma", "gemma2", "gemma3", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
TIED = ("gemma", "gemma2", "gemma3_text")  # the families whose config.json may leave out that embeddings are tied
HEAD_TILE = 4096, 32768  # tokens and vocabulary that TRL's fused head looks at together (trl/kernels/chunked_logprob)
CPU_TILES = 12  # copies of such a tile that torch makes where there is no Triton kernel; measured
CPU_HEAP = 1.25  # what glibc's heap holds for each byte of activations; measured
GPU_OVERHEAD, CPU_OVERHEAD = 1.0, 0.6  # GiB: CUDA's context and libraries; Python, torch and TRL
VLLM_SHARE = 0.3  # of the GPU's memory: TRL's vllm_gpu_memory_utilization
VLLM_OVERHEAD = 0.5  # GiB of its share that are neither weights nor cache


class Device(NamedTuple):
    """Where it is trained, as far as memory depends on it."""

    is_gpu: bool
    gib: float  # what a program can have
    has_vllm: bool = False


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, by what they are; those of one head and one layer where they are of heads and layers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    longest: int  # positions it was made for
    window: int  # positions that a layer with a sliding window looks back to
    sliding: int  # how many layers have one
    norms: int  # a layer's, without those of queries and keys
    has_qk_norm: bool
    has_bias: bool  # of queries, keys and values
    is_tied: bool  # embeddings and head are the same weights
    other_parameters: int  # those of a part for images, which is loaded and not used
    source: str  # where this is known from

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        attention = 2 * self.hidden * (self.q + self.kv) + self.has_bias * (self.q + 2 * self.kv)
        norms = self.norms * self.hidden + self.has_qk_norm * 2 * self.head_dim
        return attention + 3 * self.hidden * self.intermediate + norms

    @property
    def parameters(self) -> int:
        """All of them; exact for the families in FAMILIES, parts for images apart."""
        tables = (1 if self.is_tied else 2) * self.vocab * self.hidden
        return tables + self.layers * self.layer_parameters + self.hidden + self.other_parameters

    def lora_parameters(self, rank: int) -> int:
        """Of an adapter on every linear layer but the head: rank x (inputs + outputs) of each."""
        ends = 7 * self.hidden + 2 * self.q + 2 * self.kv + 3 * self.intermediate
        return self.layers * rank * ends

    def cache_bytes(self, positions: int, width: int) -> int:
        """Of keys and values of one sequence. Layers with a sliding window keep no more than it."""
        kept = (self.layers - self.sliding) * positions + self.sliding * min(self.window, positions)
        return 2 * self.kv * width * kept


def shape_of(model_name: str) -> Shape | None:
    """The model's shape, by its config.json here or in the hub's cache, or by shapes.json. None where neither has it
    or its family is not one of FAMILIES. The hub is not asked."""
    path = _config_file(model_name)
    if path is not None:
        stat = path.stat()
        return _read_shape(path, stat.st_mtime_ns, stat.st_size)
    known = _known_shapes()
    stem = f"HuggingFaceTB/{model_name}" if model_name.startswith("SmolLM2-") else model_name
    found = known.get(stem.removesuffix("-it").removesuffix("-Instruct"))
    return found and shape_from(found, "grpo_kit/shapes.json")


def _config_file(model_name: str) -> Path | None:
    if model_name == "tiny":
        return TINY_MODEL / "config.json"
    for folder in (Path(model_name), CACHE / model_name):
        if (folder / "config.json").is_file():
            return folder / "config.json"
    if model_name.count("/") != 1:
        return None
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(model_name, "config.json")
    except errors.HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


@lru_cache(64)
def _read_shape(path: Path, modified: int, size: int) -> Shape | None:
    try:
        return shape_from(json.loads(path.read_bytes()), str(path))
    except (OSError, ValueError):
        return None


@lru_cache(1)
def _known_shapes() -> dict[str, dict]:
    return json.loads(SHAPES.read_bytes())["models"]


def shape_from(config: dict[str, Any], source: str) -> Shape | None:
    """A shape from a config.json's content; None where it is not of a family that is known here."""
    text = {"tie_word_embeddings": config.get("tie_word_embeddings"), **config.get("text_config", config)}
    family = text.get("model_type")
    try:
        hidden, heads, layers = text["hidden_size"], text["num_attention_heads"], text["num_hidden_layers"]
        if family not in FAMILIES or config.get("model_type") not in FAMILIES:
            return None
        tied = text.get("tie_word_embeddings")
        return Shape(
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or hidden // heads,
            intermediate=text["intermediate_size"],
            vocab=text["vocab_size"],
            longest=text.get("max_position_embeddings") or 2048,
            window=text.get("sliding_window") or 0,
            sliding=_sliding_layers(text, layers),
            norms=4 if family in ("gemma2", "gemma3_text") else 2,
            has_qk_norm=family in ("gemma3_text", "qwen3"),
            has_bias=family == "qwen2" or bool(text.get("attention_bias")),
            is_tied=family in TIED if tied is None else tied,
            other_parameters=_image_parameters(config.get("vision_config"), hidden),
            source=source,
        )
    except (KeyError, TypeError):
        return None


def _sliding_layers(text: dict[str, Any], layers: int) -> int:
    if text.get("layer_types"):
        return text["layer_types"].count("sliding_attention")
    every = {"gemma2": 2, "gemma3_text": 6}.get(text["model_type"])  # the one layer in so many that sees all
    return layers - layers // every if every else 0


def _image_parameters(vision: dict[str, Any] | None, hidden: int) -> int:
    """Of a vision transformer's layers and its projection, which are nearly all of it."""
    if not vision:
        return 0
    width, inner, layers = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
    return layers * (4 * width * width + 2 * width * inner) + width * hidden


@dataclass(frozen=True)
class Memory:
    """GiB that a run needs at its peak. Generating and updating follow each other: the larger of the two counts."""

    weights: float
    trained: float  # adapter or none, its gradients, AdamW's two moments, and what else training adds to the weights
    updating: float  # activations, and the head's tiles
    generating: float  # keys and values, the prompts' activations, the logits of one token
    vllm: float  # vLLM's share, where it generates
    overhead: float
    vllm_least: float = 0.0  # of its share that vLLM needs to start

    @property
    def needed(self) -> float:
        return self.weights + self.trained + max(self.updating, self.generating) + self.vllm + self.overhead

    @property
    def phase(self) -> str:
        """The part of a step, in troubles.py's words, in which the peak is."""
        return "updating" if self.updating >= self.generating else "generating"


def decided(setting: bool | str, auto: bool) -> bool:
    return auto if setting == "auto" else bool(setting)


def memory_needed(config: TrainConfig, shape: Shape, device: Device) -> Memory:
    """An upper bound in the sense that every prompt and completion is as long as it may be.

    Weights: 2 bytes a parameter in bfloat16, which is what is loaded under an adapter where bf16 is on; else 4.
    Trained: for each parameter of the adapter 16 bytes (weight, gradient and AdamW's two moments, all float32); without
    an adapter 12 beside the weight itself, 2 for autocast's bfloat16 copy, 4 for the reference model of a beta above 0.
    Updating: what autograd keeps of each layer for the backward pass (`layer_bytes`) for a pass's tokens; with gradient
    checkpointing each layer's input and one layer's all. The head's logits are never there whole: TRL's fused head
    works in tiles of 4096 tokens x 32768 words, so a large vocabulary costs little (on a CPU it makes some copies of
    a tile); but without an adapter it collects its weight's gradient in float32.
    Generating, with transformers: keys and values of all of a step's completions (2 x layers x key-value heads x
    head_dim x bytes a token, and one layer's again while it grows), five copies of the widest activation of all
    prompts, and four of the next token's logits. With vLLM: a fixed share of the GPU, which must hold the weights and
    the cache of one sequence of the model's full length.

    Held against a process's peak above what it held before, on a CPU in float32, for seven runs of random models of 20
    to 90 million parameters: six lay within 25%; with gradient checkpointing it was 40% too little, for glibc keeps
    much of what is freed (told not to, one run came within 10%). For bfloat16, what autograd keeps was counted on a CPU
    under autocast (tests/test_preflight.py). Nothing was measured on a GPU.
    """
    bf16 = decided(config.bf16, device.is_gpu)
    width = 2 if bf16 and config.use_lora else 4
    checkpointing, vllm = decided(config.gradient_checkpointing, device.is_gpu), uses_vllm(config, device)
    length = config.max_prompt_length + config.max_completion_length
    tokens = config.per_device_train_batch_size * length

    parameters = shape.parameters
    if config.use_lora:
        trained = 16 * shape.lora_parameters(config.lora_r)
    else:
        trained = (12 + 2 * bf16 + 4 * bool(config.beta)) * parameters

    layer = layer_bytes(config, shape, bf16, length) * tokens
    kept = shape.layers * width * shape.hidden * tokens + layer if checkpointing else shape.layers * layer
    kept *= 1 if device.is_gpu else CPU_HEAP
    tile = min(tokens, HEAD_TILE[0]) * min(shape.vocab, HEAD_TILE[1]) * (2 if bf16 else 4)
    head = 2 * 4 * shape.hidden * tokens + tile * (1 if device.is_gpu else CPU_TILES)  # its input, and that's gradient
    head += 0 if config.use_lora else 4 * shape.vocab * shape.hidden
    # The way back begins at the head, when all is kept, or is in an MLP with some gradients of its width.
    updating = kept + max(head, 3 * width * shape.intermediate * tokens)

    generating, least = 0.0, 0.0
    if vllm:
        least = (2 * parameters + shape.cache_bytes(shape.longest, 2)) / GIB + VLLM_OVERHEAD
    else:
        together = config.completions_per_step
        cache = together * shape.cache_bytes(length, width) * (1 + 1 / shape.layers)
        widest = 5 * max(shape.intermediate, shape.q) * width * together * config.max_prompt_length
        generating = cache + widest + 4 * 4 * together * shape.vocab
    return Memory(
        weights=parameters * width / GIB,
        trained=trained / GIB,
        updating=updating / GIB,
        generating=generating / GIB,
        vllm=VLLM_SHARE * device.gib if vllm else 0.0,
        overhead=GPU_OVERHEAD if device.is_gpu else CPU_OVERHEAD,
        vllm_least=least,
    )


def uses_vllm(config: TrainConfig, device: Device) -> bool:
    return decided(config.use_vllm, device.is_gpu and device.has_vllm)


def layer_bytes(config: TrainConfig, shape: Shape, bf16: bool, length: int) -> float:
    """Bytes that autograd keeps of one layer for each token of sequences of `length`, attention by SDPA.

    Counted with torch's saved_tensors_hooks for all families here: the norms' inputs in float32; queries, keys and
    values repeated for every head, and what attention gives; four times the MLP's width (gate, its activation, up, the
    product); what enters each adapter, which under autocast is a copy for each; and a row of the attention mask.
    """
    hidden, norms = shape.hidden, shape.norms * shape.hidden + shape.has_qk_norm * (shape.q + shape.kv)
    trains_norms = 1 if config.use_lora else 2  # what a norm gives is kept for its own weight's gradient
    ranks = 7 * config.lora_r if config.use_lora else 0
    if not bf16:
        return 4 * (2 * hidden + trains_norms * norms + 4 * shape.q + 4 * shape.intermediate + ranks + length)
    queries = 5 if config.use_lora else 4
    return 2 * (5 * hidden + queries * shape.q + 4 * shape.intermediate + ranks + length) + 4 * trains_norms * norms
