"""Gemini as a judge: its key and address, its form of a schema, and Google's two SDKs.

The kit installs google-generativeai, which is past its end of life, and uses its successor google-genai where that is
installed. Both are called synchronously: the old one's async calls do not work over REST, and the new one's are slower
than its plain ones on threads. Neither retries here: the old one's own retries go on for minutes whatever the time-out.
"""

import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from typing import Any

from pydantic import SecretStr
from requests.utils import get_environ_proxies

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.errors import ConfigError
from grpo_kit.judges.chat.calls import GZIP, body_of, on_thread, thread_transport
from grpo_kit.judges.chat.judge import ChatJudge
from grpo_kit.judges.chat.provider import (
    CallFailed,
    Provider,
    Question,
    Reply,
    checked_address,
    failure,
    key_of,
    tokens,
)
from grpo_kit.utils.environment import version_of

WITHHELD = ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")
GOOGLE = "https://generativelanguage.googleapis.com"
OLD, NEW = "google-generativeai", "google-genai"


class Gemini(Provider):
    def __init__(self, config: JudgeConfig):
        key = key_of("gemini")
        endpoint = SecretStr(os.environ.get("GOOGLE_GEMINI_BASE_URL", ""))  # it may hold a password
        self.place = checked_address(endpoint, "GOOGLE_GEMINI_BASE_URL") if endpoint else "Google's endpoint"
        self._sdk = _open_sdk(config.gemini_sdk, key, endpoint.get_secret_value() or None, config.judge_max_in_flight)

    async def generate(self, model: str, question: Question, seconds: float) -> Reply:
        # The old SDK leaves out what it does not know, propertyOrdering.
        asked = {"temperature": question.temperature, "maxOutputTokens": question.max_tokens}
        asked |= {} if question.seed is None else {"seed": question.seed}
        asked |= {"responseMimeType": "application/json", "responseSchema": question.schema}
        return await on_thread(partial(self._sdk.generate, model, question.prompt, json.dumps(asked), seconds))

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


def _open_sdk(name: str, api_key: SecretStr, base_url: str | None, in_flight: int) -> "_GenAI | _GenerativeAI":
    """The SDK called `name`; "auto" takes google-genai where it is installed. `base_url` None: Google's own endpoint.
    `in_flight` calls at a time are expected. Raises ConfigError where it is not installed, or does not start."""
    if name == "auto":
        name = NEW if version_of(NEW) else OLD
    if not version_of(name):
        raise ConfigError(f"{name} is not installed", fix=f"pip install {name}, or leave gemini_sdk to auto")
    try:
        return {NEW: _GenAI, OLD: _GenerativeAI}[name](api_key, base_url, in_flight)
    except Exception as error:  # such as for want of a certificate
        said = f"{type(error).__name__}: {error}".replace(api_key.get_secret_value(), "[key]")
    # Without the SDK's own frames, which hold the key.
    raise ConfigError(f"{name} can't be used ({said})", f"pip install --upgrade {name}")


class _GenAI:
    def __init__(self, api_key: SecretStr, base_url: str | None, in_flight: int):
        from google import genai
        from google.genai import types

        self._types, self._key = types, api_key
        # A redirect would take the key to another host.
        client = {"transport": thread_transport()(base_url or GOOGLE), "follow_redirects": False}
        options = types.HttpOptions(base_url=base_url, api_version="v1beta", client_args=client)
        logging.getLogger("google_genai._api_client").setLevel(logging.ERROR)  # it would say that it takes another key
        self._client = genai.Client(api_key=api_key.get_secret_value(), vertexai=False, http_options=options)
        self._config = lru_cache(self._make_config)

    def _make_config(self, generation_config: str, timeout: float) -> Any:
        # As plain JSON: the SDK's own conversion of a schema takes as long as all the rest of a call.
        body = {"generationConfig": json.loads(generation_config)}
        return self._types.GenerateContentConfig(
            http_options=self._types.HttpOptions(timeout=int(timeout * 1000), extra_body=body),
            automatic_function_calling=self._types.AutomaticFunctionCallingConfig(disable=True),
        )

    def generate(self, model: str, prompt: str, generation_config: str, timeout: float) -> Reply:
        """Sends one prompt; `timeout` in seconds. Raises CallFailed."""
        config = self._config(generation_config, timeout)
        with _failures(self._key):
            return _reply(self._client.models.generate_content(model=model, contents=prompt, config=config))

    def models(self, timeout: float) -> list[str]:
        """Names of the models that can be asked to generate. Raises CallFailed."""
        options = self._types.HttpOptions(timeout=int(timeout * 1000))
        with _failures(self._key):
            found = list(self._client.models.list(config={"http_options": options}))
        able = [model for model in found if "generateContent" in (model.supported_actions or [])]
        return [(model.name or "").removeprefix("models/") for model in able]


