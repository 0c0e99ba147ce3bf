"""What is asked of llama.cpp, in a process of its own: a file that is bad ends the process that llama.cpp is in."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_kit.errors import ConfigError, RunError
from grpo_kit.utils.text import did_you_mean

OFTYPE = "LLAMA_FTYPE_MOSTLY_"  # with which llama.cpp's names of quantisations begin


def check_llama_cpp(quantize: str | None) -> None:
    """Raises ConfigError where llama-cpp-python is not installed, or has no such quantisation."""
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError, OSError) as error:
        fix = "`pip install 'grpo_kit[gguf]'` builds it, in some minutes: docs/publish.md"
        raise ConfigError(f"llama-cpp-python can't be imported here: {error}", fix) from None
    names = [name.removeprefix(OFTYPE).lower() for name in dir(llama_cpp) if name.startswith(OFTYPE)]
    if quantize and quantize.lower() not in names:
        said = did_you_mean(quantize.lower(), names).strip() or "Usual ones are q8_0 and q4_k_m"
        raise ConfigError(f"llama.cpp has no quantisation {quantize!r}", said)


def ask(file: Path, **what: Any) -> dict[str, Any]:
    """Has llama.cpp load a GGUF file on this machine's processors, and tells of it: its chat `template`, whether it
    `adds_bos` before every prompt, and of what is asked:

    - `texts`: their `tokens`
    - `prompts` (as tokens), `longest` and `ends`: their likeliest `answers`, and which `ends` are ends to it as well
    - `wholes`, pairs of tokens and where an answer begins: the `log_probs` of the answer's tokens

    `quantized` has the file written so to the path `to`. Raises RunError where llama.cpp can't.
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "GGML_NO_BACKTRACE": "1"}
    words = [sys.executable, "-m", __name__]
    done = subprocess.run(words, input=json.dumps({"file": str(file), **what}), env=env, capture_output=True, text=True)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it ended without a word"]
        raise RunError(f"llama.cpp can't use {file.name}: {said[-1]}", "Take a newer llama.cpp, or another form")
    return json.loads(done.stdout)


def _told(
    file: str,
    texts: Sequence[str] = (),
    prompts: Sequence[list[int]] = (),
    wholes: Sequence[tuple[list[int], int]] = (),
    ends: Sequence[int] = (),
    longest: int = 0,
) -> dict[str, Any]:
    import llama_cpp  # pyright: ignore[reportMissingImports]
    import numpy as np

    context = max([512, *(len(each) + longest + 1 for each in prompts), *(len(tokens) for tokens, _ in wholes)])
    options: dict[str, Any] = {"n_ctx": context, "logits_all": True} if prompts else {"vocab_only": True}
    model = llama_cpp.Llama(file, verbose=False, n_batch=context, n_ubatch=context, **options)
    vocab = llama_cpp.llama_model_get_vocab(model.model)

    def answer(prompt: list[int]) -> list[int]:
        made: list[int] = []
        for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
            if token in ends or len(made) == longest:
                break
            made.append(int(token))
        return made

    def log_probs(tokens: list[int], begin: int) -> list[float]:
        model.reset()
        model.eval(tokens)
        logits = np.array(model.scores[begin - 1 : len(tokens) - 1], dtype=np.float64)
        shifted = logits - logits.max(-1, keepdims=True)
        normed = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return normed[range(len(normed)), tokens[begin:]].tolist()

    return {
        "template": model.metadata.get("tokenizer.chat_template"),
        "adds_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
        "ends": [token for token in ends if llama_cpp.llama_vocab_is_eog(vocab, token)],
        "tokens": [model.tokenize(text.encode(), add_bos=False, special=True) for text in texts],
        "answers": [answer(prompt) for prompt in prompts],
        "log_probs": [log_probs(*whole) for whole in wholes],
    }


def _quantize(file: str, to: str, quantized: str) -> dict[str, Any]:
    import llama_cpp  # pyright: ignore[reportMissingImports]

    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = getattr(llama_cpp, f"{OFTYPE}{quantized.upper()}")
    if llama_cpp.llama_model_quantize(file.encode(), to.encode(), how):
        sys.exit(f"it can't quantise to {quantized}")
    return {}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(_quantize(**asked) if "quantized" in asked else _told(**asked)))
