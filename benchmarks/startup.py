"""How long the kit takes to start, beside what its libraries take alone.

    .venv/bin/python benchmarks/startup.py [--rounds 7]

Each line starts a new process, in turn, several times; the fastest counts, since other programs only ever make one
slower. `grpo-kit --help` is held against a process that imports typer and pydantic; the time from `grpo-kit train` to
the first step's line against one that imports torch, transformers, TRL, PEFT and datasets, loads the tiny model and
makes one step of plain TRL. `train.spawn` is timed in a new process until it has returned, the run being checked and
its process started. Writes benchmarks/startup.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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
"""


SPAWN = """
import sys
import grpo_kit as kit
run = kit.train.spawn(max_steps=1, save_steps=1, runs_dir=sys.argv[1])
print("returned", flush=True)
run.kill()
"""


def seconds_of(command: list[str], until: str = "") -> float:
    """Of the process, or until it prints `until`."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    for line in process.stdout:
        if until and until in line:
            seconds = time.perf_counter() - started
            process.communicate()
            return seconds
    assert process.wait() == 0 and not until, command
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    os.environ |= {"OMP_NUM_THREADS": "1", "GRPO_KIT_BACKEND": "local"}
    python, cli = [sys.executable, "-c"], [sys.executable, "-m", "grpo_kit.cli"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plain.py").write_text(PLAIN)
        plain = [sys.executable, f"{folder}/plain.py", str(ROOT / "grpo_kit/demo/tiny"), f"{folder}/plain"]
        train = [*cli, "train", "--max-steps", "1", "--save-steps", "1", "--runs-dir", f"{folder}/runs"]
        lines = {
            "python": lambda: seconds_of([*python, "pass"]),
            "import grpo_kit": lambda: seconds_of([*python, "import grpo_kit"]),
            "import pydantic, typer": lambda: seconds_of([*python, "import pydantic, typer"]),
            "grpo-kit --help": lambda: seconds_of([*cli, "--help"]),
        }
        slow = {
            "train.spawn until it returns": lambda: seconds_of([*python, SPAWN, f"{folder}/runs"], until="returned"),
            "grpo-kit train to its first step": lambda: seconds_of(train, until="Step 1/1"),
            "plain TRL to the end of its first step": lambda: seconds_of(plain),
        }
        times: dict[str, list[float]] = {name: [] for name in (*lines, *slow)}
        for number in range(rounds):
            for name, measure in (lines | (slow if number < 3 else {})).items():
                times[name].append(measure())
    best = {name: round(min(values), 3) for name, values in times.items()}
    ratio = best["grpo-kit train to its first step"] / best["plain TRL to the end of its first step"]
    result = {"best_seconds": best, "first_step_ratio": round(ratio, 3)}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
