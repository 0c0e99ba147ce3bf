"""What a run needs of memory, counted from the model's shape: weights, what training adds, the larger of its phases.

Nothing is loaded or measured here, so it takes no time. How near it comes is said at `memory_needed`.
"""

from dataclasses import dataclass
from typing import NamedTuple

from grpo_kit.config.train import TrainConfig
from grpo_kit.models.shapes import Shape

GIB = 2**30
FILLED = 0.9  # of the memory may be planned with; the rest is lost between blocks
HEAD_TILE = 4096, 32768  # tokens and words that TRL's fused head looks at together (trl/kernels/chunked_logprob.py)
CPU_TILES = 3, 7.25  # copies of a tile that it makes on the way there and back where there is no Triton kernel
GPU_OVERHEAD, CPU_OVERHEAD = 1.0, 0.6  # GiB: CUDA's context and libraries; Python, torch and TRL
VLLM_SHARE = 0.3  # of the GPU's memory: TRL's vllm_gpu_memory_utilization
VLLM_OVERHEAD = 0.5  # GiB of its share that are neither weights nor cache


class Device(NamedTuple):
    """Where it is trained, as far as memory depends on it."""

    is_gpu: bool
    gib: float  # what a program can have
    has_vllm: bool = False


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
    def tensors(self) -> float:
        return self.weights + self.trained + max(self.updating, self.generating)

    @property
    def needed(self) -> float:
        return self.tensors + self.vllm + self.overhead

    @property
    def phase(self) -> str:
        """The part of a step with the peak, as training.failures names it."""
        return "updating" if self.updating >= self.generating else "generating"


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
        return f"It needs {memory.needed:.1f} GiB and {holds}, of which {most:.1f} can be planned with"
    return ""


def is_sharded(config: TrainConfig, shape: Shape, device: Device) -> bool:
    """Whether the weights are shared out among the processes. By itself only where the whole does not fit on a GPU."""
    if config.fsdp != "auto":
        return config.fsdp
    if config.num_processes == 1 or config.load_in_4bit or not device.is_gpu:
        return False
    whole = config.model_copy(update={"fsdp": False})
    return bool(shortage(memory_needed(whole, shape, device), device))


def memory_needed(config: TrainConfig, shape: Shape, device: Device) -> Memory:
    """An upper bound in the sense that every prompt and completion is as long as it may be.

    Weights: 2 bytes a parameter in bfloat16, which is what is loaded under an adapter where bf16 is on; else 4; with
    load_in_4bit about half a byte.
    Trained: for each parameter of the adapter 12 bytes (weight and AdamW's two moments, all float32); without an
    adapter 8 beside the weight itself, and 4 for the reference model of a beta above 0. The gradients, 4 more, are
    there while it is updated. Several processes each hold all of it, and 4 more: the buckets in which torch's DDP sends
    the gradients round.
    Updating, generating: `updating_bytes`, `generating_bytes`. With vLLM: a fixed share of the GPU, which must hold
    the weights and the cache of the longest sequence (training.grpo tells it how long that is).
    Where the weights are shared out (FSDP), each process holds its share of them and of all that is trained, and the
    whole of what it is at: all weights while it generates (sharding.py), the head, the embedding and two layers while
    it updates (`_gathered`).

    The overhead is what the process needs beside tensors. On a CPU it may hold less than is counted: of a tile of the
    head that is wider than the vocabulary, the rest is never written to.

    Held against what the tensors of real training take, on a CPU (benchmarks/memory.py has the shapes and the errors,
    tests/costs/test_memory.py some of them). Nothing was measured on a GPU; the same is counted there, without what
    only a CPU needs.
    """
    bf16 = decided(config.bf16, device.is_gpu)
    parameters = shape.parameters
    whole_model = (8 + 4 * bool(config.beta)) * parameters
    trained = 12 * shape.lora_parameters(config.lora_r) if config.use_lora else whole_model
    shares = config.num_processes if is_sharded(config, shape, device) else 1
    if 1 == shares < config.num_processes:
        trained += 4 * (shape.lora_parameters(config.lora_r) if config.use_lora else parameters)
    vllm, least = uses_vllm(config, device), 0.0
    if vllm:
        least = (2 * parameters + shape.cache_bytes(shape.longest_sequence(config), 2)) / GIB + VLLM_OVERHEAD
    weights = _weight_bytes(config, shape, bf16)
    # Each process loads its own; of what is shared out, one gathers all that a checkpoint holds.
    saved = 12 * (shape.lora_parameters(config.lora_r) if config.use_lora else parameters) if shares > 1 else 0
    return Memory(
        weights=weights / shares / GIB,
        trained=trained / shares / GIB,
        updating=updating_bytes(config, shape, device, bf16, shares) / GIB,
        generating=0.0 if vllm else generating_bytes(config, shape, device, bf16, shares > 1) / GIB,
        vllm=VLLM_SHARE * device.gib if vllm else 0.0,
        overhead=GPU_OVERHEAD if device.is_gpu else CPU_OVERHEAD,
        vllm_least=least,
        shares=shares,
        host=max(weights * config.num_processes, saved) / GIB,
    )


