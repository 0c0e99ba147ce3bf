"""The interface to a cloud's library: one prompt in; the text and its tokens, or why there is none, out."""

import os
import re
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from grpo_kit.config.judge import CLOUD, JudgeConfig
from grpo_kit.errors import ConfigError

MOST_TOKENS = 2**22  # of an answer, whatever a server says


@dataclass(frozen=True)
class Question:
    """What a model is asked: a prompt whose answer is JSON by `schema`, as Provider.schema made it."""

    prompt: str
    schema: dict[str, Any]
    temperature: float
    max_tokens: int  # to write at most
    seed: int | None = None  # for a cloud that takes one


@dataclass(frozen=True)
class Reply:
    """The text that the model wrote."""

    text: str
    tokens: tuple[int, int]  # input and output, its thinking too, as they are billed
    is_cut: bool = False  # by its token limit


@dataclass(eq=False)
class CallFailed(Exception):
    """One call that gave no answer."""

    problem: str  # holds no key
    code: int | None = None  # the HTTP status, where there was one
    retry: bool = False  # the same call may yet succeed
    wait: float | None = None  # seconds that the server asked to wait, if it did
    tokens: tuple[int, int] = (0, 0)  # input and output, billed all the same
    quota: str = ""  # what is used up for longer than a run can wait: "the day's quota", "the account's credit"

    def __str__(self) -> str:
        return self.problem


class Provider(ABC):
    """A cloud's own part, made of a JudgeConfig: ConfigError where library or key is missing, before anything is sent.
    Its methods are called on one event loop, many at a time."""

    place: str  # what is asked, in words: "Google's endpoint", or an address without a password

    @abstractmethod
    async def generate(self, model: str, question: Question, seconds: float) -> Reply:
        """Sends one prompt, and tries nothing again. Raises CallFailed, without the key, whatever goes wrong."""

    @abstractmethod
    async def lacks(self, model: str, seconds: float) -> list[str] | None:
        """The models that are there where this one is not; None where it is, or no list is kept. Raises CallFailed."""

    def schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A JSON schema as this cloud takes it."""
        return schema


def key_of(judge: str, instead: str = "") -> SecretStr:
    """The key of a judge of CLOUD, which a verbose traceback shows as stars; where its variable is not set `instead`,
    for a server that asks for none. Raises ConfigError where there is none, and for one that can be no key."""
    for name in CLOUD[judge].keys:
        if key := SecretStr(os.environ.get(name, "").strip()):
            if not re.fullmatch("[!-~]+", key.get_secret_value()):
                raise ConfigError(f"{name} has characters that no key has, such as a line break", "Set it again")
            return key
    if instead:
        return SecretStr(instead)
    name, *others = CLOUD[judge].keys
    what = f"{name} is not set" + "".join(f", nor {other}" for other in others)
    free = "the offline judge (a user by rules), which needs none"
    raise ConfigError(what, f"Get a key at {CLOUD[judge].key_page} and `export {name}=…`, or use {free}")


def needs_key(judge: str, config: JudgeConfig) -> bool:
    """Whether a judge can't do without a key: a server on this machine or network mostly asks for none."""
    address = openai_address(config) if judge == "openai" else None
    return judge in CLOUD and not (address and is_local(address))


def openai_address(config: JudgeConfig) -> str | None:
    """The server that judge=openai asks; None: OpenAI's own."""
    return config.judge_base_url or os.environ.get("OPENAI_BASE_URL") or None


def is_local(address: str) -> bool:
    """Whether an address is of this machine or its network, which others do not see."""
    host = urlsplit(address).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_private
    return "." not in host or host.endswith((".local", ".internal"))


def checked_address(address: SecretStr, setting: str) -> str:
    """The address as it may be shown, without a password. Raises ConfigError where it is none."""
    shown = re.sub("//[^/]*@", "//", address.get_secret_value())
    if not shown.startswith(("http://", "https://")):
        raise ConfigError(f"{setting}={shown} is not a web address", "Begin it with https:// or http://")
    return shown


def failure(error: Exception, key: SecretStr, quota: str = "") -> CallFailed:
    """Whatever a call or a malformed answer raises in a library, without the key."""
    code = next((n for n in (getattr(error, a, None) for a in ("status_code", "code")) if isinstance(n, int)), None)
    body = getattr(error, "body", None)
    body = body.get("error", body) if isinstance(body, dict) else None
    told = body.get("message") if isinstance(body, dict) else None
    said = str(told or getattr(error, "message", None) or error) or type(error).__name__
    cause = error.__cause__ or error.__context__
    if cause and said.endswith("error."):  # "Connection error." alone says little
        said = f"{said} {type(cause).__name__}: {cause}"
    said = re.sub(r"\s+", " ", said).strip().replace(key.get_secret_value(), "[key]")
    said = re.sub(r"^(GET|POST) \S+: ", "", said)
    if code is None:
        return CallFailed(f"{type(error).__name__}: {said}"[:500], retry=True)
    retry = code in (408, 409, 429) or code >= 500
    problem = f"HTTP {int(code)}{f', {quota}' if quota else ''}: {said}"[:500]
    return CallFailed(problem, int(code), retry, _wait(error) if retry else None)


def _wait(error: Exception) -> float | None:
    """Seconds to wait by the Retry-After header, or by google.rpc.RetryInfo in the error's body."""
    response = getattr(error, "response", None)
    if response is None:
        return None
    with suppress(InvalidHeader, ValueError, OverflowError):
        if header := response.headers.get("Retry-After"):
            return Retry().parse_retry_after(header)
    delay = re.search(r'"retryDelay":\s*"(\d+(?:\.\d+)?)s"', response.text)
    return float(delay[1]) if delay else None


def tokens(read: Any, written: Any) -> tuple[int, int]:
    """Counts within bounds: a server may say anything."""
    counts = [count if isinstance(count, int) else 0 for count in (read, written)]
    return min(max(counts[0], 0), MOST_TOKENS), min(max(counts[1], 0), MOST_TOKENS)
