"""What the kit adds to a training step: its trainer against the same TRL trainer as a plain script would set it up.

    .venv/bin/python benchmarks/overhead.py [--pairs 6] [--steps 30]

Both train the tiny model with the same settings, seed and judge, in turn, several times in one process; the first to
go changes from pair to pair. The plain one has no cache, no run directory and no timings. Prints seconds a step of
each pair and the median ratio, and writes benchmarks/overhead.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, set_seed
from trl import GRPOTrainer

from grpo_kit import TrainConfig, demo, prepare, read_samples
from grpo_kit.cache import RewardCache
from grpo_kit.judges.offline import OfflineJudge
from grpo_kit.models import load_model, load_tokenizer
from grpo_kit.rewards import judge_reward
from grpo_kit.runs import RunWriter, open_run
from grpo_kit.samples import Sample, sample_from
from grpo_kit.training import build_trainer, grpo_arguments


def kit_seconds(config: TrainConfig, samples: list[Sample], folder: Path) -> float:
    about = {"rewards": ["offline"], "data": {"folder": config.data, "fingerprint": ""}}
    run = open_run(config, about, folder)
    with RunWriter(run, config) as writer:
        reward = judge_reward(OfflineJudge(), RewardCache(run.path / "rewards.cache.sqlite"))
        trainer = build_trainer(config, samples, [reward], run.path, writer, echo=lambda line: None)
        return timed(trainer)


def plain_seconds(config: TrainConfig, samples: list[Sample], folder: Path) -> float:
    judge = OfflineJudge()

    def offline(prompts, completions, **columns):
        return [
            judge.judge_one(
                sample_from({"prompt": prompt, **{k: v[i] for k, v in columns.items() if k in names}}, default_id=""),
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


def timed(trainer: GRPOTrainer) -> float:
    started = time.perf_counter()
    trainer.train()
    return (time.perf_counter() - started) / trainer.args.max_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare(demo.TRACES, data, eval_fraction=demo.EVAL_FRACTION)
        samples = list(read_samples(data / "train.jsonl"))
        config = TrainConfig(max_steps=args.steps, data=str(data))
        plain_seconds(config.replace(max_steps=3), samples, Path(folder) / "warm-up")
        for number in range(args.pairs):
            sides = {"kit": kit_seconds, "plain": plain_seconds}
            order = ["kit", "plain"] if number % 2 else ["plain", "kit"]
            seconds = {side: sides[side](config, samples, Path(folder) / f"{number}-{side}") for side in order}
            pairs.append(seconds)
            ratio = seconds["kit"] / seconds["plain"]
            print(f"kit {seconds['kit']:.3f} s a step, plain {seconds['plain']:.3f} s, ratio {ratio:.3f}", flush=True)
    ratio = statistics.median(pair["kit"] / pair["plain"] for pair in pairs)
    args.out.write_text(json.dumps({"steps": args.steps, "pairs": pairs, "median_ratio": ratio}, indent=2) + "\n")
    print(f"median ratio of {args.pairs} pairs: {ratio:.3f}")


if __name__ == "__main__":
    main()
