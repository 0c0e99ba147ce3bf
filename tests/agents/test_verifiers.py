"""Environments of `verifiers`, which lead the dialogue themselves. Each half needs its own version of it."""

import signal
from importlib.metadata import version
from pathlib import Path

import pytest

from grpo_kit import ConfigError, TrainConfig, evaluate, read_samples, train
from grpo_kit.agents import verifiers as leading
from grpo_kit.agents.dialogue import begun, converse
from grpo_kit.agents.episodes import episodes
from grpo_kit.data import environments
from grpo_kit.data.demo import data_folder
from grpo_kit.models.load import load_tokenizer
from grpo_kit.utils.json_lines import read_lines

pytest.importorskip("verifiers")
IS_CLASSIC = version("verifiers") < "0.4"
classic = pytest.mark.skipif(not IS_CLASSIC, reason="verifiers from 0.4 on has no such environments")
tasksets = pytest.mark.skipif(IS_CLASSIC, reason="verifiers before 0.4 has no such tasksets")
CALL = '{"name": "%s", "arguments": {"a": 1, "b": 1}}'


@pytest.fixture(autouse=True)
def importable(monkeypatch, tmp_path_factory):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")  # for servers of tools
    monkeypatch.setattr(environments, "CACHE", tmp_path_factory.getbasetemp() / "cache")


def talk(path, *turns, room=2000, most_turns=8):
    """The first sample's dialogue ("What is 1 plus 1?"), in which the model says these turns."""
    samples = episodes(list(read_samples(data_folder(path) / "train.jsonl")), path, path)
    tokenizer, said = load_tokenizer("tiny"), iter(turns)
    [led], end = begun(samples[:1], path, tokenizer), tokenizer.eos_token_id

    def generate(asked, group):
        text = next(said)
        tokens = tokenizer(text.removesuffix("…"), add_special_tokens=False)["input_ids"]
        return [tokens + ([] if text.endswith("…") else [end])], None

    converse([led], tokenizer, generate, [end], room=room, longest=None, most_turns=most_turns)
    return led


def roles(led):
    return [message["role"] for message in led.messages]


TOOLS = [
    pytest.param("classic_sums:tools", "add", marks=classic),
    pytest.param("sums:SumsWithTools", "calc_add", marks=[tasksets, pytest.mark.wide]),  # starts a server for each
]
PLAIN = [pytest.param("classic_sums:tools", marks=classic), pytest.param("sums:Sums", marks=tasksets)]


@pytest.mark.parametrize(("path", "tool"), TOOLS)
def test_its_tools_answer_and_its_rubric_rewards(path, tool, capfd):
    led = talk(path, f"I add. {CALL % tool}", "It is 2.")
    assert tool in [each["function"]["name"] for each in led.world.tools]
    assert roles(led) == ["assistant", "tool", "assistant"] and led.messages[1] == {
        "role": "tool",
        "name": tool,
        "content": "2",
    }
    assert (led.ended, led.calls, led.scores["environment"], led.scores["success"]) == ("reply", 1, 1, 1)
    own = [token for token, is_own in zip(led.ids, led.own, strict=True) if is_own]
    text = f"I add. {CALL % tool}<end_of_turn>It is 2.<end_of_turn>"
    assert load_tokenizer("tiny").decode(own) == text, "its words stand between the model's, which stay as drawn"
    assert not capfd.readouterr().out, "what it prints goes elsewhere"


@pytest.mark.parametrize("path", PLAIN)
def test_dialogues_that_end_in_another_way_are_scored_too(path):
    assert talk(path, "It is 3.").scores["environment"] == 0
    assert talk(path, "It is 2, said …").scores["environment"] == 1 and talk(path, "").scores["environment"] == 0
    no_room = talk(path, CALL % "none", room=len(load_tokenizer("tiny")(CALL % "none")["input_ids"]) + 3)
    assert (no_room.ended, no_room.scores["environment"], roles(no_room)) == ("length", 0, ["assistant"])
    endless = talk(path, *[CALL % "none"] * 3, most_turns=3)
    assert (endless.ended, endless.calls, endless.scores["environment"]) == ("turns", 3, 0)


@pytest.mark.parametrize("path", PLAIN)
def test_its_own_samples_are_the_data_and_its_reward_is_alone(path):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    config = TrainConfig(environment=path)
    assert (config.data, config.judge, config.reward_funcs) == (path, {"offline": 0}, {"environment": 1})
    train_on, held_out = (list(read_samples(data_folder(path) / f"{each}.jsonl")) for each in ("train", "eval"))
    assert len(train_on) == 10 and len(held_out) == 2 and train_on[0].ground_truth == "2"
    assert not {str(each.prompt) for each in train_on}.intersection(str(each.prompt) for each in held_out)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("path", PLAIN)
def test_it_trains_and_is_evaluated(path, tmp_path):
    settings = {"model_name": "tiny-agent", "max_steps": 1, "save_steps": 1, "per_device_train_batch_size": 8}
    settings |= {"gradient_accumulation_steps": 1, "num_generations": 4, "max_prompt_length": 800}
    run = train(run_id="sums", runs_dir=tmp_path, environment=path, max_completion_length=64, **settings)
    rows, metrics = read_lines(run.path / "completions.jsonl"), run.metrics()
    assert list(rows[0]["rewards"]) == ["offline", "environment"] and all(row["messages"] for row in rows)
    right = metrics["agent/right"] if IS_CLASSIC else metrics["rewards/environment/mean"]
    assert right.iloc[-1] == pytest.approx(sum(row["rewards"]["environment"] for row in rows) / 8)
    table = evaluate(run, n=2).agents()
    assert table["model"].tolist() == ["base", "checkpoint-1"] and table["environment"].between(0, 1).all()


@classic
def test_rollouts_wait_side_by_side(monkeypatch):
    monkeypatch.setattr(leading, "OWN_SECONDS", 20)
    path, tokenizer = "classic_sums:tools", load_tokenizer("tiny")
    samples = episodes(list(read_samples(data_folder(path) / "train.jsonl")), path, path)
    led, said = begun(samples, path, tokenizer), iter(['{"name": "meet", "arguments": {}}', "2"])

    def generate(asked, group):
        tokens = [*tokenizer(next(said), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return [tokens] * len(asked), None

    converse(led, tokenizer, generate, [tokenizer.eos_token_id], room=400, longest=None, most_turns=3)
    assert [each.messages[1]["content"] for each in led] == ["met"] * 10


@classic
def test_a_user_of_its_own_is_heard():
    led = talk("classic_sums:talk", "It is 3.", "It is 2.")
    assert roles(led) == ["assistant", "user", "assistant"] and led.messages[1]["content"] == "Are you sure?"
    assert led.scores == {"environment": 1, "success": 1, "right": 1, "num_turns": 2}


@classic
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("forgetful", "changes messages that the model has read or written"),
        ("broken", r"failed: KeyError: 'abacus' \(.*classic_sums.py:\d+\)"),
        ("silent", "neither asked the model nor ended within 3 s"),
        ("rubric", "brings no samples"),
        ("right", "failed: TypeError"),
    ],
)
def test_one_that_does_not_fit_ends_with_one_error(kind, says, monkeypatch):
    monkeypatch.setattr(leading, "OWN_SECONDS", 3)
    with pytest.raises(ConfigError, match=says):
        talk(f"classic_sums:{kind}", "It is 3.", "It is 2.", "Yes.")
