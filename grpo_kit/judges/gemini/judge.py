"""Gemini as a judge: one answer at a time, or all of a prompt's answers against each other in one call.

The prompts are text files beside this one. All that comes from data stands between tags that carry a mark made from
the data itself, so that no text can hold the mark and close its own tag.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from string import Template
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, AliasChoices, BaseModel, Field, ValidationError

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import Judge, Verdict
from grpo_kit.judges.cache import digest
from grpo_kit.judges.gemini.client import Gemini
from grpo_kit.judges.gemini.sdk import CallFailed

MET = {"yes": 1.0, "partly": 0.5, "no": 0.0}
LONGEST_REASON = 2000  # characters that are kept
TOKENS_PER_ANSWER = 1024  # a runaway is cut here; a cut answer is asked for again with twice as many
NEEDED, KNOWN = {"conversation", "answers"}, {"mark", "count", "task", "conversation", "rubric", "reference", "answers"}


class _Criterion(BaseModel):
    criterion: str
    met: str | bool | float | None

    def score(self) -> float | None:
        """In [0, 1]; None for a verdict that says nothing. Only the judgement's own score must be right."""
        score = MET.get(self.met.lower()) if isinstance(self.met, str) else self.met
        return float(score) if score is not None and 0 <= score <= 1 else None


class _Judgement(BaseModel):
    answer: int = 1
    analysis: str | None = Field(None, validation_alias=AliasChoices("analysis", "reason"))
    criteria: list[_Criterion] | None = None
    # 1.0000000001 is 1.
    score: Annotated[float, Field(allow_inf_nan=False), AfterValidator(partial(round, ndigits=6)), Field(ge=0, le=1)]


def _object(fields: dict[str, dict]) -> dict[str, Any]:
    """The schema of an object whose fields are written in alphabetical order, reasons before the score: that is the
    order Gemini takes where it is told none, and google-generativeai can't tell it."""
    order = sorted(fields)
    return {"type": "OBJECT", "properties": fields, "required": order, "propertyOrdering": order}


_CRITERION = {"criterion": {"type": "STRING"}, "met": {"type": "STRING", "enum": list(MET)}}
_JUDGEMENT = {
    "analysis": {"type": "STRING"},
    "criteria": {"type": "ARRAY", "items": _object(_CRITERION)},
    "score": {"type": "NUMBER"},
}
_GROUP_SCHEMA = {
    "type": "OBJECT",
    "properties": {"answers": {"type": "ARRAY", "items": _object({**_JUDGEMENT, "answer": {"type": "INTEGER"}})}},
    "required": ["answers"],
}


