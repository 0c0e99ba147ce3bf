"""A judge behind Anthropic's messages: Claude."""

import os
from typing import Any, ClassVar

from pydantic import SecretStr

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.judges.chat.judge import ChatJudge
from grpo_kit.judges.chat.libraries import LibraryProvider, check_installed
from grpo_kit.judges.chat.provider import CallFailed, Question, Reply, checked_address, key_of, tokens


class Anthropic(LibraryProvider):
    path, endpoint = "/v1/messages", "https://api.anthropic.com"
    optional: ClassVar = {"output_config": "output_config|output_format|schema", "temperature": "temperature"}

    def __init__(self, config: JudgeConfig):
        check_installed("anthropic")
        import anthropic

        key = key_of("anthropic")
        address = SecretStr(os.environ.get("ANTHROPIC_BASE_URL", ""))  # it may hold a password
        self.place = checked_address(address, "ANTHROPIC_BASE_URL") if address else "Anthropic's endpoint"
        super().__init__(anthropic, anthropic.Anthropic, key, address)

    def body(self, question: Question) -> dict[str, Any]:
        schema = {"type": "json_schema", "schema": question.schema}
        return {
            "output_config": {"format": schema},
            "temperature": question.temperature,
            "max_tokens": question.max_tokens,
        }

    def reply(self, answer: dict[str, Any]) -> Reply:
        used, reason = answer.get("usage") or {}, answer.get("stop_reason")
        billed = tokens(used.get("input_tokens"), used.get("output_tokens"))
        if reason == "refusal":
            raise CallFailed("the answer was withheld (refusal)", tokens=billed)
        text = "".join(part["text"] for part in answer.get("content") or [] if part["type"] == "text")
        if not text and reason != "max_tokens":
            raise CallFailed(f"the answer is empty ({reason or 'no content'})", retry=True, tokens=billed)
        return Reply(text, billed, is_cut=reason == "max_tokens")

    def there(self, model: str, seconds: float) -> list[str] | None:
        import anthropic

        try:  # an alias, such as claude-sonnet-5-5, is on no list
            self._client.models.retrieve(model, timeout=seconds)
        except anthropic.NotFoundError:
            return [each.id for each in (self._client.models.list(limit=100, timeout=seconds)).data]
        return None


class AnthropicJudge(ChatJudge):
    name = "anthropic"
    provider = Anthropic
