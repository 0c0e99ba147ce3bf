"""A server on loopback that speaks the Hugging Face hub's HTTP, so that the real client libraries can be tried offline.

HF_ENDPOINT, set before huggingface_hub is imported, is what leads there; a container is given it like any variable. It
answers as the hub does: 401 for what is not there and no token, 404 with one, 401 or 403 for a gated model's files,
whose description is public all the same, and 401 to any request with a token it does not know.
"""

import hashlib
import json
import re
import threading
from contextlib import suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TINY = Path(__file__).parents[1] / "grpo_kit" / "models" / "tiny"
MODEL, GATED = "demo-lab/tiny-gemma-it", "demo-lab/gated-gemma-it"
LET_IN, NOT_LET_IN = "hf_letIn", "hf_notLetIn"  # tokens


class Repository:
    """A folder as the hub holds it: files with hashes, and a commit."""

    def __init__(self, folder: Path, let_in: set[str] | None = None):
        """`let_in` are the tokens whose accounts accepted a gated model's licence; None: it is not gated."""
        self.folder, self.let_in = folder, let_in

    @cached_property
    def files(self) -> dict[str, bytes]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}

    @cached_property
    def commit(self) -> str:
        return hashlib.sha1(
            repr([(name, digest(content)) for name, content in self.files.items()]).encode()
        ).hexdigest()


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Answer(Exception):
    """Another answer than 200."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


class _Http(ThreadingHTTPServer):
    daemon_threads = True


class HubServer:
    """`url` is what HF_ENDPOINT should hold, `requests` are "METHOD /path" as they came. Use it as a context.

    MODEL is there for all, GATED for the token LET_IN alone; both are the tiny model. `models` takes more of them, and
    data sets.
    While `is_down`, every answer is 503; after the context connections are refused.
    """

    def __init__(self, port: int = 0):
        self.models = {MODEL: Repository(TINY), GATED: Repository(TINY, {LET_IN})}
        self.tokens = {LET_IN, NOT_LET_IN}
        self.requests: list[str] = []
        self.is_down = False
        self._http = _Http(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, url: str, token: str | None) -> tuple[bytes, dict[str, str]]:
        """The body and headers of 200. Raises Answer for any other."""
        if self.is_down:
            raise Answer(503, "Service Unavailable")
        if token is not None and token not in self.tokens:
            raise Answer(401, "Invalid credentials in Authorization header")
        address = urlsplit(url)
        as_model = unquote(address.path).replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
        path, query = as_model, {name: values[0] for name, values in parse_qs(address.query).items()}
        if path == "/api/whoami-v2":
            if token is None:
                raise Answer(401, "Invalid username or password.")
            return _json({"type": "user", "name": token, "auth": {"accessToken": {"role": "read"}}})
        if path == "/api/models":
            return _json(self._search(**query))
        if found := re.fullmatch(
            r"/api/models/([^/]+(?:/[^/]+)??)(?:/(revision|tree|auth-check)(?:/([^/]+)(?:/(.+))?)?)?", path
        ):
            return self._describe(*found.groups(), token)
        if found := re.fullmatch(r"/([^/]+(?:/[^/]+)?)/resolve/[^/]+/(.+)", path):
            name, file = found.groups()
            repository = self._repository(name, token)
            self._let_in(name, repository, token)
            commit = {"X-Repo-Commit": repository.commit}
            if file not in repository.files:
                raise Answer(404, "Entry not found", "EntryNotFound")
            content = repository.files[file]
            return content, {**commit, "ETag": f'"{digest(content)}"', "Accept-Ranges": "bytes"}
        raise Answer(404, "Not Found")

    def _repository(self, name: str, token: str | None) -> Repository:
        if name not in self.models:
            if token is None:
                raise Answer(401, "Invalid username or password.")
            raise Answer(404, "Repository not found", "RepoNotFound")
        return self.models[name]

    def _let_in(self, name: str, repository: Repository, token: str | None) -> None:
        if repository.let_in is None or token in repository.let_in:
            return
        if token is None:
            said = (
                f"Access to model {name} is restricted. You must have access to it and be authenticated to access it."
            )
            raise Answer(401, f"{said} Please log in.", "GatedRepo")
        said = f"Access to model {name} is restricted and you are not in the authorized list."
        raise Answer(403, f"{said} Visit https://huggingface.co/{name} to ask for access.", "GatedRepo")

    def _describe(self, name, what, revision, folder, token) -> tuple[bytes, dict[str, str]]:
        repository = self._repository(name, token)
        if what == "auth-check":
            self._let_in(name, repository, token)
            return _json({})
        if what == "tree":
            self._let_in(name, repository, token)
            inside = {file: body for file, body in repository.files.items() if file.startswith(f"{folder or ''}")}
            if folder and not inside:
                raise Answer(404, f"{folder} does not exist on {revision}", "EntryNotFound")
            return _json(
                [{"type": "file", "path": f, "size": len(body), "oid": digest(body)} for f, body in inside.items()]
            )
        return _json({**self._summary(name), "siblings": [{"rfilename": file} for file in repository.files]})

    def _summary(self, name: str) -> dict:
        repository = self.models[name]
        gated = "manual" if repository.let_in is not None else False
        return {"_id": digest(name.encode()), "id": name, "modelId": name, "sha": repository.commit, "private": False,
                "gated": gated, "tags": [], "downloads": 1}  # fmt: skip

    def _search(self, search: str = "", author: str = "", **_) -> list[dict]:
        return [
            self._summary(name)
            for name in self.models
            if search.lower() in name.lower() and author in ("", name.split("/")[0])
        ]

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet

            def log_message(self, *_) -> None:
                pass

            def do_GET(self) -> None:
                server.requests.append(f"{self.command} {self.path}")
                token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
                status = 200
                try:
                    body, headers = server.answer(self.path, token)
                except Answer as answer:
                    status, body = answer.status, json.dumps({"error": answer.message}).encode()
                    headers = {"X-Error-Message": answer.message}
                    headers |= {"X-Error-Code": answer.code} if answer.code else {}
                begin = 0
                if status == 200 and (part := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
                    status, begin = 206, int(part[1])  # a download that was cut off goes on
                    headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body) - begin)}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body[begin:])

            do_HEAD = do_GET

            def finish(self) -> None:
                with suppress(BrokenPipeError, ConnectionResetError):
                    super().finish()

        return Handler


def _json(content: object) -> tuple[bytes, dict[str, str]]:
    return json.dumps(content).encode(), {"Content-Type": "application/json"}
