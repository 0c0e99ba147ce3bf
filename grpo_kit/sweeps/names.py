"""Names in a grid, held against the notebook's parameters. papermill itself only warns of one that is mistyped."""

import difflib
import logging
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from grpo_kit.errors import ConfigError


def parameters_of(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook by name, as papermill sees them. ConfigError where it has none."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        found = papermill.inspect_notebook(str(notebook))
    except Exception as error:  # a file that is no notebook fails in many ways
        raise ConfigError(f"{notebook} can't be read as a notebook: {error}") from None
    if not found:
        raise ConfigError(f"{notebook} has no parameters: tag a cell of assignments with `parameters`")
    return found


def wrong_names(
    notebook: str, names: Iterable[str], known: Mapping[str, Any], own: Container[str], also: Iterable[str] = ()
) -> list[str]:
    """What is wrong with the names of settings, a sentence each.

    `known` are the notebook's parameters, `own` those that the sweep gives itself, `also` names that are no parameters
    and will do.
    """
    allowed, problems = [*known, *also], []
    for name in map(str, names):
        if name in own:
            problems.append(f"{name} is given by the sweep itself: leave it out")
        elif name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It has: {', '.join(known)}."
            problems.append(f"{name} is no parameter of {notebook}. {hint}")
    return problems
