"""Plain reward functions: their names, the columns that they get, and all that they may give back."""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import grpo_kit as kit
from grpo_kit import ConfigError, Run, TrainConfig, quote, train
from grpo_kit.data.samples import Sample
from grpo_kit.rewards.functions import RewardFailed, try_rewards

TURNS = [
    Sample("1", [{"role": "user", "content": "Hi"}], "Hello.", columns={"unit_tests": [1, 2], "difficulty": "easy"}),
    Sample("2", [{"role": "user", "content": "Bye"}], "Goodbye."),
]
ANSWERS = ["Hello there", "Bye"]


def says(completions, word, **_):
    return [float(word in completion[-1]["content"]) for completion in completions]


@dataclass
class Says:
    """A dataclass can't be hashed."""

    word: str

    def __call__(self, completions, **_):
        return says(completions, self.word)

    def method(self, completions):
        return says(completions, self.word)


class Asks:
    async def __call__(self, completions, **_):
        return says(completions, "Bye")


def test_whatever_can_be_called_has_a_name_of_its_own():
    given = [partial(says, word="Hello"), partial(says, word="Bye"), Says("there"), Says("Bye").method, Asks()]
    found = try_rewards([*given, lambda **_: [1, 0], lambda **_: (0, None)], TURNS, ANSWERS)
    assert found == {
        "says": [1, 0],
        "says_2": [0, 1],
        "Says": [1, 0],
        "method": [0, 1],
        "Asks": [0, 1],
        "<lambda>": [1, 0],
        "<lambda>_2": [0, None],
    }


def test_every_column_arrives_and_none_where_a_sample_has_none():
    given = {}

    def greedy(completions, unit_tests, **columns):
        given.update(columns, unit_tests=[tests and tests.pop() for tests in unit_tests])
        return [0.0] * len(completions)

    for _ in range(2):
        try_rewards([greedy], TURNS, ANSWERS)
    assert given["unit_tests"] == [2, None], "what a function does to its copy changes no other's"
    assert given["difficulty"] == ["easy", None] and given["ground_truth"] == ["Hello.", "Goodbye."]
    assert given["prompts"] == [turn.prompt for turn in TURNS] and not {"prompt", "columns"} & given.keys()


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda completions, unit_test: [], "`<lambda>` asks for `unit_test`, .*Did you mean unit_tests?"),
        (lambda completion, **_: [], "asks for `completion`, .*Did you mean completions?"),
        (lambda *, zzz: [], "asks for `zzz`, .*There are: acts, dialogue_id, difficulty"),
        (max, r"`max` does not say which arguments it takes\. Call it from a function of your own"),
        (str, "`str` does not say which"),
        (partial(max, default=0), "`max` does not say which"),
        ("length", r"a list of functions, .*reward_funcs"),
    ],
)
def test_what_can_not_be_given_is_refused(reward, said):
    with pytest.raises(ConfigError, match=said):
        try_rewards([reward], TURNS, ANSWERS)


def test_a_column_may_not_have_the_name_of_what_trl_gives():
    with pytest.raises(ConfigError, match=r"column `completions`.*Rename"):
        try_rewards([says], [turn.replace(columns={"completions": 1}) for turn in TURNS], ANSWERS)


@pytest.mark.parametrize("scores", [[1, True], (np.float32(1), 1), np.ones(2), torch.ones(2, 1), iter([1, 1])])
def test_numbers_of_any_kind_are_scores(scores):
    assert try_rewards([lambda **_: scores], TURNS, ANSWERS) == {"<lambda>": [1.0, 1.0]}


ODD = {
    "inf for completion 2": [0, math.inf],
    "nan for completion 1": [np.nan, 0],
    "'0.5' for completion 1": ["0.5", "1"],
    "[1] for completion 1": [[1], [1]],
    "tensor([0., 0.]) for completion 1": torch.zeros(2, 2),
    "1e+39 for completion 2": [0, 1e39],
    "1 scores for 2 completions": [0.5],
    "None for the whole batch": None,
    "0.5 for the whole batch": 0.5,
    "'ab' for the whole batch": "ab",
    "{'a': 1, 'b': 2} for the whole batch": {"a": 1, "b": 2},
    "array(1.) for the whole batch": np.array(1.0),
}


@pytest.mark.parametrize(("said", "scores"), ODD.items(), ids=ODD)
def test_what_is_no_score_is_named(said, scores):
    with pytest.raises(RewardFailed) as failed:
        try_rewards([lambda **_: scores], TURNS, ANSWERS)
    assert str(failed.value).startswith(f"reward `<lambda>`, in step 1, gave {said}")


def test_an_error_within_is_told_with_its_line_and_its_traceback():
    def broken(completions, **_):
        return json.loads("{")

    async def broken_too(completions, **_):
        return {}["key"]

    for reward, said in ((broken, "broken`, in step 1, raised JSONDecodeError: Expecting"), (broken_too, "KeyError")):
        with pytest.raises(RewardFailed, match=rf"{said}.* \(test_functions\.py, line \d+\)") as failed:
            try_rewards([reward], TURNS, ANSWERS)
        assert str(Path(kit.__file__).parent) not in failed.value.__notes__[0], "only the user's own lines"

    def heavy(completions, **_):
        raise MemoryError

    with pytest.raises(MemoryError):
        try_rewards([heavy], TURNS, ANSWERS)


def test_a_run_that_a_reward_ends_keeps_its_last_step(standin, tmp_path, demo_data):
    """The one in standin/ saves nothing then; tests/training/test_processes.py has the kit's own do it."""

    def breaks(completions, trainer_state, **_):
        return [math.inf if trainer_state.global_step == 1 else 0.0] * len(completions)

    with pytest.raises(RewardFailed, match="`breaks`, in step 2, gave inf for completion 1"):
        train(data=str(demo_data), max_steps=2, save_steps=1, run_id="run", rewards=[breaks], runs_dir=tmp_path)
    status = Run("run", tmp_path).status
    assert (status["state"], status["step"]) == ("failed", 1) and "RewardFailed: reward `breaks`" in status["reason"]


def test_a_quote_and_a_start_refuse_a_column_that_is_not_there(tmp_path, demo_data):
    config = TrainConfig(data=str(demo_data), reward_funcs="tool_call=1")
    with pytest.raises(ConfigError, match=r"reward `tool_call` asks for `tool_calls`, which .* does not have"):
        train.spawn(config, runs_dir=tmp_path / "runs")
    found = quote(config, runs_dir=tmp_path / "runs", backend="local").problems
    assert [problem.where for problem in found] == ["rewards"] and "`tool_calls`" in found[0].what
    assert not Path(tmp_path / "runs").exists()
