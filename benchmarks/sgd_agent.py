"""Makes the data and the model of the study on replayed real dialogues: four services, and tiny-agent that knows them.

    .venv/bin/python benchmarks/sgd_agent.py path/to/sgd/train data/sgd_agent

The demo's vocabulary spells Schema-Guided Dialogue's functions and words letter by letter, so that a prompt has 1,700
tokens. Here each function's schema, each line that is told of a service, each name of a function or a slot, and each
frequent word of the training dialogues is one piece, as the demo's own are, with weights drawn at random: that is the
model in start/. It then reads the training dialogues as the demo's models read theirs (scripts/demo/build.py), calls
and replies at full weight: that is the model in model/. The kit's own warm start learns one reply at a time, each after
its prompt, which takes so small a model longer.
"""

import argparse
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from tokenizers import AddedToken

import grpo_kit as kit
from grpo_kit.data.samples import Sample, read_samples, to_lines
from grpo_kit.models.load import load_model, load_tokenizer

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "demo"))
import build

SERVICES = {"Media_1", "RideSharing_1", "Travel_1", "Weather_1"}  # those whose prompts are the shortest
SEED, LEAST, LONGEST = 0, 5, 2048  # LEAST: how often a piece is said; LONGEST: the tokens that the model can read
STEPS, READ = 500, 800  # of 16 sequences; longer ones than READ are left out
WORD = re.compile(r" [a-z]{3,}|[A-Z][a-z]{2,}")  # the demo's pieces leave out the space before a name


def pieces_of(samples: Sequence[Sample]) -> list[AddedToken]:
    """What the samples say again and again."""
    said, functions, names = Counter[str](), set[str](), set[str]()
    for sample in samples:
        briefing, *told = (message["content"] for message in sample.prompt)
        said.update([*briefing.splitlines(), *WORD.findall("\n".join([*told, sample.ground_truth]))])
        for tool in sample.tools:
            functions.add(json.dumps(tool, ensure_ascii=False))
            names |= {tool["function"]["name"], *tool["function"]["parameters"]["properties"]}
        results = (json.loads(each["content"])["results"] for each in sample.prompt if each["role"] == "tool")
        names.update(slot for rows in results for row in rows for slot in row)
    whole = {each for each, count in said.items() if count >= LEAST} | functions
    return [AddedToken(each, normalized=False, single_word=each in names) for each in sorted(whole | names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path, help="the folder of SGD's train")
    parser.add_argument("out", type=Path, help="the folder of train.jsonl and eval.jsonl, start/ and model/")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = {}
    with tempfile.TemporaryDirectory() as folder:
        kit.prepare(args.traces, folder, learn="calls", max_results=1)
        for name in ("train.jsonl", "eval.jsonl"):
            kept[name] = [each for each in read_samples(Path(folder, name)) if SERVICES.issuperset(each.services)]
            (args.out / name).write_bytes(to_lines(kept[name]))
    torch.set_num_threads(1)  # the same result on any machine
    torch.manual_seed(SEED)
    tokenizer, model = load_tokenizer("tiny-agent"), load_model("tiny-agent", bf16=False)
    added = tokenizer.add_tokens(pieces_of(kept["train.jsonl"]))
    model.resize_token_embeddings(len(tokenizer))
    model.config.update({"max_position_embeddings": LONGEST, "sliding_window": LONGEST})
    counts = " and ".join(str(len(samples)) for samples in kept.values())
    print(f"{counts} samples; {added} pieces more, {model.num_parameters():,} parameters")
    for each in (tokenizer, model):
        each.save_pretrained(args.out / "start")
    told = [build.Told({}, list(own)) for _, own in groupby(kept["train.jsonl"], lambda each: each.dialogue_id)]
    sequences = [each for each in build.whole(tokenizer, told) if 0 < len(each[0]) <= READ]
    build.learn(model, sequences, random.Random(SEED), steps=STEPS, batch=16, scale=1.0)
    build.save(model, tokenizer, args.out / "model")


if __name__ == "__main__":
    main()
