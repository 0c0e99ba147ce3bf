"""Worlds: what a replayed trace and a simulated user answer, and what a dialogue with them is worth."""

import pytest

from grpo_kit import ConfigError, TrainConfig, read_samples
from grpo_kit.agents.episodes import episodes, world_of
from grpo_kit.agents.world import KnownCalls, ToolError, calls_right
from grpo_kit.data.demo import DEMO_CALLS, data_folder
from grpo_kit.data.samples import Sample, to_lines
from grpo_kit.data.tool_calls import WORLD
from grpo_kit.preflight import doctor


@pytest.fixture(scope="module")
def samples():
    return list(read_samples(data_folder(DEMO_CALLS) / "eval.jsonl"))


TOOL = {
    "type": "function",
    "function": {
        "name": "FindCafes",
        "parameters": {"type": "object", "properties": {"city": {}, "garden": {}}, "required": ["city"]},
    },
}
RECORDED = [{"name": "FindCafes", "arguments": {"city": "Oslo", "garden": "True"}, "result": "three"}]


def test_a_recorded_call_gets_its_result_and_a_search_may_differ_in_what_is_optional():
    known = KnownCalls(RECORDED, [TOOL])
    assert known.result("FindCafes", {"garden": "true ", "city": "oslo"}) == "three"
    assert known.result("FindCafes", {"city": "Oslo"}) == "three"
    assert known.result("FindCafes", {"city": "Rome"}) == '{"count":0,"status":"no match","results":[]}'


def test_a_booking_must_be_the_recorded_one():
    booked = [{"name": "ReserveTable", "arguments": {"name": "Olive", "people": 2}, "result": "booked"}]
    tool = {"name": "ReserveTable", "parameters": {"properties": {"name": {}, "people": {}}, "required": ["name"]}}
    known = KnownCalls(booked, [tool])
    assert known.result("ReserveTable", {"name": "Olive", "people": "2"}) == "booked"
    assert '"failure"' in known.result("ReserveTable", {"name": "Olive"})


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("FindBars", {}, "there is no function FindBars"),
        ("FindCafes", {"garden": "True"}, "FindCafes needs city"),
        ("FindCafes", {"city": "Oslo", "wifi": "True"}, "FindCafes does not take wifi"),
    ],
)
def test_what_no_service_takes_is_an_error(name, arguments, says):
    with pytest.raises(ToolError, match=says):
        KnownCalls(RECORDED, [TOOL]).result(name, arguments)


def test_calls_are_right_where_all_are_made_and_no_others():
    other = {"name": "FindCafes", "arguments": {"city": "Rome"}}
    assert calls_right(RECORDED, RECORDED) == 1 and calls_right([], []) == 1
    assert calls_right([], RECORDED) == 0 and calls_right([other], []) == 0
    assert calls_right([*RECORDED, other], RECORDED) == 0.5 == calls_right([*RECORDED, *RECORDED], RECORDED)


def test_a_replayed_turn_asks_for_the_call_that_the_trace_made(samples):
    turns = episodes(samples, "replay", "demo")
    assert len({turn.id for turn in turns}) == len(turns) and all(turn.prompt[-1]["role"] == "user" for turn in turns)
    calling = [turn for turn in turns if turn.columns[WORLD]]
    assert len(calling) == sum("tool_calls" in sample.columns for sample in samples) > 150
    for turn in calling[:20]:
        world, reply = world_of(turn, "replay"), {"role": "assistant", "content": turn.ground_truth}
        assert world.scores([reply], "reply")["success"] == 0, "what it found can't be known without a call"
        [call] = turn.columns[WORLD]
        told = [{"role": "tool", "content": world.call(call["name"], call["arguments"])}, reply]
        assert world.scores(told, "reply") == {"call": 1, "grounded": 1, "success": 1}
        made_up = {"role": "assistant", "content": "I suggest Zanzibar in Tortuga at 11:45 pm."}
        assert world.scores([told[0], made_up], "reply")["grounded"] == 0
        assert world.scores(told, "length")["success"] == 0


