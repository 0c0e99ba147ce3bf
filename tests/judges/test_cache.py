"""The reward cache: nothing judged twice, failures not kept, several writers at once, whole after a kill."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from grpo_kit.data.samples import Act, Sample
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.base import Verdict
from grpo_kit.judges.batch import judge_batch
from grpo_kit.judges.cache import RewardCache, caches_to_start_from
from grpo_kit.judges.offline.judge import OfflineJudge

SAMPLE = Sample(
    id="a", prompt="Where?", ground_truth="Which city?", rubric="ask for: the city", acts=[Act("S", "REQUEST", "city")]
)


class CountingJudge:
    """Scores by length and fails on "?", noting what it is asked."""

    def __init__(self, name="counting", version="1", compares=False, samples=1):
        self.name, self.version, self.compares, self.samples, self.usage = name, version, compares, samples, None
        self.asked = []

    def check(self):
        pass

    async def judge(self, sample, answers, repeat=0):
        self.asked.append(list(answers) if self.compares else answers[0])
        return [Verdict(None, "no answer") if text == "?" else Verdict(len(text) / 10, "by length") for text in answers]


@pytest.fixture
def cache(tmp_path):
    cache = RewardCache(tmp_path / "cache.sqlite")
    yield cache
    cache.close()


def judged(judge, cache, answers, sample=SAMPLE):
    return asyncio.run(judge_batch(judge, cache, [sample] * len(answers), answers))


def test_each_answer_is_judged_once_and_failures_are_tried_again(cache):
    judge = CountingJudge()

    def scores(answers):
        now = judged(judge, cache, answers)
        return [verdict.score for verdict in now.verdicts], now.hits, len(now.fresh)

    assert scores(["ab", "abcd", "ab", "?"]) == ([0.2, 0.4, 0.2, None], 0, 3)
    assert judge.asked == ["ab", "abcd", "?"]
    assert scores(["abcd", "?", "ab"]) == ([0.4, None, 0.2], 2, 1)
    assert judge.asked == ["ab", "abcd", "?", "?"]


def test_a_judgement_is_found_again_only_where_all_that_it_depends_on_is_the_same(cache):
    def is_new(judge=None, sample=SAMPLE, answer="x"):
        judge = judge or CountingJudge()
        fresh = judged(judge, cache, [answer], sample).fresh
        assert len(judge.asked) == len(fresh)
        return len(fresh)

    assert is_new() and not is_new()
    assert not is_new(sample=SAMPLE.replace(id="b", dialogue_id="d", turn_index=5))
    for other in (
        SAMPLE.replace(prompt="Who?"),
        SAMPLE.replace(prompt=[{"role": "user", "content": "Where?"}]),
        SAMPLE.replace(ground_truth="Who?"),
        SAMPLE.replace(rubric=""),
        SAMPLE.replace(task_description="Find a city"),
        SAMPLE.replace(services=["Cities"]),
        SAMPLE.replace(acts=[]),
    ):
        assert is_new(sample=other) and not is_new(sample=other), other
    assert is_new(answer="y") and not is_new(answer="y")
    assert is_new(CountingJudge(name="another")) and is_new(CountingJudge(version="2"))
    assert is_new(CountingJudge(samples=3)) == 2  # the first of three is there
    assert not is_new(CountingJudge(samples=2))


def test_a_judge_that_compares_judges_each_company_of_answers_once(cache):
    judge = CountingJudge(compares=True)
    assert [v.score for v in judged(judge, cache, ["abc", "a", "abc"]).verdicts] == [0.3, 0.1, 0.3]
    assert judged(judge, cache, ["a", "abc"]).hits == 2
    assert [v.score for v in judged(judge, cache, ["a", "abc", "ab"]).verdicts] == [0.1, 0.3, 0.2]
    assert judge.asked == [["a", "abc"], ["a", "ab", "abc"]]


WRITER = """
import sys
from pathlib import Path
from grpo_kit.judges.cache import RewardCache
from grpo_kit.judges.base import Verdict
class Judge: name, version = "j", "1"
cache, who = RewardCache(Path(sys.argv[1])), sys.argv[2]
for batch in range(int(sys.argv[3])):
    cache.put(Judge, {f"{who}-{batch}-{i}": Verdict(0.5, "r" * 200) for i in range(20)})
    print(batch, flush=True)
