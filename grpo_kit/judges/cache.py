"""The reward cache: every judgement in an SQLite file, so that none is made or paid for twice."""

import errno
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
import orjson
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.base import Judge, Verdict

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
CACHE_FILE = "rewards.cache.sqlite"  # in a run's folder
VALUES = "(?, ?, ?, ?, ?, ?, ?)"
COLUMNS = "key, judge, score, criteria, reason, tokens, judged_at"
LOCKED_SECONDS = 60  # to wait for another process
COPY_SECONDS = 120  # to read another cache
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Text = Annotated[str, msgspec.Meta(max_length=20_000)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
Time = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Row = tuple[Name, Name, Share, Text, Text, Tokens, Time]


def open_table(path: Path, table: str) -> sqlite3.Connection:
    """The SQLite file, with its table, for several processes and for threads that take turns; each statement is a
    transaction. A kill leaves it whole; a power cut may take the last ones. Raises sqlite3.DatabaseError."""
    name, options = f"file:{quote(str(path.resolve()))}", {"isolation_level": None, "check_same_thread": False}
    database = sqlite3.connect(name, uri=True, timeout=LOCKED_SECONDS, **options)
    try:
        # Unlike other statements this one does not wait for a process that opens the file at the same moment.
        stop, locked = stop_after_delay(LOCKED_SECONDS), retry_if_exception(lambda error: "locked" in str(error))
        patiently = Retrying(retry=locked, wait=wait_random(0, 0.1), stop=stop, reraise=True)
        patiently(database.execute, "pragma journal_mode = wal")
        database.execute("pragma synchronous = normal")
        database.execute(table)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def digest(content: object, size: int = 8) -> str:
    """A hash of `content`, which is made of texts, lists, dictionaries and numbers: two hexadecimal digits a byte."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=size).hexdigest()


class RewardCache:
    """Verdicts by key. Several processes may use one file at once; a kill at any moment leaves it whole."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = open_table(path, TABLE)
            _check_table(self._db, "main")
        except sqlite3.DatabaseError as error:
            raise RunError(f"{path} is not a reward cache ({error})", "Remove it: answers are judged again") from None

    def get(self, keys: Iterable[str]) -> dict[str, Verdict]:
        wanted = orjson.dumps(list(dict.fromkeys(keys))).decode()  # as one value: SQLite limits how many ? there are
        query = f"select {COLUMNS} from judgements where key in (select value from json_each(?))"
        return {
            key: Verdict(score, reason, orjson.loads(criteria), tokens)
            for key, _, score, criteria, reason, tokens, _ in self._db.execute(query, [wanted])
        }

    def put(self, judge: Judge, verdicts: dict[str, Verdict]) -> None:
        """Keeps verdicts in one transaction. A failed judgement (score None) is not kept: it can be tried again."""
        rows = [
            (key, judge.name, made.score, orjson.dumps(made.criteria).decode(), made.reason, made.tokens, time.time())
            for key, made in verdicts.items()
            if made.score is not None
        ]
        if not rows:
            return
        insert = f"insert or replace into judgements ({COLUMNS}) values {VALUES}"
        self._db.execute("begin immediate")
        try:
            with self._db:  # commits, or rolls back
                self._db.executemany(insert, rows)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from None

    def copy_from(self, path: Path) -> int:
        """Takes over the judgements of another cache that this one lacks, and returns how many.

        The other may come from anywhere. RunError where it is no cache of the kit's, or one of its scores is odd.
        """
        end = time.monotonic() + COPY_SECONDS
        self._db.set_progress_handler(lambda: time.monotonic() > end, 100_000)  # instructions of SQLite's
        try:
            self._db.execute("attach ? as other", (f"file:{quote(str(path.resolve()))}?mode=ro",))
            try:
                _check_table(self._db, "other")
                rows = self._db.execute(f"select {COLUMNS} from other.judgements not indexed")
                before, insert = self._db.total_changes, f"insert or ignore into judgements ({COLUMNS}) values {VALUES}"
                self._db.execute("begin immediate")
                with self._db:  # commits, or rolls back
                    while some := rows.fetchmany(1000):
                        for row in msgspec.convert(some, list[Row]):
                            msgspec.convert(orjson.loads(row[3]), dict[Name, Share])
                        self._db.executemany(insert, some)
                return self._db.total_changes - before
            finally:
                self._db.execute("detach other")
        except (sqlite3.DatabaseError, ValueError) as error:  # msgspec's and orjson's are ValueErrors
            raise RunError(f"{path} is not a reward cache ({error})", "Leave it out of cache_from") from None
        finally:
            self._db.set_progress_handler(None, 0)

    def close(self) -> None:
        self._db.close()


def _check_table(database: sqlite3.Connection, schema: str) -> None:
    """Raises sqlite3.DatabaseError where its judgements are no table as the kit makes it, but a view, say."""
    made = database.execute(f"select sql from {schema}.sqlite_master where name = 'judgements' and type = 'table'")
    own = TABLE.replace("if not exists ", "").lower().split()
    if [sql.lower().split() for (sql,) in made.fetchall()] != [own]:
        raise sqlite3.DatabaseError("it has no table of judgements like the kit's")


def caches_to_start_from(names: Sequence[str], runs_dir: str | Path) -> list[Path]:
    """The reward caches that runs' names, folders or files stand for. Raises ConfigError for one that is not there."""
    paths = []
    for name in names:
        options = [Path(runs_dir) / name / CACHE_FILE, Path(name) / CACHE_FILE, Path(name)]
        found = next((path for path in options if path.is_file()), None)
        if found is None:
            wrong = f"cache_from={name!r}: there is no {options[0]}, and no such file or folder"
            raise ConfigError(wrong, "Correct or leave out cache_from")
        paths.append(found)
    return paths
