"""The time that a quote foretells: counted where nothing was measured, else by what an earlier run took."""

from statistics import mean

import pytest

from grpo_kit import TrainConfig
from grpo_kit.costs.earlier import EarlierRun
from grpo_kit.costs.forecast import measuring_minutes, minutes

JUDGED = {"judge": "gemini", "judge_max_in_flight": 32}


def earlier(name="before", slower=1.0, longest=28.0, before=5.0, judging=0.0, **settings) -> EarlierRun:
    """A run of the tiny model whose first step took 3 s, and the others 2, half of it generating."""
    own = TrainConfig(**settings).model_dump()
    cycles = tuple(slower * seconds + judging for seconds in (3.0, 2.0, 2.0))
    return EarlierRun(name, own, "here", cycles, before, 0.0, slower, judging, longest, False, None, 0.0, 0.0, None)


def seconds(*runs: EarlierRun, **settings) -> float:
    return 60 * minutes(TrainConfig(**settings), runs, None).range[1]


def test_a_run_of_the_same_sizes_gives_its_own_seconds():
    assert seconds(earlier()) == pytest.approx(5 + 3 + 39 * 2)
    assert seconds(earlier(), max_steps=1, save_steps=1) == pytest.approx(5 + 3)
    assert seconds(earlier(judging=0.5, **JUDGED), max_steps=10, **JUDGED) == pytest.approx(5 + 3 + 9 * 2 + 10 * 0.5)
    halved = seconds(earlier(judging=0.5, **JUDGED), max_steps=10, **(JUDGED | {"judge_max_in_flight": 16}))
    assert halved == pytest.approx(5 + 3 + 9 * 2 + 10 * 1.0), "32 answers take two waves of calls, each 0.5 s"
    wide = minutes(TrainConfig(), [earlier()], None)
    assert "as run before took" in wide.source and wide.range[2] < 2 * wide.range[0]


def test_the_nearest_run_tells_of_other_sizes_and_other_models():
    def sized(batch: int) -> dict[str, int]:
        return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 1}

    runs = [earlier("small", **sized(8)), earlier("large", **sized(128))]
    near_small, near_large = (minutes(TrainConfig(**sized(size)), runs, None).source for size in (16, 64))
    assert "run small" in near_small and "run large" in near_large
    one, three = (seconds(earlier(slower=slower, before=0.0), **sized(64)) for slower in (1, 3))
    assert three == pytest.approx(3 * one)
    gemma = {"model_name": "google/gemma-2-2b-it"}
    one, three = (seconds(earlier(slower=slower, before=0.0), **gemma) for slower in (1, 3))
    assert (
        three == pytest.approx(3 * one) and "another model" in minutes(TrainConfig(**gemma), [earlier()], None).source
    )
    assert "no earlier run" in minutes(TrainConfig(), [], None).source


def test_answers_that_ended_by_themselves_do_not_grow_with_the_limit():
    long = {"max_completion_length": 512}
    ended, cut = (seconds(earlier(longest=longest), **long) for longest in (20.0, 28.0))
    assert ended == pytest.approx(seconds(earlier(longest=20.0)), rel=0.01) and cut > 3 * ended


def test_what_comes_beside_the_steps_is_counted_by_their_speed():
    def added(**settings) -> list[float]:
        """By a machine as it is, and by one of half the speed."""
        return [seconds(earlier(slower=slower), **settings) - seconds(earlier(slower=slower)) for slower in (1, 2)]

    for settings in ({"eval_steps": 10}, {"sft_steps": 10}):
        usual, slow = added(**settings)
        assert usual > 1 and slow == pytest.approx(2 * usual)
    usual, slow = (mean(measuring_minutes(TrainConfig(), 1000, [earlier(slower=slower)], None)) for slower in (1, 2))
    assert slow == pytest.approx(2 * usual)
