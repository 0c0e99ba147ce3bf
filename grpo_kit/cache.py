"""The reward cache: every judgement in an SQLite file, so that none is made or paid for twice."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from grpo_kit.judges import Judge, Verdict
from grpo_kit.runs import RunError
from grpo_kit.samples import Sample

TABLE = """
create table if not exists judgements (
    key text primary key,
    judge text not null,
    score real not null,
    criteria text not null,
    reason text not null,
    tokens integer not null,
    judged_at real not null
) without rowid
"""
KEYS_PER_QUERY = 500  # SQLite allows a limited number of ? in one statement


def cache_key(judge: Judge, sample: Sample, answer: str) -> str:
    """A hash of all that the judgement depends on: the judge, its version, the sample's content and the answer."""
    content = sample.to_dict()
    del content["id"], content["dialogue_id"], content["turn_index"]
    depends_on = [judge.name, judge.version, content, answer]
    return hashlib.blake2b(json.dumps(depends_on, sort_keys=True).encode(), digest_size=20).hexdigest()


class RewardCache:
    """Verdicts by key. Several processes may use one file at once; a kill at any moment leaves it whole."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # TRL calls async rewards on a thread of its own, one batch at a time.
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")  # whole after a kill; a power cut may take the last batch
            self._db.execute(TABLE)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise RunError(f"{path} is no reward cache ({error}): remove it, and answers are judged anew") from None

    def get(self, keys: Iterable[str]) -> dict[str, Verdict]:
        """The verdicts that are there, by key."""
        wanted, found = list(dict.fromkeys(keys)), {}
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            some = wanted[start : start + KEYS_PER_QUERY]
            query = "select key, score, reason, criteria, tokens from judgements where key in"
            for key, score, reason, criteria, tokens in self._db.execute(
                f"{query} ({','.join('?' * len(some))})", some
            ):
                found[key] = Verdict(score, reason, json.loads(criteria), tokens)
        return found

    def put(self, judge: Judge, verdicts: dict[str, Verdict]) -> None:
        """Keeps verdicts in one transaction. A failed judgement (score None) is not kept: it can be tried again."""
        rows = [
            (key, judge.name, verdict.score, json.dumps(verdict.criteria), verdict.reason, verdict.tokens, time.time())
            for key, verdict in verdicts.items()
            if verdict.score is not None
        ]
        self._db.execute("begin immediate")
        self._db.executemany(
            "insert or replace into judgements values (?, ?, ?, ?, ?, ?, ?)",
            [
                (key, name, score, criteria, reason, tokens, at)
                for key, name, score, criteria, reason, tokens, at in rows
            ],
        )
        self._db.execute("commit")

    def close(self) -> None:
        self._db.close()


async def judge_with_cache(
    judge: Judge, cache: RewardCache, samples: list[Sample], answers: list[str]
) -> tuple[list[Verdict], int]:
    """Verdicts in order, each asked for only if neither the cache nor an equal answer of this batch has it.

    Returns the verdicts and how many came from the cache.
    """
    keys = [cache_key(judge, sample, answer) for sample, answer in zip(samples, answers, strict=True)]
    verdicts = cache.get(keys)
    hits = sum(key in verdicts for key in keys)
    missing = {key: i for i, key in enumerate(keys) if key not in verdicts}
    if missing:
        fresh = await judge.judge([samples[i] for i in missing.values()], [answers[i] for i in missing.values()])
        new = dict(zip(missing, fresh, strict=True))
        cache.put(judge, new)
        verdicts |= new
    return [verdicts[key] for key in keys], hits
