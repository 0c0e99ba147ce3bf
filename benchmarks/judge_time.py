"""How much of the judge's time max_staleness hides behind generating and updating.

    .venv/bin/python benchmarks/judge_time.py

A server on loopback (tests/judge_server.py, a process of its own) plays Gemini and takes so many seconds for each
answer. The tiny model is trained with it, 32 completions a step, all asked for at once, so that a step waits for one
answer's time. What counts is the mean of 12 steps, the first and the last ones apart, in which nothing was ahead yet or
any more; with max_staleness=2 every third step waits, so that single steps say little. Hidden is the share of the
judge's time that a step no longer waits for. Writes benchmarks/judge_time.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

import grpo_kit as kit
from grpo_kit import prepare
from grpo_kit.data import demo

ROOT = Path(__file__).parents[1]
LATENCIES = (0.0, 0.5, 1.0, 2.0, 5.0)  # seconds of an answer; the model's own step takes some 0.5
STALENESS = (0, 1, 2, 3)  # 12 steps are whole rounds of each
FIRST, COUNTED = 2, 12
STEPS = FIRST + COUNTED + max(STALENESS)


@contextmanager
def gemini(seconds: float):
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "judge_server.py", "--seconds", str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        os.environ |= {"GOOGLE_GEMINI_BASE_URL": server.stdout.readline().strip(), "GEMINI_API_KEY": "key"}
        yield
    finally:
        server.kill()


def step_seconds(folder: Path, max_staleness: int, latency: float) -> float:
    run = kit.train(
        data=str(folder / "data"),
        runs_dir=folder / "runs",
        run_id=f"{max_staleness}-{latency:g}",
        max_steps=STEPS,
        save_steps=STEPS,
        judge="gemini",
        judge_max_in_flight=256,
        canaries="off",
        max_staleness=max_staleness,
        echo=lambda line: None,
    )
    return mean(run.metrics()["step_time"].tolist()[FIRST : FIRST + COUNTED])


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(demo.TRACES, folder / "data", eval_fraction=demo.EVAL_FRACTION)
        for latency in LATENCIES:
            with gemini(latency):
                seconds = {each: step_seconds(folder, each, latency) for each in STALENESS}
            rows.append({"latency": latency, "step_seconds": seconds})
            print(f"{latency:g} s an answer: {', '.join(f'{s}: {t:.2f}' for s, t in seconds.items())}", flush=True)
    alone = rows[0]["step_seconds"][0]  # a step that waits for nothing
    for row in rows[1:]:
        waits = row["step_seconds"][0] - alone
        row["hidden"] = {s: round((row["step_seconds"][0] - row["step_seconds"][s]) / waits, 3) for s in STALENESS[1:]}
        print(f"{row['latency']:g} s: hidden {row['hidden']}")
    Path(__file__).with_suffix(".json").write_text(json.dumps({"steps": STEPS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
