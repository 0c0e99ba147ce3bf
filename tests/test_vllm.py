"""vLLM on a CPU: training and evaluation with it are as without, for each family of models.

These tests need an environment of their own, which `make test-vllm` makes, and are skipped elsewhere. The models have
random weights, large enough to be moved by a few steps.
"""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo_kit.utils.environment import version_of

if "+cpu" not in (version_of("vllm") or ""):
    pytest.skip("vLLM's build for CPUs is not installed: make test-vllm", allow_module_level=True)
# Before anything loads torch or vLLM. The two of compiling go together: either alone fails or is slower.
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ |= {"VLLM_USE_AOT_COMPILE": "0", "TORCHDYNAMO_DISABLE": "1"}

import httpx
import openai
import psutil
import torch
from helpers import wait_until
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import _custom_ops

import grpo_kit as kit
from grpo_kit.evaluation.agreement import EXACT
from grpo_kit.models.load import load_tokenizer

pytestmark = pytest.mark.vllm
_custom_ops._supports_onednn = False  # used where a processor has AVX-512; newer weights can't replace those it packs
FAMILIES = {
    "gemma3_text": {"sliding_window": 64, "query_pre_attn_scalar": 32},
    "gemma2": {"sliding_window": 64, "query_pre_attn_scalar": 32},
    "qwen3": {},
}
STEPS, SAVE_STEPS, INTERRUPTED = 30, 10, 15
SETTINGS = {
    "max_steps": STEPS,
    "save_steps": SAVE_STEPS,
    "learning_rate": 0.02,
    "num_generations": 8,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "max_prompt_length": 64,
    "max_completion_length": 16,
    "torch_threads": 1,
}
MISMATCH = 0.02  # of log-probabilities, vLLM's and the trainer's, in the mean: vLLM computes in bfloat16
scored = SimpleNamespace(steps=0, interrupt=False)


def letters(completions, **_) -> list[float]:
    """The share of letters; interrupts the run in a step where it is told to."""
    scored.steps += 1
    if scored.interrupt and scored.steps == INTERRUPTED:
        raise KeyboardInterrupt
    return [share_of_letters(completion[0]["content"]) for completion in completions]


def share_of_letters(text: str) -> float:
    return sum(each.isalpha() for each in text) / max(1, len(text))


def make_model(family: str, folder: Path, scale: float = 1.0, words: str = "tiny") -> str:
    """The folder of a model whose queries and keys are `scale` times as large as usual, with `words`' tokenizer."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(words)
    config = AutoConfig.for_model(
        family,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=32,  # vLLM's attention wants no less
        intermediate_size=192,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.1,
        **{name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        **FAMILIES[family],
    )
    model = AutoModelForCausalLM.from_config(config)
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.data *= scale
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def runs(request, tmp_path_factory, demo_data) -> dict[str, kit.Run]:
    """A family's run with vLLM, one without, and one with it that was interrupted and resumed."""
    folder = tmp_path_factory.mktemp(request.param)
    model = make_model(request.param, folder / "model")

    def train(name: str, use_vllm: bool) -> kit.Run:
        scored.steps = 0
        settings = {**SETTINGS, "use_vllm": use_vllm, "model_name": model, "data": str(demo_data)}
        return kit.train(rewards={letters: 10.0}, run_id=name, runs_dir=folder, **settings)

    made = {"with": train("with", True), "without": train("without", False)}
    scored.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        train("resumed", True)
    scored.interrupt = False
    return made | {"resumed": train("resumed", True)}


def rows(run: kit.Run, name: str) -> list[dict]:
    return [json.loads(line) for line in (run.path / name).read_text().splitlines()]


def learnt(run: kit.Run) -> float:
    """How much of what was missing at first is there in the end."""
    shares = [row["rewards/letters/mean"] for row in rows(run, "metrics.jsonl")]
    first, last = sum(shares[:5]) / 5, sum(shares[-5:]) / 5
    return (last - first) / (1 - first)


