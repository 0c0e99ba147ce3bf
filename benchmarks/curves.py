"""A run's curves in JupyterLab and Chromium: the kit's widget beside plotly's FigureWidget with the same lines.

    .venv/bin/pip install --target /tmp/plotly plotly==7.1
    PYTHONPATH=/tmp/plotly .venv/bin/python benchmarks/curves.py

A run of 10,000 steps is shown, then ten times a step is added to it. Seconds are from the start of a cell's work until
its lines are drawn, bytes what the page was sent meanwhile and what the saved notebook has of it. Without plotly only
the kit's widget is measured. Writes benchmarks/curves.json.
"""

import importlib.util
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from grpo_kit.config.train import TrainConfig
from grpo_kit.plots.runs import PARTS
from grpo_kit.runs.writer import open_run

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from jupyter_lab import Lab, jupyter_lab  # noqa: E402

STEPS, UPDATES = 10_000, 10
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
COMMON = """
import json
from grpo_kit import Run
from grpo_kit.plots.runs import SMALL, by_step

run = Run("long", "runs")

def add(step):
    with open("runs/long/metrics.jsonl", "a") as rows:
        rows.write(json.dumps({"step": step, "reward": 0.5, "reward_std": 0.2, "loss": 0.0}) + "\\n")
"""
KIT = {
    "show": """
from grpo_kit.widgets.curves import Curves

shown = Curves([run])
update = lambda: shown.show([run])
shown
""",
    "drawn": "() => Number(document.querySelector('.grpo-kit-curves .mean') && "
    "document.querySelector('.grpo-kit-curves').dataset.step)",
}
PLOTLY = {
    "show": """
import plotly.graph_objects as go
from plotly.subplots import make_subplots

def lines():
    table = by_step(run)
    mean, spread = (table[name].rolling(1000, min_periods=1).mean() for name in ("reward", "reward_std"))
    small = {name: table[name] for name in SMALL if table[name].notna().any()}
    return [table["reward"], mean, mean - spread, mean + spread, *small.values()]

shown = go.FigureWidget(make_subplots(3, 3, specs=[[{"colspan": 3}, None, None], [{}, {}, {}], [{}, {}, {}]]))
places = [(1, 1)] * 4 + [(row, column) for row in (2, 3) for column in (1, 2, 3)]
for line, (row, column) in zip(lines(), places):
    shown.add_scattergl(x=line.index, y=line, row=row, col=column)

def update():
    with shown.batch_update():
        for trace, line in zip(shown.data, lines()):
            trace.x, trace.y = line.index, line

shown
""",
    "drawn": "() => document.querySelector('.js-plotly-plot')?._fullData?.[0]?._length",
}


def write_run(folder: Path) -> None:
    about = {"rewards": ["offline"], "data": {"folder": "", "fingerprint": ""}}
    run, draw = open_run(TrainConfig(run_id="long"), about, folder), random.Random(0)
    columns = ["loss", "completions/mean_length", "entropy", "frac_reward_zero_std", "kl", "judge/offline/failures"]
    columns += [f"seconds/{part}" for part in PARTS]
    rows = [
        {"step": i, "reward": draw.gauss(i / STEPS, 0.1), "reward_std": 0.2} | {name: draw.random() for name in columns}
        for i in range(1, STEPS + 1)
    ]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure(lab: Lab, name: str, way: dict[str, str]) -> dict:
    sources = [COMMON, way["show"], *(f"add({STEPS + i}); update()" for i in range(1, UPDATES + 1))]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    path = lab.folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), path)
    frames = []
    lab.page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(len(frame))))
    lab.open(path.name)
    run_cell = "window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')"
    lab.page.evaluate(run_cell)
    seconds, sent = [], []
    for wanted in range(STEPS, STEPS + UPDATES + 1):
        before, started = sum(frames), time.perf_counter()
        lab.page.evaluate(f"() => void {run_cell}")
        lab.page.wait_for_function(f"wanted => ({way['drawn']})() >= wanted", arg=wanted, polling=20)
        seconds.append(time.perf_counter() - started)
        lab.page.wait_for_timeout(500)
        sent.append(sum(frames) - before)
    lab.save()
    outputs = nbformat.read(path, as_version=4).cells[1].outputs
    lab.close()
    return {
        "first picture, s": round(seconds[0], 2),
        "update, s": round(statistics.median(seconds[1:]), 2),
        "first picture, bytes sent": sent[0],
        "update, bytes sent": round(statistics.median(sent[1:])),
        "kept in the notebook, bytes": len(json.dumps(outputs)),
    }


def main() -> None:
    ways = {"kit": KIT} | ({"plotly": PLOTLY} if importlib.util.find_spec("plotly") else {})
    found = {}
    for name, way in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "work"
            write_run(work / "runs")
            with jupyter_lab(work, Path(folder) / "home") as lab:
                found[name] = measure(lab, name, way)
    own = [ROOT / "grpo_kit" / "widgets" / f"curves.{end}" for end in ("js", "css")]
    found["kit"]["JavaScript, bytes"] = sum(file.stat().st_size for file in own)
    if "plotly" in ways:
        folder = Path(importlib.util.find_spec("plotly").origin).parent / "package_data"
        found["plotly"]["JavaScript, bytes"] = (folder / "widgetbundle.js").stat().st_size
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
