"""The quote: its memory against what torch keeps, its time against a real run, its problems against their fixes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import grpo_kit as kit
from grpo_kit.costs.forecast import minutes
from grpo_kit.costs.memory import Device, device_of, layer_bytes, memory_needed, shortage
from grpo_kit.models.shapes import shape_from, shape_of
from grpo_kit.preflight.check import budget_problems, fitting_settings, launch_of
from grpo_kit.preflight.quote import Quote
from grpo_kit.runs.directory import Dollars
from grpo_kit.utils.files import write_json

GEMMA = "google/gemma-2-2b-it"
PUBLISHED = {  # parameters, by the models' pages
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-3-270m-it": 268_098_176,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
}
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 512,
    "vocab_size": 256,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)


def here(runs_dir, **settings):
    return kit.quote(kit.TrainConfig(**settings), runs_dir, backend="local", ask=False)


def on_modal(tmp_path, **settings):
    return kit.quote(kit.TrainConfig(**settings), tmp_path, backend="modal", ask=False)


LFM = "LiquidAI/LFM2.5-1.2B-Instruct"
HYBRIDS = {  # models whose layers differ, and what their configs have beside others'
    "gemma4_text": {
        "num_hidden_layers": 14,
        "num_kv_shared_layers": 5,
        "use_double_wide_mlp": True,
        "global_head_dim": 64,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 300,
    },
    "lfm2": {"num_hidden_layers": 3, "full_attn_idxs": [1], "block_multiple_of": 16},
    "qwen3_5_text": {
        "num_hidden_layers": 5,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_conv_kernel_dim": 4,
    },
    "smollm3": {"pad_token_id": 0},
}


def small_model(family, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**SMALL, **({"num_attention_heads": 4} if family == "qwen2" else {}), **changes}
    config = AutoConfig.for_model(family, **sizes)
    attention = {"attn_implementation": "eager"} if family == "gemma2" else {}  # as load_model has it
    return AutoModelForCausalLM.from_config(config, **attention), {"model_type": family, **sizes}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_were_published(name):
    assert shape_of(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama", "qwen2", "qwen3", *HYBRIDS])
def test_parameters_and_adapter_are_what_transformers_and_peft_make_of_them(family):
    from peft import LoraConfig, get_peft_model

    model, config = small_model(family, **HYBRIDS.get(family, {}))
    shape = shape_from(config)
    assert shape.parameters == model.num_parameters()
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert shape.lora_parameters(4) == model.get_nb_trainable_parameters()[0]


def test_only_layers_that_attend_keep_keys_and_values_and_shared_ones_are_kept_once():
    qwen, gemma, lfm = (shape_of(f"{name}") for name in ("Qwen/Qwen3.5-0.8B", "google/gemma-4-E2B-it", LFM))
    a_token = [shape.cache_bytes(10_001, 2) - shape.cache_bytes(10_000, 2) for shape in (qwen, gemma, lfm)]
    # 6 of 24 layers, 2 heads of 256; of 35 the first 15 keep any, 3 of them all, one head of 512; 6 of 16, 8 of 64
    assert a_token == [2 * 2 * 6 * 2 * 256, 2 * 2 * 3 * 512, 2 * 2 * 6 * 8 * 64]
    state = qwen.cache_bytes(0, 2)
    assert state == 2 * 18 * (16 * 128 * 128 + 6144 * 4), "which is there from the first token on"
    window = gemma.cache_bytes(2000, 2) - gemma.cache_bytes(1000, 2)
    assert window == 1000 * a_token[1], "twelve look back 512 tokens"


@pytest.mark.parametrize("use_lora", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama", "qwen2", "qwen3"])
def test_activations_are_what_autograd_keeps(family, bf16, use_lora):
    settings = kit.TrainConfig(bf16=bf16, use_lora=use_lora)
    length, rows = 256, 2
    kept = [bytes_kept(family, layers, settings, rows, length) for layers in (1, 3)]
    shape = shape_from(small_model(family)[1])
    a_layer = (kept[1] - kept[0]) / 2
    if bf16 and not use_lora:  # autocast's copies of the weights, which are counted elsewhere
        a_layer -= 2 * (shape.layer_parameters - shape.norms * shape.hidden)
    counted = layer_bytes(settings, shape, bf16, length) * rows * length
    assert counted == pytest.approx(a_layer, rel=0.05)


def bytes_kept(family, layers, settings, rows, length) -> int:
    """Bytes of all that autograd keeps for the way back, the weights apart."""
    import torch
    from peft import LoraConfig, get_peft_model

    model, _ = small_model(family, num_hidden_layers=layers)
    if settings.use_lora:
        model = model.bfloat16() if settings.bf16 else model
        adapter = LoraConfig(r=settings.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter)
    model.train()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}  # by address: nothing is freed meanwhile, so none is given out twice

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = torch.randint(0, 256, (rows, length))
    mask = torch.ones_like(tokens)
    mask[0, :40] = 0
    body = model.get_base_model().model if settings.use_lora else model.model
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        body(input_ids=tokens, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


def kept(trained, folder, slower_steps=(), **more_seconds):
    """A copy of a run whose status has more seconds, and whose steps took longer by those."""
    shutil.copytree(trained.path, folder / trained.id)
    status = {name: trained.status[name] + seconds for name, seconds in more_seconds.items()}
    status["resumed"] = bool(slower_steps)
    write_json(folder / trained.id / "status.json", trained.status | status)
    rows = [json.loads(line) for line in (trained.path / "metrics.jsonl").open()]
    for step, seconds in slower_steps:
        rows[step - 1]["step_time"] += seconds
    (folder / trained.id / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("max_steps", [1, 20, 400])
def test_only_seconds_of_steps_are_quoted_for_each_step(trained, tmp_path, max_steps):
    """Of a run that counted tokens, loaded for long, saved for long, or started anew on the way."""

    def seconds(runs_dir) -> float:
        settings = {"data": trained.config.data, "save_steps": 1, "max_steps": max_steps}
        return 60 * here(runs_dir, **settings).minutes[1]

    usual = seconds(trained.path.parent)
    counting = {"seconds": 600, "starting_seconds": 600, "fitting_seconds": 600}
    assert seconds(kept(trained, tmp_path / "counted", **counting)) == pytest.approx(usual)
    loading = {"seconds": 600, "starting_seconds": 600}
    assert seconds(kept(trained, tmp_path / "loaded", **loading)) == pytest.approx(usual + 600)
    saving = kept(trained, tmp_path / "saved", seconds=600)
    assert seconds(saving) == pytest.approx(usual + 600 / 20 * max_steps)
    warm = [(11, 300.0)]  # the first step after it was resumed
    resumed = kept(trained, tmp_path / "resumed", warm, seconds=300, starting_seconds=0)
    assert seconds(resumed) < usual + 60


def test_a_run_foretells_the_next_one(trained):
    settings = {"data": trained.config.data, "save_steps": 10}
    quote = here(trained.path.parent, max_steps=20, **settings)
    took = trained.status["seconds"] / 60
    low, likely, high = quote.minutes
    assert low < likely < high and likely == pytest.approx(took, rel=0.1) and trained.id in quote.minutes_from
    assert (quote.config.prompts_per_step, quote.config.completions_per_step, quote.completions) == (4, 32, 640)
    assert not quote.problems and quote.usd == quote.judge_usd == (0, 0, 0) and "nothing" in str(quote)
    longer = here(trained.path.parent, max_steps=40, **settings)
    assert 1.3 < longer.minutes[1] / likely < 2
    double = here(
        trained.path.parent, max_steps=20, per_device_train_batch_size=64, gradient_accumulation_steps=1, **settings
    )
    assert "another size" in double.minutes_from and double.minutes[1] > likely and double.minutes[2] > 2 * likely


def test_a_quote_and_what_a_launch_checks_are_quick_and_load_neither_torch_nor_transformers(trained, tmp_path):
    code = (
        "import sys, grpo_kit as kit; kit.quote(kit.TrainConfig(), sys.argv[1], 'local', ask=False);"
        "from grpo_kit.training.plan import queue; assert queue(kit.TrainConfig(), (), sys.argv[2]).path.exists();"
        "sys.exit(' '.join({'torch', 'transformers', 'trl', 'modal'} & set(sys.modules)) or 0)"
    )
    words = [sys.executable, "-c", code, str(trained.path.parent), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds = []
    for steps in range(10, 20):
        started = time.perf_counter()
        on_modal(trained.path.parent, model_name=GEMMA, judge="gemini", max_steps=steps)._repr_html_()
        seconds.append(time.perf_counter() - started)
    assert min(seconds[1:]) < 0.02


def test_gemma_fits_an_a10_and_its_dollars_are_time_times_price(tmp_path):
    quote = on_modal(tmp_path, model_name=GEMMA, max_steps=100, timeout=14400)
    assert quote.where == "Modal, A10" and not quote.problems
    assert quote.memory.weights == pytest.approx(PUBLISHED[GEMMA] * 2 / 2**30) and quote.memory_gib < 0.9 * 22
    hourly = 1.10 + 32 * 0.0080 + 2 * 0.047
    assert quote.usd == pytest.approx([hourly * minutes / 60 for minutes in quote.minutes])
    assert quote.usd_most == pytest.approx(hourly * 4 * 4)
    assert next(iter(quote.fits)) == "L4" and list(quote.fits.values()) == sorted(quote.fits.values())


@pytest.mark.parametrize(
    ("gpu", "settings"),
    [
        ("T4", {"model_name": GEMMA}),
        ("A10", {"model_name": GEMMA, "use_lora": False}),
        ("A10", {"model_name": "Qwen/Qwen3-4B"}),  # vLLM would not start: its share is too small for the weights
        ("A10", {"model_name": GEMMA, "gradient_checkpointing": False, "per_device_train_batch_size": 32}),
    ],
)
def test_what_does_not_fit_comes_with_settings_and_a_gpu_that_do(tmp_path, gpu, settings):
    config = kit.TrainConfig(**settings, gpu=gpu)
    quote = kit.quote(config, tmp_path, "modal", ask=False)
    (problem,) = [problem for problem in quote.problems if "GiB" in problem.what]
    shape, device = shape_of(config.model_name), device_of(config, gpu)
    ways = fitting_settings(config, shape, device)
    assert ways and gpu not in quote.fits and f"gpu={next(iter(quote.fits))}" in problem.fix
    for way in ways:
        assert not shortage(memory_needed(config.replace(**way), shape, device), device)
        assert all(f"{name}={str(value).lower()}" in problem.fix for name, value in way.items())
    for name in ("T4", "L4", "A100-80GB", "B200"):
        there = device_of(config, name)
        assert (name in quote.fits) == (not shortage(memory_needed(config, shape, there), there))


def test_a_model_that_does_not_fit_whole_is_shared_out_among_gpus(tmp_path):
    def asked(gpu: str, **settings) -> Quote:
        config = kit.TrainConfig(model_name="google/gemma-2-2b-it", use_lora=False, gpu=gpu, **settings)
        return kit.quote(config, tmp_path, "modal", ask=False)

    one, two, four = asked("L40S"), asked("L40S:2"), asked("L40S:4")
    assert any("It needs" in problem.what for problem in one.problems) and one.memory.shares == 1
    assert (two.memory.shares, four.memory.shares) == (2, 4)
    assert "by 4 processes that share the weights out (FSDP)" in str(four)
    held = [quote.memory.weights + quote.memory.trained for quote in (one, two, four)]
    assert held == pytest.approx([held[0], held[0] / 2, held[0] / 4])
    # All weights are loaded by each of them, and one gathers what is saved.
    assert [problem.fix for problem in four.problems] == ["Use memory=49152"]
    assert not asked("L40S:4", memory=49152).problems
    assert asked("H200:2").memory.shares == 1, "where it fits whole, it stays whole"
    assert asked("H200:2", fsdp=True).memory.shares == 2
    largest = kit.TrainConfig(model_name=str(_of_27b(tmp_path)), use_lora=False, memory=336 * 1024)
    eight = {"gpu": "B200:8", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    found = [kit.quote(config, tmp_path, "modal", ask=False) for config in (largest, largest.replace(**eight))]
    assert [list(quote.fits) for quote in found] == [[], ["B200:8"]]
    assert not any("It needs" in problem.what for problem in found[1].problems)
    config = kit.TrainConfig(model_name="Qwen/Qwen3-4B", use_lora=False, gpu="A100-80GB:2", memory=56 * 1024)
    assert not kit.quote(config, tmp_path, "modal", ask=False).problems, "48.9 GiB are not 48"


def _of_27b(folder) -> Path:
    """No weights, but the shape of a model that no single GPU can train whole."""
    sizes = {"hidden_size": 4608, "num_hidden_layers": 46, "intermediate_size": 36864, "num_attention_heads": 32}
    sizes |= {"num_key_value_heads": 16, "head_dim": 128, "vocab_size": 256000, "model_type": "gemma2"}
    (folder / "large").mkdir()
    (folder / "large" / "config.json").write_text(json.dumps(sizes))
    return folder / "large"


def test_more_of_anything_needs_more(tmp_path):
    def need(**settings):
        config = kit.TrainConfig(model_name=GEMMA, use_vllm=False, **settings)
        return memory_needed(config, shape_of(GEMMA), Device(True, 22.0)).needed

    plain = need()
    assert need(use_lora=False) > need(gradient_checkpointing=False) > plain
    assert (
        need(max_completion_length=2048) > plain
        and need(per_device_train_batch_size=8, gradient_accumulation_steps=64) > plain
    )
    assert need(bf16=False) > plain and need(lora_r=64) > plain


@pytest.mark.parametrize(
    ("settings", "what", "fix"),
    [
        ({"data": "nowhere"}, "There is no nowhere/train.jsonl", "grpo-kit prepare"),
        ({"judge": "gemini"}, "GEMINI_API_KEY is not set", "judge=offline"),
        ({"judge": "offline>gemini"}, "GEMINI_API_KEY is not set", "judge=offline"),
        ({"judge": "openai", "judge_model": "gpt-5"}, "OPENAI_API_KEY is not set", "judge=offline"),
        ({"model_name": "gemma"}, "no folder gemma", "model_name"),
        ({"use_vllm": True}, "vllm is not installed", "leave it out"),
        ({"cache_from": ["gone"]}, "cache_from='gone'", "cache_from"),
    ],
)
def test_what_stands_in_the_way_is_said_with_its_fix(tmp_path, settings, what, fix):
    (problem,) = here(tmp_path, **settings).problems
    assert what in problem.what and fix in problem.fix


def test_epochs_are_counted_in_steps(tmp_path, demo_data):
    def quoted(**settings):
        return kit.quote(kit.TrainConfig(data=str(demo_data), num_train_epochs=0.5, **settings), tmp_path, "local")

    quote = quoted(num_iterations=2)
    assert quote.config.max_steps == 2 * -(-0.5 * 1383 // 4) and quote.config.num_train_epochs is None
    for wrong, why in ({"max_steps": 3}, "contradict"), ({"environment": "replay"}, "makes dialogues"):
        with pytest.raises(kit.ConfigError, match=f"num_train_epochs.*{why}"):
            kit.train(data=str(demo_data), runs_dir=tmp_path / "runs", num_train_epochs=1, **wrong)
    assert not (tmp_path / "runs").exists()


def test_too_few_samples_and_another_runs_settings(tmp_path, demo_data, trained):
    few = tmp_path / "few"
    few.mkdir()
    few.joinpath("train.jsonl").write_text("".join((demo_data / "train.jsonl").open().readlines()[:3]))
    (problem,) = here(tmp_path, data=str(few)).problems
    assert "takes 4 prompts" in problem.what and "has 3" in problem.what and "_batch_size=24" in problem.fix
    problems = here(trained.path.parent, data=trained.config.data, run_id=trained.id, learning_rate=0.1).problems
    assert any("other settings: learning_rate=0.1" in problem.what for problem in problems)


def test_a_timeout_that_is_too_short(tmp_path):
    (problem,) = on_modal(tmp_path, model_name=GEMMA, max_steps=2000).problems
    assert "longer than timeout=7200" in problem.what and "timeout=" in problem.fix
    minutes = int(problem.fix.split("timeout=")[1].split(";")[0]) / 60
    assert not on_modal(tmp_path, model_name=GEMMA, max_steps=2000, timeout=int(minutes * 60)).problems


def judged_by_gemini(trained, folder, **used):
    """A copy of a run as if Gemini had judged it; `used` is what that took in each step."""
    shutil.copytree(trained.path, folder)
    about = json.loads((folder / "config.json").read_text())
    about["settings"]["judge"] = {"gemini": 1.0}
    (folder / "config.json").write_text(json.dumps(about))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    more = {f"judge/gemini/{name}": amount for name, amount in used.items()}
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**row, **more}) + "\n" for row in rows))


def test_the_judges_dollars_are_assumed_and_then_known_from_a_run(tmp_path, trained):
    settings = {"judge": "gemini", "judge_input_price": 1.0, "judge_output_price": 1.0}
    quote = here(tmp_path, max_steps=10, save_steps=5, **settings)
    assert "320 calls" in quote.judge_usd_from and "assumed" in quote.judge_usd_from
    at_most = here(tmp_path, max_steps=10, save_steps=5, **settings | {"judge": "offline>gemini"})
    assert at_most.judge_usd_from.startswith("at most 320 calls, if every answer goes up the ladder; assumed")
    assert at_most.judge_usd == (0, *quote.judge_usd[1:])
    assert here(tmp_path, max_steps=10, judge_mode="group", **settings).judge_usd_from.startswith("40 calls")
    unknown = here(tmp_path, judge="gemini", gemini_model="gemini-9")
    assert unknown.judge_usd is None and "gemini-9 has no price" in unknown.judge_usd_from


def test_each_paid_judge_is_counted(tmp_path):
    settings = {"judge": "gemini,anthropic", "judge_model": "claude-haiku-4-5", "max_steps": 10}
    both = here(tmp_path, **settings)
    assert "640 calls" in both.judge_usd_from and "prices of 2026-10-07, 2026-10-10" in both.judge_usd_from
    alone = [
        here(tmp_path, **settings | each).judge_usd[1]
        for each in ({"judge": "anthropic"}, {"judge": "gemini", "judge_model": "gemini-3.5-flash-lite"})
    ]
    assert both.judge_usd[1] == pytest.approx(sum(alone))
    local = {"judge": "openai", "judge_model": "gpt-5", "judge_base_url": "http://localhost:8000/v1"}
    quote = here(tmp_path, **local)
    assert not quote.problems and "gpt-5 has no price" in quote.judge_usd_from
    assert here(tmp_path, judge_input_price=0, judge_output_price=0, **local).judge_usd == (0, 0, 0)
    (problem,) = on_modal(tmp_path, model_name=GEMMA, **local).problems
    assert "containers can't reach it" in problem.what


@pytest.mark.parametrize(
    ("model", "judge", "family"),
    [
        (GEMMA, {"judge": "offline>gemini"}, "Google's Gemma and Gemini"),
        ("Qwen/Qwen3-0.6B", {"judge": "openai", "judge_model": "qwen3:14b"}, "Qwen"),
        ("openai/gpt-oss-20b", {"judge": "openai", "judge_model": "gpt-5-mini"}, "OpenAI's GPT"),
        (
            "meta-llama/Llama-3.2-1B",
            {"judge": "reward_model", "judge_model": "Sky/RM-Llama-3.1-8B"},
            "Meta's Llama",
        ),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", {"judge": "openai", "judge_model": "deepseek-chat"}, "DeepSeek"),
        (GEMMA, {"judge": "openai", "judge_model": "gpt-5"}, ""),
        ("tiny", {"judge": "gemini"}, ""),
    ],
)
def test_a_judge_of_the_models_own_family_is_warned_of(tmp_path, model, judge, family):
    warnings = here(tmp_path, model_name=model, **judge).warnings
    assert [f"are both of {family}" in text for text in warnings if "both" in text] == [True] * bool(family)


def test_a_run_that_would_take_days_here_is_told_where_it_would_not(tmp_path):
    told = here(tmp_path, model_name=GEMMA).slow
    assert "on this machine: use Modal's GPUs (backend modal), where the A10 likely takes" in told and "and $" in told
    assert told in str(here(tmp_path, model_name=GEMMA))
    assert not here(tmp_path).slow and not on_modal(tmp_path, model_name=GEMMA).slow


def test_a_model_that_no_judge_asks_is_warned_of(tmp_path):
    (warning,) = here(tmp_path, judge_model="gpt-5").warnings
    assert warning == "judge_model=gpt-5 is not asked: judge=offline has no model"


def test_an_unknown_model_is_said_to_be_unknown_and_no_text_is_markup(tmp_path):
    quote = on_modal(tmp_path, model_name="<b>me</b>/|mine")
    assert quote.memory is None and quote.memory_gib is None and quote.minutes is None and not quote.fits
    assert "not known" in str(quote)
    assert "<b>me" not in quote._repr_html_() and "&lt;b&gt;me" in quote._repr_html_()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SMALL, "model_type": "llama"}))
    parameters = shape_from({**SMALL, "model_type": "llama"}).parameters
    assert here(tmp_path, model_name=str(folder)).shape.parameters == parameters


def test_a_bad_line_of_the_data_is_found_and_said_once(tmp_path):
    rows = [json.dumps({"prompt": f"Hello {i}", "ground_truth": "Hi."}) for i in range(9)]
    for name in ("train.jsonl", "eval.jsonl"):
        (tmp_path / name).write_text("\n".join(rows) + "\n")
    config = kit.TrainConfig(data=str(tmp_path))
    assert not kit.quote(config, tmp_path, "local").problems
    (tmp_path / "train.jsonl").write_text("\n".join([*rows, '{"prompt": "x"}']))
    (problem,) = kit.quote(config, tmp_path, "local").problems
    assert "train.jsonl:10: Object missing required field `ground_truth`" in problem.what


def half_made(trained, folder, **changes):
    """A copy of a run that stands at step 10 of its 20; `changes` go into its status."""
    shutil.copytree(trained.path, folder)
    status = json.loads((folder / "status.json").read_text()) | {"state": "stopped", "step": 10} | changes
    (folder / "status.json").write_text(json.dumps(status))
    about = json.loads((folder / "config.json").read_text())
    about["settings"]["run_id"] = folder.name
    (folder / "config.json").write_text(json.dumps(about))
    return folder.name


def test_a_run_that_is_there_is_quoted_by_its_own_settings_and_for_what_is_left(trained, tmp_path):
    run_id = half_made(trained, tmp_path / "half", usd_machine=0.0, usd_judge=0.0)
    quote = here(tmp_path, run_id=run_id)
    assert quote.completions == 10 * 32 and not quote.problems, "20 steps, and not the recipe's 60"
    spread = here(tmp_path, run_id=run_id, num_processes=2)
    assert (spread.config.num_processes, spread.config.completions_per_step) == (2, 32)
    (uneven,) = here(tmp_path, run_id=run_id, num_processes=3).problems
    assert "can't share the 32 completions" in uneven.what and "cache_from" not in uneven.fix
    said = [problem.what for problem in here(trained.path.parent, run_id=trained.id).problems]
    assert said == [f"run {trained.id} is complete: nothing would be done"]


def test_what_is_spent_counts_against_max_usd(tmp_path):
    config = kit.TrainConfig(model_name=GEMMA, max_steps=100, timeout=14400)
    likely = kit.quote(config, tmp_path, "modal", ask=False).usd_in_all
    quoted = {"usd": likely, "first_step": [0.01, 0.0]}
    enough = config.replace(max_usd=1.505 * likely)
    assert not list(budget_problems(enough, quoted, Dollars(0.0, 0.0)))
    (problem,) = budget_problems(enough, quoted, Dollars(likely, 0.0))
    assert "is spent, which together is more than max_usd" in problem.what and "some 50 of 100 steps" in problem.what
    assert float(problem.fix.split("max_usd=")[1].split(",")[0]) > 2 * likely


def test_the_judges_real_dollars_go_before_assumed_tokens(tmp_path, trained):
    judged_by_gemini(trained, tmp_path / "judged", calls=32.0, usd=0.32)
    quote = here(tmp_path, judge="gemini", max_steps=10, save_steps=5)
    assert quote.judge_usd[1] == pytest.approx(320 * 0.01) and "$0.01 a call, as in judged" in quote.judge_usd_from
    dearer = {"judge_input_price": 1.0, "judge_output_price": 1.0}  # than when those dollars were counted
    assert "assumed" in here(tmp_path, judge="gemini", max_steps=10, **dearer).judge_usd_from


def test_processes_share_the_cores_and_modal_has_eight_gpus(tmp_path):
    sizes = {
        "gradient_accumulation_steps": 1,
        "torch_threads": 1,
        "max_prompt_length": 64,
    }  # else fewer are padded less
    one, many = (
        minutes(kit.TrainConfig(num_processes=n, per_device_train_batch_size=512 // n, **sizes), [], None).range[1]
        for n in (os.cpu_count(), 8 * os.cpu_count())
    )
    assert many > 0.9 * one, "cores that are not there make nothing quicker"
    quote = on_modal(tmp_path, model_name=GEMMA, num_processes=9, per_device_train_batch_size=8)
    assert any("needs as many GPUs" in problem.what for problem in quote.problems) and not quote.fits
    with pytest.raises(kit.ConfigError, match="4 A10 at most"):
        launch_of(kit.TrainConfig(num_processes=9), tmp_path, "modal")
    whole = on_modal(tmp_path, model_name=GEMMA, gpu="H200:8", use_lora=False)
    assert any("too little to load the model through" in problem.what for problem in whole.problems)


def test_advice_on_time_can_be_taken(tmp_path):
    def problems(**settings):
        config = {"model_name": GEMMA, "max_steps": 5000, **settings}
        return [problem for problem in on_modal(tmp_path, **config).problems if "timeout" in problem.what]

    (short,) = problems(timeout=7200)
    enough = int(short.fix.split("timeout=")[1].split(",")[0])
    assert "not come to its end" in short.what and not problems(timeout=enough)
