"""The reward cache: nothing judged twice, failures not kept, several writers at once, whole after a kill."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

from grpo_kit.cache import RewardCache, cache_key, judge_with_cache
from grpo_kit.judges import Verdict
from grpo_kit.judges.offline import OfflineJudge
from grpo_kit.samples import Act, Sample

SAMPLE = Sample(
    id="a", prompt="Where?", ground_truth="Which city?", rubric="ask for: the city", acts=[Act("S", "REQUEST", "city")]
)


class CountingJudge:
    """Scores by length and fails on "?", counting what it is asked."""

    name, version = "counting", "1"

    def __init__(self):
        self.asked = []

    async def judge(self, samples, answers):
        self.asked += answers
        return [Verdict(None, "no answer") if text == "?" else Verdict(len(text) / 10, "by length") for text in answers]


def test_each_answer_is_judged_once_and_failures_are_tried_again(tmp_path):
    judge, cache = CountingJudge(), RewardCache(tmp_path / "cache.sqlite")

    def scores(answers):
        verdicts, hits = asyncio.run(judge_with_cache(judge, cache, [SAMPLE] * len(answers), answers))
        return [verdict.score for verdict in verdicts], hits

    assert scores(["ab", "abcd", "ab", "?"]) == ([0.2, 0.4, 0.2, None], 0)
    assert judge.asked == ["ab", "abcd", "?"]
    assert scores(["abcd", "?", "ab"]) == ([0.4, None, 0.2], 2)
    assert judge.asked == ["ab", "abcd", "?", "?"]


def test_the_key_depends_on_all_that_the_verdict_depends_on():
    judge = OfflineJudge()
    same = replace(SAMPLE, id="b", dialogue_id="d", turn_index=5)
    assert cache_key(judge, SAMPLE, "x") == cache_key(judge, same, "x")
    others = [
        replace(SAMPLE, prompt="Who?"),
        replace(SAMPLE, ground_truth="Who?"),
        replace(SAMPLE, rubric=""),
        replace(SAMPLE, acts=[]),
    ]
    keys = {cache_key(judge, sample, "x") for sample in [SAMPLE, *others]} | {cache_key(judge, SAMPLE, "y")}
    assert len(keys) == 6
    judge.version = "another"
    assert cache_key(judge, SAMPLE, "x") not in keys


WRITER = """
import sys
from pathlib import Path
from grpo_kit.cache import RewardCache
from grpo_kit.judges import Verdict
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
    while int(killed.stdout.readline()) < 50:
        pass
    time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    said = [line for line in killed.stdout.read().splitlines() if line.isdigit()]
    assert steady.communicate(timeout=60) and steady.returncode == 0 and killed.wait() == -signal.SIGKILL

    with sqlite3.connect(path) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        counts = dict(database.execute("select substr(key, 1, 6), count(*) from judgements group by 1"))
        assert database.execute("select min(score), max(score) from judgements").fetchone() == (0.5, 0.5)
    assert counts["steady"] == 200 * 20
    assert counts["killed"] % 20 == 0 and counts["killed"] >= 20 * (int(said[-1]) if said else 50)


def test_many_keys_are_read_in_one_call(tmp_path):
    cache = RewardCache(tmp_path / "cache.sqlite")
    verdicts = {f"key{i}": Verdict(i / 3000, f"reason {i}", {"acts": 1.0}, tokens=i) for i in range(3000)}
    cache.put(OfflineJudge(), verdicts)
    assert cache.get([*verdicts, "unknown"]) == verdicts
