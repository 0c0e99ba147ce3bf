"""Each family of models from training to a merged model, with its own chat template: none of it is the tiny model's."""

from pathlib import Path

import pytest
import torch
import trl
from peaks import make_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import grpo_kit as kit
from grpo_kit.errors import RunStopped
from grpo_kit.models.load import load_tokenizer
from grpo_kit.runs.directory import STOP_FILE

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 1, "vocab_size": 1024}
STEP = {"num_generations": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "canaries": "off"}
STEP |= {"max_completion_length": 6, "save_steps": 1, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
LINEAR = {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")}
LINEAR |= {f"linear_num_{name}_heads": 2 for name in ("key", "value")}
FAMILIES = {  # its chat template, as TRL's wheel has it; what its config has beside the sizes
    "gemma2": ("gemma", {"head_dim": 16, "sliding_window": 32}),
    "gemma3_text": ("gemma3", {"head_dim": 16, "sliding_window": 32, "num_hidden_layers": 6}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3_5_text": ("qwen3_5_nothink", {"head_dim": 16, "num_hidden_layers": 4, **LINEAR}),
    "llama": ("llama3_2", {}),
    "lfm2": ("lfm2_2_5", {"full_attn_idxs": [1], "block_multiple_of": 16}),
    "smollm3": ("qwen3", {"pad_token_id": 0}),  # TRL has no template of SmolLM3's
    "gemma4_text": (
        "gemma4_v5",
        {
            "head_dim": 16,
            "global_head_dim": 32,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 1024,
            "sliding_window": 32,
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_resumes_to_the_bit_is_evaluated_and_merged(family, few, demo_data, tmp_path):
    template, own = FAMILIES[family]
    model = Path(make_model(tmp_path / "model", family, **SIZES | own))
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja").read_text()
    tokenizer.save_pretrained(model)

    stops = []

    def letters(completions, **_):
        for run in stops:
            (tmp_path / run / STOP_FILE).touch()
        return [float(len(completion[0]["content"])) for completion in completions]

    def train(name: str):
        settings = {**STEP, "data": str(few), "run_id": name, "runs_dir": tmp_path, "rewards": [letters]}
        return kit.train(model_name=str(model), max_steps=2, **settings)

    whole = train("whole")
    stops.append("stopped")
    with pytest.raises(RunStopped, match="stopped at step 1"):
        train("stopped")
    stops.clear()
    weights = [load_file(run.path / "adapter_model.safetensors") for run in (whole, train("stopped"))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(weight.abs().max() > 0 for name, weight in weights[0].items() if "lora_B" in name), "it has learnt"
    evaluation = kit.evaluate(whole, n=2, second_judge=None, data=str(demo_data))
    assert len(evaluation.summary()) == 3
    merged = AutoModelForCausalLM.from_pretrained(kit.merge(whole, tmp_path / "merged"))
    assert merged.config.model_type == family
