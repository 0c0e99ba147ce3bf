"""One table of what the benchmarks found, by the JSON that each of them wrote.

.venv/bin/python benchmarks/table.py
"""

import json
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent
# File; what is compared; the figure in it; its goal, and whether more or less is better.
CLAIMS: list[tuple[str, str, Callable[[dict], float], str, float]] = [
    ("overhead", "a step, of plain TRL's", lambda found: found["ratio"], "<=", 1.03),
    ("overhead", "a manifest, of the steps of a save", lambda found: found["manifest_of_save_steps"], "<=", 0.01),
    (
        "gemini",
        "256 judgements, of the ideal",
        lambda found: max(v for k, v in found["median_ratio"].items() if k != "sockets"),
        "<=",
        1.15,
    ),
    (
        "gemini",
        "256 judgements, times as fast as a loop",
        lambda found: min(found["times_faster_than_loop"].values()),
        ">=",
        25,
    ),
    ("gemini", "tokens that group mode saves", lambda found: found["tokens_saved_by_groups"], ">=", 0),
    ("gemini", "10,000 cached judgements, s", lambda found: found["cached_10000_seconds"], "<=", 0.3),
    (
        "judge_time",
        "of a judge as slow as a step, hidden",
        lambda found: next(row for row in found["rows"] if row["latency"] == 0.5)["hidden"]["1"],
        ">=",
        0.5,
    ),
    ("data", "preparing SGD, of orjson's speed", lambda found: found["speed_ratio"]["history"], ">=", 0.6),
    ("data", "the same with results in prompts", lambda found: found["speed_ratio"]["results"], ">=", 0.5),
    ("data", "memory for ten times the input, of once", lambda found: found["peak_ratio"], "<=", 1.1),
    ("startup", "grpo-kit --help, s", lambda found: found["best_seconds"]["grpo-kit --help"], "<=", 0.4),
    ("startup", "train to its first step, of plain TRL's", lambda found: found["first_step_ratio"], "<=", 1.1),
    ("startup", "train to its end, of plain TRL's", lambda found: found["end_ratio"], "<=", 1.1),
    (
        "run_dir",
        "10,000 steps drawn, 100,000 completions, s",
        lambda found: found["large_run"]["learning curve, drawn"] + found["large_run"]["completions to browse"],
        "<=",
        1,
    ),
    ("run_dir", "1,000 runs in a table, s", lambda found: found["many_runs"]["kit.runs()"], "<=", 2),
    (
        "memory",
        "worst error of foretold memory, unseen shapes",
        lambda found: found["drawn"]["worst_error"]["peak"],
        "<=",
        0.15,
    ),
    ("quotes", "times within their quote, share", lambda found: found["summary"]["all"]["within"], ">=", 0.9),
    ("quotes", "highest of lowest quoted, median", lambda found: found["summary"]["all"]["high_by_low"], "<=", 5),
]


def main() -> None:
    print(f"{'benchmark':<11}{'what':<48}{'found':>8}   {'goal':<8}reached")
    for name, what, figure, sign, goal in CLAIMS:
        path = FOLDER / f"{name}.json"
        try:
            value = figure(json.loads(path.read_bytes()))
        except (OSError, KeyError):
            print(f"{name:<11}{what:<48}{'not run':>8}   {sign} {goal}")
            continue
        reached = value <= goal if sign == "<=" else value >= goal
        print(f"{name:<11}{what:<48}{value:>8.3g}   {f'{sign} {goal:g}':<8}{'yes' if reached else 'NO'}")


if __name__ == "__main__":
    main()
