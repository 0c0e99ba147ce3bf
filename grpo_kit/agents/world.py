"""What a world is: it answers the model's calls and replies, and says what the finished dialogue is worth."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from grpo_kit.data.samples import CalledFunction, Message, Sample
from grpo_kit.errors import ConfigError
from grpo_kit.models.prompts import Prompt

GOOD = 0.5  # a judge's score of a reply that will do, and an environment's reward for a success
OWN_SECONDS = 300.0  # how long an environment of another's may take to begin, to score, or to lead on


class ToolError(ValueError):
    """A call that a tool can't answer. The model reads why, and it is counted."""


class World(ABC):
    """One dialogue's world. It is made anew for each dialogue."""

    needs_good_reply = False  # whether it is a success only where the judge finds the last reply good
    waits = False  # whether it may take long, so that those of other dialogues are to go on meanwhile
    caveat = ""  # what whoever trains with it should know

    def __init__(self, sample: Sample):
        self.sample = sample
        self.made: list[CalledFunction] = []  # the calls that were answered

    @property
    def environment(self) -> Any:
        """What reward functions get of it as `environments`."""
        return self

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The JSON schemas of the functions that the model may call."""
        return self.sample.tools

    def begin(self) -> Prompt:
        """What the model is asked first."""
        return self.sample.prompt

    def answers(self, said: Message, is_cut: bool) -> Callable[[], list[Message]] | None:
        """Is told a message of the model, which `is_cut` where it had no room for its end. What is returned waits for
        what follows; None where `call` and `hear` say it."""
        return None

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """The call's result as the model reads it. Raises ToolError, or what a tool raises."""
        raise ToolError(f"there is no tool {name}")

    def hear(self, reply: str) -> str | Sample | None:
        """What the user says to a reply, or what a model that speaks for it is to know; None ends the dialogue."""
        return None

    @abstractmethod
    def scores(self, told: Sequence[Message], ended: str) -> dict[str, float | None]:
        """What the dialogue is worth by name, each in [0, 1], and `success`, which is 0 or 1. `told` are its messages
        after the prompt, `ended` is "reply" or what else ended it."""


def worth(reward: Any, whose: str) -> dict[str, float | None]:
    """The scores of a dialogue by the reward that another's environment gave, which may be None. Raises ConfigError for
    what is no number."""
    try:
        number = None if reward is None else float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise ConfigError(f"{whose} gave {reward!r}", "A reward is a number, or None where nothing can be said")
    return {"environment": number, "success": float(number is not None and number >= GOOD)}


class KnownCalls:
    """Calls with their results, as a trace has them: a small database."""

    def __init__(self, recorded: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]):
        """`recorded` are {"name", "arguments", "result"}, in the order in which they were made."""
        self.recorded = recorded
        functions = (tool.get("function", tool) for tool in tools)
        self._functions = {each["name"]: each.get("parameters", {}) for each in functions}

    def result(self, name: str, arguments: dict[str, Any]) -> str:
        """The recorded result of the same call, or of a search that differs in optional arguments only; for another the
        empty answer of a service that finds, or does, nothing. Raises ToolError for a call that no service takes."""
        if name not in self._functions:
            raise ToolError(f"there is no function {name}")
        needed = self._functions[name].get("required", [])
        if missing := [each for each in needed if each not in arguments]:
            raise ToolError(f"{name} needs {', '.join(missing)}")
        if unknown := sorted(arguments.keys() - self._functions[name].get("properties", arguments).keys()):
            raise ToolError(f"{name} does not take {', '.join(unknown)}")
        alike = [each for each in self.recorded if each["name"] == name]
        for each in alike:
            if same(each["arguments"], arguments):
                return each["result"]
        if is_search(name):
            for each in alike:
                if same(*({name: given.get(name) for name in needed} for given in (each["arguments"], arguments))):
                    return each["result"]
        status = "no match" if is_search(name) else "failure"
        return f'{{"count":0,"status":"{status}","results":[]}}'  # as data/readers/grounding.py writes one


def is_search(name: str) -> bool:
    """Whether a function only looks something up, told by its name: "FindCafes", "get_weather"."""
    return name.lower().startswith(("find", "search", "get", "look", "list", "check", "query"))


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the arguments are equal, but for capitals, blanks at the ends, and 2 for "2"."""
    return _canonical(one) == _canonical(other)


def calls_right(made: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> float:
    """The share of calls that are right, of those made or wanted, whichever are more; 1 where there are none. The order
    makes no difference."""
    left = [(each["name"], _canonical(each["arguments"])) for each in wanted]
    right = 0
    for each in made:
        if (call := (each["name"], _canonical(each["arguments"]))) in left:
            left.remove(call)
            right += 1
    return right / max(len(made), len(wanted), 1) if made or wanted else 1.0


def _canonical(arguments: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in arguments.items()}


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return text.strip().casefold()