def test_training_learns_as_without_it(runs):
    assert learnt(runs["with"]) > 0.2 and learnt(runs["without"]) > 0.2


def test_it_draws_from_the_model_that_is_trained(runs):
    for run in (runs["with"], runs["resumed"]):
        found = [row["sampling/sampling_logp_difference/mean"] for row in rows(run, "metrics.jsonl")]
        assert len(found) == STEPS and 0 < max(found) < MISMATCH


def test_it_draws_from_a_model_whose_cap_on_attention_binds(tmp_path, demo_data):
    settings = SETTINGS | {"max_steps": 2, "use_vllm": True, "data": str(demo_data)}
    run = kit.train(model_name=make_model("gemma2", tmp_path / "model", scale=6), runs_dir=tmp_path, **settings)
    found = [row["sampling/sampling_logp_difference/mean"] for row in rows(run, "metrics.jsonl")]
    assert len(found) == 2 and 0 < max(found) < 0.1, "rounding counts for more here; without the cap it is 0.3"


def test_dialogues_with_an_environment_are_drawn_from_the_model_that_is_trained(tmp_path):
    """What the world says stands between the model's tokens, and what they were drawn with stays with them; vLLM's own
    server has the same dialogues."""
    settings = SETTINGS | {"max_steps": 2, "save_steps": 2, "use_vllm": True, "max_completion_length": 128}
    settings |= {"data": "demo-calls", "environment": "replay", "max_prompt_length": 512, "canaries": "off"}
    settings |= {"sft_steps": 60, "sft_learning_rate": 3e-3, "sft_batch_size": 16}  # so that it writes calls
    model = make_model("gemma3_text", tmp_path / "model", words="tiny-agent")
    run = kit.train(model_name=model, runs_dir=tmp_path, **settings)
    spoke = [[message["role"] for message in row["messages"]] for row in rows(run, "completions.jsonl")]
    assert sum("tool" in roles and roles[-1] == "assistant" for roles in spoke) > 3
    for row in rows(run, "metrics.jsonl"):
        assert 0 < row["sampling/sampling_logp_difference/mean"] < MISMATCH
        assert row["sampling/sampling_logp_difference/max"] < 0.2, "a token beside its own is off by more than 1"
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=0.05)
    how = {"n": 64, "temperature": 1.0, "use_vllm": True}
    assert kit.evaluate(run, **how).agents()["calls"].max() > 0.1
    served = kit.serve(run, port=0, use_vllm=True)
    try:
        told = kit.evaluate(run, endpoint=served, **how).results["endpoint"]
    finally:
        served.stop()
    for name in ("base", "checkpoint-sft-60", "checkpoint-2"):
        assert told["log_probs"][name]["mean"] < EXACT and told["log_probs"][name]["prompts"] == 32
        assert told["scores"][name]["same"] >= 60, "drawn with the same seeds"


def test_an_interrupted_run_ends_as_if_it_had_not_been(runs):
    said, again = ([row["completion"] for row in rows(runs[name], "completions.jsonl")] for name in ("with", "resumed"))
    assert said == again
    weights, resumed = (load_file(runs[name].path / "adapter_model.safetensors") for name in ("with", "resumed"))
    assert max((weights[name] - resumed[name]).abs().max() for name in weights) < 1e-6