class GeminiJudge(Judge):
    """Scores answers by asking Gemini. `usage` counts calls, tokens and dollars."""

    name = "gemini"

    def __init__(self, config: JudgeConfig):
        """Raises ConfigError where GEMINI_API_KEY is not set or the prompt's file can't be used."""
        self.compares, self.samples = config.gemini_mode == "group", config.gemini_samples
        usual = 0.0 if self.samples == 1 else 1.0
        self.temperature = usual if config.gemini_temperature is None else config.gemini_temperature
        self._prompt = _prompt(config)
        self._schema = _GROUP_SCHEMA if self.compares else _object(_JUDGEMENT)
        self._gemini = Gemini(config)
        self.usage = self._gemini.usage
        depends_on = [self._gemini.model, config.gemini_mode, self.temperature, self._prompt.template, self._schema]
        self.version = digest(depends_on)

    def check(self) -> None:
        self._gemini.check()

    def close(self) -> None:
        self._gemini.close()

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        """One verdict for each answer, in order, from one call.

        In group mode the answers, which should differ, are shown in an order that `order` gives. A call that failed is
        a score of None for each of its answers, with the reason. Raises ConfigError where no call can succeed.
        """
        order = self.order(sample, answers, repeat)
        try:
            judgements, used = await self._gemini.ask(
                lambda: self.prompt(sample, [answers[i] for i in order]),
                self._schema,
                partial(_parse, count=len(answers), is_group=self.compares),
                temperature=self.temperature,
                max_tokens=TOKENS_PER_ANSWER * len(answers),
            )
        except CallFailed as failed:
            return [Verdict(None, f"not judged: {failed}")] * len(answers)
        verdicts = {}
        for place, (position, judgement) in enumerate(zip(order, judgements, strict=True)):
            tokens = used // len(answers) + (place < used % len(answers))
            scores = {criterion.criterion: criterion.score() for criterion in judgement.criteria or ()}
            criteria = {name: score for name, score in scores.items() if score is not None}
            reason = " ".join((judgement.analysis or "")[:LONGEST_REASON].split())
            verdicts[position] = Verdict(judgement.score, reason, criteria, tokens)
        return [verdicts[position] for position in range(len(answers))]

    def order(self, sample: Sample, answers: Sequence[str], repeat: int) -> list[int]:
        """Which answer stands first, second, … in the prompt: shuffled, by a seed that content and repeat make."""
        order = list(range(len(answers)))
        random.Random(digest([sample.prompt, sorted(answers), repeat])).shuffle(order)
        return order

    def prompt(self, sample: Sample, answers: Sequence[str]) -> str:
        """The whole prompt that Gemini is given."""
        conversation = sample.conversation
        texts = [conversation, sample.rubric, sample.task_description, sample.ground_truth, *answers]
        mark, fence = fences(texts)
        names = [f"reply {number}" for number in range(1, len(answers) + 1)] if self.compares else ["reply"]
        return self._prompt.substitute(
            mark=mark,
            count=len(answers),
            task=fence("task", sample.task_description or "not said"),
            conversation=fence("conversation", conversation),
            rubric=fence("criteria", sample.rubric or "not said: judge by the conversation and the person's reply"),
            reference=fence("reference", sample.ground_truth),
            answers="\n".join(map(fence, names, answers)),
        )


def fences(texts: Sequence[str]) -> tuple[str, Callable[[str, str], str]]:
    """A mark made from `texts`, and what puts one of them between tags that carry its name and the mark."""
    mark = digest(texts)[:8]
    return mark, lambda name, text: f"<{name} {mark}>\n{text}\n</{name} {mark}>"


def _prompt(config: JudgeConfig) -> Template:
    own = config.gemini_prompt
    path = Path(own) if own else Path(__file__).with_name(f"{config.gemini_mode}.txt")
    try:
        prompt = Template(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"gemini_prompt={own}: can't be read ({error})") from None
    used = set(prompt.get_identifiers())
    if not prompt.is_valid() or not used >= NEEDED or not used <= KNOWN:
        raise ConfigError(
            f"{path} should hold {' and '.join(f'${name}' for name in sorted(NEEDED))}, may hold "
            f"{', '.join(f'${name}' for name in sorted(KNOWN - NEEDED))}, and no other $ unless it is doubled ($$)"
        )
    return prompt


def object_in(text: str) -> Any:
    """The JSON object of an answer: alone, in a list, in a code fence, after some prose, or said twice.

    Raises ValueError for prose after it or with braces: they may be what an answer under judgement says. What is left
    to the caller is other JSON, such as two objects in a list.
    """
    try:
        found = orjson.loads(text)  # strict: no NaN, no lone surrogates, no depth that Python can't hold
    except orjson.JSONDecodeError:
        found, rest = [], text
        while "{" in rest:
            start = rest.index("{")
            end = json.JSONDecoder().raw_decode(rest, start)[1]
            found.append(orjson.loads(rest[start:end]))
            rest = rest[end:]
        if not found:
            raise
        if re.search(r"[^\s`\],]", rest):
            raise ValueError("text after the object") from None
    is_one = isinstance(found, list) and found and all(each == found[0] for each in found)
    return found[0] if is_one else found


def _parse(text: str, count: int, is_group: bool) -> list[_Judgement]:
    """The judgements in the order of the prompt. Raises ValueError for anything but one valid judgement for each."""
    try:
        content = object_in(text)
        entries = content["answers"] if is_group else [content]
        judgements = [_Judgement.model_validate(entry) for entry in entries]
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r:.40}") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if is_group:
        judgements.sort(key=lambda judgement: judgement.answer)
        if [judgement.answer for judgement in judgements] != list(range(1, count + 1)):
            raise ValueError(f"{count} answers were to be judged once each, and not {[j.answer for j in judgements]}")
    return judgements
