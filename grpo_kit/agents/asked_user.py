"""A chat model that speaks for the simulated user: it is told what is left to do, and says the next words.

To what asks models it is a judge of the assistant's replies: a score of 1 where it stays, with its words as the reason;
0 where it leaves; None where nothing could be had of it. So it is asked, limited, paid for and kept as judges are.
"""

from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from grpo_kit.agents.user import GOAL, SAID
from grpo_kit.config.environment import RULES, as_user
from grpo_kit.data.samples import Message, Sample
from grpo_kit.data.thoughts import answer_in
from grpo_kit.judges.base import Judge, Verdict
from grpo_kit.judges.cache import digest
from grpo_kit.judges.chat.judge import TOKENS_PER_ANSWER, an_object, chat_model, fences, object_in
from grpo_kit.judges.chat.provider import CallFailed

LONGEST = 1000  # characters of what it says
SCHEMA = an_object({"leaves": {"type": "boolean"}, "says": {"type": "string"}})


class AskedUser(Judge):
    name = "simulated_user"

    def __init__(self, config: Any):
        """Raises ConfigError for a key or an address that can't be used."""
        engine, self._temperature, self._seed = config.simulated_user, config.judge_temperature or 0.0, config.seed
        self._prompt = Template(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"))
        self._model = chat_model(engine, as_user(config), "simulated_user_model")
        self._schema, self.usage = self._model.schema(SCHEMA), self._model.usage
        self.about = f"{engine} ({self._model.model})"
        self.version = digest([self.about, self._prompt.template, self._temperature, self._seed])

    def check(self) -> None:
        self._model.check()

    def close(self) -> None:
        self._model.close()

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        [reply] = answers
        how = {"temperature": self._temperature, "max_tokens": TOKENS_PER_ANSWER, "seed": self._seed}
        try:
            said, used = await self._model.ask(lambda: self.prompt(sample, reply), self._schema, _parse, **how)
        except CallFailed as failed:
            return [Verdict(None, f"the simulated user gave no answer: {failed}")]
        return [Verdict(float(not said.leaves), said.says, tokens=used)]

    def prompt(self, sample: Sample, reply: str) -> str:
        said = "\n".join(f"- {each}" for each in sample.columns[SAID])
        texts = {"goal": sample.columns[GOAL], "said": said, "conversation": sample.conversation, "reply": reply}
        mark, fence = fences(list(texts.values()))
        return self._prompt.substitute(mark=mark, **{name: fence(name, text) for name, text in texts.items()})


class _Said(msgspec.Struct):
    leaves: bool = False
    says: str = ""


def _parse(text: str) -> _Said:
    found = msgspec.convert(object_in(text), _Said, strict=False)
    says = " ".join(found.says.split())[:LONGEST]
    if not (says or found.leaves):
        raise ValueError("it neither says anything nor leaves")
    return _Said(found.leaves, says)


def asked_user(config: Any) -> AskedUser | None:
    """The model that speaks for the user by these settings; None where rules do, or there is no user."""
    return None if config.environment != "user" or config.simulated_user == RULES else AskedUser(config)


def spoken(messages: Sequence[Message]) -> list[Message]:
    """What the user sees of a conversation: no instructions, thoughts, calls or results."""
    seen = [Message(role=each["role"], content=answer_in(each["content"]) or "") for each in messages]
    return [each for each in seen if each["role"] in ("user", "assistant") and each["content"]]
