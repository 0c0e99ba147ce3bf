"""Makes the data of the study on real dialogues: turns to learn from, and held-out ones, with prompts that are short.

    make smollm2
    .venv/bin/python benchmarks/real_dialogues.py path/to/sgd data/real_dialogues

Prepares Schema-Guided Dialogue's train and dev, the newest result of each call in the prompts, and keeps turns whose
prompt has at most 400 tokens of SmolLM2's, to train on --most-tokens; of dev's, 200 drawn with a seed are held out.
"""

import argparse
import random
import tempfile
from pathlib import Path

import grpo_kit as kit
from grpo_kit.data.samples import Sample, read_samples, to_lines
from grpo_kit.data.splits import check_splits
from grpo_kit.models.load import SMOLLM2, load_tokenizer
from grpo_kit.models.prompts import prompt_tokens

MOST_TOKENS, HELD_OUT, SEED = 400, 200, 7


def readable(traces: Path, most_tokens: int) -> list[Sample]:
    """The samples of a split whose prompts are short enough, in its order. SGD numbers the dialogues of each split from
    the start, so they get its name."""
    tokenizer = load_tokenizer(SMOLLM2)
    with tempfile.TemporaryDirectory() as folder:
        kit.prepare(traces, folder, max_results=1)
        samples = [each for file in ("train", "eval") for each in read_samples(Path(folder) / f"{file}.jsonl")]
    short = [each for each in samples if len(prompt_tokens(tokenizer, each.prompt, each.tools)) <= most_tokens]
    name = traces.name
    return [each.replace(id=f"{name}_{each.id}", dialogue_id=f"{name}_{each.dialogue_id}") for each in short]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sgd", type=Path, help="the folder that has train and dev")
    parser.add_argument("out", type=Path, help="the folder of train.jsonl and eval.jsonl")
    parser.add_argument("--most-tokens", type=int, default=MOST_TOKENS)
    args = parser.parse_args()
    train, dev = readable(args.sgd / "train", args.most_tokens), readable(args.sgd / "dev", MOST_TOKENS)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "train.jsonl").write_bytes(to_lines(train))
    (args.out / "eval.jsonl").write_bytes(to_lines(random.Random(SEED).sample(dev, HELD_OUT)))
    check_splits(args.out / "train.jsonl", args.out / "eval.jsonl")
    print(f"{len(train)} turns to train on, {HELD_OUT} of {len(dev)} held out, in {args.out}")


if __name__ == "__main__":
    main()
