"""Plain functions as rewards: their names, the columns that they are given, and a check of what they give back."""

import inspect
import math
import reprlib
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from copy import deepcopy
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grpo_kit.data.samples import Message, Sample
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.batch import run_async
from grpo_kit.rewards.travel import RewardFunction, Rewards, innermost, weighted
from grpo_kit.utils.text import did_you_mean

# What TRL 1.16 gives to a reward function beside the columns.
TRLS = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
MOST = 3.4e38  # TRL's scores are float32


class RewardFailed(RunError):
    """A reward function raised an error, or gave back something else than a score for each completion."""


class _Odd(ValueError):
    """What a reward function gave back, in words, where it is no score for each completion."""


def reward_functions(
    given: Iterable[tuple[RewardFunction, float]], samples: Sequence[Sample], taken: Collection[str], data: str
) -> dict[RewardFunction, float]:
    """The functions with their weights, as TRL calls them: each under a name that no other has and that is not `taken`.

    A function gets those of TRL's arguments and of the columns that it names, all where it has **kwargs. The columns
    come from the samples themselves, by their ids: None where a sample has no such column. Called, it raises
    RewardFailed. Raises ConfigError for a function that asks for what `data` does not have.
    """
    columns = (set(Sample.__struct_fields__) - {"prompt", "columns"}).union(*(each.columns for each in samples))
    by_id, functions, names = {sample.id: sample for sample in samples}, {}, set(taken)
    for function, weight in given:
        inner = innermost(function)
        stem = getattr(inner, "__name__", type(inner).__name__)
        name = next(name for name in chain([stem], (f"{stem}_{n}" for n in count(2))) if name not in names)
        names.add(name)
        if clash := columns & TRLS:
            what = f"{data} has a column `{min(clash)}`, and TRL gives something else to rewards under that name"
            raise ConfigError(what, "Rename the column")
        parameters = inspect.signature(function).parameters
        asked = [each.name for each in parameters.values() if each.default is each.empty and each.kind not in _REST]
        if missing := [each for each in asked if each not in columns | TRLS]:
            hint = did_you_mean(missing[0], columns | TRLS).strip() or f"There are: {', '.join(sorted(columns))}"
            raise ConfigError(f"reward `{name}` asks for `{missing[0]}`, which {data} does not have", hint)
        functions[_as_trl_calls_it(function, name, by_id, columns)] = weight
    return functions


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _as_trl_calls_it(
    function: RewardFunction, name: str, samples: Mapping[str, Sample], columns: Set[str]
) -> RewardFunction:
    parameters = inspect.signature(function).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    own, trls = (names if takes_all else names & parameters.keys() for names in (columns, TRLS))

    def call(given: Mapping[str, Any]) -> Any:
        rows = [samples[each].to_dict() for each in given["id"]]
        # Copies, since a function may change what it is given.
        values = {column: [deepcopy(row.get(column)) for row in rows] for column in own}
        return function(**values, **{each: given[each] for each in trls})

    def reward(**given) -> list[float | None]:
        try:
            return _scores(call(given), len(given["completions"]))
        except Exception as error:
            raise _failure(name, error, given) from None

    async def async_reward(**given) -> list[float | None]:
        try:
            return _scores(await call(given), len(given["completions"]))
        except Exception as error:
            raise _failure(name, error, given) from None

    inner: Any = innermost(function)
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(inner.__call__)
    checked = async_reward if is_async else reward
    checked.__name__ = name
    return checked


def _scores(found: Any, completions: int) -> list[float | None]:
    """Raises _Odd where it is not a finite number, or None for "not judged", for each completion."""
    is_one = isinstance(found, str | bytes | Mapping | Set) or getattr(found, "ndim", 1) == 0
    if is_one or not isinstance(found, Iterable):
        whole = f"{reprlib.repr(found)} for the whole batch"
        raise _Odd(f"gave {whole}, and should give a list of {completions} scores")
    found = list(found)
    if len(found) != completions:
        raise _Odd(f"gave {len(found)} scores for {completions} completions: {reprlib.repr(found)}")
    return [None if value is None else _number(value, place) for place, value in enumerate(found, 1)]


def _number(value: Any, place: int) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # what lists, arrays and tensors raise
        number = math.nan
    if not abs(number) <= MOST:
        raise _Odd(f"gave {reprlib.repr(value)} for completion {place}: a score is a finite number, or None")
    return number


def _failure(name: str, error: Exception, given: Mapping[str, Any]) -> Exception:
    """The error to raise in place of one that a reward met; memory that is full stays what it is."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return error
    which = f"reward `{name}`, in step {given['trainer_state'].global_step + 1},"
    if isinstance(error, _Odd):
        return RewardFailed(f"{which} {error}")
    inside = error.__traceback__
    while inside and inside.tb_frame.f_code.co_filename == __file__:
        inside = inside.tb_next
    where = "".join(f" ({Path(at.filename).name}, line {at.lineno})" for at in traceback.extract_tb(inside, limit=1))
    failed = RewardFailed(f"{which} raised {type(error).__name__}: {error}".splitlines()[0] + where)
    # The traceback as a note goes with it to other processes.
    failed.add_note("".join(traceback.format_exception(type(error), error, inside)).rstrip())
    return failed


def try_rewards(rewards: Rewards, samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, list[float | None]]:
    """The scores that reward functions give to answers, one to each sample, as training would ask for them.

    Raises ConfigError for a column that the samples do not have, RewardFailed for what would end a run.
    """
    said = [[Message(role="assistant", content=answer)] for answer in answers]
    given = {
        "id": [sample.id for sample in samples],
        "prompts": [sample.prompt for sample in samples],
        "completions": [a if isinstance(s.prompt, str) else c for s, a, c in zip(samples, answers, said, strict=True)],
        "completion_ids": [[] for _ in samples],
        "trainer_state": SimpleNamespace(global_step=0),
        "log_extra": lambda *_: None,
        "log_metric": lambda *_: None,
    }

    scores = {}
    for function in reward_functions(weighted(rewards), samples, (), "the samples"):
        found = function(**given)
        scores[function.__name__] = run_async(found) if inspect.iscoroutine(found) else found
    return scores
