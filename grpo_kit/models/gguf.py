"""GGUF files for llama.cpp and Ollama: made by llama.cpp's own converter, then loaded by llama.cpp and compared with
the model that they were made of."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from statistics import fmean

from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.base import Judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.models.files import read_object
from grpo_kit.models.generate import completion_text, end_tokens, generate, log_probs_after
from grpo_kit.models.llama import ask, check_llama_cpp
from grpo_kit.models.load import load_model, load_tokenizer
from grpo_kit.models.prompts import prompt_tokens
from grpo_kit.utils.files import write_json

CONVERTER, FOLDER = "convert_hf_to_gguf.py", "LLAMA_CPP"
INSTALL = "docs/publish.md says how it is installed"
OUT_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # as the model's weights are: nothing is lost
# llama.cpp's ways to cut a text before pairs are merged, of which one is tried where it does not know the tokenizer.
PRE_TOKENIZERS = ("superbpe", "gpt-2", "llama-bpe", "qwen2")
UNKNOWN = "pre-tokenizer was not recognized"
MOST = 0.03  # the difference of log-probabilities, in the mean, from which an unquantised file is another model


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
    check_llama_cpp(quantize)


def write_gguf(folder: Path, to: Path, quantize: str | None, samples: Sequence[Sample]) -> None:
    """Writes the whole model in `folder` as the file `to`, in the numbers that it has, or quantised such as "q4_k_m".

    `samples` are texts to choose a pre-tokenizer by, where llama.cpp does not know the model's. Raises ConfigError
    where the converter refuses the model.
    """
    outtype = OUT_TYPES.get(read_object(folder / "config.json").get("dtype") or "", "f32")
    with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
        source = _as_llama_cpp_reads(folder, Path(scratch))
        whole = Path(scratch, "whole.gguf") if quantize else to
        if refused := _convert(source, whole, "--outtype", outtype):
            if UNKNOWN not in refused:
                said = [line for line in refused.splitlines() if line.strip()] or ["it says nothing"]
                fix = "Take a newer llama.cpp, or another model"
                raise ConfigError(f"llama.cpp's converter refuses {folder}: {said[-1].strip()}", fix)
            _convert(source, whole, "--outtype", outtype, pre=_pre_tokenizer(source, Path(scratch), samples))
        if quantize:
            ask(whole, to=str(to), quantized=quantize)


def compare(
    file: Path, folder: Path, samples: Sequence[Sample], judge: Judge, longest: int, is_quantized: bool
) -> Comparison:
    """Has llama.cpp load the file, and compares it with the model in `folder`: tokens, chat template and end tokens,
    which have to be the same, then answers of at most `longest` tokens and their scores.

    Raises RunError where the file is another model.
    """
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder), bf16=False)
    asked = [prompt_tokens(tokenizer, sample.prompt, sample.tools) for sample in samples]
    ends, texts = end_tokens(model, tokenizer), [tokenizer.decode(tokens) for tokens in asked]
    prompts, tools = [sample.prompt for sample in samples], [sample.tools for sample in samples]
    answers = generate(model, tokenizer, prompts, tools, max_completion_length=longest)
    said = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    wholes = [(tokens + own + ends[:1], len(tokens)) for tokens, own in zip(asked, said, strict=True)]
    told = ask(file, texts=texts, prompts=asked, wholes=wholes, ends=ends, longest=longest)
    from_file = [completion_text(tokenizer, *each) for each in zip(prompts, told["answers"], strict=True)]
    own = [value for tokens, begin in wholes for value in log_probs_after(model, tokens[:begin], tokens[begin:])]
    apart = fmean(abs(one - other) for one, other in zip(own, chain(*told["log_probs"]), strict=True))
    others = sum(one != other for one, other in zip(told["tokens"], asked, strict=True))
    wrong = {
        f"it reads {others} of {len(samples)} prompts as other tokens": others > 0,
        "its chat template is not the model's": told["template"] != tokenizer.chat_template,
        "an answer does not end where the model's does": told["ends"] != ends,
        f"its log-probabilities differ by {apart:.2f} in the mean": apart > MOST and not is_quantized,
    }
    if any(wrong.values()):
        why = "; ".join(each for each, is_so in wrong.items() if is_so)
        what = f"the GGUF file made of {folder.name} is another model: {why}"
        raise RunError(what, "It is not kept. Take a newer llama.cpp, or `--to merged`")
    score, of_model = (_mean_score(judge, samples, each) for each in (from_file, answers))
    equal = sum(one == other for one, other in zip(from_file, answers, strict=True))
    return Comparison(len(samples), equal, round(apart, 5), score, of_model, judge.name)


def _mean_score(judge: Judge, samples: Sequence[Sample], answers: Sequence[str]) -> float | None:
    verdicts = run_async(judge_batch(judge, None, samples, answers)).verdicts
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    return round(fmean(scores), 4) if scores else None


def _pre_tokenizer(source: Path, scratch: Path, samples: Sequence[Sample]) -> str:
    """The one of PRE_TOKENIZERS with which llama.cpp makes the tokenizer's own tokens of these texts."""
    tokenizer, vocabulary = load_tokenizer(str(source)), scratch / "vocabulary.gguf"
    asked = [prompt_tokens(tokenizer, sample.prompt, sample.tools) for sample in samples]
    asked += [tokenizer(str(sample.ground_truth), add_special_tokens=False)["input_ids"] for sample in samples]
    texts = [tokenizer.decode(tokens) for tokens in asked]
    for name in PRE_TOKENIZERS:
        failed = _convert(source, vocabulary, "--vocab-only", pre=name)
        if not failed and ask(vocabulary, texts=texts)["tokens"] == asked:
            return name
    what = f"llama.cpp does not know the tokenizer of {source.name}, and none of its own makes the same tokens"
    raise ConfigError(f"{what} of {len(samples)} held-out samples", "Take a newer llama.cpp, or `--to merged`")


