"""How long after the click on Launch the curve has its first point, beside the same run from a shell.

    .venv/bin/python benchmarks/first_point.py [--rounds 3]

Notebook 03 in JupyterLab and Chromium, on the demo's data: seconds from the click to what the panel says first, to
another phase, and to the first point that is drawn. `grpo-kit train` makes the same run in turn, until its first step's
line. Each round has a JupyterLab of its own. Writes benchmarks/first_point.json.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("tests", "notebooks"))

import nbformat
import papermill
from build import read_text_notebook
from jupyter_lab import Lab, jupyter_lab

from grpo_kit import prepare
from grpo_kit.backends.run import runs_under_way
from grpo_kit.data import demo

ROOT = Path(__file__).parents[1]
STEPS = 2_000
CLI = [sys.executable, "-m", "grpo_kit.cli"]


def click(lab: Lab) -> dict[str, float]:
    """Opens the notebook, clicks Launch, and ends the run: seconds from the click to each thing seen."""
    lab.open("03_launch_training.ipynb")
    lab.run_all()
    progress = lab.notebook.locator(".grpo-kit-progress").first
    lab.button("Launch").click()
    started, seen = time.perf_counter(), {}
    while "first point" not in seen:
        phase = re.search(r"step 0/\d+ · ([a-zA-Z ]+), \d+ s", progress.inner_text())
        if phase:
            seen.setdefault(phase[1], time.perf_counter() - started)
        if lab.page.evaluate("() => document.querySelector('.grpo-kit-curves')?.dataset.step > 0"):
            seen["first point"] = time.perf_counter() - started
    for run in runs_under_way(lab.folder / "runs"):
        run.kill()
    return seen


def shell(folder: Path, data: Path) -> float:
    """Seconds from the start of `grpo-kit train` to its first step's line."""
    started = time.perf_counter()
    command = [*CLI, "train", "--data", data, "--max-steps", str(STEPS), "--runs-dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    next(line for line in process.stdout if f"Step 1/{STEPS}" in line)
    taken = time.perf_counter() - started
    process.kill()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds, times = parser.parse_args().rounds, defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name) / "work", Path(name) / "data"
        prepare(demo.TRACES, data, eval_fraction=demo.EVAL_FRACTION)
        notebook = folder / "03_launch_training.ipynb"
        folder.mkdir()
        nbformat.write(read_text_notebook(ROOT / "notebooks/03_launch_training.py"), notebook)
        parameters = {"data": str(data), "max_steps": STEPS}
        papermill.execute_notebook(notebook, notebook, parameters=parameters, prepare_only=True)
        for number in range(rounds):
            with jupyter_lab(folder, Path(name) / f"jupyter{number}") as lab:
                for what, seconds in click(lab).items():
                    times[what].append(seconds)
            times["grpo-kit train, first step"].append(shell(Path(name) / "runs", data))
    result = {what: [round(each, 2) for each in found] for what, found in times.items()}
    print(json.dumps(result, indent=2))
    median = {what: round(statistics.median(found), 2) for what, found in result.items()}
    written = {"rounds": rounds, "seconds": result, "median_seconds": median}
    Path(__file__).with_suffix(".json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
