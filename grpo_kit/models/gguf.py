"""GGUF files for llama.cpp and Ollama: made by llama.cpp's own converter, then loaded by llama.cpp and compared with
the model that they were made of."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.base import Judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.models.files import read_object
from grpo_kit.models.generate import completion_text, end_tokens, generate
from grpo_kit.models.load import load_model, load_tokenizer
from grpo_kit.models.prompts import prompt_tokens
from grpo_kit.utils.text import did_you_mean

CONVERTER, FOLDER = "convert_hf_to_gguf.py", "LLAMA_CPP"
INSTALL = "docs/publish.md says how it is installed"
OUT_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # as the model's weights are: nothing is lost
# llama.cpp's ways to cut a text before pairs are merged, of which one is tried where it does not know the tokenizer.
PRE_TOKENIZERS = ("superbpe", "gpt-2", "llama-bpe", "qwen2")
UNKNOWN = "pre-tokenizer was not recognized"
MOST = 0.1  # the difference of log-probabilities, in the mean, from which an unquantised file is another model

_ERRORS: list[str] = []  # llama.cpp's own


@dataclass(frozen=True)
class Comparison:
    """A GGUF file beside the model that it was made of, on the same prompts, each answered by its likeliest tokens."""

    prompts: int
    equal_answers: int
    log_prob_difference: float  # mean over the tokens of the model's answers, in nats
    score: float | None  # the file's mean score by the judge; None where it judged none
    model_score: float | None
    judge: str

    def __str__(self) -> str:
        scores = ["none" if score is None else f"{score:.3f}" for score in (self.score, self.model_score)]
        said = f"{self.equal_answers} of {self.prompts} answers are the merged model's, log-probabilities differ by"
        by = f"mean score {scores[0]} by {self.judge}, the merged model's {scores[1]}"
        return f"{said} {self.log_prob_difference:.4f} in the mean; {by}"


def check_tools(quantize: str | None) -> None:
    """Raises ConfigError where llama.cpp or its converter is not installed, or has no such quantisation."""
    _converter()
    library = _library()
    names = [name.rpartition("MOSTLY_")[2].lower() for name in dir(library) if name.startswith("LLAMA_FTYPE_MOSTLY_")]
    if quantize and quantize.lower() not in names:
        raise ConfigError(f"llama.cpp has no quantisation {quantize!r}", did_you_mean(quantize, names).strip())


def write_gguf(folder: Path, to: Path, quantize: str | None, samples: Sequence[Sample]) -> None:
    """Writes the whole model in `folder` as the file `to`, in the numbers that it has, or quantised such as "q4_k_m".

    `samples` are texts to choose a pre-tokenizer by, where llama.cpp does not know the model's. Raises ConfigError
    where the converter refuses the model.
    """
    outtype = OUT_TYPES.get(read_object(folder / "config.json").get("dtype") or "", "f32")
    with tempfile.TemporaryDirectory(dir=to.parent) as scratch, _as_llama_cpp_scales(folder, Path(scratch)) as source:
        whole = Path(scratch, "whole.gguf") if quantize else to
        if refused := _convert(source, whole, "--outtype", outtype):
            if UNKNOWN not in refused:
                said = [line for line in refused.splitlines() if line.strip()] or ["it says nothing"]
                fix = "Take a newer llama.cpp, or another model"
                raise ConfigError(f"llama.cpp's converter refuses {folder}: {said[-1].strip()}", fix)
            _convert(source, whole, "--outtype", outtype, pre=_pre_tokenizer(source, Path(scratch), samples))
        if quantize:
            library = _library()
            how = library.llama_model_quantize_default_params()
            how.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{quantize.upper()}")
            if library.llama_model_quantize(str(whole).encode(), str(to).encode(), how):
                fix = "Try another, such as q8_0, or none"
                raise ConfigError(f"llama.cpp can't quantise {folder} to {quantize}", fix)


def compare(
    file: Path, folder: Path, samples: Sequence[Sample], judge: Judge, longest: int, is_quantized: bool
) -> Comparison:
    """Has llama.cpp load the file, and compares it with the model in `folder`: tokens, chat template and end tokens,
    which have to be the same, then answers of at most `longest` tokens and their scores.

    Raises RunError where the file is another model.
    """
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder), bf16=False)
    asked = [prompt_tokens(tokenizer, sample.prompt, sample.tools) for sample in samples]
    loaded = _Loaded(file, max(map(len, asked)) + longest + 1)
    ends = end_tokens(model, tokenizer)
    texts = [tokenizer.decode(tokens) for tokens in asked]
    others = sum(loaded.tokens(text) != tokens for text, tokens in zip(texts, asked, strict=True))
    wrong = {
        f"it reads {others} of {len(samples)} prompts as other tokens": others > 0,
        "it has another chat template": loaded.template not in (tokenizer.chat_template, None),
        "it has no chat template": loaded.template is None is not tokenizer.chat_template,
        "it does not end where the model does": not all(map(loaded.is_end, ends)),
    }
    prompts, tools = [sample.prompt for sample in samples], [sample.tools for sample in samples]
    answers = generate(model, tokenizer, prompts, tools, max_completion_length=longest)
    own = [loaded.answer(tokens, ends, longest) for tokens in asked]
    from_file = [completion_text(tokenizer, prompt, tokens) for prompt, tokens in zip(prompts, own, strict=True)]
    apart = []
    for tokens, answer in zip(asked, answers, strict=True):
        whole = [*tokens, *tokenizer(answer, add_special_tokens=False)["input_ids"], *ends[:1]]
        pairs = zip(_log_probs(model, whole, len(tokens)), loaded.log_probs(whole, len(tokens)), strict=True)
        apart += [abs(one - other) for one, other in pairs]
    wrong[f"its log-probabilities differ by {fmean(apart):.2f} in the mean"] = not is_quantized and fmean(apart) > MOST
    if any(wrong.values()):
        said = "; ".join(each for each, is_so in wrong.items() if is_so)
        what = f"the GGUF file made of {folder.name} is another model: {said}"
        raise RunError(what, "It is not kept. Take a newer llama.cpp, or `--to merged`")
    scores = [_mean_score(judge, samples, each) for each in (from_file, answers)]
    equal = sum(one == other for one, other in zip(from_file, answers, strict=True))
    return Comparison(len(samples), equal, round(fmean(apart), 5), *scores, judge.name)


class _Loaded:
    """A GGUF file, loaded by llama.cpp on this machine's processor."""

    def __init__(self, file: Path, context: int, vocab_only: bool = False):
        library = _library()
        options: dict[str, Any] = {"vocab_only": True} if vocab_only else {"n_ctx": context, "logits_all": True}
        try:
            self._llama = library.Llama(str(file), verbose=False, n_batch=context, n_ubatch=context, **options)
        except (ValueError, RuntimeError) as error:
            said = " ".join("".join(_ERRORS[-3:]).split()) or error
            raise RunError(f"llama.cpp can't load {file.name}: {said}", "Take a newer llama.cpp") from error
        self.template = self._llama.metadata.get("tokenizer.chat_template")
        vocab = library.llama_model_get_vocab(self._llama.model)
        self.adds_bos = bool(library.llama_vocab_get_add_bos(vocab))
        self._is_end = lambda token: library.llama_vocab_is_eog(vocab, token)

    def is_end(self, token: int) -> bool:
        return bool(self._is_end(token))

    def tokens(self, text: str) -> list[int]:
        return self._llama.tokenize(text.encode(), add_bos=False, special=True)

    def answer(self, prompt: list[int], ends: list[int], longest: int) -> list[int]:
        """The likeliest tokens, the one that ends them left out."""
        made: list[int] = []
        for token in self._llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            if token in ends or len(made) == longest:
                break
            made.append(token)
        return made

    def log_probs(self, tokens: list[int], begin: int) -> list[float]:
        """Of each token from `begin` on, after those before it."""
        import numpy as np

        self._llama.reset()
        self._llama.eval(tokens)
        logits = np.array(self._llama.scores[begin - 1 : len(tokens) - 1], dtype=np.float64)
        shifted = logits - logits.max(-1, keepdims=True)
        normed = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return normed[range(len(normed)), tokens[begin:]].tolist()


