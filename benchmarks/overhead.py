"""Measures what the kit adds to a training step: its trainer against the same TRL trainer as a plain script sets it up.

    .venv/bin/python benchmarks/overhead.py [--pairs 5] [--steps 30]

Both train the tiny model with the same settings, seed and judge, so they compute the same, in turn, several times in
one process; the first to go changes from pair to pair. The plain one has no cache, no run directory and no timings. A
step is timed from its beginning to the next one's, with all that is logged and saved between. Other programs only ever
make a step slower, so each step counts with its fastest repetition. A checkpoint's manifest, which the kit's steps
hold, is also timed alone. Prints the ratio and writes benchmarks/overhead.json.
"""

import argparse
import json
import tempfile
import time
import timeit
from pathlib import Path

import msgspec
import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import GRPOTrainer

from grpo_kit import TrainConfig, prepare, read_samples
from grpo_kit.data import demo
from grpo_kit.data.samples import Sample
from grpo_kit.judges.cache import CACHE_FILE, RewardCache
from grpo_kit.judges.offline.judge import OfflineJudge
from grpo_kit.models.load import load_model, load_tokenizer
from grpo_kit.rewards.judge_reward import FailureWatch, JudgeReward
from grpo_kit.runs.checkpoints import write_manifest
from grpo_kit.runs.writer import RunWriter, open_run
from grpo_kit.training.grpo import build_trainer, grpo_arguments
from grpo_kit.training.progress import RunProgress


def kit_seconds(config: TrainConfig, samples: list[Sample], folder: Path) -> np.ndarray:
    about = {"rewards": ["offline"], "data": {"folder": config.data, "fingerprint": ""}}
    run = open_run(config, about, folder)
    with RunWriter(run, config) as writer:
        watch = FailureWatch(config.max_failure_rate, config.failure_window)
        cache, by_id = RewardCache(run.path / CACHE_FILE), {sample.id: sample for sample in samples}
        reward = JudgeReward(OfflineJudge(), cache, watch, by_id)
        trainer = build_trainer(samples, {reward: 1.0}, RunProgress(writer, echo=lambda line: None))
        return timed(trainer)


def plain_seconds(config: TrainConfig, samples: list[Sample], folder: Path) -> np.ndarray:
    judge = OfflineJudge()

    def offline(prompts, completions, **columns):
        return [
            judge.judge_one(
                msgspec.convert({"prompt": prompt, **{k: v[i] for k, v in columns.items() if k in names}}, Sample),
                completion[0]["content"],
            ).score
            for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]

    rows = [sample.to_dict() for sample in samples]
    names = rows[0].keys() - {"prompt"}
    set_seed(config.seed)
    trainer = GRPOTrainer(
        model=load_model(config.model_name, bf16=False),
        reward_funcs=offline,
        args=grpo_arguments(config, folder / "plain"),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(config.model_name),
        peft_config=LoraConfig(
            r=config.lora_r, lora_alpha=config.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return timed(trainer)


class Clock(TrainerCallback):
    """When each step began, and when the last one ended."""

    def __init__(self):
        self.times: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())

    def on_train_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())


def timed(trainer: GRPOTrainer) -> np.ndarray:
    """Seconds of each step, shape (max_steps,)."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return np.diff(clock.times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds = {"kit": [], "plain": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare(demo.TRACES, data, eval_fraction=demo.EVAL_FRACTION)
        samples = list(read_samples(data / "train.jsonl"))
        config = TrainConfig(max_steps=args.steps, data=str(data))
        plain_seconds(config.replace(max_steps=3), samples, Path(folder) / "warm-up")
        for number in range(args.pairs):
            sides = {"kit": kit_seconds, "plain": plain_seconds}
            order = ["kit", "plain"] if number % 2 else ["plain", "kit"]
            for side in order:
                seconds[side].append(sides[side](config, samples, Path(folder) / f"{number}-{side}"))
            means = {side: repeats[-1].mean() for side, repeats in seconds.items()}
            print(f"kit {means['kit']:.3f} s a step, plain {means['plain']:.3f} s", flush=True)
        last = next((Path(folder) / f"{args.pairs - 1}-kit").rglob("checkpoint-*"))
        manifest = min(timeit.repeat(lambda: write_manifest(last), number=1, repeat=20))
    fastest = {side: float(np.min(repeats, axis=0).mean()) for side, repeats in seconds.items()}
    ratio = fastest["kit"] / fastest["plain"]
    result = {"steps": args.steps, "pairs": args.pairs, "seconds_a_step": fastest, "ratio": ratio}
    result["manifest_of_save_steps"] = manifest / (config.save_steps * fastest["kit"])
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"fastest of {args.pairs}: kit {fastest['kit']:.4f} s, plain {fastest['plain']:.4f} s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