"""


def test_two_processes_write_at_once_and_one_killed_leaves_whole_batches(tmp_path):
    path = tmp_path / "cache.sqlite"
    steady, killed = (
        subprocess.Popen([sys.executable, "-c", WRITER, path, who, count], stdout=subprocess.PIPE, text=True)
        for who, count in (("steady", "200"), ("killed", "1000000"))
    )
    try:
        while int(killed.stdout.readline()) < 50:
            pass
        time.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
        said = [line for line in killed.stdout.read().splitlines() if line.isdigit()]
        assert steady.communicate() and steady.returncode == 0 and killed.wait() == -signal.SIGKILL
    finally:
        for process in (steady, killed):
            process.kill()

    with sqlite3.connect(path) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        counts = dict(database.execute("select substr(key, 1, 6), count(*) from judgements group by 1"))
        assert database.execute("select min(score), max(score) from judgements").fetchone() == (0.5, 0.5)
    assert counts["steady"] == 200 * 20
    assert counts["killed"] % 20 == 0 and counts["killed"] >= 20 * (int(said[-1]) if said else 50)


def test_many_keys_are_read_in_one_call(cache):
    verdicts = {f"key{i}": Verdict(i / 3000, f"reason {i}", {"acts": 1.0}, tokens=i) for i in range(3000)}
    cache.put(OfflineJudge(), verdicts)
    assert cache.get([*verdicts, "unknown"]) == verdicts


def test_another_cache_is_taken_over_even_while_it_is_written(cache, tmp_path):
    own, theirs = Verdict(0.1, "own"), Verdict(0.9, "theirs", {"acts": 0.5}, 7)
    cache.put(OfflineJudge(), {"both": own, "mine": own})
    path = tmp_path / "a run's, 100% #1?" / "rewards.cache.sqlite"
    other = RewardCache(path)  # stays open: what it wrote is in its log still, and not in its file
    other.put(OfflineJudge(), {"both": theirs, **{f"new{i}": theirs for i in range(600)}})

    assert cache.copy_from(path) == 600
    assert cache.get(["both", "mine", "new0", "new599"]) == {
        "both": own,
        "mine": own,
        "new0": theirs,
        "new599": theirs,
    }
    assert cache.copy_from(path) == 0
    assert other.get(["mine"]) == {} and other.get(["both"]) == {"both": theirs}
    other.put(OfflineJudge(), {"later": theirs})
    assert cache.copy_from(path) == 1
    assert cache.copy_from(tmp_path / "cache.sqlite") == 0  # a resumed run that names itself
    other.close()


@pytest.mark.parametrize("content", [None, b"no database " * 400, b"other tables"])
def test_what_is_no_cache_is_refused_and_the_cache_goes_on(cache, tmp_path, content):
    path = tmp_path / "other.sqlite"
    if content == b"other tables":
        with sqlite3.connect(path) as database:
            database.execute("create table judgements (key text, score real)")
    elif content:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"other\.sqlite is not a reward cache .*Leave it out of cache_from"):
        cache.copy_from(path)
    assert path.exists() == bool(content)
    verdict = Verdict(0.5)
    cache.put(OfflineJudge(), {"a": verdict})
    assert cache.get(["a"]) == {"a": verdict}
    if content == b"no database " * 400:
        with pytest.raises(RunError, match=r"other\.sqlite is not a reward cache .*Remove it"):
            RewardCache(path)


def test_runs_folders_and_files_name_the_caches_to_start_from(tmp_path):
    paths = [tmp_path / place / "rewards.cache.sqlite" for place in ("runs/first", "elsewhere")]
    for path in paths:
        RewardCache(path).close()
    names = ["first", str(tmp_path / "elsewhere"), str(paths[0])]
    assert caches_to_start_from(names, tmp_path / "runs") == [*paths, paths[0]]
    with pytest.raises(ConfigError, match="cache_from='second'"):
        caches_to_start_from(["first", "second"], tmp_path / "runs")
