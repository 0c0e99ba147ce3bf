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
SHAPES = Path(__file__).with_name("shapes.json")
FAMILIES = ("gemma", "gemma2", "gemma3", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")  # as a config.json may call them
TIED = ("gemma", "gemma2", "gemma3_text")  # the families whose config.json may leave out that embeddings are tied


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, of one head and one layer where they belong to heads and layers."""

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
    has_softcap: bool  # of the logits
    is_capped: bool  # the scores of attention, which is then made by plain products
    is_tied: bool  # embeddings and head are the same weights
    other_parameters: int  # those of a part for images, which is loaded, and neither used nor trained

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
    def layer_parameters(self) -> int:
        attention = 2 * self.hidden * (self.q + self.kv) + self.has_bias * (self.q + 2 * self.kv)
        norms = self.norms * self.hidden + self.has_qk_norm * 2 * self.head_dim
        return attention + 3 * self.hidden * self.intermediate + norms

    @property
    def parameters(self) -> int:
        """All parameters, exact for the families in FAMILIES but for the part for images."""
        tables = (1 if self.is_tied else 2) * self.vocab * self.hidden
        return tables + self.layers * self.layer_parameters + self.hidden + self.other_parameters

    def longest_sequence(self, config: TrainConfig) -> int:
        """Tokens of the longest prompt and completion there can be, where no prompt's last turn alone is longer."""
        return min(self.longest, config.max_prompt_length + config.max_completion_length)

    def lora_parameters(self, rank: int) -> int:
        """Parameters of an adapter on every linear layer but the head: rank x (inputs + outputs) of each."""
        ends = 7 * self.hidden + 2 * self.q + 2 * self.kv + 3 * self.intermediate
        return self.layers * rank * ends

    def cache_bytes(self, positions: int, width: int) -> int:
        """Bytes of keys and values of one sequence. Layers with a sliding window keep no more than the window."""
        kept = (self.layers - self.sliding) * positions + self.sliding * min(self.window, positions)
        return 2 * self.kv * width * kept


def shape_of(model_name: str) -> Shape | None:
    """The model's shape. None if neither a config.json nor shapes.json has it, or its family is not in FAMILIES."""
    if path := _config_file(model_name):
        with suppress(ValueError, KeyError):  # what is wrong with the file is said where the model is checked
            return shape_from(read_object(path))
        return None
    stem = f"HuggingFaceTB/{model_name}" if model_name.startswith("SmolLM2-") else model_name
    listed = json.loads(SHAPES.read_bytes())["models"].get(stem.removesuffix("-it").removesuffix("-Instruct"))
    return listed and shape_from(listed)


def positions_of(model_name: str) -> int | None:
    """The tokens that the model can read at most, of any family; None where that is not known."""
    if path := _config_file(model_name):
        config = read_object(path)
        return next(filter(None, map(config.get("text_config", config).get, POSITIONS)), None)
    shape = shape_of(model_name)
    return shape and shape.longest


def _config_file(model_name: str) -> Path | None:
    for folder in [TINY_MODEL] if model_name == "tiny" else [Path(model_name), CACHE / model_name]:
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
    every = {"gemma2": 2, "gemma3_text": 6}.get(family)  # the one layer in so many that sees all
    sliding = layers - layers // every if every else 0
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
        sliding=text["layer_types"].count("sliding_attention") if text.get("layer_types") else sliding,
        norms=4 if family in ("gemma2", "gemma3_text") else 2,
        has_qk_norm=family in ("gemma3_text", "qwen3"),
        has_bias=family == "qwen2" or bool(text.get("attention_bias")),
        has_softcap=bool(text.get("final_logit_softcapping", family == "gemma2")),
        is_capped=bool(text.get("attn_logit_softcapping", family == "gemma2")),
        is_tied=family in TIED if tied is None else tied,
        other_parameters=_image_parameters(config.get("vision_config"), hidden),
    )


def _image_parameters(vision: dict[str, Any] | None, hidden: int) -> int:
    """Parameters of a vision transformer's layers and its projection, which are nearly all of it."""
    if not vision:
        return 0
    width, inner, layers = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
    return layers * (4 * width * width + 2 * width * inner) + width * hidden
