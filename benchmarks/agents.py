"""How an agent learns on the embedded default, with several seeds: docs/agents.md's curve and held-out success.

    .venv/bin/python benchmarks/agents.py [--seeds 42 1 2] [--n 128]

Each seed trains `tiny-agent` on the kit's own dialogues, as notebook 06 does, and has its checkpoints evaluated. Writes
benchmarks/agents.json and docs/agents.png.
"""

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd
from matplotlib.ticker import PercentFormatter

import grpo_kit as kit
from grpo_kit.plots.style import COLOURS, TITLE, NotebookFigure, styled, whole_ticks
from grpo_kit.runs.directory import recent_steps

ROOT = Path(__file__).parents[1]


@styled()
def figure(curves: dict[int, pd.Series], held_out: dict[int, pd.DataFrame]) -> NotebookFigure:
    drawn = NotebookFigure(8, 3.2)
    axes = drawn.subplots()
    drawn.suptitle("tiny-agent on the kit's own dialogues: dialogues that succeed", **TITLE)
    for place, (seed, curve) in enumerate(curves.items()):
        window = recent_steps(len(curve))
        axes.plot(curve.rolling(window, min_periods=1).mean(), color=COLOURS[place], label=f"seed {seed}")
        found = held_out[seed]
        bars = (found["success"] - found["low"], found["high"] - found["success"])
        steps = found["step"] + place - (len(curves) - 1) / 2  # beside each other
        axes.errorbar(steps, found["success"], bars, fmt="o", ms=4, lw=1.2, color=COLOURS[place])
    axes.set(xlabel=f"step; lines: training, means of {window} steps; dots: held-out, with 95% intervals", ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    whole_ticks(axes.xaxis)
    axes.legend(loc="lower right")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--n", type=int, default=128, help="held-out dialogues")
    args = parser.parse_args()
    curves, held_out = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            run = kit.train(model_name="tiny-agent", seed=seed, run_id=f"seed{seed}", runs_dir=folder)
            table = kit.evaluate(run, n=args.n).agents()
            curves[seed] = run.metrics().set_index("step")["agent/success"]
            held_out[seed] = table.assign(step=table["model"].str.extract(r"(\d+)$")[0].fillna("0").astype(int))
            print(f"seed {seed}", table.round(3).to_string(), sep="\n")
    figure(curves, held_out).savefig(ROOT / "docs/agents.png", dpi=110)
    found = {seed: table.round(4).to_dict("records") for seed, table in held_out.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps({"n": args.n, "seeds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
