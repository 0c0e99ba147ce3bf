"""The sizes of a model by its name, from its config.json here or in the hub's cache, or from the kit's own list.

Nothing is loaded and the hub is not asked, so this takes no time.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_kit.config.train import TrainConfig
from grpo_kit.models.files import read_object
from grpo_kit.utils.files import CACHE

TINY_MODEL = Path(__file__).with_name("tiny")  # a model that transformers loads
TINY_AGENT = Path(__file__).with_name("tiny-agent")  # one that calls tools
SHIPPED = {"tiny": TINY_MODEL, "tiny-agent": TINY_AGENT}
SHAPES = Path(__file__).with_name("shapes.json")
FAMILIES = """
    gemma gemma2 gemma3 gemma3_text gemma4 gemma4_text lfm2 llama mistral qwen2 qwen3 qwen3_5 qwen3_5_text smollm3
""".split()
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")  # as a config.json may call them
# The families whose config.json may leave out that embeddings are tied.
TIED = ("gemma", "gemma2", "gemma3_text", "gemma4_text", "lfm2", "smollm3")


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, of one head and one layer where they belong to heads and layers.

    Layers differ in some models: they look back over a window, share the keys and values of earlier ones, or keep a
    state that does not grow. What matters of that is summed over all layers.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    longest: int  # positions it was made for
    window: int  # positions that a layer with a sliding window looks back to
    keys: int  # numbers that a position adds to the keys and values of the layers that look back to the beginning
    windowed: int  # the same, of those with a window
    state: int  # numbers that the other layers keep, however long the text is
    scanned: int  # numbers that linear attention works on for a token, in all layers
    layer_weights: int  # parameters of all layers
    ends: int  # inputs and outputs of all linear layers but the head
    norms: int  # a layer's, without those of queries and keys
    has_qk_norm: bool
    has_bias: bool  # of queries, keys and values
    has_softcap: bool  # of the logits
    is_capped: bool  # the scores of attention, which is then made by plain products
    is_tied: bool  # embeddings and head are the same weights
    other_parameters: int  # of embeddings for every layer, and of parts for images and sound, which are not trained

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def repeated(self) -> int:
        """Width of the keys, or values, in attention: copied for every query head, or shared where there is one."""
        return self.kv if self.kv_heads == 1 else self.q

    @property
    def layer_parameters(self) -> float:
        """A layer's; the mean where they differ."""
        return self.layer_weights / self.layers

    @property
    def parameters(self) -> int:
        """All parameters, exact for the families in FAMILIES but for the parts for images and sound."""
        tables = (1 if self.is_tied else 2) * self.vocab * self.hidden
        return tables + self.layer_weights + self.hidden + self.other_parameters

    def longest_sequence(self, config: TrainConfig) -> int:
        """Tokens of the longest prompt and completion there can be, where no prompt's last turn alone is longer."""
        return min(self.longest, config.max_prompt_length + config.max_completion_length)

    def lora_parameters(self, rank: int) -> int:
        """Parameters of an adapter on every linear layer but the head: rank x (inputs + outputs) of each."""
        return rank * self.ends

    def cache_bytes(self, positions: int, width: int) -> int:
        """Bytes of keys and values of one sequence, or of what layers keep in their place. Layers with a sliding window
        keep no more than the window."""
        return width * (self.keys * positions + self.windowed * min(self.window, positions) + self.state)


def shape_of(model_name: str) -> Shape | None:
    """The model's shape. None if neither a config.json nor shapes.json has it, or its family is not in FAMILIES."""
    if path := config_file(model_name):
        with suppress(ValueError, KeyError):  # what is wrong with the file is said where the model is checked
            return shape_from(read_object(path))
        return None
    found = listed(model_name)
    return shape_from(found) if found else None


def positions_of(model_name: str) -> int | None:
    """The tokens that the model can read at most, of any family; None where that is not known."""
    if path := config_file(model_name):
        config = read_object(path)
        return next(filter(None, map(config.get("text_config", config).get, POSITIONS)), None)
    shape = shape_of(model_name)
    return shape and shape.longest


def listed(model_name: str) -> dict[str, Any]:
    """What shapes.json has of the model: a config.json's entries, and `thinking` where it can think before it answers;
    {} where it is not there."""
    stem = f"HuggingFaceTB/{model_name}" if model_name.startswith("SmolLM2-") else model_name
    return json.loads(SHAPES.read_bytes())["models"].get(stem.removesuffix("-it").removesuffix("-Instruct"), {})


def config_file(model_name: str) -> Path | None:
    """The model's config.json, where it is on this machine."""
    own = SHIPPED.get(model_name)
    for folder in [own] if own else [Path(model_name), CACHE / model_name]:
        if (folder / "config.json").is_file():
            return folder / "config.json"
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # no name on the hub
        cached = try_to_load_from_cache(model_name, "config.json")
        return Path(cached) if isinstance(cached, str) else None
    return None


