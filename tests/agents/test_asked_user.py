"""A model that speaks for the simulated user, by a server on loopback: what it is told, how dialogues with it end, what
is paid and kept; and the judge on each of a dialogue's replies."""

import json
import re
import shutil
from contextlib import closing
from typing import get_args

import pytest
from judge_server import JudgeServer, Reply, Request, error, says

from grpo_kit import ConfigError, RunStopped, TrainConfig, evaluate, quote, read_samples, train
from grpo_kit.agents.asked_user import AskedUser, spoken
from grpo_kit.agents.dialogue import begun, converse, measured
from grpo_kit.agents.episodes import episodes, world_of
from grpo_kit.backends.modal import client as modal_client
from grpo_kit.backends.report.facts import gather
from grpo_kit.config.environment import Speaker
from grpo_kit.config.judge import CLOUD
from grpo_kit.costs.judging import replies_in_each, user_calls
from grpo_kit.data.demo import DEMO_CALLS, data_folder
from grpo_kit.data.tool_calls import WORLD
from grpo_kit.errors import Problem
from grpo_kit.judges.base import make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.judges.cache import RewardCache
from grpo_kit.models.load import load_tokenizer
from grpo_kit.rewards.replies import TURNS, judge_completions
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.utils.json_lines import read_lines

KEY = "AIza-planted-key-which-nobody-may-see"
MODELS = {"gemini": "gemini-3.5-flash", "openai": "gpt-5-mini", "anthropic": "claude-haiku-4-5"}
DOWN = error(500, f"it is down, says {KEY}", "internal")
SMALL = {"model_name": "tiny-agent", "environment": "user", "simulated_user": "openai", "max_completion_length": 160}
SMALL |= {"simulated_user_model": "gpt-5-mini", "max_steps": 2, "save_steps": 1, "num_generations": 4}
SMALL |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_tool_calling_iterations": 4}
A_CALL = (100 * 0.25 + 25 * 2.0) / 1e6  # of gpt-5-mini, by the list


def fenced(request: Request, name: str) -> str:
    return re.search(rf"<{name} (\w+)>\n(.*?)\n</{name} \1>", request.prompt, re.DOTALL)[2]


def speak(request: Request) -> Reply:
    """States what the first thing to do needs; leaves with the assistant. Its words end with a full stop."""
    first = fenced(request, "goal").splitlines()[0].partition(": ")[2]
    values = [value for value in re.findall(r" = ([^;]+)", first) if "once it is offered" not in value]
    is_leaving = "goodbye" in fenced(request, "reply").lower()
    answer = says(json.dumps({"leaves": is_leaving, "says": f"{', '.join(values) or 'Yes'}, please."}))
    answer.seconds = 0.02
    return answer


@pytest.fixture
def server(monkeypatch):
    with JudgeServer(speak) as server:
        for name in ("GEMINI", "OPENAI", "ANTHROPIC"):
            monkeypatch.setenv(f"{name}_API_KEY", KEY)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


@pytest.fixture(scope="module")
def held_out():
    return list(read_samples(data_folder(DEMO_CALLS) / "eval.jsonl"))


@pytest.fixture(scope="module")
def table(held_out):
    """A dialogue that asks, finds and reserves a table."""
    tables = (each for each in episodes(held_out, "user", "demo") if each.services == ["Restaurants_1"])
    return next(each for each in tables if each.columns[TURNS][0]["results"] == 0)


def asked(engine: str = "openai", **settings) -> AskedUser:
    named = {"environment": "user", "simulated_user": engine, "simulated_user_model": MODELS[engine]}
    return AskedUser(TrainConfig(**named, **settings))


def question(table, user, reply):
    """What the user answers to a first reply."""
    heard = world_of(table, "user", is_asked=True).hear(reply)
    sample = heard.replace(prompt=spoken(table.prompt))
    return run_async(judge_batch(user, None, [sample], [reply])).verdicts[0]


