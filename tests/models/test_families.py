"""Models of the families that the panel offers, and one that sees, are computed as their authors defined them."""

import json

import pytest
import torch
from peaks import make_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, Gemma3Config, Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from grpo_kit import TrainConfig, merge, train
from grpo_kit.models import generate
from grpo_kit.models.checkpoints import adapted
from grpo_kit.models.load import load_model, load_tokenizer
from grpo_kit.models.shapes import SHAPES, SHIPPED, shape_of

FAMILIES = {  # and what their configs have beside the sizes
    "gemma2": {"sliding_window": 32},
    "gemma3_text": {"sliding_window": 32},
    "gemma4_text": {
        "sliding_window": 32,
        "head_dim": 16,
        "global_head_dim": 32,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 1000,
    },
    "lfm2": {"full_attn_idxs": [1]},
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_5_text": {"head_dim": 16, "layer_types": ["linear_attention", "full_attention"]},
    "smollm3": {"pad_token_id": 0},
}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


def log_probabilities(model, words: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(words).logits.float().log_softmax(-1)


def test_the_families_below_are_those_that_the_panel_offers():
    listed = json.loads(SHAPES.read_bytes())["models"]
    listed |= {name: json.loads((folder / "config.json").read_bytes()) for name, folder in SHIPPED.items()}
    listed |= {"SmolLM2-135M": listed["HuggingFaceTB/SmolLM2-135M"]}
    names = TrainConfig.model_fields["model_name"].json_schema_extra["suggested"]
    stems = [name.removesuffix("-it").removesuffix("-Instruct") for name in names]
    assert {listed[stem].get("text_config", listed[stem])["model_type"] for stem in stems} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_eager_attention_in_float32(tmp_path, family):
    folder = make_model(tmp_path / "model", family, **SIZES, **FAMILIES[family])
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in model.named_parameters():
        if "q_norm" in name or "k_norm" in name:
            torch.nn.init.constant_(weight, 6.0)
        elif "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(weight, std=0.6)  # scores beyond Gemma 2's cap of 50
    model.save_pretrained(folder)
    words = torch.randint(0, 1000, (4, 64), generator=torch.Generator().manual_seed(0))
    wanted, plain = (
        log_probabilities(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=which), words)
        for which in ("eager", "sdpa")
    )
    assert (log_probabilities(load_model(folder, bf16=False), words) - wanted).abs().max() < 1e-3
    assert ((plain - wanted).abs().max() > 0.1) == (family == "gemma2") == shape_of(folder).is_capped


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_that_have_ended_leave_the_others_as_they_would_be(tmp_path, monkeypatch, family):
    model, tokenizer = (
        load_model(make_model(tmp_path, family, **SIZES, **FAMILIES[family]), bf16=False),
        load_tokenizer("tiny"),
    )
    for weight in model.parameters():
        weight.data *= 10 if weight.ndim == 2 else 1  # so that answers differ
    words = torch.randint(0, 1000, (6, 40), generator=torch.Generator().manual_seed(0)).tolist()
    asked = [tokens[: 12 + 4 * place] for place, tokens in enumerate(words)]
    monkeypatch.setattr(generate, "ENDED_LEAVE", 3)
    how = {"max_completion_length": 24, "temperature": 0, "top_p": 1, "seed": 0, "batch_size": 8}
    whole = generate.generate_tokens(model, tokenizer, asked, [999_999], **how)
    ends = [tokens[place] for tokens, place in zip(whole, (2, 9, 0), strict=False)]
    expected = [generate.up_to_end(tokens, ends) for tokens in whole]
    made = generate.generate_tokens(model, tokenizer, asked, ends, **how)
    assert [generate.up_to_end(tokens, ends) for tokens in made] == expected
    assert len(made[2]) == 3 and max(map(len, made)) == 24


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> str:
    """A tiny Gemma 3 that sees, as the larger ones do, with its processor."""
    folder, tokenizer = tmp_path_factory.mktemp("seeing"), load_tokenizer("tiny")
    extra = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=extra)
    eyes = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    Gemma3Processor(image_processor=eyes, tokenizer=tokenizer, image_seq_length=4).save_pretrained(folder)
    config = Gemma3Config(
        text_config=SIZES | {"head_dim": 16, "sliding_window": 32},
        vision_config={name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size")}
        | {"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("use_lora", [True, False])
def test_a_model_that_sees_is_trained_in_its_language_and_merged_with_its_processor(
    seeing, tmp_path, demo_data, use_lora
):
    step = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_completion_length": 8}
    settings = step | {"model_name": seeing, "use_lora": use_lora, "learning_rate": 1e-2, "bf16": False}
    run = train(data=str(demo_data), runs_dir=tmp_path, rewards=[_length], max_steps=2, save_steps=2, **settings)
    folder = run.checkpoints[-1]
    optimiser = torch.load(folder / "optimizer.pt")["state"]
    trained = sum(moments["exp_avg"].numel() for moments in optimiser.values())
    shape = shape_of(seeing)
    assert trained == (shape.lora_parameters(16) if use_lora else shape.parameters - shape.other_parameters)
    before, words = load_model(seeing, bf16=False), torch.randint(0, 500, (2, 16))
    unchanged = log_probabilities(before, words)
    if use_lora:
        assert all(".language_model." in name for name in load_file(folder / "adapter_model.safetensors"))
        wanted = log_probabilities(adapted(before, folder), words)
        folder = merge(run, tmp_path / "merged")
    else:
        wanted = log_probabilities(load_model(str(run.path), bf16=False), words)
        folder = merge(run, tmp_path / "merged")
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.image_processor.size == {"height": 28, "width": 28}
    got = log_probabilities(AutoModelForCausalLM.from_pretrained(folder), words)
    assert (got - wanted).abs().max() < 1e-4 < (got - unchanged).abs().max()


def _length(completions, **_) -> list[float]:
    return [len(str(completion)) / 100 for completion in completions]
