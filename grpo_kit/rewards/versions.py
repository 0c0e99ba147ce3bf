"""Versions of a reward, tried on the same answers: what a sample asks for, the judge's prompt, a Python reward."""

import ctypes
import inspect
import linecache
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, get_ident
from typing import Any

import msgspec

from grpo_kit.config.judge import CLOUD, JudgeConfig, rungs
from grpo_kit.data.demo import DATA_FILES
from grpo_kit.data.rubrics import SYSTEM_ACTS
from grpo_kit.data.samples import Act, Sample, to_lines
from grpo_kit.errors import ConfigError
from grpo_kit.judges import chat
from grpo_kit.judges.base import Judge, Usage, make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.judges.cache import RewardCache
from grpo_kit.judges.measures import IN_WORDS, measure_of
from grpo_kit.rewards.functions import RewardFailed, try_rewards
from grpo_kit.rewards.travel import RewardFunction
from grpo_kit.utils.files import write_bytes
from grpo_kit.utils.text import did_you_mean, dollars

PROMPT, REWARD, DATA = "prompt.txt", "reward.py", "data"  # the files that training takes
ASKED = ("rubric", "reference", "acts")  # what a version asks for is its sample's; all else holds for every sample
OR = " | "  # between the values of an act; a comma may stand in one
ACTS = sorted(SYSTEM_ACTS)
_ACT = re.compile(r"(\w+)(?:\s+([^\s=]+))?(?:\s*=\s*(.+))?")


class Version(msgspec.Struct, frozen=True):
    """What can be edited. `reference` is a good reply, the trace's own at first; `acts` has an act a line, as
    `acts_text` writes them; `prompt` is "" for a judge that has none; `reward` is Python source whose last function is
    the reward, "" for none."""

    rubric: str
    reference: str
    acts: str = ""
    prompt: str = ""
    reward: str = ""

    def changes(self, before: "Version") -> list[str]:
        """The names of what differs."""
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(before, name)]

    def applied(self, sample: Sample) -> Sample:
        """The sample that asks for this. Raises ConfigError for acts that can't be read, and for no reference."""
        if not self.reference.strip():
            raise ConfigError("the reference is empty", "Write a good reply, or go back to a version that has one")
        return sample.replace(rubric=self.rubric, ground_truth=self.reference, acts=acts_in(self.acts, sample))


class Scored(msgspec.Struct, frozen=True):
    """A judge's verdict on an answer, and what the Python reward gives it; None where there is none."""

    score: float | None
    reason: str = ""
    criteria: dict[str, float] = {}
    reward: float | None = None


class Bench:
    """Scores answers under a version, with the judge of that name. It keeps its judges, one for each prompt."""

    def __init__(self, judge: str, config: JudgeConfig, cache: RewardCache | None):
        """Raises ConfigError where the judge can't work."""
        self.judge, self.config, self._cache = judge, config, cache
        self.has_prompt, self._is_gemini = not CLOUD.keys().isdisjoint(rungs([judge])), "gemini" in rungs([judge])
        kits = Path(str(chat.__file__)).with_name(f"{config.judge_mode}.txt")
        self._judges: dict[str, Judge] = {"": make_judge(judge, config)}
        self.stops, self._begun, self._python, self._lock = 0, dict[int, int](), set[int](), Lock()
        self.prompt = Path(config.judge_prompt or kits).read_text(encoding="utf-8") if self.has_prompt else ""

    def own(self, sample: Sample) -> Version:
        """The version of the data and the settings."""
        return Version(sample.rubric, sample.ground_truth, acts_text(sample.acts), self.prompt)

    def score(self, version: Version, sample: Sample, answers: Sequence[str]) -> list[Scored]:
        """The version's scores of answers to the sample.

        Raises ConfigError for acts, a prompt or Python that can't be used, RewardFailed where the Python fails.
        """
        edited, rewards = version.applied(sample), [None] * len(answers)
        if version.reward.strip():
            rewards = self._rewards(version.reward, edited, answers)
        judged = run_async(judge_batch(self._judge(version), self._cache, [edited] * len(answers), answers))
        rows = zip(judged.verdicts, rewards, strict=True)
        return [Scored(said.score, said.reason, said.criteria, reward) for said, reward in rows]

    def begin(self, stops: int) -> None:
        """This thread scores what was asked for after so many stops."""
        self._begun[get_ident()] = stops

    def stop(self) -> None:
        """Ends what is being scored: calls that a judge waits for, and a person's Python at its next line, even in an
        endless loop; not while it waits in a function that is not Python, such as time.sleep."""
        for judge in [*self._judges.values()]:
            judge.close()
        with self._lock:
            self.stops += 1
            for thread in self._python:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
            self._python.clear()  # each is stopped once, and past its lock never

    def _rewards(self, source: str, sample: Sample, answers: Sequence[str]) -> list[float | None]:
        with self._lock:
            if self._begun.get(get_ident(), self.stops) < self.stops:
                raise KeyboardInterrupt
            self._python.add(get_ident())  # as a thread on which a person's Python runs
        try:
            (scores,) = try_rewards([python_reward(source)], [sample] * len(answers), answers).values()
        except RewardFailed as error:
            raise RewardFailed(_with_line(str(error).replace(", in step 1,", ""), source)) from None
        finally:
            with self._lock:
                self._python.discard(get_ident())
        return scores

    def spent(self) -> Usage:
        """All that was used so far."""
        return Usage.of(self._judges.values())

    def cost_since(self, before: Usage) -> str:
        """What was used since then, as a sentence."""
        now = self.spent()
        if now.calls == before.calls:
            return f"It cost nothing: {'no call was needed' if self.has_prompt else 'this judge is free'}."
        usd = "at a price that is not known"
        if now.usd is not None and before.usd is not None:
            usd = dollars(now.usd - before.usd)
        return f"It cost {now.calls - before.calls} calls, {now.tokens - before.tokens:,} tokens, {usd}."

    def reads(self, sample: Sample) -> str:
        """By what this judge scores answers to the sample, and so which edits count."""
        measure = measure_of(self.judge, sample)
        by = f"The {self.judge} judge scores answers to this turn {IN_WORDS[measure]}"
        if measure == "words":
            able = "; an act that is added takes the words' place" if self.judge == "offline" else ""
            return f"{by} with the reference. It does not read the rubric{able}."
        return by + {
            "acts": ", for each of which the reference's words count too. It does not read the rubric: edit those two.",
            "rubric": ": it reads the rubric and the prompt.",
            "reply": ": it would read one, and reads the prompt.",
        }.get(measure, ". It does not read the rubric; the Python reward counts.")

    def _judge(self, version: Version) -> Judge:
        """The judge with the version's prompt, which it reads once from a file."""
        text = "" if version.prompt == self.prompt else version.prompt
        if text not in self._judges:
            with TemporaryDirectory() as folder:
                file = Path(folder, PROMPT)
                file.write_text(text, encoding="utf-8")
                try:
                    self._judges[text] = make_judge(self.judge, self.config.replace(judge_prompt=str(file)))
                except ConfigError as error:
                    raise ConfigError(str(error).replace(str(file), "the prompt")) from None
        return self._judges[text]

    def save(
        self, folder: Path, samples: Sequence[Sample], edited: Mapping[str, Version], last: Version, source: Path | None
    ) -> dict[str, Any]:
        """Writes the last prompt and Python reward, and as data the samples with what was `edited` of them, by id, each
        where it differs from the data's own. `source` is the data's folder, whose other files are copied; without one
        the samples are written in any case. Returns the settings of training with them. Raises ConfigError, before
        anything is written, for what can't be used."""
        self._judge(last)
        if last.reward.strip():
            python_reward(last.reward)
        written = [edited[each.id].applied(each) if each.id in edited else each for each in samples]
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"data": str(source)} if source else {}
        asked = {name: value for name, value in self.config.given.items() if name != "gemini_model" or self._is_gemini}
        settings |= {"judge": self.judge, **asked}
        if last.prompt != self.prompt:
            write_bytes(folder / PROMPT, last.prompt.encode())
            settings["judge_prompt"] = str(folder / PROMPT)
        if last.reward.strip():
            write_bytes(folder / REWARD, last.reward.encode())
        changed = (edited[each.id].changes(self.own(each)) for each in samples if each.id in edited)
        if source is None or any(set(ASKED) & {*names} for names in changed):
            train, *others = [folder / DATA / name for name in (*DATA_FILES, "data_card.json")]
            train.parent.mkdir(exist_ok=True)
            write_bytes(train, to_lines(written))
            for file in others:
                if source and (source / file.name).exists():
                    write_bytes(file, (source / file.name).read_bytes())
            settings["data"] = str(train.parent)
        return settings