@pytest.mark.parametrize("engine", MODELS)
def test_it_is_told_the_goal_and_nothing_of_tools_and_every_cloud_can_be_it(server, table, engine):
    said = question(table, asked(engine, seed=5), "In which city?")
    search, booking = table.columns[WORLD][:2]
    [request] = server.requests
    goal = fenced(request, "goal").splitlines()
    assert goal[0].startswith("- find ") and all(f" = {value}" in goal[0] for value in search["arguments"].values())
    assert f"name = {booking['arguments']['name']} (once it is offered)" in goal[1]
    assert fenced(request, "said").startswith(f"- {table.prompt[-1]['content']}")
    assert fenced(request, "conversation") == f"user: {table.prompt[-1]['content']}"
    assert not re.search(r"FindR|Reserve[A-Z]|tool:|calls |\{\"count\"", request.prompt)
    assert request.model == MODELS[engine] and request.config["temperature"] == 0
    assert request.config.get("seed") == (None if engine == "anthropic" else 5)
    assert said.score == 1 and said.reason == f"{', '.join(search['arguments'].values())}, please."
    assert question(table, asked(engine), "Goodbye.").score == 0


@pytest.mark.parametrize(
    ("reply", "says_why"),
    [
        (says('{"leaves": false, "says": "  "}'), "it neither says anything nor leaves"),
        (says("", "SAFETY"), "withheld"),
        (DOWN, "HTTP 500: it is down"),
    ],
)
def test_what_is_no_answer_is_tried_again_and_then_none(server, table, reply, says_why):
    server.reply = lambda _: reply
    said = question(table, asked(judge_max_retries=1), "In which city?")
    assert said.score is None and said.reason.startswith("the simulated user gave no answer: ")
    assert says_why in said.reason and KEY not in said.reason
    assert len(server.requests) == (1 if "withheld" in says_why else 2)


