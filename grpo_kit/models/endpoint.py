"""Models behind an OpenAI-compatible endpoint: what `kit.serve` starts, or any server's URL. Needs no torch."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import orjson

from grpo_kit.data.samples import Message, ToolCall
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.utils.text import on_a_line

KEY = "SERVE_KEY"  # the variable that holds an endpoint's key, here and in Modal's secret
AT_ONCE = 16  # requests, which vLLM answers together
SECONDS = 900.0  # for an answer: Modal may have to start a machine first
TOKEN_ID = "token_id:"  # as vLLM writes a token's number, where it is asked for numbers


@dataclass(frozen=True)
class Choice:
    """An answer as the endpoint gave it; `tokens` and their log-probabilities where it tells them."""

    text: str
    is_cut: bool = False
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """An endpoint by its URL, which ends in /v1. Its key is in the environment, as SERVE_KEY."""

    url: str

    def models(self) -> list[str]:
        """Names of the models that are served, the newest last. Raises RunError where nothing answers."""
        return [each["id"] for each in self.about()]

    def about(self) -> list[dict[str, Any]]:
        """What the endpoint says of each model: `id`, its name, and `root`, where it was loaded from."""
        return self._ask("GET", "models")["data"]

    def run_id(self) -> str | None:
        """The name of the run that is served, as the folders of its checkpoints tell it; None where they do not."""
        roots = [PurePath(each.get("root") or "") for each in self.about()]
        return next((root.parent.name for root in roots if root.name.startswith("checkpoint-")), None)

    def ask(self, model: str, messages: Sequence[Message], tools: Sequence[dict] = (), **how: Any) -> Choice:
        """The model's answer to a conversation. `how` are further fields of the request, such as temperature; what is
        left out is as the run was trained, where `kit.serve` serves it.

        Raises ConfigError for a key that is refused, a model that is not served and a request that can't be answered,
        RunError where nothing answers.
        """
        # Without a choice of tools vLLM takes them only where it parses the calls; the kit reads them itself.
        tooled = {"tools": list(tools), "tool_choice": "none"} if tools else {}
        body = {"model": model, "messages": [_on_the_wire(each) for each in messages], **tooled, **how}
        choice = self._ask("POST", "chat/completions", body)["choices"][0]
        told = (choice.get("logprobs") or {}).get("content") or []
        return _choice(choice, choice["message"]["content"], [(each["token"], each["logprob"]) for each in told])

    def complete(self, model: str, prompt: str | Sequence[int], **how: Any) -> Choice:
        """What the model writes after a text, or tokens. As `ask` else."""
        choice = self._ask("POST", "completions", {"model": model, "prompt": prompt, **how})["choices"][0]
        told = choice.get("logprobs") or {"tokens": [], "token_logprobs": []}
        pairs = list(zip(told["tokens"], told["token_logprobs"], strict=True))
        return _choice(choice, choice["text"], pairs)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        import httpx

        key = os.environ.get(KEY, "")
        # A redirect, by which Modal answers after 150 seconds, keeps the key for the same host alone.
        how: Any = {"headers": {"Authorization": f"Bearer {key or 'none'}"}, "follow_redirects": True, "json": body}
        try:
            answer = httpx.request(method, f"{self.url}/{path}", timeout=httpx.Timeout(SECONDS, connect=30.0), **how)
        except httpx.HTTPError as error:
            fix = "Start it with `grpo-kit serve RUN`, or correct the URL"
            raise RunError(f"nothing answers at {self.url} ({type(error).__name__})", fix) from None
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise ConfigError(f"{self.url} is no URL, or {KEY} no key", "Such as http://127.0.0.1:8000/v1") from None
        if answer.status_code == 200 and answer.headers.get("Content-Type", "").startswith("application/json"):
            return answer.json()
        raise self._refused(answer.status_code, _message(answer), body or {}, bool(key))

    def _refused(self, code: int, said: str, body: Mapping[str, Any], has_key: bool) -> ConfigError | RunError:
        if code in (401, 403):
            what = f"{self.url} refuses the key in {KEY}" if has_key else f"{self.url} wants a key"
            return ConfigError(what, f"Set {KEY} here to the key that it was started with")
        if code == 200:
            return RunError(f"{self.url} is no OpenAI-compatible endpoint: it says {said[:60]!r}", "Correct the URL")
        if code == 404 and "model" in body and body["model"] not in (there := self.models()):
            return ConfigError(f"{self.url} serves no model {body['model']!r}", f"Choose one of: {', '.join(there)}")
        if code < 500:
            return ConfigError(f"{self.url} refuses the request: {said}", "Change it, or ask another endpoint")
        return RunError(f"{self.url} fails ({code}): {said}", "Its log says more: serving.log in the run, or on Modal")


def endpoint_at(url: str) -> Endpoint:
    """The endpoint of a URL with or without /v1."""
    return Endpoint(url.rstrip("/").removesuffix("/v1") + "/v1")


@dataclass(frozen=True)
class ServedModel:
    """One of an endpoint's models, for `generate`."""

    endpoint: Endpoint
    name: str
    longest: int | None = None  # tokens of a prompt with its answer, where that is known

    def answers(
        self, asked: Sequence[tuple[Any, Sequence[dict]]], seed: int, max_tokens: int, **how: Any
    ) -> list[Choice]:
        """An answer to each prompt, a conversation with its tools, a text or tokens, drawn with a seed of its own, as
        vLLM's in an evaluation are."""

        def answer(number: int) -> Choice:
            prompt, tools = asked[number]
            own = {"seed": seed + number, "return_tokens_as_token_ids": True, "max_tokens": max_tokens, **how}
            if not isinstance(prompt, str) and isinstance(prompt[0], dict):
                return self.endpoint.ask(self.name, prompt, tools, logprobs=True, **own)
            own.pop("chat_template_kwargs", None)
            if self.longest and not isinstance(prompt, str):
                own["max_tokens"] = max(1, min(max_tokens, self.longest - len(prompt)))
            return self.endpoint.complete(self.name, prompt, logprobs=0, return_token_ids=True, **own)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(answer, range(len(asked))))

    def check_tokens(self) -> None:
        """Raises ConfigError where the endpoint can't go on after tokens, or does not tell those that it writes."""
        why = "it tells no token ids (return_token_ids)"
        try:
            if self.answers([([0], ())], 0, max_tokens=1)[0].log_probs:
                return
        except ConfigError as error:
            why = error.problem.what
        what = f"{self.endpoint.url} can't lead dialogues with an environment, token by token: {why}"
        raise ConfigError(what, "Serve the run with `grpo-kit serve`, or with a newer vLLM")