def updating_bytes(config: TrainConfig, shape: Shape, device: Device, bf16: bool, shares: int = 1) -> float:
    """The most of four moments of a pass forward and back, in bytes beside what is there in all phases.

    At the head, on the way forward and back: all that autograd keeps of the layers (`layer_bytes`; with gradient
    checkpointing each layer's input alone), what the last norm keeps, and a tile of logits. These are never there
    whole: TRL's fused head looks at tiles of 4096 tokens x 32768 words. It has one such tile however small the
    vocabulary, and on a CPU some copies of it as wide as the vocabulary. On the way back the head's gradients too.
    In a layer, on the way back: what is kept, the gradients of its MLP's inside, and with checkpointing all that it
    keeps, made again. At the end: the gradients of all weights. From the second of several passes on those of the
    passes before are there all along. Without an adapter the head and the embedding each give a gradient as large as
    the vocabulary before it is added to the others, and bfloat16 makes copies of the weights, which are kept until the
    way forward is done, without checkpointing until the way back is.

    Of `shares` above 1 (FSDP) it is what one process has: its share of the gradients, and in place of those copies what
    is gathered, there and back.
    """
    length = config.max_prompt_length + config.max_completion_length
    sequences, hidden, width = config.per_device_train_batch_size, shape.hidden, _width(config, bf16)
    tokens, whole_model = sequences * length, not config.use_lora
    checkpointing = decided(config.gradient_checkpointing, device.is_gpu)

    layer = layer_bytes(config, shape, bf16, length) * tokens
    stream = width * hidden * tokens  # what runs from layer to layer
    kept = stream + shape.layers * (stream if checkpointing else layer)
    kept += _kinds(shape) * length * tokens if checkpointing else 0  # the masks, a byte each
    copies = _copies(config, shape, bf16) if shares == 1 else _gathered(shape, bf16, layers=2)

    gradients = 4 * (shape.parameters if whole_model else shape.lora_parameters(config.lora_r)) / shares
    earlier = gradients if config.gradient_accumulation_steps > 1 else 0
    table = 4 * shape.vocab * hidden if whole_model else 0

    scored = sequences * config.max_completion_length if device.is_gpu else tokens  # without Triton all are
    rows, words = min(scored, HEAD_TILE[0]), min(shape.vocab, HEAD_TILE[1])
    head = rows * HEAD_TILE[1] * (2 if bf16 else 4) + (4 * tokens + width * scored) * hidden
    head += 2 * words * hidden if bf16 and whole_model else 0  # a tile's weights in bfloat16
    forward, back = (0 if device.is_gpu else 4 * rows * words * (tiles + shape.has_softcap) for tiles in CPU_TILES)

    at_head = kept + copies + head + forward
    kept += 0 if checkpointing and shares == 1 else copies
    back_at_head = kept + head + back + 4 * hidden * scored + table
    inside = 2 * shape.intermediate * (2 if bf16 else 4) + 2 * 4 * hidden  # gradients in an MLP and of its two ends
    in_layer = kept + table + inside * tokens + (layer if checkpointing else 0)
    at_end = gradients - earlier + (table if shape.is_tied or earlier else 0)
    return earlier + max(at_head, back_at_head, in_layer, at_end)


