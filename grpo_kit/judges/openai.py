"""A judge behind OpenAI's chat completions: OpenAI's own models, or any server that speaks them, such as vLLM's."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.data.thoughts import answer_in
from grpo_kit.judges.chat.judge import ChatJudge
from grpo_kit.judges.chat.libraries import LibraryProvider, check_installed
from grpo_kit.judges.chat.provider import (
    CallFailed,
    Question,
    Reply,
    checked_address,
    key_of,
    needs_key,
    openai_address,
    tokens,
)


class OpenAI(LibraryProvider):
    path, endpoint = "/chat/completions", "https://api.openai.com/v1"
    optional: ClassVar = {
        "response_format": "response_format|json_schema|schema|structured|guided|grammar",
        "temperature": "temperature",
        "seed": r"\bseed\b",
        "max_tokens": "max_(completion_)?tokens",
        "max_completion_tokens": "max_(completion_)?tokens",
    }

    def __init__(self, config: JudgeConfig):
        check_installed("openai")
        import openai

        address = SecretStr(openai_address(config) or "")  # it may hold a password
        name = "judge_base_url" if config.judge_base_url else "OPENAI_BASE_URL"
        self.place = checked_address(address, name) if address else "OpenAI's endpoint"
        key = key_of("openai", instead="" if needs_key("openai", config) else "no-key-is-needed")
        if address and urlsplit(self.place).path in ("", "/"):
            address = SecretStr(f"{address.get_secret_value().rstrip('/')}/v1")
        super().__init__(openai, openai.OpenAI, key, address)
        self._limit = "max_tokens" if address else "max_completion_tokens"  # which OpenAI's own models take alone

    def body(self, question: Question) -> dict[str, Any]:
        named = {"name": "judgement", "strict": True, "schema": question.schema}
        return {
            "response_format": {"type": "json_schema", "json_schema": named},
            "temperature": question.temperature,
            **({} if question.seed is None else {"seed": question.seed}),
            self._limit: question.max_tokens,
        }

    def reply(self, answer: dict[str, Any]) -> Reply:
        used = answer.get("usage") or {}
        billed = tokens(used.get("prompt_tokens"), used.get("completion_tokens"))
        if not answer.get("choices"):
            raise CallFailed("the answer is empty (no choice)", retry=True, tokens=billed)
        message, reason = answer["choices"][0]["message"], answer["choices"][0].get("finish_reason")
        if reason == "content_filter" or message.get("refusal"):
            raise CallFailed(f"the answer was withheld ({reason})", tokens=billed)
        text = answer_in(message.get("content") or "") or ""
        if not text and reason != "length":
            raise CallFailed(f"the answer is empty ({reason})", retry=True, tokens=billed)
        return Reply(text, billed, is_cut=reason == "length")

    def there(self, model: str, seconds: float) -> list[str] | None:
        found = [each.id for each in (self._client.models.list(timeout=seconds)).data]
        plain = {name.partition(":")[0] for name in found}  # Ollama's tags and OpenRouter's variants stand behind it
        return found if found and model.partition(":")[0] not in plain else None


class OpenAIJudge(ChatJudge):
    name = "openai"
    provider = OpenAI
