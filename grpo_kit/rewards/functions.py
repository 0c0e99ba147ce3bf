"""Plain functions as rewards: their names, the columns that they are given, and a check of what they give back."""

import inspect
import math
import reprlib
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from copy import deepcopy
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grpo_kit.data.samples import Sample
from grpo_kit.data.thoughts import CLOSE, OPEN, answer_in, has_thought
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.batch import run_async
from grpo_kit.rewards.travel import RewardFunction, Rewards, innermost, weighted
from grpo_kit.utils.text import did_you_mean

# What TRL 1.16 gives to a reward function beside the columns.
TRLS = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
# What a run with an environment gives as well: the environments themselves, and the scores of their dialogues.
ENVIRONMENTS = {"environments", "environment_scores"}
MOST = 3.4e38  # TRL's scores are float32


class RewardFailed(RunError):
    """A reward function raised an error, or gave back something else than a score for each completion."""


class _Odd(ValueError):
    """What a reward function gave back, in words, where it is no score for each completion."""


def reward_functions(
    given: Iterable[tuple[RewardFunction, float]],
    samples: Sequence[Sample],
    taken: Collection[str],
    data: str,
    has_environment: bool = False,
) -> dict[RewardFunction, float]:
    """The functions with their weights, as TRL calls them: each under a name that no other has and that is not `taken`.

    A function gets those of TRL's arguments and of the columns that it names, all where it has **kwargs. The columns
    come from the samples themselves, by their ids: None where a sample has no such column. Called, it raises
    RewardFailed. Raises ConfigError for a function that asks for what `data` does not have.
    """
    columns = (set(Sample.__struct_fields__) - {"prompt", "columns"}).union(*(each.columns for each in samples))
    by_id, functions, names = {sample.id: sample for sample in samples}, {}, set(taken)
    trls = TRLS | ENVIRONMENTS if has_environment else TRLS
    for function, weight in given:
        inner = innermost(function)
        stem = getattr(inner, "__name__", type(inner).__name__)
        name = next(name for name in chain([stem], (f"{stem}_{n}" for n in count(2))) if name not in names)
        names.add(name)
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # of many that are written in C, such as max
            fix = "Call it from a function of your own: def reward(completions, **_): return […]"
            raise ConfigError(f"reward `{name}` does not say which arguments it takes", fix) from None
        if clash := columns & trls:
            what = f"{data} has a column `{min(clash)}`, a name under which TRL gives rewards something else"
            raise ConfigError(what, "Rename the column")
        asked = {each.name: each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
        for each in [each for each in asked if each not in columns | trls]:
            if asked[each].default is inspect.Parameter.empty:
                hint = did_you_mean(each, columns | trls).strip() or f"There are: {', '.join(sorted(columns))}"
                raise ConfigError(f"reward `{name}` asks for `{each}`, which {data} does not have", hint)
        takes = columns | trls if any(each.kind is each.VAR_KEYWORD for each in parameters) else asked.keys()
        functions[_checked(function, name, by_id, columns & takes, trls & takes)] = weight
    return functions


def _checked(
    function: Callable[..., Any], name: str, samples: Mapping[str, Sample], columns: Set[str], trls: Set[str]
) -> RewardFunction:
    def call(given: Mapping[str, Any]) -> Any:
        rows = [samples[each].to_dict() for each in given["id"]]
        # Copies, since a function may change what it is given.
        values = {column: [deepcopy(row.get(column)) for row in rows] for column in columns}
        own = {**given, "completions": [_answered(completion) for completion in given["completions"]]}
        return function(**values, **{each: own[each] for each in trls})

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


def _answered(completion: Any) -> Any:
    """The completion as its answer, which is empty where its thought was cut. The thought stands beside it in a
    message's `reasoning_content`, TRL's name for it."""
    if isinstance(completion, str):
        return answer_in(completion) or ""
    if not has_thought(text := completion[-1]["content"]):
        return completion
    thought = (text.rpartition(CLOSE)[0] or text).strip().removeprefix(OPEN).strip()
    return [*completion[:-1], {**completion[-1], "content": answer_in(text) or "", "reasoning_content": thought}]


def _scores(found: Any, completions: int) -> list[float | None]:
    """Raises _Odd where it is not a finite number, or None for "not judged", for each completion."""
    is_one = isinstance(found, str | bytes | Mapping | Set) or getattr(found, "ndim", 1) == 0
    if is_one or not isinstance(found, Iterable):
        whole = f"{reprlib.repr(found)} for the whole batch"
        raise _Odd(f"gave {whole} and not a list of {completions} scores")
    found = list(found)
    if len(found) != completions:
        raise _Odd(f"gave {len(found)} scores for {completions} completions: {reprlib.repr(found)}")
    scores = [None if value is None else _number(value) for value in found]
    for place, score in enumerate(scores):
        if score is not None and not abs(score) <= MOST:
            value = reprlib.repr(found[place])
            raise _Odd(f"gave {value} for completion {place + 1}: a score is a finite number, or None")
    return scores


def _number(value: Any) -> float:
    """NaN for what is none."""
    try:
        return math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # what lists, arrays and tensors raise
        return math.nan


def _failure(name: str, error: Exception, given: Mapping[str, Any]) -> Exception:
    """The error to raise in place of one that a reward met; memory that is full stays what it is."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return error
    which = f"reward `{name}`, in step {given['trainer_state'].global_step + 1},"
    if isinstance(error, _Odd):
        return RewardFailed(f"{which} {error}", "Correct the function")
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
    given: dict[str, Any] = dict.fromkeys(("log_extra", "log_metric"), lambda *_: None)
    given |= {"id": [sample.id for sample in samples], "prompts": [sample.prompt for sample in samples]}
    given |= {"completion_ids": [[] for _ in samples], "trainer_state": SimpleNamespace(global_step=0)}
    given["completions"] = [
        answer if isinstance(sample.prompt, str) else [{"role": "assistant", "content": answer}]
        for sample, answer in zip(samples, answers, strict=True)
    ]
    functions = reward_functions(weighted(rewards), samples, (), "the samples' data")
    scores: dict[str, Any] = {function.__name__: function(**given) for function in functions}
    return {name: run_async(found) if inspect.iscoroutine(found) else found for name, found in scores.items()}
