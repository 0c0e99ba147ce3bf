"""The memory that grpo_kit/costs/memory.py foretells against what training takes, for models of many shapes.

    .venv/bin/python benchmarks/memory.py [--drawn 16] [--seed 3]

Models with random weights train for two steps of the kit's own trainer, and the most that their tensors take is
measured in each of a step's two phases (tests/peaks.py). First come shapes that the formula was made with, then some
drawn by chance, which it was not. On a machine with CUDA all are larger, and what counts is
torch.cuda.max_memory_allocated. Prints a table and writes benchmarks/memory.json.
"""

import argparse
import gc
import json
import math
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from peaks import foretold, make_model, measured

from grpo_kit import TrainConfig

HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
FAMILIES = {  # hidden, layers, MLP, heads, key-value heads, width of a head
    "llama": (256, 4, 768, 8, 2, 32),
    "qwen2": (192, 6, 960, 6, 2, 32),
    "qwen3": (128, 6, 384, 8, 4, 32),
    "gemma2": (192, 4, 1024, 4, 2, 64),
    "gemma3_text": (160, 6, 640, 4, 1, 64),
}
STEP = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_prompt_length": 64}
STEP |= {"max_completion_length": 16, "num_generations": 2}
FULL, CHECKPOINTING, BF16 = {"use_lora": False}, {"gradient_checkpointing": True}, {"bf16": True}
SHARDED = {"num_processes": 2, "fsdp": True}
MANY = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 16}  # completions a step
LONG = {"per_device_train_batch_size": 8, "max_prompt_length": 400}
WORDS = {"vocab_size": 30000}
HEADED = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 16, "num_hidden_layers": 2}
KNOWN = [
    *((family, {}, settings) for family in FAMILIES for settings in ({}, FULL)),
    ("llama", {}, CHECKPOINTING),
    ("gemma3_text", {}, CHECKPOINTING),
    ("llama", WORDS, {}),
    ("llama", WORDS, FULL),
    ("llama", {**WORDS, "tie_word_embeddings": False}, FULL | {"gradient_accumulation_steps": 2}),
    ("gemma2", WORDS, MANY | {"temperature": 0.7, "top_p": 0.9}),
    ("llama", {}, FULL | {"beta": 0.1}),
    ("llama", {}, FULL | CHECKPOINTING | {"gradient_accumulation_steps": 2}),
    ("llama", {"hidden_size": 768, "intermediate_size": 3072}, FULL | {"max_prompt_length": 16}),
    ("llama", {"hidden_size": 768, "intermediate_size": 3072}, {"max_prompt_length": 16, "lora_r": 64}),
    ("llama", {}, LONG),
    ("qwen2", {"num_hidden_layers": 16}, LONG | CHECKPOINTING),
    ("qwen3", {"num_attention_heads": 32, "head_dim": 64}, MANY),
    ("llama", {"num_key_value_heads": 8, "num_hidden_layers": 12}, MANY | {"max_completion_length": 64}),
    ("gemma3_text", {}, MANY | {"max_completion_length": 64}),
    ("llama", {}, BF16),
    ("gemma2", {}, BF16),
    ("qwen3", {}, BF16 | FULL),
    ("gemma3_text", {}, BF16 | FULL | CHECKPOINTING),
    ("qwen2", {}, BF16 | MANY),
    ("qwen2", {}, BF16 | FULL | MANY),
    ("gemma2", {}, LONG),
    ("gemma2", {}, LONG | BF16),
    ("gemma2", HEADED, LONG | CHECKPOINTING | {"per_device_train_batch_size": 2}),
    ("gemma2", HEADED, LONG | CHECKPOINTING | {"per_device_train_batch_size": 2} | BF16),
    ("gemma2", HEADED, MANY | {"max_prompt_length": 200}),
    ("gemma2", HEADED, MANY | {"max_prompt_length": 200} | BF16 | FULL),
    ("llama", WORDS, FULL | SHARDED),
    ("qwen3", {"num_hidden_layers": 12}, SHARDED),
    ("gemma2", {}, BF16 | FULL | CHECKPOINTING | SHARDED),
    ("llama", {**WORDS, "tie_word_embeddings": False}, FULL | SHARDED | {"gradient_accumulation_steps": 2}),
    ("gemma3_text", {}, BF16 | SHARDED | {"num_processes": 4}),
    ("qwen2", {"num_hidden_layers": 12}, FULL | SHARDED | {"num_processes": 4, "beta": 0.1}),
]


