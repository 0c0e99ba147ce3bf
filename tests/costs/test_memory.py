"""The memory that a quote foretells against what the kit's own training takes, of models of several shapes."""

import pytest
from peaks import foretold, make_model, measured

from grpo_kit import TrainConfig

STEP = {
    "max_steps": 2,
    "save_steps": 100,
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_prompt_length": 64,
    "max_completion_length": 8,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_vllm": False,
}
CASES = {  # family; hidden, layers, MLP, heads, key-value heads, vocabulary; what else; settings; where the peak is
    "adapter, no checkpointing": ("llama", (256, 4, 768, 8, 2, 2000), {}, {}, "updating"),
    "all weights, twice": (
        "qwen2",
        (384, 4, 1536, 6, 2, 6000),
        {"tie_word_embeddings": False},
        {"use_lora": False, "gradient_accumulation_steps": 2, "max_prompt_length": 24},
        "updating",
    ),
    "large vocabulary, checkpointing": (
        "gemma3_text",
        (128, 7, 640, 4, 1, 20000),
        {"head_dim": 64, "sliding_window": 32},
        {"gradient_checkpointing": True},
        "updating",
    ),
    "bfloat16, long prompts, capped attention of many heads": (
        "gemma2",
        (128, 3, 512, 32, 4, 2000),
        {"head_dim": 16, "sliding_window": 64},
        {"bf16": True, "max_prompt_length": 200, "lora_r": 4},
        "updating",
    ),
    "keys and values of many completions": (
        "qwen3",
        (64, 4, 128, 16, 8, 1000),
        {"head_dim": 32},
        {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 24,
            "max_prompt_length": 32,
            "max_completion_length": 6,
        },
        "generating",
    ),
    "linear attention": (
        "qwen3_5_text",
        (128, 8, 448, 4, 1, 2000),
        {
            "head_dim": 64,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_num_key_heads": 8,
            "linear_num_value_heads": 8,
        },
        {},
        "updating",
    ),
    "all weights, shared out to two": (
        "llama",
        (256, 4, 1024, 8, 2, 4000),
        {},
        {"use_lora": False, "num_processes": 2, "fsdp": True},
        "updating",
    ),
    "choosing from many words": (
        "llama",
        (64, 2, 128, 4, 2, 30000),
        {},
        {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 24,
            "max_prompt_length": 16,
            "max_completion_length": 4,
            "temperature": 0.7,
            "top_p": 0.9,
        },
        "generating",
    ),
}


DEAR = ["all weights, shared out to two", "keys and values of many completions", "linear attention"]
DEAR += ["choosing from many words"]


def with_marks(name: str):
    return pytest.param(name, marks=pytest.mark.wide if name in DEAR else ())


@pytest.mark.parametrize("name", [*map(with_marks, CASES)])
def test_what_is_foretold_is_within_15_percent_of_what_is_measured(tmp_path, name):
    family, sizes, others, settings, where = CASES[name]
    names = "hidden_size num_hidden_layers intermediate_size num_attention_heads num_key_value_heads vocab_size"
    model = make_model(tmp_path / "model", family, **dict(zip(names.split(), sizes, strict=True)), **others)
    config = TrainConfig(model_name=model, **STEP | settings)
    counted, real = foretold(config), measured(config, tmp_path / "runs")
    assert counted._asdict() == pytest.approx(real._asdict(), rel=0.15)
    assert max(real) == getattr(real, where) and max(counted) == getattr(counted, where)
