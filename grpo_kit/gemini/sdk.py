"""The adapter over Google's two SDKs: one prompt with a response schema in, text and token counts out.

google-generativeai is what the kit is built on; it is past its end of life, so its successor google-genai is used
where it is installed. Both are called synchronously: the old one's async calls do not work over REST. Neither retries
here, since the old one's own retries go on for minutes whatever the time-out.
"""

import re
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any, Protocol

from grpo_kit.config import ConfigError
from grpo_kit.gemini.gate import Gate

CONNECTIONS = 512  # kept open for threads; the SDKs' own pools of 10 and 20 would open a new one for most calls
OLD, NEW = "google-generativeai", "google-genai"


@dataclass(frozen=True)
class Reply:
    """What the model wrote, and what is billed. `output_tokens` counts its thinking too."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str  # STOP, MAX_TOKENS, SAFETY, ...


class CallFailed(Exception):
    """One call that gave no answer. Its text holds no key.

    `code` is the HTTP status, or None where there was none; `retry` says whether the same call may yet succeed;
    `wait` is how many seconds the server asked to be left alone for, if it did.
    """

    def __init__(self, problem: str, code: int | None = None, retry: bool = False, wait: float | None = None):
        self.problem, self.code, self.retry, self.wait = problem, code, retry, wait
        super().__init__(problem)


class Sdk(Protocol):
    name: str

    def generate(
        self, model: str, prompt: str, schema: dict, temperature: float, max_output_tokens: int, timeout: float
    ) -> Reply:
        """Sends one prompt; the answer is JSON by `schema`. `timeout` in seconds. Raises CallFailed."""
        ...

    def models(self, timeout: float) -> list[str]:
        """Names of the models that can be asked to generate. Raises CallFailed."""
        ...


def open_sdk(name: str, api_key: str, base_url: str | None, gate: Gate) -> Sdk:
    """The SDK called `name`; "auto" takes google-genai where it is installed. `base_url` None: Google's own endpoint.
    Requests pass through `gate`.

    Raises ConfigError where it is not installed.
    """
    if name == "auto":
        name = NEW if _is_installed("google.genai") else OLD
    if not _is_installed({NEW: "google.genai", OLD: "google.generativeai"}[name]):
        raise ConfigError(f"{name} is not installed: pip install {name}, or leave gemini_sdk to auto")
    return {NEW: _GenAI, OLD: _GenerativeAI}[name](api_key, base_url, gate)


class _GenAI:
    name = NEW

    def __init__(self, api_key: str, base_url: str | None, gate: Gate):
        import httpx2
        from google import genai
        from google.genai import types

        self._types, self._key, self._gate = types, api_key, gate
        where = types.HttpOptions(
            base_url=base_url,
            api_version="v1beta",
            client_args={
                "limits": httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
                "event_hooks": {"request": [lambda _: gate.enter()], "response": [lambda _: gate.leave()]},
            },
        )
        self._client = genai.Client(api_key=api_key, vertexai=False, http_options=where)

    def generate(self, model, prompt, schema, temperature, max_output_tokens, timeout) -> Reply:
        # As plain JSON: the SDK's own conversion of a schema costs as much time as all the rest of a call.
        body = {
            "generationConfig": {
                "temperature": temperature,
                "maxOutputTokens": max_output_tokens,
                "responseMimeType": "application/json",
                "responseSchema": schema,
            }
        }
        options = self._types.HttpOptions(timeout=int(timeout * 1000), extra_body=body)
        config = self._types.GenerateContentConfig(http_options=options)
        try:
            answer = self._client.models.generate_content(model=model, contents=prompt, config=config)
        except Exception as error:
            raise _translated(error, self._key) from None
        finally:
            self._gate.leave()  # no response, no hook
        return _reply(answer, answer.usage_metadata)

    def models(self, timeout: float) -> list[str]:
        options = self._types.HttpOptions(timeout=int(timeout * 1000))
        try:
            found = list(self._client.models.list(config={"http_options": options}))
        except Exception as error:
            raise _translated(error, self._key) from None
        finally:
            self._gate.leave()
        return [m.name.removeprefix("models/") for m in found if "generateContent" in (m.supported_actions or [])]


class _GenerativeAI:
    name = OLD

    def __init__(self, api_key: str, base_url: str | None, gate: Gate):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # says that its life has ended
            import google.generativeai as genai
            from google.generativeai import client
        from requests.adapters import HTTPAdapter

        class Gated(HTTPAdapter):
            def send(self, *args, **options):
                gate.enter()
                try:
                    return super().send(*args, **options)
                finally:
                    gate.leave()

        self._genai, self._key = genai, api_key
        endpoint = {"api_endpoint": base_url.rstrip("/")} if base_url else None
        genai.configure(api_key=api_key, transport="rest", client_options=endpoint)
        self._client = client.get_default_generative_client()
        self._models = client.get_default_model_client()
        for scheme in ("http://", "https://"):
            self._client.transport._session.mount(scheme, Gated(pool_maxsize=CONNECTIONS))

    def generate(self, model, prompt, schema, temperature, max_output_tokens, timeout) -> Reply:
        generator = self._genai.GenerativeModel(
            model,
            generation_config=self._genai.GenerationConfig(
                temperature=temperature,
                max_output_tokens=max_output_tokens,
                response_mime_type="application/json",
                response_schema=_without_order(schema),
            ),
        )
        generator._client = self._client  # not the global one, which other code may have configured since
        try:
            answer = generator.generate_content(prompt, request_options={"timeout": timeout, "retry": None})
        except Exception as error:
            raise _translated(error, self._key) from None
        return _reply(answer._result, answer._result.usage_metadata)

    def models(self, timeout: float) -> list[str]:
        options = {"timeout": timeout, "retry": None}
        try:
            found = list(self._genai.list_models(client=self._models, request_options=options))
        except Exception as error:
            raise _translated(error, self._key) from None
        return [m.name.removeprefix("models/") for m in found if "generateContent" in m.supported_generation_methods]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # no package of Google's at all
        return False


def _without_order(schema: Any) -> Any:
    """The schema without propertyOrdering, a field that the old SDK does not know."""
    if isinstance(schema, dict):
        return {key: _without_order(value) for key, value in schema.items() if key != "propertyOrdering"}
    return schema


def _reply(answer: Any, usage: Any) -> Reply:
    """Both SDKs' answers have the same fields. Raises CallFailed where there is no text in it."""
    feedback = answer.prompt_feedback
    if feedback and (blocked := _enum_name(feedback.block_reason)):
        raise CallFailed(f"the prompt was blocked ({blocked})")
    candidates = answer.candidates or []
    finish_reason = _enum_name(candidates[0].finish_reason) if candidates else ""
    parts = (candidates[0].content.parts or []) if candidates and candidates[0].content else []
    text = "".join(part.text or "" for part in parts if not getattr(part, "thought", False))
    if not text and finish_reason != "MAX_TOKENS":  # thinking may use up the limit before the first word
        # What is withheld once is withheld again; an answer that is merely empty may be there the next time.
        withheld = finish_reason not in ("", "STOP", "OTHER", "MALFORMED_FUNCTION_CALL")
        raise CallFailed(f"the answer is empty ({finish_reason or 'no candidate'})", retry=not withheld)
    sent, total = (usage.prompt_token_count or 0, usage.total_token_count or 0) if usage else (0, 0)
    written = (usage.candidates_token_count or 0) if usage else 0
    return Reply(text, sent, max(total - sent, written), finish_reason)