def shape_from(config: dict[str, Any]) -> Shape | None:
    """The shape in a config.json's content; None if its family is not in FAMILIES."""
    text = {"tie_word_embeddings": config.get("tie_word_embeddings"), **config.get("text_config", config)}
    family, tied = text.get("model_type"), text.get("tie_word_embeddings")
    if family not in FAMILIES or config.get("model_type") not in FAMILIES:
        return None
    hidden, heads, layers = text["hidden_size"], text["num_attention_heads"], text["num_hidden_layers"]
    kv_heads, head_dim = text.get("num_key_value_heads") or heads, text.get("head_dim") or hidden // heads
    norms = 4 if family in ("gemma2", "gemma3_text", "gemma4_text") else 2
    has_qk_norm = family in ("gemma3_text", "gemma4_text", "qwen3", "qwen3_5_text", "lfm2")
    has_bias = family == "qwen2" or bool(text.get("attention_bias"))
    own = text.get("hidden_size_per_layer_input", 256) if family == "gemma4_text" else 0
    gated, shared_from = family == "qwen3_5_text", layers - text.get("num_kv_shared_layers", 0)
    sums = dict.fromkeys(("keys", "windowed", "state", "scanned", "layer_weights", "ends"), 0)
    for i, kind in enumerate(_kinds(text, layers)):
        is_shared, mlp = i >= shared_from, _mlp(text)
        if is_shared and text.get("use_double_wide_mlp"):
            mlp *= 2
        linears = [(hidden, mlp), (hidden, mlp), (mlp, hidden)] + [(hidden, own), (own, hidden)] * bool(own)
        others = (norms + bool(own)) * hidden
        if mixer := _without_keys(kind, text, hidden):
            linears, others = linears + mixer[0], others + mixer[1]
            sums["state"] += mixer[2]
            sums["scanned"] += mixer[3]
        else:
            wide, groups = head_dim, kv_heads
            if family == "gemma4_text" and kind == "full_attention":
                wide = text.get("global_head_dim") or 512
                if text.get("attention_k_eq_v"):
                    groups = text.get("num_global_key_value_heads") or kv_heads
            q, kv = heads * wide, groups * wide
            projected = 0 if is_shared else 1 if groups != kv_heads else 2
            linears += [(hidden, q * (1 + gated)), (q, hidden)] + [(hidden, kv)] * projected
            others += has_bias * (q + projected * kv) + has_qk_norm * wide * (1 if is_shared else 2)
            sums["windowed" if kind == "sliding_attention" else "keys"] += 0 if is_shared else 2 * kv
        sums["layer_weights"] += sum(ins * outs for ins, outs in linears) + others
        sums["ends"] += sum(ins + outs for ins, outs in linears)
    if own:
        sums["ends"] += hidden + layers * own
    return Shape(
        **sums,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=_mlp(text),
        vocab=text["vocab_size"],
        longest=text.get("max_position_embeddings") or 2048,
        window=text.get("sliding_window") or 0,
        norms=norms,
        has_qk_norm=has_qk_norm,
        has_bias=has_bias,
        has_softcap=bool(text.get("final_logit_softcapping", family == "gemma2")),
        is_capped=bool(text.get("attn_logit_softcapping", family == "gemma2")),
        is_tied=family in TIED if tied is None else tied,
        other_parameters=_other_parameters(config, text, hidden, layers * own),
    )


def _kinds(text: dict[str, Any], layers: int) -> list[str]:
    """What each layer is: full_attention, sliding_attention, linear_attention or conv."""
    family = text["model_type"]
    if text.get("layer_types"):
        return text["layer_types"]
    if family == "lfm2":
        attending = text.get("full_attn_idxs", range(layers))
        return ["full_attention" if i in attending else "conv" for i in range(layers)]
    every = {"gemma2": 2, "gemma3_text": 6, "gemma4_text": 6}.get(family, 1)  # the one in so many that sees all
    other = "sliding_attention"
    if family == "qwen3_5_text":
        every, other = text.get("full_attention_interval", 4), "linear_attention"
    kinds = ["full_attention" if (i + 1) % every == 0 else other for i in range(layers)]
    return [*kinds[:-1], "full_attention"] if family == "gemma4_text" else kinds


def _mlp(text: dict[str, Any]) -> int:
    """The width of an MLP. LFM2 takes two thirds of what its config says, rounded up."""
    width = text.get("block_ff_dim") or text["intermediate_size"]
    if text["model_type"] != "lfm2" or not text.get("block_auto_adjust_ff_dim", True):
        return width
    multiple = text.get("block_multiple_of", 256)
    return -(-int(text.get("block_ffn_dim_multiplier", 1) * int(2 * width / 3)) // multiple) * multiple


def _without_keys(kind: str, text: dict[str, Any], hidden: int) -> tuple[list[tuple[int, int]], int, int, int] | None:
    """What a layer has in place of attention that keeps keys and values: its linear layers, its other parameters, the
    numbers of its state, and those that it works on for a token, in chunks of 64. None for attention."""
    if kind == "conv":
        kernel = text.get("conv_L_cache", 3)
        return [(hidden, 3 * hidden), (hidden, hidden)], hidden * kernel, hidden * kernel, 0
    if kind != "linear_attention":
        return None
    names = "key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads", "conv_kernel_dim"
    key_dim, value_dim, key_heads, heads, kernel = (text[f"linear_{name}"] for name in names)
    mixed, values = 2 * key_heads * key_dim + heads * value_dim, heads * value_dim
    linears = [(hidden, mixed), (hidden, values), (hidden, heads), (hidden, heads), (values, hidden)]
    state = mixed * kernel + heads * key_dim * value_dim
    return linears, mixed * kernel + 2 * heads + value_dim, state, mixed + 64 * heads


def _other_parameters(config: dict[str, Any], text: dict[str, Any], hidden: int, own: int) -> int:
    """Parameters of embeddings that layers have of their own, and nearly all of a vision transformer and of a part for
    sound. Qwen3.5 is loaded without its part for images."""
    table = own * text.get("vocab_size_per_layer_input", text["vocab_size"]) + own * (
        hidden + 1 / text["num_hidden_layers"]
    )
    vision, sound = config.get("vision_config") or {}, config.get("audio_config") or {}
    if vision and text["model_type"] != "qwen3_5_text":
        width, inner, layers = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
        gates = 3 if text["model_type"] == "gemma4_text" else 2
        table += layers * (4 * width * width + gates * width * inner) + width * hidden
    if sound:
        table += sound["num_hidden_layers"] * 24 * sound["hidden_size"] ** 2
    return round(table)