def test_the_simulated_user_gets_what_the_trace_s_user_got(samples):
    """The trace's own assistant, which does all right, reaches every goal; one that calls nothing reaches none."""
    replies = {}
    for turn in episodes(samples, "replay", "demo"):
        replies.setdefault(turn.dialogue_id, []).append(turn)
    dialogues = episodes(samples, "user", "demo")
    assert len(dialogues) == 100
    for dialogue in dialogues:
        scores = play(dialogue, replies[dialogue.id], is_calling=True)
        assert (scores["goal"], scores["success"], scores["turns"]) == (1, 1, 1), dialogue.id
        scores = play(dialogue, replies[dialogue.id], is_calling=False)
        assert (scores["goal"], scores["success"], scores["turns"]) == (0, 0, 0)


def play(dialogue, turns, is_calling):
    world, told = world_of(dialogue, "user"), []
    for turn in turns:
        for call in turn.columns[WORLD] if is_calling else ():
            told.append({"role": "tool", "content": world.call(call["name"], call["arguments"])})
        told.append({"role": "assistant", "content": turn.ground_truth})
        if (said := world.hear(turn.ground_truth)) is None:
            break
        told.append({"role": "user", "content": said})
    return world.scores(told, "reply")


def test_the_simulated_user_corrects_what_is_confirmed_wrongly(samples):
    dialogue = next(each for each in episodes(samples, "user", "demo") if each.services == ["Restaurants_1"])
    search, booking = dialogue.columns[WORLD][:2]
    wanted = booking["arguments"]
    world = world_of(dialogue, "user")
    world.call(search["name"], search["arguments"])
    assert world.hear("There is Nowhere in Midtown.") == "Is there another one?"
    assert world.hear(f"How about {wanted['name']} in Castle?") == "I take it."
    assert world.hear("At what time?") == f"{wanted['time']}, please."
    wrong = "2" if wanted["people"] != "2" else "3"
    said = f"To confirm, you want a table at {wanted['name']} at {wanted['time']} for {wrong} people?"
    assert world.hear(said) == f"No, {wanted['people']} instead."
    assert world.hear(said.replace(f"for {wrong}", f"for {wanted['people']}")) == "Yes, please."
    assert world.hear("Goodbye, have a good day.") is None, "it leaves with the assistant"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"environment": "replay", "max_staleness": 1}, "max_staleness=1 does not work with environment=replay"),
        ({"environment": "replay", "filter_difficulty": True}, "filter_difficulty does not work with environment"),
        ({"reward_funcs": "call=1"}, "there is no environment"),
        ({"environment": "user", "reward_funcs": "call=1"}, "environment=user has goal, turns, grounded"),
        (
            {"environment": "nothing"},
            "environment='nothing': should be replay, user, or an environment",
        ),
    ],
)
def test_settings_that_an_environment_does_not_take_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        TrainConfig(**settings)


def test_the_scores_have_weights():
    assert TrainConfig(environment="replay").reward_funcs == {"call": 1, "grounded": 1}
    assert TrainConfig(environment="replay", reward_funcs="call=2").reward_funcs == {"call": 2}
    assert TrainConfig(environment="json:JSONDecoder", judge="offline=0").reward_funcs == {"environment": 1}


def test_samples_without_tools_are_refused_with_what_makes_some(demo_data):
    with pytest.raises(ConfigError, match="--learn calls"):
        episodes(list(read_samples(demo_data / "train.jsonl"))[:50], "replay", "demo")


def test_data_without_calls_is_a_problem_before_a_run(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(to_lines([Sample("1", "Hi.", "Hello.")]))
    with pytest.raises(ConfigError, match="environment=replay needs samples with `tools` and calls"):
        doctor.environment(TrainConfig(environment="replay", data=str(tmp_path)))
    assert doctor.environment(TrainConfig(environment="user", data=DEMO_CALLS)).startswith("user: 230 dialogues, with ")
