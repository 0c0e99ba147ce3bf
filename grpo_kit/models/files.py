"""What a model's files say before any of them is loaded: that it can't be trained or asked here, and what would help.

Only JSON is read, which takes milliseconds. It would else be an error of torch's, minutes later.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError, safe_open

from grpo_kit.errors import ConfigError, Problem

TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken")
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # which bring no end token of their own
COPY = "Copy it from the original model, or save the model again with save_pretrained"


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no file. Raises ConfigError where it holds something else."""
    try:
        found = orjson.loads(path.read_bytes()) if path.is_file() else {}
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} can't be loaded: it is not a JSON object", COPY)
    return found


def ends_in(folder: Path) -> list[int]:
    """The tokens that end an answer, by the model's own files."""
    found = [read_object(folder / name).get("eos_token_id") for name in ("generation_config.json", "config.json")]
    ends = next((each for each in found if each is not None), [])
    return ends if isinstance(ends, list) else [ends]


def templates_in(folder: Path) -> str:
    """The text of the chat templates; "" where there is none."""
    files = [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]
    kept = read_object(folder / "tokenizer_config.json").get("chat_template") or ""
    return "".join(file.read_text("utf-8") for file in files if file.is_file()) + str(kept)


def default_template(folder: Path) -> str:
    """The chat template that is taken where none is named; "" where there is none."""
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text("utf-8")
    kept = read_object(folder / "tokenizer_config.json").get("chat_template") or ""
    named = {each["name"]: each["template"] for each in kept} if isinstance(kept, list) else {"default": kept}
    return named.get("default", "")


def special_tokens(folder: Path) -> dict[str, str]:
    """The tokens that a template may name, as the model's files have them; "" where they are left to its class."""
    about = read_object(folder / "special_tokens_map.json") | read_object(folder / "tokenizer_config.json")
    usual = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "")
    named = {name: token for name, token in about.items() if name.endswith("_token") and isinstance(token, str | dict)}
    return usual | {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}


def problems_in(folder: Path, with_weights: bool = True) -> Iterator[Problem]:
    """The problems of the model in `folder`, of which an earlier one may cause later ones. Raises ConfigError for a
    file that holds no JSON object."""
    config = read_object(folder / "config.json")
    if not config and (folder / "adapter_config.json").exists():
        yield Problem("it is an adapter, not a whole model", "kit.merge(FOLDER, NEW) merges it with its base")
    elif not config.get("model_type"):
        yield Problem("it has no config.json that names a model_type, such as llama", COPY)
    if with_weights:
        shards = read_object(folder / "model.safetensors.index.json").get("weight_map", {}).values()
        files = [folder / name for name in sorted(set(shards))] or [*folder.glob("*.safetensors")]
        if broken := [file.name for file in files if not is_whole(file)]:
            yield Problem(f"{broken[0]} is missing or cut", "Download the weights again (in a clone, `git lfs pull`)")
        if not files and not [*folder.glob("pytorch_model*.bin")]:
            yield Problem("it has no weights, *.safetensors", "Download them, or save the model again")
    if any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        yield from _token_problems(folder, config)
    else:
        yield Problem("it has no tokenizer (tokenizer.json and tokenizer_config.json)", COPY)


def is_whole(file: Path) -> bool:
    """Whether a safetensors file is there and as long as its head says, which a pointer of git-lfs is not."""
    try:
        with safe_open(file, "numpy"):
            return True
    except (SafetensorError, OSError):
        return False


@lru_cache(4)
def _tokens(file: Path, modified: int) -> tuple[dict[str, int], set[str]]:
    """A tokenizer.json's tokens with their numbers, and which of them are special."""
    found = read_object(file)
    vocab, added = found.get("model", {}).get("vocab", {}), found.get("added_tokens", [])
    numbers = dict(vocab) if isinstance(vocab, dict) else {piece: number for number, (piece, _) in enumerate(vocab)}
    numbers |= {each["content"]: each["id"] for each in added}
    return numbers, {each["content"] for each in added if each.get("special")}


def _token_problems(folder: Path, config: dict[str, Any]) -> Iterator[Problem]:
    about = read_object(folder / "special_tokens_map.json") | read_object(folder / "tokenizer_config.json")
    named = [about.get(name) for name in ("eos_token", "bos_token", "pad_token")]
    end, *others = [token["content"] if isinstance(token, dict) else token for token in named]
    file = folder / "tokenizer.json"
    numbers, special = _tokens(file, file.stat().st_mtime_ns) if file.is_file() else ({}, set())
    has_default = "eos_token" not in about and about.get("tokenizer_class") not in PLAIN_CLASSES
    is_known = end in numbers or not numbers if end else has_default
    if not is_known:
        known = [token for token, number in numbers.items() if number in ends_in(folder)]
        told = f": the model's own settings say {known[0]!r}" if known else ""
        what = f"its end token {end!r} is not in its vocabulary" if end else "its tokenizer has no end token"
        yield Problem(what, f"Set eos_token in tokenizer_config.json to the token that ends an answer{told}")
    rows = config.get("text_config", config).get("vocab_size")
    beyond = [token for token, number in numbers.items() if rows and number >= rows]
    if beyond:  # a special token that nothing writes does no harm: Gemma 3's smaller models lack the one for images
        written = templates_in(folder)
        beyond = [each for each in beyond if each not in special or each in written or each in (end, *others)]
    if beyond:
        what = f"its tokenizer has more tokens than the model's {rows} embeddings: {', '.join(map(repr, beyond[:3]))}"
        yield Problem(what, "Use the tokenizer that it was trained with, or call model.resize_token_embeddings")