def adds_bos(file: Path) -> bool:
    """Whether llama.cpp puts the token that begins a text before every prompt."""
    return _Loaded(file, 512, vocab_only=True).adds_bos


def _log_probs(model: Any, tokens: list[int], begin: int) -> list[float]:
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([tokens], device=model.device)).logits[0, begin - 1 : -1].double()
    return logits.log_softmax(-1)[range(len(logits)), tokens[begin:]].tolist()


def _mean_score(judge: Judge, samples: Sequence[Sample], answers: Sequence[str]) -> float | None:
    verdicts = run_async(judge_batch(judge, None, samples, answers)).verdicts
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    return round(fmean(scores), 4) if scores else None


def _pre_tokenizer(source: Path, scratch: Path, samples: Sequence[Sample]) -> str:
    """The one of PRE_TOKENIZERS with which llama.cpp makes the tokenizer's own tokens of these texts."""
    tokenizer, vocabulary = load_tokenizer(str(source)), scratch / "vocabulary.gguf"
    asked = [prompt_tokens(tokenizer, sample.prompt, sample.tools) for sample in samples]
    asked += [tokenizer(str(sample.ground_truth), add_special_tokens=False)["input_ids"] for sample in samples]
    for name in PRE_TOKENIZERS:
        if not _convert(source, vocabulary, "--vocab-only", pre=name):
            loaded = _Loaded(vocabulary, 512, vocab_only=True)
            if all(loaded.tokens(tokenizer.decode(tokens)) == tokens for tokens in asked):
                return name
    what = f"llama.cpp does not know the tokenizer of {source.name}, and none of its own makes the same tokens"
    raise ConfigError(f"{what} of {len(samples)} held-out samples", "Take a newer llama.cpp, or `--to merged`")