def lead(dialogues, ask, *turns, most_turns=8):
    """All of them, in which the model says the same turns."""
    tokenizer, said = load_tokenizer("tiny"), iter(turns)
    led = begun(dialogues, "user", tokenizer, is_asked=True)

    def generate(prompts, group):
        tokens = [*tokenizer(next(said), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return [tokens] * len(prompts), None

    limits = {"room": 600, "longest": None, "most_turns": most_turns, "ask": ask}
    converse(led, tokenizer, generate, [tokenizer.eos_token_id], **limits)
    return led


def test_all_that_wait_are_asked_at_once_and_equal_ones_once(server, table, held_out, tmp_path):
    others = [each for each in episodes(held_out, "user", "demo") if each.id != table.id][:5]
    user, dialogues = asked(), [table, table, *others]
    with closing(RewardCache(tmp_path / "c.sqlite")) as cache:

        def ask(*what):
            return run_async(judge_batch(user, cache, *what)).verdicts

        led = lead(dialogues, ask, "What else?", "Goodbye.")
        assert len(server.requests) == 2 * 6 and server.most_in_flight > 1
        assert user.usage.usd == pytest.approx(12 * A_CALL)
        assert [each["role"] for each in led[0].messages] == ["assistant", "user", "assistant"]
        assert {each.ended for each in led} == {"reply"}, "it leaves with the assistant"
        assert lead(dialogues, ask, "What else?", "Goodbye.")[3].messages == led[3].messages
        assert len(server.requests) == 12, "the same words get the same answer, from the cache"
        lead([table], ask, "What now?", most_turns=1)
        assert len(server.requests) == 12, "after the last turn it is not asked"


def test_a_dialogue_whose_user_gives_no_answer_is_worth_nothing_that_is_known(server, table, held_out):
    other = next(each for each in episodes(held_out, "user", "demo") if each.services != table.services)
    server.reply = lambda request: DOWN if table.prompt[-1]["content"] in request.prompt else speak(request)
    user = asked(judge_max_retries=0)
    led = lead([table, other], lambda *what: run_async(judge_batch(user, None, *what)).verdicts, "What?", "Goodbye.")
    assert [each.ended for each in led] == ["problem", "reply"] and "HTTP 500" in led[0].problem
    assert set(led[0].scores.values()) == {None} and led[1].scores["goal"] == 0
    assert measured(led, [None, 0.5])["agent/turns"] == 2, "of the other one alone"
    completions, problems = [each.messages for each in led], [each.problem for each in led]
    judged = run_async(judge_completions(make_judge("offline"), None, [table, other], completions, problems))
    assert judged.verdicts[0].score is None and judged.verdicts[0].reason == led[0].problem
    assert judged.verdicts[1].reason.startswith("reply 1 of 2, ")


def test_each_reply_is_judged_beside_the_trace_s_that_it_is_most_like(held_out, table):
    turns = table.columns[TURNS]
    before, after = (next(turn for turn in turns if turn["results"] == count) for count in (0, 2))
    search, booking = table.columns[WORLD][:2]
    called = [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
        for call in (search, booking)
    ]
    results = [{"role": "tool", "content": call["result"]} for call in (search, booking)]
    told = [{"role": "assistant", "content": before["ground_truth"]}, {"role": "user", "content": "Yes."}]
    told += [called[0], results[0], called[1], results[1], {"role": "assistant", "content": after["ground_truth"]}]
    offline = make_judge("offline")
    [verdict] = run_async(judge_completions(offline, None, [table], [told])).verdicts
    assert verdict.score == 1 and re.findall(r"reply (\d) of 2, 1.00", verdict.reason) == ["1", "2"]
    early = [told[-1], told[1], told[0]]
    [verdict] = run_async(judge_completions(offline, None, [table], [early])).verdicts
    assert verdict.score < 0.6, "what was not looked up yet is no good reply"
    [last] = episodes([each for each in held_out if each.dialogue_id == table.id], "user", "demo", "last")
    [verdict] = run_async(judge_completions(offline, None, [last], [told])).verdicts
    assert verdict.score == 1 and "reply" not in verdict.reason and TURNS not in last.columns
    [verdict] = run_async(judge_completions(offline, None, [table], [[called[0]]])).verdicts
    assert (verdict.score, verdict.reason) == (0, "there is no reply, only calls")


@pytest.mark.parametrize(
    ("settings", "says_why"),
    [
        ({"simulated_user": "openai", "environment": "replay"}, "simulated_user=openai is for environment=user"),
        ({"judge_replies": "last"}, "judge_replies=last is for environment=user"),
        ({"simulated_user_model": "gpt-5", "environment": "user"}, "is not asked: simulated_user=rules speaks"),
        ({"simulated_user": "openai", "environment": "user"}, "openai needs the name of a model. Give simulated_user_"),
        ({"simulated_user": "gpt", "environment": "user"}, "simulated_user='gpt': should be 'rules', 'gemini'"),
    ],
)
def test_settings_that_make_no_user_are_refused(settings, says_why):
    with pytest.raises(ConfigError, match=says_why):
        TrainConfig(**settings)
    assert {*get_args(Speaker)} == {"rules", *CLOUD}


def test_its_cost_its_key_and_its_secret_are_asked_for_before(server, tmp_path, monkeypatch):
    config = TrainConfig(data=DEMO_CALLS, judge="gemini", **SMALL)
    each = replies_in_each(config)
    assert 3 < each < 8 and user_calls(config) == round(16 * (each - 1))
    told = str(quote(config, tmp_path, "local", ask=False))
    assert f"{round(16 * each)} calls and {round(16 * (each - 1))} calls for what users say" in told
    rules = {"judge_replies": "last", "simulated_user": "rules", "simulated_user_model": None}
    assert "16 calls; assumed" in str(quote(config.replace(**rules), tmp_path, ask=False)) and server.requests == []
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert "OPENAI_API_KEY is not set, which simulated_user=openai needs" in str(quote(config, tmp_path, ask=False))
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        train(data=DEMO_CALLS, runs_dir=tmp_path, **SMALL)
    missing = Problem("there is no Modal secret openai-secret", "Make it")
    monkeypatch.setattr(modal_client, "missing_secret", lambda name: missing if name == "openai-secret" else None)
    with pytest.raises(ConfigError, match="openai-secret, which simulated_user=openai needs"):
        modal_client.required_secrets(["gemini"], "tiny", user="openai")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ConfigError, match="there is no model simulated_user_model='gpt-9'"):
        train(data=DEMO_CALLS, runs_dir=tmp_path, **SMALL | {"simulated_user_model": "gpt-9"})
    unpriced = {"simulated_user_model": "gpt-9", "max_usd": 1.0}
    with pytest.raises(ConfigError, match="max_usd=1 can't be kept: gpt-9 has no price"):
        train(data=DEMO_CALLS, runs_dir=tmp_path, **SMALL | unpriced)
    assert not list(tmp_path.iterdir())


def wordy(request: Request) -> Reply:
    """Bills 20,000 tokens for each of its prompts."""
    answer = speak(request)
    body = answer.body.to("openai")
    return Reply(body | {"usage": {"prompt_tokens": 20_000, "completion_tokens": 0}}, seconds=answer.seconds)


def test_a_run_pays_stops_resumes_and_is_evaluated_with_it(server, tmp_path):
    server.reply = wordy
    first = {"data": DEMO_CALLS, "runs_dir": tmp_path, "run_id": "user", "max_usd": 0.06}
    with pytest.raises(RunStopped, match=r"stopped at step 1: max_usd=0.06 would be passed: .* for the judge"):
        train(**first, **SMALL)
    calls, status = len(server.requests), RunDirectory("user", tmp_path).status
    assert status["usd"] == pytest.approx(calls * 20_000 * 0.25 / 1e6) and status["quoted"]["usd"] < 0.03
    run = train(run_id="user", runs_dir=tmp_path, max_usd=9.0)
    metrics, rows, calls = run.metrics(), read_lines(run.path / "completions.jsonl"), len(server.requests)
    assert metrics["judge/simulated_user/calls"].sum() == calls > 8 and server.most_in_flight > 1
    assert run.status["usd"] == pytest.approx(metrics["judge/simulated_user/usd"].sum())
    assert any(message["content"].endswith(", please.") for row in rows for message in row["messages"][1:])
    assert any(re.match(r"reply 1 of \d, \d\.\d\d: .*\nreply 2 of", row["reason"]) for row in rows)
    assert not any(KEY.encode() in file.read_bytes() for file in run.path.iterdir() if file.is_file())

    evaluation = evaluate(run, n=4)
    user = evaluation.results["simulated_user"]
    assert user["name"] == "openai (gpt-5-mini)" and user["calls"] == len(server.requests) - calls > 0
    assert evaluation.result()["judge_usd"] == pytest.approx(user["usd"])
    told = [(name, use, model) for name, use, model, _ in gather(run, None)["judges"] if name != "offline"]
    assert ("simulated_user", "training, speaks for the user", "gpt-5-mini") in told
    assert ("openai (gpt-5-mini)", "evaluation, speaks for the user", "–") in told
    paid = len(server.requests)
    assert evaluate(run, n=4).agents()["goal"].tolist() == evaluation.agents()["goal"].tolist()
    assert len(server.requests) == paid, "from the run's cache"

    # As if it had been killed after its first step: the second is made again, with what users said already.
    shutil.rmtree(run.path / "checkpoint-2")
    (run.path / "status.json").write_text(json.dumps(run.status | {"state": "interrupted", "step": 1}))
    again = train(runs_dir=tmp_path, run_id="user")
    assert read_lines(again.path / "completions.jsonl") == rows and len(server.requests) == paid

    server.reply = lambda request: DOWN
    broken = {"judge_max_retries": 0, "failure_window": 4, "seed": 3, "run_id": "broken", "runs_dir": tmp_path}
    with pytest.raises(RunStopped, match=r"3 of the last 3 judgements by simulated_user failed.*HTTP 500"):
        train(data=DEMO_CALLS, **SMALL | broken)
    assert RunDirectory("broken", tmp_path).status["state"] == "stopped"
