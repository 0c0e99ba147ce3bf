"""The kit's notebooks: where they are, how papermill runs one, and the demo, which runs four of them in order."""

import ast
import json
import logging
import sys
from pathlib import Path
from typing import Any

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import EVAL_FRACTION, TRACES
from grpo_kit.errors import ConfigError
from grpo_kit.utils.environment import PACKAGE

# jsonschema, which papermill loads, takes a second to compile this grammar of web addresses; no notebook has any.
sys.modules.setdefault("rfc3987_syntax", None)  # pyright: ignore[reportArgumentType]: None makes it not installed

# One output for a cell's prints instead of one a line, and no hints of the kernel's own on the terminal.
PAPERMILL = {
    "kernel_name": "python3",
    "progress_bar": False,
    "coalesce_streams": True,
    "extra_arguments": ["--log-level=ERROR"],
}


def notebook_folder() -> Path:
    """Where the notebooks lie: inside an installed package, beside the package in a clone."""
    installed = PACKAGE / "notebooks"
    return installed if installed.exists() else PACKAGE.parent / "notebooks"


EVALUATING = notebook_folder() / "04_evaluate_checkpoints.ipynb"


def find_notebook(notebook: str | Path) -> Path:
    """The path of a notebook, given as one or by the name of one of the kit's: "03_launch_training", or just "03".
    Raises ConfigError where there is none."""
    path = Path(notebook)
    if path.suffix == ".ipynb" and path.is_file():
        return path
    kits = sorted(notebook_folder().glob("[0-9]*.ipynb"))
    found = [each for each in kits if path.suffix in ("", ".ipynb") and each.stem.startswith(path.stem)]
    if len(found) != 1:
        names = ", ".join(each.stem for each in kits)
        raise ConfigError(f"there is no notebook {notebook}", f"Give a path, or one of the kit's: {names}")
    return found[0]


def parameters_of(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook with their own values; None for an expression, whose value only running it tells.
    Raises ConfigError for a file that is no notebook or has no parameters."""
    import papermill

    def value_of(expression: str) -> Any:
        try:
            return ast.literal_eval(expression)
        except (ValueError, SyntaxError):
            return None

    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        found = papermill.inspect_notebook(str(notebook))
    except Exception as error:  # a file that is no notebook fails in many ways
        raise ConfigError(f"{notebook} can't be read: {error}", "Name a Jupyter notebook (.ipynb)") from None
    if not found:
        raise ConfigError(f"{notebook} has no parameters", "Tag a cell of assignments with `parameters`")
    return {name: value_of(parameter["default"]) for name, parameter in found.items()}


def run_demo(out: Path, **training: Any) -> None:
    """Executes the notebooks into `out` and prints where everything is; the last line compares before and after.

    `training` are parameters of 03_launch_training.
    """
    import papermill
    from tqdm import tqdm

    from grpo_kit.evaluation.result import Evaluation

    TrainConfig(**{name: value for name, value in training.items() if value is not None})  # what can't work is said now
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name[3:]) for path in out.glob("run*") if path.name[3:].isdigit()]
    run = {"run_id": f"run{max(numbers, default=0) + 1}", "runs_dir": str(out)}
    preparing = {"traces": str(TRACES), "out": str(out / "data"), "eval_fraction": EVAL_FRACTION}
    parameters = {
        "01_prepare_data": preparing,
        "02_prototype_rewards": {"data": str(out / "data"), "out": str(out / "prototype"), "judges": ["offline"]},
        "03_launch_training": {"data": str(out / "data"), "backend": "local", "interactive": False, **run, **training},
        "04_evaluate_checkpoints": {"run": run["run_id"], "runs_dir": str(out)},
    }
    for name, values in tqdm(parameters.items(), desc="notebooks", disable=None):
        print(f"{name} …", flush=True)
        papermill.execute_notebook(notebook_folder() / f"{name}.ipynb", out / f"{name}.ipynb", values, **PAPERMILL)
    folder = out / run["run_id"] / "eval"
    evaluation = Evaluation.load(folder / json.loads((folder / "result.json").read_text())["evaluation"])
    print(evaluation.chosen())
    print(f"Executed notebooks: {out}/*.ipynb")
    print(f"Figures: {folder.with_name('learning_curve.png')} {evaluation.figure_path}")
    print(evaluation.line())
