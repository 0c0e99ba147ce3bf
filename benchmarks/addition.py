"""Makes the data of a task that others publish a curve for, sums of two numbers, scored exactly.

    make smollm2
    .venv/bin/python benchmarks/addition.py data/addition

The task is tinker-cookbook's arithmetic (recipes/math_rl): two numbers of 0 to 100, one example before the question.
All 10,201 sums in random order, of which about 200 are held out, as conversations with `final_answer`, so that each can
be learned by imitation too.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import grpo_kit as kit

EXAMPLE = [{"role": "user", "content": "What is 4 + 5?"}, {"role": "assistant", "content": "9"}]
MOST, SEED = 100, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder of train.jsonl and eval.jsonl")
    args = parser.parse_args()
    pairs = [(x, y) for x in range(MOST + 1) for y in range(MOST + 1)]
    random.Random(SEED).shuffle(pairs)
    with tempfile.TemporaryDirectory() as folder:
        sums = Path(folder) / "sums.jsonl"
        with sums.open("w") as lines:
            for x, y in pairs:
                prompt = [*EXAMPLE, {"role": "user", "content": f"What is {x} + {y}?"}]
                # Rows that open alike are taken for turns of one dialogue, which would be held out or kept together.
                row = {"prompt": prompt, "ground_truth": str(x + y), "dialogue_id": f"{x}+{y}"}
                lines.write(json.dumps(row) + "\n")
        print(kit.prepare(sums, args.out, eval_fraction=0.02))


if __name__ == "__main__":
    main()
