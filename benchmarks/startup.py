"""How long the kit takes to start, beside what its libraries take alone.

    .venv/bin/python benchmarks/startup.py [--rounds 7]

Each line starts a new process, in turn, several times; the fastest counts, since other programs only ever make one
slower. `grpo-kit --help` is held against a process that imports typer and pydantic; the time from `grpo-kit train` to
the first step's line, and to its end with a checkpoint and all else saved, against a script that imports torch,
transformers, TRL, PEFT and datasets, loads the tiny model, makes one step of plain TRL, says so and ends. `train.spawn`
is timed in a new process until it has returned, the run being checked and its process started. Writes
benchmarks/startup.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLAIN = """
import sys
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
folder, out = sys.argv[1:]
rows = [{"prompt": [{"role": "user", "content": f"Book a table for {i} people."}]} for i in range(32)]
sizes = dict(per_device_train_batch_size=32, num_generations=8, max_completion_length=32)
args = GRPOConfig(output_dir=out, max_steps=1, use_cpu=True, report_to="none", save_strategy="no", bf16=False, **sizes)
trainer = GRPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(folder), args=args, train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(folder), peft_config=LoraConfig(target_modules="all-linear"),
    reward_funcs=[lambda completions, **_: [float(len(c[0]["content"])) for c in completions]],
)
trainer.train()
print("made", flush=True)
"""


SPAWN = """
import sys
import grpo_kit as kit
run = kit.train.spawn(max_steps=1, save_steps=1, runs_dir=sys.argv[1])
print("returned", flush=True)
run.kill()
"""


def seconds_of(command: list[str], until: str = "") -> tuple[float, float]:
    """To the first line that holds `until`, and to the end of the process."""
    started, seconds = time.perf_counter(), None
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    for line in process.stdout:
        if seconds is None and until in line:
            seconds = time.perf_counter() - started
    assert process.wait() == 0 and (seconds or not until), command
    return seconds or 0.0, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    os.environ |= {"OMP_NUM_THREADS": "1", "GRPO_KIT_BACKEND": "local"}
    python, cli = [sys.executable, "-c"], [sys.executable, "-m", "grpo_kit.cli"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plain.py").write_text(PLAIN)
        plain = [sys.executable, f"{folder}/plain.py", str(ROOT / "grpo_kit/models/tiny"), f"{folder}/plain"]
        train = [*cli, "train", "--max-steps", "1", "--save-steps", "1", "--runs-dir", f"{folder}/runs"]
        spawn = [*python, SPAWN, f"{folder}/runs"]
        quick = {
            "python": [*python, "pass"],
            "import grpo_kit": [*python, "import grpo_kit"],
            "import pydantic, typer": [*python, "import pydantic, typer"],
            "grpo-kit --help": [*cli, "--help"],
        }
        training = {"grpo-kit train": (train, "Step 1/1"), "plain TRL": (plain, "made")}
        times = defaultdict(list)
        for number in range(rounds):
            for name, command in quick.items():
                times[name].append(seconds_of(command)[1])
            if number >= 3:  # what takes seconds is known by then
                continue
            times["train.spawn until it returns"].append(seconds_of(spawn, "returned")[0])
            for name, (command, until) in training.items():
                first_step, end = seconds_of(command, until)
                times[f"{name} to its first step"].append(first_step)
                times[f"{name} to its end"].append(end)
    best = {name: round(min(values), 3) for name, values in times.items()}
    result = {
        "best_seconds": best,
        "first_step_ratio": round(best["grpo-kit train to its first step"] / best["plain TRL to its first step"], 3),
        "end_ratio": round(best["grpo-kit train to its end"] / best["plain TRL to its end"], 3),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
