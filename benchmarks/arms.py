"""The table of a sweep whose runs begin with a warm start or without: base, imitation, GRPO, and GRPO after imitation.

    .venv/bin/python benchmarks/arms.py sweeps/real_dialogues --out benchmarks/real_dialogues.csv

All runs are scored on the same prompts. Means and 95% intervals are over prompts and seeds: both are drawn for each
of 10,000 resamples, and of a difference the same ones for both arms. Writes each answer's scores to a CSV file, from
which the same table is printed where the sweep is gone: give that file in its place.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from grpo_kit.evaluation.result import Evaluation
from grpo_kit.runs.directory import RunDirectory

BASE, SFT, GRPO, BOTH = ARMS = "base", "SFT", "GRPO", "SFT, then GRPO"
DRAWS, SEED = 10_000, 0


def read_runs(folder: Path) -> pd.DataFrame:
    """A row for each answer: run, seed, arm, id, act, score, second score."""
    rows = []
    for file in sorted(folder.glob("*/eval/*.json")):
        evaluation, run = Evaluation.load(file), RunDirectory(file.parent.parent)
        settings = run.about["settings"]
        arms = {evaluation.base["name"]: BASE, evaluation.newest["name"]: BOTH if settings["sft_steps"] else GRPO}
        if evaluation.warm_start:
            arms[evaluation.warm_start["name"]] = SFT
        samples = evaluation.samples()
        for name, arm in arms.items():
            part = samples[["id", "act"]].assign(run=run.path.name, seed=settings["seed"], arm=arm)
            part["score"], part["second_score"] = samples[f"{name} score"], samples[f"{name} second score"]
            rows.append(part)
    return pd.concat(rows)[["run", "seed", "arm", "id", "act", "score", "second_score"]]


def table_of(answers: pd.DataFrame, column: str) -> pd.DataFrame:
    """Each arm's mean, and its differences from the base and from SFT, each with its interval."""
    grids = {}  # seeds × prompts; the base is asked once for each run, and its seeds are averaged
    for arm, part in answers.groupby("arm"):
        grids[arm] = part.pivot_table(index="seed", columns="id", values=column).to_numpy()
    grids[BASE] = grids[BASE].mean(axis=0, keepdims=True)
    dice, rows = np.random.default_rng(SEED), {}
    prompts = dice.integers(grids[BASE].shape[1], size=(DRAWS, grids[BASE].shape[1]))
    drawn = {}
    for seeds in {len(grid) for grid in grids.values()}:  # arms of the same seeds get the same draws
        drawn[seeds] = dice.integers(seeds, size=(DRAWS, seeds))
    means = {
        arm: np.array([grid[s].mean(axis=0)[p].mean() for s, p in zip(drawn[len(grid)], prompts, strict=True)])
        for arm, grid in grids.items()
    }
    for arm in filter(grids.__contains__, ARMS):
        seeds = grids[arm].mean(axis=1)
        row = {"mean": with_interval(seeds.mean(), means[arm], ""), "seeds": ", ".join(f"{each:.3f}" for each in seeds)}
        for other in (BASE, SFT):
            if arm != other and other in grids and arm != BASE:
                gain = seeds.mean() - grids[other].mean()
                row[f"less {other}"] = with_interval(gain, means[arm] - means[other], "+")
        rows[arm] = row
    return pd.DataFrame(rows).T.fillna("")


def with_interval(mean: float, draws: np.ndarray, sign: str) -> str:
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="the folder of a sweep, or the CSV file that --out wrote")
    parser.add_argument("--out", type=Path, help="a CSV file for each answer's scores")
    args = parser.parse_args()
    answers = pd.read_csv(args.sweep, keep_default_na=False) if args.sweep.is_file() else read_runs(args.sweep)
    if args.out:
        answers.round(4).to_csv(args.out, index=False)
    print("By the judge that trained\n", table_of(answers, "score").to_string(), sep="\n")
    print("\nBy the second judge\n", table_of(answers, "second_score").to_string(), sep="\n")
    by_act = answers.pivot_table(index="act", columns="arm", values="score")[
        [a for a in ARMS if a in set(answers["arm"])]
    ]
    by_act.insert(0, "n", answers.groupby("act")["id"].nunique())
    print("\nBy class of act\n", by_act.sort_values("n", ascending=False).round(3).to_string(), sep="\n")


if __name__ == "__main__":
    main()
