"""Gemini's own part of a chat judge: its SDKs on threads, its form of a schema, its key and address."""

import os
from functools import partial
from typing import Any

from pydantic import SecretStr

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.judges.chat.judge import ChatJudge
from grpo_kit.judges.chat.provider import Provider, Question, Reply, checked_address, key_of, missing_key
from grpo_kit.judges.chat.threads import on_thread
from grpo_kit.judges.gemini.sdk import generation_config, open_sdk


class Gemini(Provider):
    def __init__(self, config: JudgeConfig):
        if not (key := key_of("gemini")):
            raise missing_key("gemini")
        endpoint = SecretStr(os.environ.get("GOOGLE_GEMINI_BASE_URL", ""))  # it may hold a password
        self.place = checked_address(endpoint, "GOOGLE_GEMINI_BASE_URL") if endpoint else "Google's endpoint"
        self._sdk = open_sdk(config.gemini_sdk, key, endpoint.get_secret_value() or None, config.judge_max_in_flight)

    async def generate(self, model: str, question: Question, seconds: float) -> Reply:
        asked = generation_config(question.schema, question.temperature, question.max_tokens, question.seed)
        return await on_thread(partial(self._sdk.generate, model, question.prompt, asked, seconds))

    async def lacks(self, model: str, seconds: float) -> list[str] | None:
        there = await on_thread(partial(self._sdk.models, seconds))
        return there if there and "/" not in model and model not in there else None

    def schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        own = {**schema, "type": schema["type"].upper()}
        if fields := schema.get("properties"):
            own["properties"] = {name: self.schema(field) for name, field in fields.items()}
        if len(fields or ()) > 1:
            own["propertyOrdering"] = schema["required"]
        return own | ({"items": self.schema(schema["items"])} if "items" in schema else {})


class GeminiJudge(ChatJudge):
    name = "gemini"
    provider = Gemini
