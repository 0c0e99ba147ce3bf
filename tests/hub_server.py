"""A server on loopback that speaks the Hugging Face hub's HTTP, so that the real client libraries can be tried offline.

HF_ENDPOINT, set before huggingface_hub is imported, is what leads there; a container is given it like any variable. It
answers as the hub does: 401 for what is not there and no token, 404 with one, 401 or 403 for a gated model's files,
whose description is public all the same, and 401 to any request with a token it does not know.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TINY = Path(__file__).parents[1] / "grpo_kit" / "models" / "tiny"
MODEL, GATED = "demo-lab/tiny-gemma-it", "demo-lab/gated-gemma-it"
LET_IN, NOT_LET_IN, WRITING = "hf_letIn", "hf_notLetIn", "hf_writesHere"  # tokens; the last one alone may write
OWNER, ORGANISATION, NOT_TO_WRITE = (
    "ann",
    "demo-lab",
    "demo-lab/closed",
)  # WRITING's account; a name that it may not use


class Repository:
    """A folder as the hub holds it: files with hashes, and a commit."""

    def __init__(self, folder: Path | None, let_in: set[str] | None = None, is_private: bool = False):
        """`let_in` are the tokens whose accounts accepted a gated model's licence; None: it is not gated. Without a
        folder it begins empty, to be pushed to."""
        self.folder, self.let_in, self.is_private = folder, let_in, is_private

    @cached_property
    def files(self) -> dict[str, bytes]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file()) if self.folder else []
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}

    @property
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
    data sets. The token WRITING makes more, as the account OWNER of ORGANISATION; `sent` are the bodies that came, and
    `stored` the large files by their hash. While `cuts` is more than 0, the upload of such a file breaks off
    half-way; with `room`, the store is down after so many more of them.
    While `is_down`, every answer is 503; after the context connections are refused.
    """

    def __init__(self, port: int = 0):
        self.models = {MODEL: Repository(TINY), GATED: Repository(TINY, {LET_IN})}
        self.tokens = {LET_IN, NOT_LET_IN, WRITING}
        self.requests: list[str] = []
        self.sent: list[bytes] = []
        self.stored: dict[str, bytes] = {}
        self.cuts = 0
        self.room: int | None = None
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
            may_write = token == WRITING
            account = {"name": OWNER, "orgs": [{"name": ORGANISATION}]} if may_write else {"name": token, "orgs": []}
            return _json(
                {"type": "user", **account, "auth": {"accessToken": {"role": "write" if may_write else "read"}}}
            )
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

    def take(self, url: str, token: str | None, body: bytes) -> tuple[bytes, dict[str, str]]:
        """The answer to POST and PUT: a repository is made, files are announced, stored and committed."""
        if self.is_down:
            raise Answer(503, "Service Unavailable")
        path = urlsplit(url).path
        if found := re.fullmatch(r"/store/(\w+)", path):  # by an address of its own, as on the hub
            if self.room == 0:
                raise Answer(503, "Service Unavailable")
            self.room = None if self.room is None else self.room - 1
            self.stored[found[1]] = body
            return _json({})
        if token != WRITING:
            raise Answer(401 if token not in self.tokens else 403, "Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(**json.loads(body))
        if found := re.fullmatch(
            r"/(?:api/models/)?([^/]+/[^/]+?)(?:/(preupload|commit)/main|\.git/info/lfs/objects/batch)", path
        ):
            name, verb = found.groups()
            repository = self._repository(name, token)
            return getattr(self, f"_{verb or 'batch'}")(name, repository, body)
        raise Answer(404, "Not Found")

    def _create(self, name: str, organization: str, visibility: str = "public", **_) -> tuple[bytes, dict[str, str]]:
        whole = f"{organization}/{name}"
        if organization not in (OWNER, ORGANISATION) or whole == NOT_TO_WRITE:
            raise Answer(403, f"You don't have the rights to create a model under the namespace {organization}")
        if whole in self.models:
            raise Answer(409, "You already created this model repo")
        self.models[whole] = Repository(None, is_private=visibility == "private")
        return _json({"url": f"{self.url}/{whole}"})

    def _preupload(self, name: str, repository: Repository, body: bytes) -> tuple[bytes, dict[str, str]]:
        """Which files are large ones: those that the hub's .gitattributes name, and tokenizers."""
        asked = json.loads(body)["files"]
        modes = {
            each["path"]: "lfs" if re.search(r"\.safetensors$|tokenizer\.json$", each["path"]) else "regular"
            for each in asked
        }
        return _json({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def _batch(self, name: str, repository: Repository, body: bytes) -> tuple[bytes, dict[str, str]]:
        """Where each large file goes; nowhere where it is stored already."""
        objects = [{"oid": each["oid"], "size": each["size"]} for each in json.loads(body)["objects"]]
        for each in objects:
            if each["oid"] not in self.stored:
                each["actions"] = {"upload": {"href": f"{self.url}/store/{each['oid']}", "header": {}}}
        return _json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, body: bytes) -> tuple[bytes, dict[str, str]]:
        for line in body.splitlines():
            each = json.loads(line)
            match each["key"], each["value"]:
                case "file", value:
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile", value:
                    repository.files[value["path"]] = self.stored[value["oid"]]
        return _json({"success": True, "commitOid": repository.commit, "commitUrl": f"{self.url}/{name}/commit/x"})

    def _repository(self, name: str, token: str | None) -> Repository:
        if name not in self.models or (self.models[name].is_private and token != WRITING):
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
        return {"_id": digest(name.encode()), "id": name, "modelId": name, "sha": repository.commit,
                "private": repository.is_private,
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

            def do_POST(self) -> None:
                server.requests.append(f"{self.command} {self.path}")
                length = int(self.headers.get("Content-Length") or 0)
                if self.command == "PUT" and server.cuts:
                    server.cuts -= 1
                    self.rfile.read(length // 2)
                    self.close_connection = True
                    return
                body = self.rfile.read(length) if length else b"".join(self._chunks())
                server.sent.append(body)
                status, headers = 200, {}
                try:
                    token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
                    body, headers = server.take(self.path, token, body)
                except Answer as answer:
                    status, body = answer.status, json.dumps({"error": answer.message}).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_POST

            def _chunks(self) -> Iterator[bytes]:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        yield self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()

            def finish(self) -> None:
                with suppress(BrokenPipeError, ConnectionResetError):
                    super().finish()

        return Handler


def _json(content: object) -> tuple[bytes, dict[str, str]]:
    return json.dumps(content).encode(), {"Content-Type": "application/json"}