def generating_bytes(config: TrainConfig, shape: Shape, device: Device, bf16: bool, is_sharded: bool = False) -> float:
    """The most of four moments of generating with transformers, for all of a process's completions of a step at once,
    in bytes beside what is there in all phases.

    Reading the prompts: keys and values of all layers, and the widest that one layer has. That is in its MLP, the
    product of gate and up or, with an adapter, what it makes of one of them (the weight's part, its own, that scaled,
    and their sum in place of one, in float32) beside the other; or in its attention, queries, keys and values as
    `Shape.repeated` and what comes out. Choosing the first token, with bfloat16 weights on a CPU: torch copies the
    head's for every completion. Writing the last token: all keys and values, one layer's as attention takes them or the
    old keys beside the new, and what is left of the last choice. Choosing a token: its logits, those in float32,
    divided by the temperature where it is not 1, probabilities, and as many numbers to draw by; with top_p below 1 also
    the sorted ones with their places, their sum, and what remains of them.
    """
    together, prompt, whole_model = config.completions_per_process, config.max_prompt_length, not config.use_lora
    length, width = prompt + config.max_completion_length, _width(config, bf16)
    autocast = bf16 and whole_model  # weights that are bfloat16 themselves need none

    mlp = shape.intermediate * (16 if config.use_lora else 6 if autocast else 12)
    attention = 24 * shape.q if autocast else 8 * (shape.q + shape.repeated)
    attention += (2 if bf16 else 4) * prompt  # its mask
    stream = (4 * width + (4 if bf16 and config.use_lora else 0)) * shape.hidden
    positions = _kinds(shape) * (prompt + 2 * shape.head_dim * width)  # masks of a byte; sines and cosines
    cached = 2 * shape.layers * shape.kv * width
    reading = together * prompt * (cached + max(mlp, attention) + stream + positions)
    copied = together * 2 * shape.vocab * shape.hidden if bf16 and config.use_lora and not device.is_gpu else 0
    first = together * prompt * cached + copied

    cache = together * shape.cache_bytes(length, width)
    repeated = 2 * shape.q * (6 if autocast else width) if 1 < shape.kv_heads < shape.heads else 0
    writing = cache + together * (length * max(repeated, shape.kv * width) + 8 * shape.vocab)
    choice = width + 12 + 4 * (config.temperature != 1) + 22 * (config.top_p < 1)
    choosing = cache + together * shape.vocab * choice
    copies = _copies(config, shape, bf16)
    if is_sharded:  # and what is gathered arrives in one piece before it is taken apart
        copies = _gathered(shape, bf16, shape.layers) + _gathered(shape, bf16, layers=2)
    return copies + max(reading, first, writing, choosing)


def _width(config: TrainConfig, bf16: bool) -> int:
    """Bytes of a weight, and of a number that runs from layer to layer."""
    return 2 if bf16 and config.use_lora else 4


def _weight_bytes(config: TrainConfig, shape: Shape, bf16: bool) -> float:
    """Of the model. In 4 bits are its linear layers alone; with nested constants they come to 0.516 bytes a weight
    (Dettmers et al., QLoRA, 2023, section 3)."""
    layers = shape.layers * shape.layer_parameters if config.load_in_4bit else 0
    return 0.516 * layers + (shape.parameters - layers) * _width(config, bf16)


def _copies(config: TrainConfig, shape: Shape, bf16: bool) -> int:
    """Bytes of what autocast makes of float32 weights: bfloat16 ones."""
    return 2 * shape.layers * shape.layer_parameters if bf16 and not config.use_lora else 0


def _gathered(shape: Shape, bf16: bool, layers: int) -> int:
    """Bytes of weights that are whole in a process for a while: the head, the embedding and some of the layers."""
    return (2 if bf16 else 4) * (shape.parameters - (shape.layers - layers) * shape.layer_parameters)


def _kinds(shape: Shape) -> int:
    """Of attention, each with its own mask and positions: to all tokens, and with a sliding window."""
    return 2 if shape.sliding else 1


def layer_bytes(config: TrainConfig, shape: Shape, bf16: bool, length: int) -> float:
    """Bytes that autograd keeps of one layer for each token of sequences of `length`, attention by SDPA.

    Counted with torch's saved_tensors_hooks for all families here: the norms' inputs in float32; queries, keys and
    values as `Shape.repeated`, and what attention gives; four times the MLP's width (gate, its activation, up, the
    product); what enters each adapter, which under autocast is a copy for each; and a row of the attention mask.
    """
    hidden, norms = shape.hidden, shape.norms * shape.hidden + shape.has_qk_norm * (shape.q + shape.kv)
    trains_norms = 1 if config.use_lora else 2  # what a norm gives is kept for its own weight's gradient
    ranks = 7 * config.lora_r if config.use_lora else 0
    if not bf16:
        attention = 2 * shape.q + 2 * shape.repeated
        return 4 * (2 * hidden + trains_norms * norms + attention + 4 * shape.intermediate + ranks + length)
    attention = 3 * shape.q + 2 * shape.repeated if config.use_lora else 3 * shape.q + shape.repeated
    return 2 * (5 * hidden + attention + 4 * shape.intermediate + ranks + length) + 4 * trains_norms * norms
