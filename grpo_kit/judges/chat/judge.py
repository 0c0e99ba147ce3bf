"""A chat model as a judge: one answer at a time, or all of a prompt's answers against each other in one call.

The prompts are text files beside this one. All that comes from data stands between tags that carry a mark made from
the data itself, so that no text can hold the mark and close its own tag.
"""

import json
import random
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from string import Template
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field, ValidationError

from grpo_kit.config.judge import JUDGES, JudgeConfig
from grpo_kit.data.samples import Sample
from grpo_kit.data.thoughts import CLOSE, OPEN
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import Judge, Verdict
from grpo_kit.judges.cache import digest
from grpo_kit.judges.chat.client import ChatModel
from grpo_kit.judges.chat.provider import CallFailed, Provider

MET = {"yes": 1.0, "partly": 0.5, "no": 0.0}
LONGEST_REASON = 2000  # characters that are kept
TOKENS_PER_ANSWER = 1024  # a runaway is cut here; a cut answer is asked for again with twice as many
NEEDED, KNOWN = {"conversation", "answers"}, {"mark", "count", "task", "conversation", "rubric", "reference", "answers"}


def _criteria(said: Any) -> dict[str, float]:
    """Each criterion's score in [0, 1], of those that can be read: only the judgement's own score must be right."""
    if not isinstance(said, dict):  # by their names
        rows = [each for each in said if isinstance(each, dict)] if isinstance(said, list) else []
        said = {each.get("criterion"): each.get("met") for each in rows}
    scores = {name: MET.get(met.lower()) if isinstance(met, str) else met for name, met in said.items()}
    return {name: float(met) for name, met in scores.items() if isinstance(met, int | float) and 0 <= met <= 1 and name}


class _Judgement(BaseModel):
    answer: int = 1
    analysis: Any = Field(None, validation_alias=AliasChoices("analysis", "reason"))
    criteria: Annotated[dict[str, float], BeforeValidator(_criteria)] = {}
    # 1.0000000001 is 1.
    score: Annotated[float, Field(allow_inf_nan=False), AfterValidator(partial(round, ndigits=6)), Field(ge=0, le=1)]


def an_object(fields: dict[str, dict]) -> dict[str, Any]:
    """The schema of an object that has all these fields. They are written in alphabetical order, reasons before the
    score: that is the order Gemini takes where it is told none, and google-generativeai can't tell it."""
    return {"type": "object", "properties": fields, "required": sorted(fields)}


_CRITERION = {"criterion": {"type": "string"}, "met": {"type": "string", "enum": list(MET)}}
_JUDGEMENT = {
    "analysis": {"type": "string"},
    "criteria": {"type": "array", "items": an_object(_CRITERION)},
    "score": {"type": "number"},
}
_GROUP = an_object({**_JUDGEMENT, "answer": {"type": "integer"}})
_GROUP_SCHEMA = an_object({"answers": {"type": "array", "items": _GROUP}})


class ChatJudge(Judge):
    """Scores answers by asking a chat model. `usage` counts calls, tokens and dollars. A cloud's own judge is this
    with its name and its provider."""

    def __init__(self, config: JudgeConfig):
        """Raises ConfigError where the key or the model is missing, or the prompt's file can't be used."""
        self.compares, self.samples = config.judge_mode == "group", config.judge_samples
        usual = 0.0 if self.samples == 1 else 1.0
        self.temperature = usual if config.judge_temperature is None else config.judge_temperature
        self._prompt = _prompt(config)
        self._model = ChatModel(self.name, self.provider(config), config)
        self._schema = self._model.schema(_GROUP_SCHEMA if self.compares else an_object(_JUDGEMENT))
        self.usage = self._model.usage
        depends_on = [self._model.model, config.judge_mode, self.temperature, self._prompt.template, self._schema]
        self.version = digest(depends_on)

    @staticmethod
    @abstractmethod
    def provider(config: JudgeConfig) -> Provider:
        """What asks this judge's cloud. Raises ConfigError for a key or an address that can't be used."""

    def check(self) -> None:
        self._model.check()

    def close(self) -> None:
        self._model.close()

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        """One verdict for each answer, in order, from one call.

        In group mode the answers, which should differ, are shown in an order that `order` gives. A call that failed is
        a score of None for each of its answers, with the reason. Raises ConfigError where no call can succeed.
        """
        order = self.order(sample, answers, repeat)
        try:
            judgements, used = await self._model.ask(
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
            reason = " ".join(str(judgement.analysis or "")[:LONGEST_REASON].split())
            verdicts[position] = Verdict(judgement.score, reason, judgement.criteria, tokens)
        return [verdicts[position] for position in range(len(answers))]

    def order(self, sample: Sample, answers: Sequence[str], repeat: int) -> list[int]:
        """Which answer stands first, second, … in the prompt: shuffled, by a seed that content and repeat make."""
        order = list(range(len(answers)))
        random.Random(digest([sample.prompt, sorted(answers), repeat])).shuffle(order)
        return order

    def prompt(self, sample: Sample, answers: Sequence[str]) -> str:
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


def chat_model(judge: str, config: JudgeConfig, setting: str = "") -> ChatModel:
    """The model that a judge of CLOUD asks, which `setting` names. Raises ConfigError as that judge does."""
    return ChatModel(judge, resolve_name(JUDGES[judge]).provider(config), config, setting)


def fences(texts: Sequence[str]) -> tuple[str, Callable[[str, str], str]]:
    """A mark made from `texts`, and what puts one of them between tags that carry its name and the mark."""
    mark = digest(texts)[:8]
    return mark, lambda name, text: f"<{name} {mark}>\n{text}\n</{name} {mark}>"


def _prompt(config: JudgeConfig) -> Template:
    own = config.judge_prompt
    path = Path(own) if own else Path(__file__).with_name(f"{config.judge_mode}.txt")
    try:
        prompt = Template(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge_prompt={own} can't be read ({error})", "Name a text file in UTF-8") from None
    used = set(prompt.get_identifiers())
    if not prompt.is_valid() or not used >= NEEDED or not used <= KNOWN:
        raise ConfigError(
            f"{path} lacks a placeholder, or has one that is not known",
            f"It needs {' and '.join(f'${name}' for name in sorted(NEEDED))}, may have "
            f"{', '.join(f'${name}' for name in sorted(KNOWN - NEEDED))}; write any other $ as $$",
        )
    return prompt


def object_in(text: str) -> Any:
    """The JSON object of an answer: alone, in a list, in a code fence, after a thought or some prose, or said twice.

    Raises ValueError for prose after it or with braces: they may be what an answer under judgement says. What is left
    to the caller is other JSON, such as two objects in a list.
    """
    if text.lstrip().startswith(OPEN):
        text = text.partition(CLOSE)[2]
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
        entries = [content]
        if is_group:
            entries = content if isinstance(content, list) else content["answers"]
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
