"""The notebooks: text and .ipynb hold the same cells, and the four run in order without a browser."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from matplotlib.image import imread

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import data_folder

sys.path.insert(0, str(ROOT / "notebooks"))
from build import read_text_notebook

RESULTS = ("data/result.json", "prototype/result.json", "run1/result.json", "run1/eval/result.json")
TEXTS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_the_ipynb_is_built_from_the_text(text):
    built = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    expected = read_text_notebook(text)
    assert [(c.id, c.cell_type, c.source) for c in built.cells] == [
        (c.id, c.cell_type, c.source) for c in expected.cells
    ], "run make notebooks"
    assert "parameters" in [tag for cell in built.cells for tag in cell.metadata.get("tags", [])]
    outputs = [output for cell in built.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a figure is kept for those who only read"
    assert not [output for output in outputs if output.output_type == "error"]
    assert str(ROOT) not in json.dumps(built) and str(Path.home()) not in json.dumps(built)


@pytest.mark.parametrize(("name", "most"), [("02_prototype_rewards", 120), ("06_agents", 80)])
def test_these_are_short(name, most):
    cells = read_text_notebook(ROOT / "notebooks" / f"{name}.py").cells
    lines = [line.strip() for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= most, "the package defines, it only asks"


def test_own_traces_go_where_the_other_notebooks_look(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = read_text_notebook(ROOT / "notebooks" / "01_prepare_data.py").cells
    code = [cell.source.replace("%matplotlib", "# ") for cell in cells if cell.cell_type == "code"]

    def prepared(**given: object) -> str:
        exec(code[0], names := {})
        names |= given
        for source in [*code[1:3], code[-1]]:
            exec(source, names)
        return capsys.readouterr().out

    shop = str(ROOT / "tests" / "data" / "bicycle_shop.jsonl")
    assert prepared().endswith("started in the same folder, take these samples.\n") and Path("data/demo").is_dir()
    assert prepared(traces=shop).endswith("take these samples.\n")
    assert data_folder(TrainConfig().data) == Path("data/processed"), "03 and `grpo-kit train` find them"
    assert 'take those in data/processed. For these set data = "data/demo" there' in prepared()
    assert 'set data = "mine" there' in prepared(traces=shop, out="mine", seed=1)


def test_the_demo_runs_all_four_and_ends_with_the_comparison(tmp_path):
    command = [sys.executable, "-m", "grpo_kit.cli", "demo", "--out", tmp_path / "demo", "--max-steps", "6"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"JPY_SESSION_NAME": "a notebook that started it"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("base 0.") and " difference " in lines[-1] and lines[-1].endswith("(n=128)")
    for text in TEXTS[:4]:  # 05 is in sweeps/test_sweeps.py
        notebook = nbformat.read(tmp_path / "demo" / f"{text.stem}.ipynb", as_version=4)
        assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
        figures = [
            o for cell in notebook.cells[-4:] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})
        ]
        assert figures, f"{text.stem} ends with a figure"
        picture = imread(io.BytesIO(base64.b64decode(figures[-1]["data"]["image/png"])))
        assert picture[0, 0, 3] == 0, "the page's own background is seen, light or dark"
    kept = (tmp_path / "demo" / "03_launch_training.ipynb").read_text()
    assert kept.count('class=\\"grpo-kit-still\\"') == 3, "panel, runs and samples stay where there is no kernel"
    figures = [word for word in " ".join(lines[-2:-1]).split() if word.endswith(".png")]
    assert len(figures) == 2 and all(Path(figure).stat().st_size > 10_000 for figure in figures)
    results = {file: json.loads((tmp_path / "demo" / file).read_text()) for file in RESULTS}
    assert results["data/result.json"]["samples"]["eval"] == 584
    assert results["prototype/result.json"]["judges"]["offline"]["right_above_wrong"] > 0.9
    assert (results["run1/result.json"]["state"], results["run1/result.json"]["step"]) == ("complete", 6)
    assert results["run1/eval/result.json"]["run"] == "run1"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"], "the demo keeps to its own folder"
