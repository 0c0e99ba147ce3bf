"""Trains SmolLM2-135M-Instruct to add, a task that others publish a curve for, scored exactly.

    make smollm2
    .venv/bin/python benchmarks/addition.py [--steps 60] [--seeds 42 1 2]

The task is tinker-cookbook's arithmetic (recipes/math_rl): two numbers of 0 to 100, one example before the question, and
the last number of the answer must be the sum. Each seed trains a run by `grpo-kit`'s own path, on sums that the 200 of
the evaluation are not among; the base model and the trained one answer those at temperature 1. Writes
benchmarks/addition.json and docs/addition.png.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import grpo_kit as kit

EXAMPLE = [{"role": "user", "content": "What is 4 + 5?"}, {"role": "assistant", "content": "9"}]
SETTINGS = {
    "model_name": "SmolLM2-135M-Instruct",
    "judge": "exact",
    "learning_rate": 3e-4,
    "temperature": 1.0,
    "num_generations": 8,
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 1,
    "max_prompt_length": 96,
    "max_completion_length": 12,
    "torch_threads": 1,
    "canaries": "off",
}
N, SEED = 200, 7


def write_sums(file: Path) -> None:
    """All 10,201 sums in random order, a line each."""
    pairs = [(x, y) for x in range(101) for y in range(101)]
    random.Random(SEED).shuffle(pairs)
    with file.open("w") as lines:
        for x, y in pairs:
            prompt = [*EXAMPLE, {"role": "user", "content": f"What is {x} + {y}?"}]
            lines.write(json.dumps({"prompt": prompt, "ground_truth": str(x + y)}) + "\n")