@contextmanager
def _as_llama_cpp_scales(folder: Path, scratch: Path) -> Iterator[Path]:
    """The model's folder; of a Gemma 3 that scales attention by another number than its head_dim, which llama.cpp takes
    for it, a copy whose queries are scaled instead, which computes the same."""
    config = read_object(folder / "config.json")
    scalar, size = config.get("query_pre_attn_scalar"), config.get("head_dim")
    known = config.get("num_hidden_layers") == 62  # the 27B, whose own number llama.cpp has
    if config.get("model_type") != "gemma3_text" or scalar == size or known:
        yield folder
        return
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, scratch / folder.name))
    for file in copy.glob("*.safetensors"):
        weights = load_file(file)
        for name in [name for name in weights if name.endswith("q_norm.weight")]:  # 1 is added to it
            weights[name] = (1 + weights[name].float()) * math.sqrt(size / scalar) - 1
        save_file(weights, file, {"format": "pt"})
    (copy / "config.json").write_text(json.dumps(config | {"query_pre_attn_scalar": size}))
    yield copy


def _convert(folder: Path, to: Path, *flags: str, pre: str | None = None) -> str:
    """Runs the converter; returns what it says where it fails. `pre` is the pre-tokenizer to name in the file."""
    script = _converter()
    code = f"from conversion.base import TextModel; TextModel.get_vocab_base_pre = lambda *_: {pre!r}; " if pre else ""
    code += f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    words = [sys.executable, "-c", code, str(folder), "--outfile", str(to), *flags]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(script.parent), *filter(None, sys.path)])}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr or "it failed"


def _converter() -> Path:
    """llama.cpp's script: in the folder that LLAMA_CPP names, on the path, or of a package."""
    if folder := os.environ.get(FOLDER):
        found = Path(folder, CONVERTER)
        if not found.is_file():
            raise ConfigError(f"{FOLDER}={folder} has no {CONVERTER}", "Name the folder of llama.cpp's sources")
        return found.absolute()
    found = shutil.which(CONVERTER) or getattr(find_spec(CONVERTER.removesuffix(".py")), "origin", None)
    if not found:
        raise ConfigError(f"llama.cpp's converter, {CONVERTER}, is not installed here", f"{INSTALL}; set {FOLDER}")
    return Path(found).resolve()


def _library() -> Any:
    try:
        import llama_cpp
    except ImportError as error:
        fix = f"`pip install 'grpo_kit[gguf]'` builds it, in some minutes; {INSTALL}"
        raise ConfigError(f"llama-cpp-python can't be imported here: {error}", fix) from None
    llama_cpp.llama_log_set(_heed(), None)
    return llama_cpp


@cache
def _heed() -> Any:
    """What llama.cpp calls with each of its lines: an error's are kept in _ERRORS, and none is printed."""
    from llama_cpp import llama_log_callback

    return llama_log_callback(
        lambda level, text, _: _ERRORS.append(text.decode(errors="replace")) if level == 4 else None
    )
