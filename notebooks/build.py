"""Runs each notebooks/*.py on the embedded default and writes the .ipynb that people open, figures included.

    make notebooks

The .py text is what is edited and reviewed. Cell ids are fixed and timings dropped, so that only what changed shows.
"""

import os
import tempfile
from pathlib import Path

import jupytext
import nbformat
import papermill

from grpo_kit.sweeps.notebooks import PAPERMILL

FOLDER = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read_text_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook that a py:percent file describes, without outputs and with ids that stay."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem[:2]}-{number:02d}"
    return notebook


def is_widget(output: nbformat.NotebookNode) -> bool:
    """A widget is nothing without its kernel."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def build(path: Path) -> None:
    """Executes `path` in the working directory and writes the result beside it."""
    target = path.with_suffix(".ipynb")
    with tempfile.TemporaryDirectory() as folder:
        source, executed = Path(folder) / "source.ipynb", Path(folder) / "executed.ipynb"
        nbformat.write(read_text_notebook(path), source)
        papermill.execute_notebook(source, executed, **PAPERMILL)
        notebook = nbformat.read(executed, as_version=4)
    clean = read_text_notebook(path)
    for cell, done in zip(clean.cells, notebook.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [o for o in done.outputs if not is_widget(o)], done.execution_count
    nbformat.validate(clean)
    nbformat.write(clean, target)
    print(target)


if __name__ == "__main__":
    os.environ["PYTHONHASHSEED"] = "0"
    # So that everyone gets what is shown.
    os.environ.pop("GEMINI_API_KEY", None)
    os.environ["GRPO_KIT_BACKEND"] = "local"
    texts = sorted(FOLDER.resolve().glob("[0-9]*.py"))
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # each notebook goes on from what the last one left there
        for text in texts:
            build(text)
