"""Trains SmolLM2-135M-Instruct to add, which others have published a curve of.

    make smollm2
    .venv/bin/python benchmarks/addition.py [--steps 40] [--seeds 42 1 2]

The task is the arithmetic of tinker-cookbook's recipes/math_rl: "What is 12 + 34?" of two numbers from 0 to 100, after
one example; an answer is right where its last number is the sum. 1% of the 10,201 sums are held out. Each seed's run is
trained and evaluated at temperature 1 as any other run. Writes benchmarks/addition.json: each step's mean reward, and the
share of right answers on the held-out sums; draws docs/addition.png.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import grpo_kit as kit
from grpo_kit.plots.style import NotebookFigure, styled

EXAMPLE = [{"role": "user", "content": "What is 4 + 5?"}, {"role": "assistant", "content": "9"}]
SETTINGS = {
    "model_name": "SmolLM2-135M-Instruct",
    "judge": "exact",
    "learning_rate": 5e-4,
    "temperature": 1.0,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "num_generations": 8,
    "max_prompt_length": 96,
    "max_completion_length": 12,
    "bf16": True,
    "torch_threads": 1,
    "save_steps": 1000,  # the end alone
}
SEED, HELD_OUT = 7, 0.01
FILE, FIGURE = Path(__file__).with_suffix(".json"), Path(__file__).parents[1] / "docs" / "addition.png"


def write_sums(file: Path) -> None:
    """All sums in a random order, a line each."""
    pairs = [(x, y) for x in range(101) for y in range(101)]
    random.Random(SEED).shuffle(pairs)
    with file.open("w") as lines:
        for x, y in pairs:
            prompt = [*EXAMPLE, {"role": "user", "content": f"What is {x} + {y}?"}]
            row = {"prompt": prompt, "ground_truth": str(x + y), "dialogue_id": f"{x} + {y}"}
            lines.write(json.dumps(row) + "\n")


def trained(seed: int, steps: int, folder: Path) -> dict:
    """One run's rewards by step, and its evaluation."""
    where = {"data": str(folder / "data"), "runs_dir": folder / "runs", "run_id": f"seed-{seed}"}
    run = kit.train(**where, seed=seed, max_steps=steps, **SETTINGS)
    evaluation = kit.evaluate.local(run, n=100, seed=SEED, second_judge=None)
    print(f"seed {seed}: {evaluation.line()}", flush=True)
    metrics = run.metrics()
    return {
        "rewards": metrics["reward"].round(4).tolist(),
        "seconds": round(metrics["step_time"].sum()),
        "line": evaluation.line(),
        "base": evaluation.base["mean"],
        "trained": evaluation.trained["mean"],
    }


def draw(runs: dict[str, dict]) -> None:
    with styled():
        figure = NotebookFigure(6, 3.2)
        axes = figure.subplots()
        for seed, run in runs.items():
            axes.plot(range(1, len(run["rewards"]) + 1), run["rewards"], label=f"seed {seed}")
        axes.set(xlabel="step", ylabel="share of right sums", ylim=(0, 1), title="SmolLM2-135M-Instruct learns to add")
        axes.legend()
        figure.savefig(FIGURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sums(folder / "sums.jsonl")
        kit.prepare(folder / "sums.jsonl", folder / "data", eval_fraction=HELD_OUT)
        runs = {str(seed): trained(seed, args.steps, folder) for seed in args.seeds}
    FILE.write_text(json.dumps({"settings": SETTINGS, "steps": args.steps, "runs": runs}) + "\n")
    draw(runs)


if __name__ == "__main__":
    main()
