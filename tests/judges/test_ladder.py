"""A ladder of judges: who is asked about what, by real libraries against a real server, and what it says."""

import asyncio
import json

import pytest
from judge_server import KEY, JudgeServer, error, score_of

from grpo_kit.backends.modal import client as modal_client
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Sample
from grpo_kit.data.tool_calls import TOOL_CALLS
from grpo_kit.errors import ConfigError, Problem
from grpo_kit.judges.base import CUT, make_judge
from grpo_kit.judges.batch import judge_batch
from grpo_kit.judges.cache import RewardCache
from grpo_kit.judges.calibration import judge_and_price, ladder_effect

TURN = Sample(
    id="turn", prompt=[{"role": "user", "content": "A table for two, please."}], ground_truth="In which city?"
)
RIGHT, UNSURE, OTHER, WRONG = "In which city?", "Which city do you mean?", "In the city centre?", "Ok."
ANSWERS = [RIGHT, UNSURE, WRONG, UNSURE, OTHER]  # by shared words 1, 0.5, 0, 0.5 and 0.57
OF = {"openai": {"judge_model": "gpt-5-mini"}, "gemini": {}}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("grpo_kit.judges.chat.client.FIRST_WAIT", 0.01)
    with JudgeServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
            monkeypatch.setenv(name, KEY)
        yield server


@pytest.fixture
def cache(tmp_path):
    cache = RewardCache(tmp_path / "cache.sqlite")
    yield cache
    cache.close()


@pytest.fixture(params=OF)
def cloud(request) -> str:
    return request.param


def ladder(names: str = "reference>openai", **settings):
    own = OF[names.rpartition(">")[2]]
    return make_judge(names, JudgeConfig(**{"judge_max_retries": 0, **own, **settings}))


def judged(judge, cache, answers=ANSWERS, sample=TURN):
    return asyncio.run(judge_batch(judge, cache, [sample] * len(answers), answers))


def scores(judged) -> list[float | None]:
    return [verdict.score for verdict in judged.verdicts]


def test_only_what_the_first_judge_is_unsure_of_goes_up(server, cloud, cache):
    judge = ladder(f"reference>{cloud}")
    found = judged(judge, cache)
    assert sorted(request.replies[0] for request in server.requests) == sorted([UNSURE, OTHER])
    assert scores(found) == [1.0, score_of(UNSURE), 0.0, score_of(UNSURE), score_of(OTHER)]
    assert [verdict.by for verdict in found.verdicts] == ["reference", cloud, "reference", cloud, cloud]
    assert found.verdicts[1].reason.startswith(f"{cloud}: It says") and "reference: 0 of" in found.verdicts[2].reason
    usage = judge.usage
    assert (usage.calls, usage.settled, usage.tokens) == (2, 2, 250) and (found.hits, len(found.fresh)) == (0, 2)
    again = judged(judge, cache)
    assert again.verdicts == found.verdicts and (again.hits, again.fresh, judge.usage) == (5, [], usage)


def test_a_ladder_takes_over_what_its_judges_have_judged_alone_and_they_what_it_has(server, cache):
    alone = make_judge("openai", JudgeConfig(judge_model="gpt-5-mini"))
    assert len(judged(alone, cache, [UNSURE, RIGHT]).fresh) == len(server.requests) == 2
    judged(ladder(), cache)
    assert len(server.requests) == 3, "OTHER alone was new"
    assert (judged(alone, cache, [OTHER]).hits, judged(make_judge("reference"), cache, [WRONG]).hits) == (1, 1)
    judged(ladder(judge_ladder_bounds="0,0.8"), cache)
    assert [request.replies for request in server.requests[3:]] == [[WRONG]], "other bounds ask for no more than is new"


