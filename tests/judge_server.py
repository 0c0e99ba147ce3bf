"""A server on loopback that speaks Gemini's, OpenAI's and Anthropic's REST formats, so that their real libraries can
be tried without a key.

What it answers is a function of the request (`reply`), or a list of `Reply` to take first, one a call. It can be run on
its own, for benchmarks: python tests/judge_server.py --seconds 0.2
"""

import argparse
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = ["gemini-3.5-flash-lite", "gemini-3.5-flash"]
OTHERS = {"openai": ["gpt-5-mini", "gpt-5"], "anthropic": ["claude-haiku-4-5", "claude-sonnet-5-5"]}
EMBEDDER = "gemini-embedding-001"  # listed, but it can't judge
KEY = "AIza-planted-key"  # which nobody may see
FINISH = {  # a reason as Gemini says it, as the others do
    "openai": {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"},
    "anthropic": {"STOP": "end_turn", "MAX_TOKENS": "max_tokens", "SAFETY": "refusal"},
}
A_CALL = (100 * 0.30 + 25 * 2.50) / 1e6  # dollars: the tokens below, by the list's prices
TOKENS = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 125}  # 5 more for thinking


@dataclass
class Request:
    """A request that a library sent. `config` is Gemini's generationConfig, or the whole body."""

    model: str
    prompt: str
    config: dict
    key: str
    dialect: str = "gemini"
    arrived: float = field(default_factory=time.monotonic)

    @property
    def replies(self) -> list[str]:
        """The answers to judge, as the prompt fences them."""
        found = re.findall(r"<reply(?: \d+)? (\w+)>\n(.*?)\n</reply(?: \d+)? \1>", self.prompt, re.DOTALL)
        return [text for _, text in found]

    @property
    def is_group(self) -> bool:
        return "answers" in self.schema["properties"] if self.schema else '"answers": a list' in self.prompt

    @property
    def schema(self) -> dict | None:
        """That of the answer, as it was sent."""
        if self.dialect == "gemini":
            return self.config["responseSchema"]
        if self.dialect == "openai":
            return self.config.get("response_format", {}).get("json_schema", {}).get("schema")
        return self.config.get("output_config", {}).get("format", {}).get("schema")

    @property
    def limit(self) -> int:
        names = ("maxOutputTokens", "max_tokens", "max_completion_tokens")
        return next(self.config[name] for name in names if name in self.config)


@dataclass
class Reply:
    """An HTTP answer. `body` is written in the client's dialect where it is a Said or an Error; None closes the
    connection without one; `is_cut` closes it halfway through the body. With `drips` it comes byte by byte, so many
    seconds apart."""

    body: object
    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    is_cut: bool = False
    drips: float = 0.0