def _choice(choice: dict[str, Any], text: str | None, told: list[tuple[str, float]]) -> Choice:
    numbered = [int(token.removeprefix(TOKEN_ID)) for token, _ in told if token.startswith(TOKEN_ID)]
    tokens = tuple(choice.get("token_ids") or numbered)
    log_probs = tuple(value for _, value in told) if tokens else ()
    return Choice(text or "", choice["finish_reason"] == "length", tokens, log_probs)


def _message(answer: Any) -> str:
    try:
        said = answer.json()["error"]
        return on_a_line(str(said["message"] if isinstance(said, dict) else said), 300)
    except (ValueError, KeyError, TypeError):
        return on_a_line(answer.text)


def _on_the_wire(message: Message) -> dict[str, Any]:
    """The message in OpenAI's form, in which a call's arguments are JSON text and each has an id."""
    fields: dict[str, Any] = dict(message)
    if calls := message.get("tool_calls"):
        fields["tool_calls"] = [_call(number, call) for number, call in enumerate(calls)]
    if message["role"] == "tool":
        fields.setdefault("tool_call_id", "call_0")
    return fields


def _call(number: int, call: ToolCall) -> dict[str, Any]:
    function = {**call["function"], "arguments": orjson.dumps(call["function"]["arguments"]).decode()}
    return {"id": f"call_{number}", **call, "function": function}