def test_where_the_last_judge_fails_there_is_no_judgement_and_where_the_first_can_t_judge_the_next_does(server, cache):
    server.reply = lambda _: error(503, "Overloaded", "UNAVAILABLE")
    judge = ladder()
    found = judged(judge, cache)
    assert scores(found) == [1.0, None, 0.0, None, None] and found.verdicts[1].reason.startswith("openai: not judged")
    assert [verdict.score for verdict in found.fresh] == [None, None], "those that the watch over failures counts"
    assert judge.usage.failures == 2
    server.reply = JudgeServer().reply
    assert scores(judged(judge, cache))[1] == score_of(UNSURE), "a failure is not kept"
    blind = judged(judge, cache, [RIGHT], TURN.replace(ground_truth=""))
    assert scores(blind) == [score_of(RIGHT)] and blind.verdicts[0].by == "openai"


def test_calls_and_cut_thoughts_go_up_no_ladder(server, cache):
    judge = ladder()
    find = {"name": "find", "arguments": {}}
    call = TURN.replace(columns={TOOL_CALLS: [find]}, ground_truth=json.dumps(find))
    assert scores(judged(judge, cache, [RIGHT], call)) == [0.0]
    assert judged(judge, cache, ["<think>In which"]).verdicts == [CUT]
    assert not server.requests and judge.usage.settled == 0


def test_three_rungs_and_a_group_s_unsure_answers_in_one_call(server, cache):
    judge = ladder("exact>reference>openai", judge_ladder_bounds="0,0.5", judge_mode="group")
    found = judged(judge, cache, [RIGHT, UNSURE, WRONG, OTHER])
    assert [verdict.by for verdict in found.verdicts] == ["exact", "openai", "openai", "reference"]
    (request,) = server.requests
    assert sorted(request.replies) == sorted([UNSURE, WRONG]) and request.is_group
    assert (judge.usage.calls, judge.usage.settled) == (1, 2)


def test_what_it_saves_and_changes_is_said_beside_people_s_labels(server, cache):
    answers, labels = [RIGHT, UNSURE, WRONG, OTHER], [1.0, 1.0, 0.0, 0.0]
    told = asyncio.run(ladder_effect(ladder(), cache, [TURN] * 4, answers, labels)).splitlines()
    assert told[0] == (
        "reference>openai, unsure from 0.2 to 0.8: of 4 answers reference settles 2 (50%); 2 go up to openai"
    )
    apart = [1.0 - score_of(RIGHT), score_of(WRONG)]
    assert told[1] == (
        f"2 of 4 scores are not openai's: {sum(apart) / 2:.2f} apart on average, {max(apart):.2f} at most; "
        f"1 pass by one and fail by the other"
    )
    named = ["reference", "openai", "reference>openai", "what reference settles"]
    assert [line.split(" and the labels: Spearman")[0] for line in told[2:]] == named
    assert told[-1].endswith("(2 answers with both a label and a score: label at least 3, better 50)")
    assert len(server.requests) == 4, "the ladder itself pays for nothing more"
    _, price = asyncio.run(judge_and_price(ladder(), None, [TURN] * 4, answers))
    assert price.judgements == 4 and price.note == "2 settled by a cheaper judge"
    assert price.usd == pytest.approx(1000 * 2 / 4 * (100 * 0.25 + 25 * 2.0) / 1e6)


def test_a_rung_s_secret_is_asked_for_on_modal(monkeypatch):
    missing = Problem("there is no Modal secret gemini-secret", "Make it")
    monkeypatch.setattr(modal_client, "missing_secret", lambda name: missing if name == "gemini-secret" else None)
    with pytest.raises(ConfigError, match="gemini-secret, which judge=gemini needs"):
        modal_client.required_secrets(["reference", "offline>gemini"], "tiny")


def test_a_ladder_whose_first_judge_is_never_unsure_is_refused(server):
    with pytest.raises(
        ConfigError, match=r"exact scores 0 or 1: with judge_ladder_bounds=0.2,0.8 nothing goes up to openai"
    ):
        ladder("exact>openai")
    with pytest.raises(ConfigError, match=r"With judge_ladder_bounds=0,0.5 it judges what exact calls wrong"):
        TrainConfig(judge="exact>gemini")
    assert ladder("exact>openai", judge_ladder_bounds=[0, 0.5]).is_unsure(0)