def acts_text(acts: Sequence[Act]) -> str:
    """An act a line: "REQUEST city", "OFFER name = Sipan | Alma", "GOODBYE"."""
    return "\n".join(map(_line, acts))


def _line(act: Act) -> str:
    return f"{act.act} {act.slot}".rstrip() + f" = {OR.join(act.values)}" * bool(act.values)


def acts_in(text: str, sample: Sample) -> list[Act]:
    """The acts of such a text. A line that the sample has stays that act; another is one of its first service. Raises
    ConfigError naming a line that is none."""
    known, acts, service = {_line(act): act for act in sample.acts}, [], next(iter(sample.services), "")
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line in known:
            acts.append(known[line])
        elif line:
            found = _ACT.fullmatch(line)
            if not found or found[1] not in ACTS:
                kind = line.split()[0]
                hint = did_you_mean(kind.upper(), ACTS).strip() or f"There are: {', '.join(ACTS)}"
                hint = "An act is written as OFFER name = Sipan | Alma" if kind in ACTS else hint
                raise ConfigError(f"line {number} of the acts is not an act: {line}", hint)
            kind, slot, values = found.groups(default="")
            acts.append(Act(service, kind, slot, tuple(filter(None, map(str.strip, values.split(OR.strip()))))))
    return acts


def python_reward(source: str) -> RewardFunction:
    """The last function that the source defines. Raises ConfigError, with the line, where it can't be run."""
    space: dict[str, Any] = {"__name__": Path(REWARD).stem}
    linecache.cache[REWARD] = (len(source), None, source.splitlines(keepends=True), REWARD)
    try:
        exec(compile(source, REWARD, "exec"), space)
    except (Exception, SystemExit) as error:  # whatever a person's Python raises
        is_syntax = isinstance(error, SyntaxError)
        frames = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == REWARD]
        said, line = (error.msg, error.lineno) if is_syntax else (error, frames[-1])
        raise ConfigError(_with_line(f"{type(error).__name__}: {said} ({REWARD}, line {line})", source)) from None
    own = [each for each in space.values() if inspect.isfunction(each) and each.__code__.co_filename == REWARD]
    if not own:
        raise ConfigError(f"{REWARD} defines no function", "def reward(completions, **_): return […]")
    return own[-1]


def _with_line(said: str, source: str) -> str:
    """The message, with the line of the source that it names."""
    number, lines = re.search(rf"{re.escape(REWARD)}, line (\d+)\)$", said), source.splitlines()
    return f"{said}: {lines[int(number[1]) - 1].strip()}" if number and int(number[1]) <= len(lines) else said
