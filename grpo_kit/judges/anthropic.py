"""A judge behind Anthropic's messages: Claude."""

import os
from typing import Any, ClassVar

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.judges.chat.judge import ChatJudge
from grpo_kit.judges.chat.library import LibraryProvider, check_installed
from grpo_kit.judges.chat.provider import CallFailed, Question, Reply, checked_address, key_of, missing_key, tokens


class Anthropic(LibraryProvider):
    optional: ClassVar = {"output_config": "output_config|output_format|schema", "temperature": "temperature"}

    def __init__(self, config: JudgeConfig):
        """Raises ConfigError where the library or the key is missing, before anything is sent."""
        check_installed("anthropic")
        import anthropic

        if not (key := key_of("anthropic")):
            raise missing_key("anthropic")
        address = os.environ.get("ANTHROPIC_BASE_URL") or None
        self.place = checked_address(address, "ANTHROPIC_BASE_URL") if address else "Anthropic's endpoint"
        super().__init__(anthropic, key)
        self._client = anthropic.AsyncAnthropic(base_url=address, **self._options)

    def extra(self, question: Question) -> dict[str, Any]:
        schema = {"type": "json_schema", "schema": question.schema}
        return {"output_config": {"format": schema}, "temperature": question.temperature}

    async def send(self, about: dict[str, Any], max_tokens: int) -> Reply:
        answer = await self._client.messages.create(**about, max_tokens=max_tokens)
        if isinstance(answer, str):
            raise CallFailed("the answer is no JSON", retry=True)
        used, reason = answer.usage, answer.stop_reason
        billed = tokens(used.input_tokens, used.output_tokens) if used else (0, 0)
        if reason == "refusal":
            raise CallFailed("the answer was withheld (refusal)", tokens=billed)
        text = "".join(part.text for part in answer.content or [] if part.type == "text")
        if not text and reason != "max_tokens":
            raise CallFailed(f"the answer is empty ({reason or 'no content'})", retry=True, tokens=billed)
        return Reply(text, billed, is_cut=reason == "max_tokens")

    async def there(self, model: str, seconds: float) -> list[str] | None:
        import anthropic

        try:  # an alias, such as claude-sonnet-5-5, is on no list
            await self._client.models.retrieve(model, timeout=seconds)
        except anthropic.NotFoundError:
            return [each.id for each in (await self._client.models.list(limit=100, timeout=seconds)).data]
        return None


class AnthropicJudge(ChatJudge):
    name = "anthropic"
    provider = Anthropic
