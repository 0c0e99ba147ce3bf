"""The things that the guides name are there, folders and modules stay small, and imports go one way."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

KIT = ROOT / "grpo_kit"
GUIDES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
PATH = re.compile(r"(?:grpo_kit|tests|docs|scripts|benchmarks|notebooks)/[\w./*{},-]*")


def in_backticks(guide: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", guide.read_text(), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def paths_in(guide: Path) -> list[str]:
    return [code for code in in_backticks(guide) if PATH.fullmatch(code.partition("::")[0])]


def functions_in(guide: Path) -> list[tuple[str, str]]:
    """File and function, of entries like `file.py::function` and `function` in `file.py`."""
    text = guide.read_text()
    named = re.findall(r"`([\w/]+\.py)::([\w.]+)`", text)
    inside = re.findall(r"`([\w.]+)(?:\([^`]*\))?` in `([\w/]+\.py)`", text)
    return named + [(file, function) for function, file in inside]


def defined_in(file: Path) -> set[str]:
    """Functions, classes, methods and module-level names: "KitTrainer", "KitTrainer.train_from", "train_from"."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if guide.exists()], ids=lambda guide: guide.name)
def test_the_paths_and_functions_that_a_guide_names_are_there(guide):
    paths = paths_in(guide)
    assert paths, "it names paths, in backticks"
    gone = [path for path in paths if "{" not in path and not list(ROOT.glob(path.partition("::")[0].rstrip("/")))]
    assert not gone, f"{guide.name} names what is not there"
    missing = []
    for name, function in functions_in(guide):
        file = next((each for each in (ROOT / name, KIT / name) if each.exists()), None)
        if file is None or function not in defined_in(file):
            missing.append(f"{name}::{function}")
    assert not missing, f"{guide.name} names functions that are not there"


def test_folders_and_modules_stay_small():
    entries = [entry.name for entry in KIT.iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= 21, entries
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in KIT.rglob("*.py")}
    assert not {file: lines for file, lines in lengths.items() if lines > 350}
    # 13,200 until prompts could hold tools and results, and every common format was read, repaired and grounded; then
    # came warm starts, thinking models, TRL's other settings, vLLM in evaluations, held-out scores while training, more
    # judges, people's labels, a verdict on whether a run will learn with a probe of its model, a ladder of judges,
    # alarms, and the panel in which a reward is edited, with its measures, which were cells of 02 before; then curves
    # and tables to handle, the hub of runs, the report, and what the launch panel and the data's browser lacked;
    # then serving, files for other programs, the hub, and agents that call tools, in environments of verifiers too and
    # with users that a model plays, here or over an endpoint.
    assert sum(lengths.values()) <= 28_910, "what is added is paid for by what is simplified"


def test_a_room_imports_only_rooms_above_it():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
