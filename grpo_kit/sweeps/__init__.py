"""Sweeps: a notebook executed with many settings, several at a time, resumable, with one table of results."""

from pathlib import Path

import pandas

from grpo_kit.sweeps.grid import Grid
from grpo_kit.sweeps.sweep import Sweep as Sweep


def sweep(
    notebook: str | Path,
    grid: Grid,
    out: str | Path,
    *,
    jobs: int | None = None,
    budget: float | None = None,
    halving: int | None = None,
) -> Sweep:
    """Runs a notebook with every setting of a grid and returns the sweep. The same call again does what is missing.

        kit.sweep("03_launch_training", {"learning_rate": [1e-3, 2e-3], "seed": [1, 2]}, out="sweeps/rates").results()

    `notebook` is a path, or the name of one of the kit's; for `grid`, a mapping, a YAML file or its text, see
    grpo_kit.sweeps.grid. The trained models of 03 are evaluated by 04 too. A quote is printed first; for `jobs`,
    `budget`, `halving` and what is raised see Sweep and Sweep.run.
    """
    found = Sweep(notebook, grid, out)
    print(found.quote(jobs, budget, halving))
    return found.run(jobs, budget, halving)


def sweep_results(out: str | Path) -> pandas.DataFrame:
    """The results of the sweep that was run in the folder `out`; see Sweep.results. RunError where there was none."""
    return Sweep.load(out).results()
