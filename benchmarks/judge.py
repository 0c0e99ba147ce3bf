"""Measures what the offline judge gives to real replies, to other people's words for the same, and to tricks.

    .venv/bin/python benchmarks/judge.py path/to/sgd/train [--n 1000] [--out judge.json]

Reads a Schema-Guided Dialogue folder (dialogues_*.json and schema.json), tries every kind of answer on each turn (or on
n turns drawn with a fixed seed) and prints a Markdown table: mean score, and the share of turns that earn 0.2 or more.
"""

import argparse
import json
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from grpo_kit.data.samples import Sample
from grpo_kit.judges.offline.judge import OfflineJudge

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from judge_answers import greedy, in_other_words, out_of_place, partly_right, read_turns, slot_names, tricks

SEED = 0


def answers(turns: list[Sample], slots: dict[str, list[str]]) -> Iterator[tuple[str, Sample, str]]:
    """(kind of answer, turn, answer) for all kinds and turns."""
    rng = random.Random(SEED)
    for turn in turns:
        yield "the trace's own reply", turn, turn.ground_truth
    for turn, answer in in_other_words(turns, rng):
        yield "another person's words for the same acts", turn, answer
    yield from partly_right(turns, random.Random(SEED))
    yield from out_of_place(turns, rng)
    for turn in turns:
        known = [name for service in turn.services for name in slots[service]]
        for kind, answer in (tricks(turn, known) | greedy(turn, known)).items():
            yield kind, turn, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path, help="a Schema-Guided Dialogue folder")
    parser.add_argument("--n", type=int, help="how many turns to draw (default: all)")
    parser.add_argument("--ground", default="results", help="what prompts hold: results, history or acts")
    parser.add_argument("--out", type=Path, help="write the table here, as JSON")
    args = parser.parse_args()
    turns = read_turns(args.traces, args.ground)
    if args.n and args.n < len(turns):
        turns = random.Random(SEED).sample(turns, args.n)
    judge = OfflineJudge()
    scores = defaultdict(list)
    for kind, turn, answer in answers(turns, slot_names(args.traces)):
        scores[kind].append(judge.judge_one(turn, answer).score)
    rows = [
        {
            "answer": kind,
            "turns": len(points),
            "mean": round(statistics.fmean(points), 3),
            "share_from_0.2": round(statistics.fmean(point >= 0.2 for point in points), 4),
        }
        for kind, points in scores.items()
    ]
    print("| kind of answer | turns | mean score | share of turns >= 0.2 |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['answer']} | {row['turns']:,} | {row['mean']:.3f} | {row['share_from_0.2']:.1%} |")
    if args.out:
        table = {"judge": f"{judge.name} {judge.version}", "seed": SEED, "turns": len(turns), "rows": rows}
        args.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
