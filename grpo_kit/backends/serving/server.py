"""A small server that speaks OpenAI's chat and text completions, for machines without vLLM: one request after the
other, by the kit's own generate.

    python -m grpo_kit.backends.serving.server HOST PORT PLAN

`transformers serve` is no such server: it has no adapters side by side, no names, no key and no log-probabilities.
"""

import hmac
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import msgspec

from grpo_kit.backends.serving.command import Plan
from grpo_kit.data.readers.messages import messages_in, tools_in
from grpo_kit.data.repair import Found
from grpo_kit.errors import KitError
from grpo_kit.models.checkpoints import adapted
from grpo_kit.models.endpoint import KEY, TOKEN_ID
from grpo_kit.models.generate import Answer, generate
from grpo_kit.models.load import load_model, load_tokenizer
from grpo_kit.models.prompts import prompt_tokens

MOST_BYTES = 16 * 2**20  # of a request
# Fields that would change the answer, and can't be done here.
UNABLE = "top_logprobs response_format logit_bias frequency_penalty presence_penalty echo suffix top_k min_p".split()
Count = Annotated[int, msgspec.Meta(ge=1)]


class Request(msgspec.Struct):
    """The fields of a request that count here, with their ranges; others are let be."""

    model: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[int] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    logprobs: bool | Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Refused(Exception):
    def __init__(self, code: int, message: str, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.code, self.kind = code, kind


class Models:
    """The plan's models, loaded; the base once for all its adapters."""

    def __init__(self, plan: Plan):
        self.plan, self._lock = plan, threading.Lock()
        self.roots = ({plan.base_name: plan.base} if plan.base else {}) | plan.adapters | plan.whole
        self._whole = {name: load_model(folder, plan.bf16) for name, folder in plan.whole.items()}
        self._base: Any = load_model(plan.base, plan.bf16) if plan.base else None
        for place, (name, folder) in enumerate(plan.adapters.items()):
            if place:
                self._base.load_adapter(folder, adapter_name=name)
            else:
                self._base = adapted(self._base, Path(folder))
        self._called = {name: name if place else "default" for place, name in enumerate(plan.adapters)}  # by PEFT
        self.tokenizer = load_tokenizer(plan.base or next(iter(plan.whole.values())), plan.chat_template_kwargs)

    @contextmanager
    def _using(self, name: str) -> Iterator[Any]:
        """The model of that name, for one thread at a time."""
        with self._lock:
            if name in self._called:
                self._base.set_adapter(self._called[name])
            plain = self._base.disable_adapter() if self._called and name == self.plan.base_name else nullcontext()
            with plain:
                yield self._whole.get(name, self._base)

    def answers(self, request: Request) -> tuple[list[int], list[Answer]]:
        """The prompt's tokens, and the answers that are asked for. Raises Refused where that can't be."""
        if request.model not in self.roots:
            raise Refused(404, f"The model `{request.model}` does not exist.", "NotFoundError")
        if request.tool_choice not in (None, "none", "auto"):
            raise Refused(400, "tool_choice can't be forced here: calls come as text")
        try:
            prompt, tools = self._asked(request)
        except (ValueError, KitError) as error:
            raise Refused(400, f"messages or tools: {error}") from None
        given = request.max_completion_tokens or request.max_tokens
        with self._using(request.model) as model:
            self.tokenizer.chat_template_kwargs = self.plan.chat_template_kwargs | (request.chat_template_kwargs or {})
            try:
                read = prompt_tokens(self.tokenizer, prompt, tools)
            except Exception as error:  # a template is the model's own code
                what = "the model's chat template can't write these messages, tools and chat_template_kwargs"
                raise Refused(400, f"{what}: {error}") from None
            room = self.plan.longest - len(read)
            if not read or room < 1:
                what = f"prompt or messages have {len(read)} tokens; {self.plan.longest} fit with the answer"
                raise Refused(400, what if read else "prompt is empty")
            asked = {name: getattr(request, name) for name in ("temperature", "top_p")}
            how = self.plan.settings | {name: value for name, value in asked.items() if value is not None}
            told = generate(
                model,
                self.tokenizer,
                [prompt] * (request.n or 1),
                [tools] * (request.n or 1),
                max_completion_length=min(room, given or self.plan.max_tokens),
                seed=random.randrange(2**31) if request.seed is None else request.seed,
                batch_size=1,  # so that an answer is the same, whatever others are asked for
                log_probs=not (request.logprobs is None or request.logprobs is False),  # completions ask with 0
                **how,
            )
        return read, told

    def _asked(self, request: Request) -> tuple[Any, list[dict]]:
        """A conversation, a text or tokens, and tools."""
        if request.prompt is not None:
            tokens = [0] if isinstance(request.prompt, str) else request.prompt
            if not tokens or min(tokens) < 0 or max(tokens) >= len(self.tokenizer):
                raise Refused(400, "prompt should have tokens of the model's vocabulary, at least one")
            return request.prompt, []
        found, messages = Found(False), []
        for raw in request.messages or []:
            if not (raw.get("tool_calls") or raw.get("function_call") or isinstance(raw.get("content"), str | list)):
                raise ValueError(f"content should be a text, or its parts: {str(raw)[:80]}")
            messages += messages_in(raw, found)
        if not messages or messages[-1]["role"] == "assistant" or self.tokenizer.chat_template is None:
            raise ValueError("they should end with the user's or a tool's, and the model have a chat template")
        if len(tools := tools_in(request.tools, found)) < len(request.tools or ()):
            raise ValueError("tools should be functions, each with a name")
        return messages, tools


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: Models
    key: str

    def do_GET(self) -> None:
        self._answer(self._list)

    def do_POST(self) -> None:
        self._answer(self._complete)

    def _answer(self, act: Any) -> None:
        try:
            given = self.headers.get("Authorization", "").encode()
            if self.key and not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
                raise Refused(401, "Unauthorized", "authentication_error")
            act()
        except Refused as error:
            self.close_connection = True  # what is left of the request is not read
            self._send(error.code, {"error": {"message": str(error), "type": error.kind, "code": error.code}})
        except (BrokenPipeError, ConnectionResetError):  # the client would wait no longer
            self.close_connection = True
        except Exception as error:
            self.close_connection = True
            self.log_error("%r", error)
            self._send(500, {"error": {"message": repr(error), "type": "server_error", "code": 500}})

    def _list(self) -> None:
        if self.path != "/v1/models":
            raise Refused(404, f"there is no {self.path}", "NotFoundError")
        about = {"object": "model", "created": int(time.time()), "owned_by": "grpo_kit"}
        about |= {"max_model_len": self.models.plan.longest}
        data = [{"id": name, "root": str(root), **about} for name, root in self.models.roots.items()]
        self._send(200, {"object": "list", "data": data})

    def _complete(self) -> None:
        is_chat = self.path == "/v1/chat/completions"
        if not is_chat and self.path != "/v1/completions":
            raise Refused(404, f"there is no {self.path}", "NotFoundError")
        size = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" not in self.headers and not (size.isdecimal() and int(size) <= MOST_BYTES):
            raise Refused(413, f"a request has a length, of at most {MOST_BYTES} bytes")
        body = _chunked(self.rfile) if "Transfer-Encoding" in self.headers else self.rfile.read(int(size))
        try:
            request = msgspec.convert(given := msgspec.json.decode(body), Request)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Refused(400, str(error)) from None
        for name in UNABLE:
            if given.get(name) not in (None, 0, "", {}, {"type": "text"}):
                raise Refused(400, f"{name} can't be done here: leave it out")
        if (request.messages is None) == is_chat or (request.prompt is None) != is_chat:
            raise Refused(400, "chat/completions take messages, completions a prompt")
        read, answers = self.models.answers(request)
        choices = [self._choice(number, answer, request, is_chat, read) for number, answer in enumerate(answers)]
        written = sum(len(each.tokens) for each in answers)
        kind = "chat.completion" if is_chat else "text_completion"
        reply = {"id": f"{kind}-{time.time_ns()}", "object": kind, "created": int(time.time()), "model": request.model}
        usage = {"prompt_tokens": len(read), "completion_tokens": written, "total_tokens": len(read) + written}
        if not request.stream:
            return self._send(200, {**reply, "choices": choices, "usage": usage})
        # The whole answer at once, in the form of a stream.
        reply["object"] += ".chunk" * is_chat
        deltas = [{**each, "delta": each.pop("message")} if is_chat else each for each in choices]
        parts = (json.dumps({**reply, "choices": deltas}).encode(), b"[DONE]")
        self._send(200, b"".join(b"data: %b\n\n" % part for part in parts), "text/event-stream")

    def _choice(self, number: int, answer: Answer, request: Request, is_chat: bool, read: list[int]) -> dict[str, Any]:
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        text, ends = str(answer), [at for stop in stops if stop and (at := answer.find(stop)) >= 0]
        reason = "length" if answer.is_cut and not ends else "stop"
        text = text[: min(ends, default=len(text))]
        told = self._told(answer, request, is_chat)
        choice: dict[str, Any] = {"index": number, "finish_reason": reason, "logprobs": told}
        choice |= {"token_ids": answer.tokens, "prompt_token_ids": read} if request.return_token_ids else {}
        return choice | ({"message": {"role": "assistant", "content": text}} if is_chat else {"text": text})

    def _told(self, answer: Answer, request: Request, is_chat: bool) -> dict[str, Any] | None:
        """The log-probabilities of the answer's tokens, its end among them, by the model and before any temperature."""
        if not answer.log_probs:
            return None
        texts = [
            f"{TOKEN_ID}{token}" if request.return_tokens_as_token_ids else self.models.tokenizer.decode([token])
            for token in answer.tokens
        ]
        if not is_chat:
            return {"tokens": texts, "token_logprobs": answer.log_probs, "top_logprobs": None, "text_offset": []}
        pairs = zip(texts, answer.log_probs, strict=True)
        return {"content": [{"token": t, "logprob": p, "bytes": [*t.encode()], "top_logprobs": []} for t, p in pairs]}

    def _send(self, code: int, body: Any, kind: str = "application/json") -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if self.close_connection:  # unsaid, the client would send its next request into a closed connection
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)


def _chunked(file: Any) -> bytes:
    """A body that comes in parts, as Modal's proxy sends it. Raises Refused where it is too long."""
    parts, size = [], 0
    while length := int(file.readline().split(b";")[0] or b"0", 16):
        size += length
        if size > MOST_BYTES:
            raise Refused(413, f"a request has at most {MOST_BYTES} bytes")
        parts.append(file.read(length))
        file.readline()
    file.readline()
    return b"".join(parts)


def main() -> None:
    host, port, plan = sys.argv[1:]
    try:
        Handler.models, Handler.key = Models(Plan(**json.loads(plan))), os.environ.get(KEY, "")
    except KitError as error:
        sys.exit(f"error: {error}")
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 1024  # of 5 at once, which is usual, more are reset on a busy machine
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
