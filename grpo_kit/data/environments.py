# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Environments of others: what stands at an import path, and the samples that one of `verifiers` brings along."""

import importlib
import os
import signal
import sys
import traceback
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import orjson

from grpo_kit.data.samples import Sample, to_lines
from grpo_kit.errors import ConfigError
from grpo_kit.utils.environment import PACKAGE
from grpo_kit.utils.files import CACHE, write_bytes

ROW = "row"  # the column that has what an environment of verifiers is given of a sample
HELD_OUT = 10  # one row in this many, where the environment has none for evaluation


@cache
def imported(path: str) -> Any:
    """What stands at "module:name", of a package or of the folder that this runs in. Raises ConfigError where there is
    nothing."""
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with redirect_stdout(sys.stderr):
            return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        fix = "Give module:name as Python imports it, from here or from a package that is installed"
        raise ConfigError(f"environment={path} can't be imported: {error}", fix) from None
    except Exception as error:  # whatever a module does while it is imported
        raise fault(f"environment={path} can't be imported:", error) from None


@cache
def of_verifiers(path: str) -> Any:
    """The environment, or taskset, of verifiers at the path, or that the function or class there makes; None where
    something else stands there."""
    found: Any = imported(path)
    is_taskset = isinstance(found, type) and hasattr(found, "task_type")
    if callable(found) and (is_taskset or not isinstance(found, type)):
        try:
            # It would take over the signals that stop a run, and can't outside the main thread.
            with mock.patch.object(signal, "signal"), redirect_stdout(sys.stderr):
                found = found(_config(found)) if is_taskset else found()
        except Exception as error:  # whatever it raises
            raise fault(f"environment={path} failed:", error) from None
    if getattr(found, "requires_group_rollouts", False):
        what = f"environment={path} compares rollouts with each other"
        raise ConfigError(what, "Use one that rewards each by itself")
    if hasattr(found, "task_type") and found.toolsets(found.config):
        what = f"environment={path} has tool servers for all tasks"
        raise ConfigError(what, "Give them to each task (Task.toolsets)")
    return found if hasattr(found, "run_rollout") or hasattr(found, "task_type") else None


def _config(taskset: Any) -> Any:
    from verifiers.v1 import TasksetConfig
    from verifiers.v1.utils.generic import concrete_type

    return (concrete_type(taskset, TasksetConfig) or TasksetConfig)()


@cache
def folder_of(path: str) -> Path:
    """A folder with the environment's own samples, written by its data set. Raises ConfigError where it has none."""
    environment = of_verifiers(path)
    if environment is None:
        what = f"environment={path} is none of verifiers, and brings no samples"
        raise ConfigError(what, "Name a folder with train.jsonl (--data)")
    folder = CACHE / "environments" / path.replace(":", ".")
    try:
        with redirect_stdout(sys.stderr):
            train, held_out = _rows(environment)
    except Exception as error:  # whatever it does to get them
        raise fault(f"environment={path} gives no samples:", error) from None
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"train.jsonl": train, "eval.jsonl": held_out}.items():
        write_bytes(folder / name, to_lines([_sample(f"{name[:-6]}-{i}", row) for i, row in enumerate(rows)]))
    return folder


def _rows(environment: Any) -> tuple[list[Any], list[Any]]:
    """Those to train on, and those held out."""
    if hasattr(environment, "task_type"):
        train, held_out = [task.data.model_dump(mode="json") for task in environment], []
    else:
        held_out = list(environment.build_eval_dataset() or ())
        train = list(environment.build_dataset() or ())
    if not (train and held_out):
        rows = train or held_out
        train, held_out = [row for i, row in enumerate(rows) if i % HELD_OUT], rows[::HELD_OUT]
    return train, held_out


def _sample(name: str, row: dict[str, Any]) -> Sample:
    """`row` is one of a data set, or of a task."""
    row = {key: value for key, value in row.items() if value is not None}
    prompt = row.get("prompt") or []
    messages: list[Any] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else plain(prompt)
    if system := row.get("system_prompt"):
        messages.insert(0, {"role": "system", "content": system})
    return Sample(name, messages, str(row.get("answer") or "-"), columns={ROW: row})


def row_of(sample: Sample) -> dict[str, Any]:
    """What an environment of verifiers is given of a sample: its own row, or one made of the user's data."""
    own = {"prompt": sample.prompt, "answer": sample.ground_truth, **sample.columns}
    return own.pop(ROW, own)


def plain(messages: Any) -> list[Any]:
    """Messages in OpenAI's form as samples have them. Raises ConfigError for pictures."""
    made, called = [], {}
    for message in messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            if any(part.get("type") != "text" for part in content):
                raise ConfigError("the environment shows the model a picture", "Use one that has texts alone")
            content = "\n".join(part["text"] for part in content)
        own: dict[str, Any] = {"role": message["role"], "content": content}
        if calls := message.get("tool_calls"):
            called |= {call["id"]: call["function"]["name"] for call in calls}
            own["tool_calls"] = [
                {"type": "function", "function": {"name": each["name"], "arguments": orjson.loads(each["arguments"])}}
                for each in (call["function"] for call in calls)
            ]
        if name := message.get("name") or called.get(message.get("tool_call_id")):
            own |= {"name": name} if message["role"] == "tool" else {}
        made.append(own)
    return made


def fault(what: str, error: BaseException) -> ConfigError:
    """The error of what another's code raised, with the line that did."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    file, line = place.filename, place.lineno
    if isinstance(error, SyntaxError):
        file, line = error.filename or "", error.lineno
    is_its = os.path.exists(file) and PACKAGE not in Path(file).parents
    where = f" ({os.path.relpath(file)}:{line})" if is_its else ""
    said = traceback.format_exception_only(error)[-1].strip()
    return ConfigError(f"{what} {said}{where}", "Correct that")
