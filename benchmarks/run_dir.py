"""How quickly large runs, and many runs, are shown: plots and tables from their files.

    .venv/bin/python benchmarks/run_dir.py

A short run of the tiny model is made; its rows are repeated under other step numbers until there are 10,000 steps and
100,000 completions, and its folder is copied 1,000 times. Every part is measured three times in turn with reading the
same files by orjson alone; the fastest counts. Goals: the large run's curve and tables in 1 s, 1,000 runs in 2 s.
Writes benchmarks/run_dir.json.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

import grpo_kit as kit
from grpo_kit import plots
from grpo_kit.widgets import tables as browsing

STEPS, COMPLETIONS, RUNS, ROUNDS = 10_000, 100_000, 1_000, 3


def repeat(path: Path, rows: int, a_step: int) -> None:
    """Its rows again and again, `a_step` of them for each step."""
    known = [orjson.loads(line) for line in path.open("rb")]
    with path.open("wb") as file:
        for i in range(rows):
            file.write(orjson.dumps(known[i % len(known)] | {"step": 1 + i // a_step}) + b"\n")


def best(measured: dict[str, Callable[[], object]]) -> dict[str, float]:
    seconds = {name: [] for name in measured}
    for _ in range(ROUNDS):
        for name, call in measured.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: round(min(values), 3) for name, values in seconds.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = kit.train(max_steps=5, save_steps=5, runs_dir=folder, echo=lambda text: None).path
        small, large = Path(folder) / "many", path
        for number in range(RUNS):
            copy = small / f"run_{number:04}"
            copy.mkdir(parents=True)
            for name in ("config.json", "status.json", "metrics.jsonl"):
                shutil.copy(path / name, copy)
        repeat(large / "metrics.jsonl", STEPS, 1)
        repeat(large / "completions.jsonl", COMPLETIONS, COMPLETIONS // STEPS)
        run, figure = kit.Run(large), Path(folder) / "figure.png"

        def read_alone() -> None:
            for name in ("metrics.jsonl", "completions.jsonl"):
                for line in (large / name).open("rb"):
                    orjson.loads(line)

        parts = best(
            {
                "learning curve, drawn": lambda: plots.learning_curve(run).savefig(figure),
                "run.metrics()": run.metrics,
                "run.completions()": run.completions,
                "completions to browse": lambda: browsing.completions(run),
                "orjson alone": read_alone,
            }
        )
        many = best(
            {
                "kit.runs()": lambda: kit.runs(small),
                "orjson alone": lambda: [
                    orjson.loads((each / name).read_bytes())
                    for each in small.iterdir()
                    for name in ("config.json", "status.json")
                ],
            }
        )
    result = {"large_run": parts, "many_runs": many}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