def test_it_answers_as_transformers_does(runs):
    run = runs["with"]
    likeliest, drawn = (
        [kit.evaluate(run, n=n, temperature=temperature, use_vllm=use_vllm) for use_vllm in (True, False)]
        for n, temperature in ((24, 0.0), (128, 1.0))
    )
    for one, other in (likeliest, drawn):
        assert (one.results["engine"], other.results["engine"]) == ("vllm", "transformers")
        assert not one.results["notes"] or one.results["notes"] == other.results["notes"]
        names = [model["name"] for model in one.models]
        assert names == ["base", "checkpoint-10", "checkpoint-20", "checkpoint-30"]
    answers, expected = (evaluation.samples() for evaluation in likeliest)
    for name in names:
        assert (answers[name] == expected[name]).mean() >= 0.9, "of the likeliest tokens, two may be nearly as likely"
    shares = [evaluation.samples()["checkpoint-30"].map(share_of_letters) for evaluation in drawn]
    noise = (sum(share.var() for share in shares) / 128) ** 0.5
    assert abs(shares[0].mean() - shares[1].mean()) < 3 * noise
    assert kit.evaluate(run, n=128, temperature=1.0, use_vllm=True).samples().equals(drawn[0].samples())


def test_whole_models_have_engines_of_their_own(runs, tmp_path):
    run = runs["with"]
    merged = kit.merge(run, tmp_path / "merged")
    quick = {"n": 24, "temperature": 0, "max_prompt_length": 64, "max_completion_length": 16, "data": run.config.data}
    quick |= {"base_model": run.config.model_name}
    by_vllm, expected = (kit.evaluate(merged, use_vllm=each, **quick) for each in (True, False))
    assert (by_vllm.results["engine"], expected.results["engine"]) == ("vllm", "transformers")
    for name in ("base", "merged"):
        assert (by_vllm.samples()[name] == expected.samples()[name]).mean() >= 0.9
    assert not by_vllm.samples()["merged"].equals(by_vllm.samples()["base"])


@pytest.mark.parametrize("runs", ["gemma3_text"], indirect=True)  # the first of all, so that it is trained once
def test_it_serves_a_run(runs, monkeypatch):
    """To OpenAI's client, with a key and under /v1 alone, what was trained; and nothing of it is left after its end."""
    run, names = runs["with"], ["base", "checkpoint-10", "checkpoint-20", "checkpoint-30"]
    monkeypatch.setenv("SERVE_KEY", "planted-serving-key")
    kit.evaluate(run, n=32, temperature=0)
    served = kit.serve(run, port=0, use_vllm=True)
    server = psutil.Process(json.loads(run.read_text("serving.json"))["pid"])
    family = [server, *server.children(recursive=True)]
    shared = {each.path for one in family for each in one.memory_maps() if each.path.startswith("/dev/shm/")}
    try:
        client = openai.OpenAI(base_url=served.url, api_key="planted-serving-key", max_retries=0)
        assert [model.id for model in client.models.list()] == names
        asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        said = client.chat.completions.create(model="checkpoint-30", seed=1, **asked)
        assert said.usage.completion_tokens == 4 and said.choices[0].message.content
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="another").models.list()
        for path in ("invocations", "tokenize", "v1/../invocations"):
            answer = httpx.post(served.url.removesuffix("v1") + path, json={"model": "base", **asked})
            assert (answer.status_code, answer.content) == (404, b""), path
        told = kit.evaluate(run, n=32, temperature=0, endpoint=served).results["endpoint"]
        for name in names:
            assert told["log_probs"][name]["mean"] < EXACT and told["log_probs"][name]["prompts"] == 32
            assert told["scores"][name]["same"] >= 29, "of the likeliest tokens, two may be nearly as likely"
        said = run.read_text("serving.log") + " ".join(server.cmdline())
        assert "planted-serving-key" not in said and "--enable-lora" in said
    finally:
        server.kill()  # as a machine that lacks memory does; the engine is left
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
        served.stop()
    assert len(family) > 1 and not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)
    assert shared and not any(map(os.path.exists, shared))


def test_what_it_cannot_take_transformers_answers(runs, tmp_path):
    adapter = Path(shutil.copytree(runs["with"].checkpoints[-1], tmp_path / "odd"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"bias": "all"}))
    evaluation = kit.evaluate(adapter, n=4, data=runs["with"].config.data, use_vllm=True)
    assert evaluation.results["engine"] == "transformers"
    assert any("transformers generates: vLLM can't" in note for note in evaluation.results["notes"])