def _enum_name(value: Any) -> str:
    """The name of an enum's value; "" for none, and for the zero that stands for "unspecified"."""
    name = getattr(value, "name", None) or (str(value) if value else "")
    return "" if name.endswith("_UNSPECIFIED") else name


def _translated(error: Exception, key: str) -> Exception:
    """The SDK's error as CallFailed. What is no failure of the call, a bug, comes back as it is."""
    code = int(error.code) if isinstance(getattr(error, "code", None), int) else None
    family = type(error).__module__.split(".")[0]
    if code is None and family not in ("httpx", "httpx2", "requests", "urllib3", "google", "json", "builtins"):
        return error
    if code is None and family == "builtins" and not isinstance(error, OSError | ValueError):
        return error
    text = re.sub(r"\s+", " ", str(getattr(error, "message", None) or error)).strip()
    text = re.sub(r"^(GET|POST) \S+: ", "", text or type(error).__name__).replace(key, "[key]")
    if code is None:
        return CallFailed(f"{type(error).__name__}: {text}"[:300], retry=True)
    retry = code in (408, 429) or code >= 500
    return CallFailed(f"HTTP {code}: {text}"[:300], code, retry, _wait(error) if retry else None)


def _wait(error: Exception) -> float | None:
    """Seconds to wait by the Retry-After header, or by google.rpc.RetryInfo in the error's body."""
    response = getattr(error, "response", None)
    header = response.headers.get("Retry-After") if response is not None else None
    if header:
        try:
            return max(0.0, float(header))
        except ValueError:
            pass
        try:
            return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            return None
    delay = re.search(r'"?retry_?[dD]elay"?:\s*"(\d+(?:\.\d+)?)s"', response.text) if response is not None else None
    return float(delay[1]) if delay else None
