"""Rubrics by a chat model: what a good reply must do, for each sample of a prepared file; one call each, many at once.

The prompt is rubric_writer.txt. Each rubric goes into an SQLite file as soon as it is there, so that none is paid for
twice, and a run that was killed goes on where it was.
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from string import Template
from typing import Annotated

import msgspec
import orjson

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.data.samples import Sample, read_samples, to_lines
from grpo_kit.errors import ConfigError
from grpo_kit.judges.batch import all_of, run_async
from grpo_kit.judges.cache import digest, open_table
from grpo_kit.judges.chat.judge import an_object, chat_model, fences, object_in
from grpo_kit.judges.chat.provider import CallFailed
from grpo_kit.utils.files import replacing

CACHE_FILE = "rubrics.cache.sqlite"
CHUNK = 512  # samples that are asked for together, and as many as memory holds
MOST_CLAUSES = 8
LONGEST_CLAUSE = 200  # characters
QUOTE = 5  # words in a row that are a quotation where they are all of a clause, or all of the reply
MAX_OUTPUT_TOKENS = 1024
TABLE = """
create table if not exists rubrics (key text primary key, model text not null, rubric text not null) without rowid
"""
SCHEMA = an_object({"criteria": {"type": "array", "items": {"type": "string"}}})


class RubricWriter:
    """Asks a chat model for rubrics, and counts what came of it."""

    def __init__(self, config: JudgeConfig, cache: Path, judge: str = "gemini"):
        """`cache` is the SQLite file, `judge` one of CLOUD. Raises ConfigError for a missing or wrong key and a model
        that is not there."""
        self._model = chat_model(judge, config)
        self._model.check()
        self._schema = self._model.schema(SCHEMA)
        self._template = Template(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"))
        self._cache = cache
        self._counts = {"written": 0, "from_cache": 0, "fallback": 0}
        self._last_failure: str | None = None

    def rewrite(self, files: Iterable[Path]) -> dict:
        """Gives each sample of prepared files its rubric by the model. Where that fails, a sample keeps the one it has.

        Returns an entry for the data card: how many samples have a rubric written now, from the cache, or of their own
        (and why the last of these), and what was used for it; `usd` is None where the model's price is not known.
        Raises ConfigError where no call can succeed, and leaves the file as it was; rubrics written till then are in
        the cache.
        """
        with closing(_Cache(self._cache)) as cache:
            for path in files:
                samples = read_samples(path)
                with replacing(path) as partial, partial.open("wb") as file:
                    while chunk := list(islice(samples, CHUNK)):
                        rubrics = run_async(self._rubrics(chunk, cache))
                        file.write(to_lines([old.replace(rubric=new) for old, new in zip(chunk, rubrics, strict=True)]))
        usage = self._model.usage
        return {
            "by": self._model.name,
            "model": self._model.model,
            **self._counts,
            "last_failure": self._last_failure,
            "calls": usage.calls,
            "tokens": usage.tokens,
            "usd": usage.usd if usage.usd is None else round(usage.usd, 6),
        }

    async def _rubrics(self, samples: Sequence[Sample], cache: "_Cache") -> list[str]:
        """A rubric for each sample, in order. Those that the cache lacks are asked for at once, equal prompts once."""
        prompts = [self._prompt(sample) for sample in samples]
        keys = [digest([self._model.model, self._schema, prompt], size=20) for prompt in prompts]
        rubrics = cache.get(keys)
        missing = {key: i for i, key in enumerate(keys) if key not in rubrics}

        async def ask(key: str, i: int) -> None:
            parse = partial(_parse, reply=samples[i].ground_truth)
            try:
                rubric, _ = await self._model.ask(
                    lambda: prompts[i], self._schema, parse, temperature=0.0, max_tokens=MAX_OUTPUT_TOKENS
                )
            except CallFailed as failed:
                self._last_failure = str(failed)
            else:
                cache.put(key, self._model.model, rubric)
                rubrics[key] = rubric

        await all_of(ask(key, i) for key, i in missing.items())
        for key in keys:
            self._counts["fallback" if key not in rubrics else "written" if key in missing else "from_cache"] += 1
            missing.pop(key, None)  # the next sample with this prompt costs nothing
        return [rubrics.get(key, sample.rubric) for key, sample in zip(keys, samples, strict=True)]

    def _prompt(self, sample: Sample) -> str:
        conversation = sample.conversation
        mark, fence = fences([conversation, sample.task_description, sample.ground_truth])
        return self._template.substitute(
            mark=mark,
            task=fence("task", sample.task_description or "not said"),
            conversation=fence("conversation", conversation),
            reply=fence("reply", sample.ground_truth),
        )


def in_words(summary: dict) -> str:
    """The card's entry by `RubricWriter.rewrite` as a line for people."""
    failed = f" (the last one: {summary['last_failure']})" if summary["fallback"] else ""
    price = "of unknown price" if summary["usd"] is None else f"${summary['usd']:.4f}"
    return (
        f"rubrics by {summary['model']}: {summary['written']} written, {summary['from_cache']} from the cache, "
        f"{summary['fallback']} failed and left to the traces{failed}; "
        f"{summary['calls']} calls, {summary['tokens']} tokens, {price}"
    )


class _Criteria(msgspec.Struct):
    criteria: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_CLAUSES)]


def _parse(text: str, reply: str) -> str:
    """The rubric: clauses joined with "; ". Raises ValueError for anything that is no short list of short clauses, or
    that quotes the reply."""
    clauses = msgspec.convert(object_in(text), _Criteria).criteria
    for clause in clauses:
        if not _words(clause) or len(clause) > LONGEST_CLAUSE:
            raise ValueError(f"a criterion must be 1 to {LONGEST_CLAUSE} characters of text, not {clause!r:.40}")
        if _is_quotation(clause, reply):
            raise ValueError(f"the criterion {clause!r:.80} quotes the reply")
    return "; ".join(" ".join(clause.split()).rstrip(".;") for clause in clauses)


def _is_quotation(clause: str, reply: str) -> bool:
    shorter, longer = sorted((_words(clause), _words(reply)), key=len)
    return len(shorter) >= QUOTE and f" {' '.join(shorter)} " in f" {' '.join(longer)} "


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


class _Cache:
    """Rubrics by key, in a file that the first rubric makes. Several processes may use it; a kill leaves it whole."""

    def __init__(self, path: Path):
        self._path = path

    @cached_property
    def _db(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return open_table(self._path, TABLE)
        except sqlite3.DatabaseError as error:
            fix = "Remove it, and they are asked for anew"
            raise ConfigError(f"{self._path} is not a cache of rubrics ({error})", fix) from None

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """The rubrics that are there, by key. Raises ConfigError for a file that is something else."""
        query = "select key, rubric from rubrics where key in (select value from json_each(?))"
        return dict(self._db.execute(query, [orjson.dumps(keys).decode()]).fetchall()) if self._path.exists() else {}

    def put(self, key: str, model: str, rubric: str) -> None:
        self._db.execute("insert or replace into rubrics values (?, ?, ?)", (key, model, rubric))

    def close(self) -> None:
        if "_db" in vars(self):  # it was opened
            self._db.close()