def drawn(count: int, seed: int) -> Iterator[tuple[str, dict, dict]]:
    """Shapes and settings by chance, over the ranges in which a CPU takes seconds."""
    dice = random.Random(seed)
    for _ in range(count):
        key_value_heads = dice.choice([1, 2, 4])
        heads = key_value_heads * dice.choice([1, 2, 4])
        head_dim = dice.choice([32, 64])
        family = dice.choice(sorted(FAMILIES))
        own = family not in ("llama", "qwen2")  # whether the width of a head is a setting of its own
        hidden = dice.randrange(64, 385, 32) if own else heads * head_dim
        sizes = {
            "hidden_size": hidden,
            "num_hidden_layers": dice.randint(2, 8),
            "intermediate_size": dice.randint(1, 4) * hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
            "vocab_size": round(math.exp(dice.uniform(math.log(800), math.log(30000)))),
            "tie_word_embeddings": dice.random() < 0.7,
        } | ({"head_dim": head_dim} if own else {})
        settings = {
            "use_lora": dice.random() < 0.6,
            "lora_r": dice.choice([4, 16, 64]),
            "gradient_checkpointing": dice.random() < 0.5,
            "bf16": dice.random() < 0.3,
            "per_device_train_batch_size": dice.choice([2, 4, 8]),
            "gradient_accumulation_steps": dice.choice([1, 2, 8]),
            "max_prompt_length": dice.randint(16, 200),
            "max_completion_length": dice.randint(4, 32),
            "temperature": dice.choice([0.7, 1.0]),
            "beta": dice.choice([0.0, 0.0, 0.05]),
        }
        yield family, sizes, settings


def sizes_of(family: str, sizes: dict) -> dict:
    """All of a model's sizes: its family's, those given in their place, and larger ones for a GPU."""
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", *HEADS)
    own = dict(zip(names, FAMILIES[family], strict=True))
    if family in ("llama", "qwen2"):
        del own["head_dim"]
    whole = own | {"vocab_size": 2000} | ({"sliding_window": 64} if family.startswith("gemma") else {}) | sizes
    if torch.cuda.is_available():
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers"):
            whole[name] *= 4
    return whole


def compared(family: str, sizes: dict, settings: dict, is_drawn: bool) -> dict:
    """One training: MiB of tensors as foretold and as measured, by phase."""
    sizes = sizes_of(family, sizes)
    settings = STEP | {"use_vllm": False, "bf16": False, "gradient_checkpointing": False} | settings
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", family, **sizes)
        config = TrainConfig(model_name=model, max_steps=2, save_steps=100, **settings)
        pairs = zip(foretold(config)._asdict().items(), measured(config, Path(folder) / "runs"), strict=True)
        mib = {phase: [round(ours / 2**20, 1), round(real / 2**20, 1)] for (phase, ours), real in pairs}
    gc.collect()
    return {"family": family, "sizes": sizes, "settings": settings, "drawn": is_drawn, **mib}


def errors(row: dict) -> list[float]:
    """By how much of what was measured it is too high: generating, updating, and the peak, the larger of the two."""
    pairs = [row["generating"], row["updating"]]
    pairs.append([max(side) for side in zip(*pairs, strict=True)])
    return [ours / real - 1 for ours, real in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawn", type=int, default=16)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    cases = [(*case, False) for case in KNOWN] + [(*case, True) for case in drawn(args.drawn, args.seed)]
    rows = []
    print("MiB foretold/measured: generating, updating; error of the peak")
    for case in cases:
        row = compared(*case)
        rows.append(row)
        changed = {**case[1], **case[2]}
        phases = "  ".join(f"{ours:8.1f}/{real:8.1f}" for ours, real in (row["generating"], row["updating"]))
        print(f"{phases}  {errors(row)[2]:+6.1%}  {'drawn ' * case[3]}{row['family']} {changed}", flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    summary = {"device": device, "seed": args.seed}
    for name, is_drawn in (("known", False), ("drawn", True)):
        wrong = [errors(row) for row in rows if row["drawn"] == is_drawn]
        if wrong:
            worst = [max(column, key=abs) for column in zip(*wrong, strict=True)]
            of_phases = dict(zip(("generating", "updating", "peak"), (round(error, 4) for error in worst), strict=True))
            summary[name] = {"cases": len(wrong), "worst_error": of_phases}
            print(f"{len(wrong)} {name}, worst: " + ", ".join(f"{k} {error:+.1%}" for k, error in of_phases.items()))
    args.out.write_text(json.dumps({**summary, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
