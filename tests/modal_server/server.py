"""The server that a test starts, looks at and interferes with."""

import asyncio
import atexit
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aiohttp import web
from grpclib.server import Server
from modal_proto import api_pb2

from .apps import Apps
from .calls import Calls
from .containers import Container, check_machine, link_site_packages
from .functions import Functions
from .objects import Objects
from .protocol import Protocol
from .scheduling import Scheduling
from .volumes import Volumes
from .web import Web


class ModalServer(Apps, Objects, Volumes, Functions, Calls, Web, Scheduling, Protocol):
    """Modal, as far as a project of plain functions, volumes, secrets and dicts can tell. A context manager.

    Args:
        root: an empty or absent folder for everything it keeps.
        secrets: name -> the environment variables it gives to containers; may be changed at any time.
        container_env: more environment variables for every container, such as HF_HUB_OFFLINE; may be changed too.
        installed: a folder with files that containers have among their installed packages.

    Attributes:
        requests: (method name, message) of every request, in order.
        containers: every container started, in order; see Container.
        accepts_tokens: False makes it refuse the client's token.
        scaledown: seconds that an idle container waits for another input.
        grace: seconds from SIGINT to SIGKILL when an app is stopped.
        ephemeral_crash_limit: crashes in a row after which an ephemeral app's inputs fail.
    """

    def __init__(
        self,
        root: Path,
        secrets: dict[str, dict[str, str]] | None = None,
        container_env: dict[str, str] | None = None,
        installed: Path | None = None,
    ):
        self.root = Path(root).resolve()
        Objects.__init__(self, self.root, {} if secrets is None else secrets)
        Volumes.__init__(self, self.root)
        for part in (Protocol, Apps, Functions, Calls, Scheduling):
            part.__init__(self)
        self.container_env = container_env or {}
        self._installed = installed
        self.site_packages = self.root / "site-packages"
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modal-server", daemon=True)

    def __enter__(self) -> "ModalServer":
        check_machine()
        link_site_packages(self.site_packages)
        for file in self._installed.glob("*.*") if self._installed else ():
            shutil.copy(file, self.site_packages)
        self._thread.start()
        self._run(self._start())
        atexit.register(self.close)
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()
        if self.errors and exc_info[0] is None:
            raise RuntimeError("the Modal server made mistakes:\n" + "\n".join(self.errors))

    def _run(self, coroutine, timeout: float = 300):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    async def _start(self) -> None:
        grpc = Server([self])
        await grpc.start("127.0.0.1", 0)
        port = grpc._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._web = web.AppRunner(self.web_app(), access_log=None, shutdown_timeout=0.1)
        await self._web.setup()
        await web.TCPSite(self._web, "127.0.0.1", 0).start()
        self.http_url = f"http://127.0.0.1:{self._web.addresses[0][1]}"
        self._grpc = grpc
        self.in_background(self.watch_clients())

    def close(self) -> None:
        """Kill every container and stop serving. May be called again."""
        if not self._thread.is_alive():
            return
        atexit.unregister(self.close)
        with contextlib.suppress(Exception):
            self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)  # containers that are still there die with the thread that started them

    async def _end(self) -> None:
        for app in self.apps.values():
            app.state = api_pb2.APP_STATE_STOPPED  # nothing is started any more
        living = [c for c in self.containers if c.ended is None]
        for container in living:
            container.kill("server closed")
        self.wake()
        await self.until(lambda: all(c.ended for c in living), 10)
        for task in self._tasks:
            task.cancel()
        self._grpc.close()
        await self._web.cleanup()

    # What a test asks

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that make the modal library and command talk to this server."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": "ak-test",
            "MODAL_TOKEN_SECRET": "as-test",
            "MODAL_CONFIG_PATH": str(self.root / "no-modal.toml"),
            "MODAL_DISABLE_API_PROXY": "1",
            "MODAL_HEARTBEAT_INTERVAL": "1",
        }

    @contextlib.contextmanager
    def in_this_process(self) -> Iterator[None]:
        """Make this process's modal library talk to this server, and to what it talked to before afterwards.

        Modal objects remember their ids, so a module with an app should meet one server only.
        """
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        import modal.client  # not earlier: it reads some of the variables when imported

        client, modal.client._Client._client_from_env = modal.client._Client._client_from_env, None
        try:
            yield
        finally:
            modal.client._Client._client_from_env = client
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def asked(self, method: str) -> list:
        """The requests of one method, in order: asked("FunctionCreate")."""
        return [message for name, message in list(self.requests) if name == method]

    def volume(self, name: str, version: int = 1) -> Path:
        """The folder with a volume's committed state; the volume is created if there is none of this name."""
        volume = self.volume_named(name)
        if volume is None:

            async def create():
                return self.volume_named(name) or self.create_volume(name, version)

            volume = self._run(create())
        return volume.folder

    def logs(self, app: str = "", call: str = "") -> str:
        """The output of containers and the server: of one app (name, description or id), of one call (id)."""
        chosen = [a for a in self.apps.values() if app in ("", a.app_id, a.name, a.description)]
        entries = sorted((e for a in chosen for e in list(a.logs)), key=lambda entry: entry.time)
        return "".join(e.text for e in entries if call in ("", e.function_call_id))

    def wait_for(self, predicate: Callable[[], object], timeout: float = 300):
        """Wait until `predicate()` is true and return it; TimeoutError after `timeout` seconds, as for a hang."""
        deadline = time.monotonic() + timeout
        while True:
            value = predicate()
            if value:
                return value
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout} s; containers printed:\n{self.logs()}")
            time.sleep(0.02)

    # What a test does to containers

    def kill(self, container: Container) -> None:
        """SIGKILL to all processes of a container: an out-of-memory kill, a machine that died."""
        self._loop.call_soon_threadsafe(container.kill, "killed")
        self.wait_for(lambda: container.ended)

    def run_out_of_time(self, container: Container) -> None:
        """Let the time-out of what a container works on strike now."""
        self._loop.call_soon_threadsafe(self.time_out, container.input, container)
        self.wait_for(lambda: container.ended)

    def preempt(self, container: Container, grace: float = 300.0) -> None:
        """Preempt a container as Modal does: SIGINT, after `grace` seconds SIGKILL; its input goes to a new one."""
        self._run(self._preempt(container, grace), grace + 30)

    def background_commit(self, container: Container) -> None:
        """Commit a container's volumes as they are now, which Modal does every few seconds without being asked."""

        async def commit():
            for view in container.views.values():
                if not view.read_only:
                    async with view.volume.lock:
                        await asyncio.to_thread(view.commit)

        self._run(commit())