@dataclass
class Said:
    """What the model writes; None: nothing at all."""

    text: str | None
    finish_reason: str = "STOP"

    def to(self, dialect: str) -> dict:
        if dialect == "openai":
            message = {"role": "assistant", "content": self.text, "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": FINISH[dialect][self.finish_reason]}
            usage = {"prompt_tokens": 100, "completion_tokens": 25, "total_tokens": 125}
            return {"id": "1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}
        if dialect == "anthropic":
            content = [] if self.text is None else [{"type": "text", "text": self.text}]
            usage, reason = {"input_tokens": 100, "output_tokens": 25}, FINISH[dialect][self.finish_reason]
            about = {"id": "1", "type": "message", "role": "assistant", "model": "claude"}
            return {**about, "content": content, "stop_reason": reason, "usage": usage}
        content = {"role": "model"} | ({} if self.text is None else {"parts": [{"text": self.text}]})
        return {"candidates": [{"content": content, "finishReason": self.finish_reason}], "usageMetadata": TOKENS}


@dataclass
class Error:
    """What the server refuses with; `status` is each dialect's own word for it, `details` are Gemini's."""

    code: int
    message: str
    status: str
    details: list

    def to(self, dialect: str) -> dict:
        if dialect == "gemini":
            return {"error": vars(self)}
        own = {"type": self.status, "message": self.message}
        own |= {"code": self.status, "param": None} if dialect == "openai" else {}
        return {"type": "error", "error": own}


def says(text: str | None, finish_reason: str = "STOP") -> Reply:
    return Reply(Said(text, finish_reason))


def error(code: int, message: str, status: str, headers: dict[str, str] | None = None, details: list = ()) -> Reply:
    return Reply(Error(code, message, status, list(details)), code, headers or {})


def score_of(text: str) -> float:
    """The pretended model's opinion of an answer: more different letters are better. 0 for what has none."""
    return round(min(1.0, len(set(re.sub(r"\W", "", text))) / 20), 3)


def judge(request: Request) -> Reply:
    """Answers by the schema, as Gemini would."""
    entries = [
        {
            "analysis": f"It says {text[:20]!r}.",
            "answer": number,
            "criteria": [{"criterion": "the task", "met": "partly"}],
            "score": score_of(text),
        }
        for number, text in enumerate(request.replies, 1)
    ]
    return says(json.dumps({"answers": entries} if request.is_group else entries[0]))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # of 5, by default, all but the first of many connections wait a second


class JudgeServer:
    """`url` is what GOOGLE_GEMINI_BASE_URL, ANTHROPIC_BASE_URL or judge_base_url should hold. Use it as a context.

    `first` are replies to give before any of `reply`; `model_list` one to give in place of the list of `models`.
    """

    def __init__(self, reply: Callable[[Request], Reply] = judge, port: int = 0):
        self.reply, self.first, self.requests = reply, [], []
        self.models, self.model_lists = list(MODELS), 0
        self.encodings: list[str | None] = []  # that lists of models were asked for in
        self.of = {"gemini": self.models} | {dialect: list(models) for dialect, models in OTHERS.items()}
        self.model_list: Reply | None = None
        self.in_flight = self.most_in_flight = 0
        self._counting = threading.Lock()
        self._http = _Http(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "JudgeServer":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._http.shutdown()
        self._http.server_close()

    def serve_forever(self) -> None:
        self._http.serve_forever()

    def answer(self, request: Request) -> Reply:
        with self._counting:
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            first = self.first.pop(0) if self.first else None
        try:
            if request.model not in self.of[request.dialect]:
                return error(404, f"models/{request.model} is not found for API version v1beta", "not_found")
            reply = first or self.reply(request)
            time.sleep(reply.seconds)
            return reply
        finally:
            with self._counting:
                self.in_flight -= 1

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, as real servers send them

            def log_message(self, *_) -> None:
                pass

            @property
            def dialect(self) -> str:
                if self.path.startswith("/v1beta/"):
                    return "gemini"
                return "anthropic" if "anthropic-version" in self.headers else "openai"

            @property
            def key(self) -> str:
                names = ("x-goog-api-key", "x-api-key", "Authorization")
                return next((self.headers[name] for name in names if name in self.headers), "").removeprefix("Bearer ")

            def do_GET(self) -> None:
                path, there = self.path.split("?")[0], server.of[self.dialect]
                server.model_lists += 1
                server.encodings.append(self.headers["Accept-Encoding"])
                if server.model_list:
                    return self._send(server.model_list)
                if path == "/v1beta/models":
                    purposes = dict.fromkeys(there, "generateContent") | {EMBEDDER: "embedContent"}
                    models = [{"name": f"models/{m}", "supportedGenerationMethods": [p]} for m, p in purposes.items()]
                    return self._send(Reply({"models": models}))
                models = [{"id": name, "object": "model", "type": "model"} for name in there]
                if path == "/v1/models":
                    return self._send(Reply({"object": "list", "data": models, "has_more": False}))
                found = [model for model in models if path == f"/v1/models/{model['id']}"]
                self._send(Reply(found[0]) if found else error(404, "no such page", "not_found"))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.dialect == "gemini":
                    path = re.fullmatch(r"/v1beta/models/([^:]+):generateContent", self.path.split("?")[0])
                    prompt = "".join(part["text"] for part in body["contents"][0]["parts"])
                    return self._send(server.answer(Request(path[1], prompt, body["generationConfig"], self.key)))
                assert self.path == {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[self.dialect]
                prompt = body["messages"][0]["content"]
                self._send(server.answer(Request(body["model"], prompt, body, self.key, self.dialect)))

            def _send(self, reply: Reply) -> None:
                if reply.body is None:
                    self.close_connection = True
                    return
                body = reply.body.to(self.dialect) if isinstance(reply.body, Said | Error) else reply.body
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(reply.code)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                if "Transfer-Encoding" in reply.headers:
                    parts = [body[at : at + 1000] for at in range(0, len(body), 1000)]
                    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
                else:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for byte in body if reply.drips else b"":
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(reply.drips)
                self.wfile.write(b"" if reply.drips else body[: len(body) // 2] if reply.is_cut else body)
                self.close_connection |= reply.is_cut

            def handle(self) -> None:
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):  # a client that would wait no longer
                    self.close_connection = True

            def finish(self) -> None:
                with suppress(BrokenPipeError, ConnectionResetError):
                    super().finish()

        return Handler


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long each answer takes")
    options = parser.parse_args()

    def slowly(request: Request) -> Reply:
        reply = judge(request)
        reply.seconds = options.seconds
        return reply

    server = JudgeServer(slowly, options.port)
    print(server.url, flush=True)
    server.serve_forever()