def _as_llama_cpp_reads(folder: Path, scratch: Path) -> Path:
    """The model's folder; where llama.cpp would read it as another model, a copy of it that computes the same.

    It takes head_dim for the number by which a Gemma 3 scales attention, so that the copy's queries are scaled instead;
    and a tokenizer that falls back to bytes for SentencePiece's, which one without tokens of bytes is not.
    """
    config, tokenizer = read_object(folder / "config.json"), read_object(folder / "tokenizer.json")
    scalar, size, pieces = config.get("query_pre_attn_scalar", 1), config.get("head_dim", 1), tokenizer.get("model", {})
    known = config.get("num_hidden_layers") == 62  # the 27B, whose own number llama.cpp has
    is_scaled = config.get("model_type") == "gemma3_text" and scalar != size and not known
    no_bytes = pieces.get("byte_fallback") and "<0x00>" not in pieces["vocab"]
    if not is_scaled and not no_bytes:
        return folder
    copy = scratch / folder.name
    copy.mkdir()
    for file in filter(Path.is_file, folder.iterdir()):
        (copy / file.name).symlink_to(file.absolute())
    if no_bytes:
        write_json(copy / "tokenizer.json", tokenizer | {"model": pieces | {"byte_fallback": False}})
    if is_scaled:
        from safetensors.torch import load_file, save_file

        for file in copy.glob("*.safetensors"):
            weights = load_file(file)
            for name in [name for name in weights if name.endswith("q_norm.weight")]:  # 1 is added to it
                weights[name] = (1 + weights[name].float()) * math.sqrt(size / scalar) - 1
            file.unlink()
            save_file(weights, file, {"format": "pt"})
        write_json(copy / "config.json", config | {"query_pre_attn_scalar": size})
    return copy


def _convert(folder: Path, to: Path, *flags: str, pre: str | None = None) -> str:
    """Runs the converter; returns what it says where it fails. `pre` is the pre-tokenizer to name in the file."""
    script = _converter()
    code = f"from conversion.base import TextModel; TextModel.get_vocab_base_pre = lambda *_: {pre!r}; " if pre else ""
    code += f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    words = [sys.executable, "-c", code, str(folder), "--outfile", str(to), *flags]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(script.parent), str(script.parent / "gguf-py"), *filter(None, sys.path)])
    }
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