class _GenerativeAI:
    def __init__(self, api_key: SecretStr, base_url: str | None, in_flight: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # says that its life has ended
            import google.generativeai as genai
            from google.generativeai import protos
            from google.generativeai.client import configure, get_default_generative_client, get_default_model_client
        from requests.adapters import HTTPAdapter

        class BoundedAdapter(HTTPAdapter):
            def send(self, request, stream=False, timeout: Any = None, verify=True, cert=None, proxies=None):
                request.headers["Accept-Encoding"] = GZIP
                answer = super().send(request, True, timeout, verify, cert, proxies)
                parts = iter(partial(answer.raw.read1, 2**16, decode_content=False), b"")
                seconds = timeout[-1] if isinstance(timeout, tuple) else timeout
                with closing(answer):
                    answer._content, answer._content_consumed = body_of(parts, answer.headers, seconds), True
                return answer

        self._genai, self._key = genai, api_key
        endpoint = {"api_endpoint": base_url.rstrip("/")} if base_url else None
        configure(api_key=api_key.get_secret_value(), transport="rest", client_options=endpoint)
        self._client = get_default_generative_client()
        self._models = get_default_model_client()
        self._config = lru_cache(lambda text: protos.GenerationConfig.from_json(text, ignore_unknown_fields=True))
        for client in (self._client, self._models):
            session = client.transport._session  # pyright: ignore[reportAttributeAccessIssue] -- the REST transport's
            session._refresh_status_codes = ()  # a 401 is final: there is nothing to refresh in a key
            session.max_redirects = 0  # one would take the key to another host
            for scheme in ("http://", "https://"):
                session.mount(scheme, BoundedAdapter(pool_maxsize=in_flight))  # its own 10 would open most anew
            # These three are read once here, and not for every call.
            session.proxies = get_environ_proxies(base_url or GOOGLE)
            session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
            session.trust_env = False

    def generate(self, model: str, prompt: str, generation_config: str, timeout: float) -> Reply:
        request = {
            "model": model if "/" in model else f"models/{model}",
            "contents": [{"role": "user", "parts": [{"text": prompt}]}],
            "generation_config": self._config(generation_config),
        }
        with _failures(self._key):
            return _reply(self._client.generate_content(request, timeout=timeout, retry=None))

    def models(self, timeout: float) -> list[str]:
        with _failures(self._key):
            options = {"timeout": timeout, "retry": None}
            found = list(self._genai.list_models(client=self._models, request_options=options))
        return [m.name.removeprefix("models/") for m in found if "generateContent" in m.supported_generation_methods]


def _reply(answer: Any) -> Reply:
    """Both SDKs' answers have the same fields. Raises CallFailed where there is no text in it."""
    usage = answer.usage_metadata
    read, total = (usage.prompt_token_count or 0, usage.total_token_count or 0) if usage else (0, 0)
    billed = tokens(read, max(total - read, (usage.candidates_token_count or 0) if usage else 0))
    feedback = answer.prompt_feedback
    if feedback and (blocked := _enum_name(feedback.block_reason)):
        raise CallFailed(f"the prompt was blocked ({blocked})", tokens=billed)
    candidates = answer.candidates or []
    finish_reason = _enum_name(candidates[0].finish_reason) if candidates else ""
    parts = (candidates[0].content.parts or []) if candidates and candidates[0].content else []
    text = "".join(part.text or "" for part in parts if not getattr(part, "thought", False))
    if finish_reason in WITHHELD:  # once, and again the next time, whatever words came before
        raise CallFailed(f"the answer was withheld ({finish_reason})", tokens=billed)
    if not text and finish_reason != "MAX_TOKENS":  # thinking may use up the limit before the first word
        raise CallFailed(f"the answer is empty ({finish_reason or 'no candidate'})", retry=True, tokens=billed)
    return Reply(text, billed, is_cut=finish_reason == "MAX_TOKENS")


def _enum_name(value: Any) -> str:
    """The name of an enum's value; "" for none, and for the zero that stands for "unspecified"."""
    name = getattr(value, "name", None) or (str(value) if value else "")
    return "" if name.endswith("_UNSPECIFIED") else name


@contextmanager
def _failures(key: SecretStr) -> Iterator[None]:
    """Raises as CallFailed, without the key, whatever a call or a malformed answer raises in an SDK."""
    try:
        yield
    except CallFailed:
        raise
    except Exception as error:
        quotas = _quotas(error)
        is_daily = any("PerDay" in name for name in quotas)
        failed = failure(error, key, f"quota {', '.join(quotas)}" if quotas else "")
        failed.quota = "the day's quota" if is_daily and failed.code == 429 else ""
        raise failed from None


def _quotas(error: Exception) -> list[str]:
    """The quotas that a 429 says are used up, such as GenerateRequestsPerDayPerProjectPerModel-FreeTier."""
    response = getattr(error, "response", None)
    return sorted({*re.findall(r'"quotaId":\s*"([\w-]{1,100})"', response.text)}) if response is not None else []
