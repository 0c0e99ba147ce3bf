"""Apps, from their creation to their end, and their logs."""

import time
from dataclasses import dataclass, field
from functools import partial

from grpclib.const import Status
from modal_proto import api_pb2

from .protocol import ENVIRONMENT, refuse

APP_ENDED = (api_pb2.APP_STATE_STOPPING, api_pb2.APP_STATE_STOPPED)


@dataclass
class LogEntry:
    """A piece of a container's output; `descriptor` is one of api_pb2.FILE_DESCRIPTOR_*."""

    text: str
    descriptor: int
    task_id: str
    function_id: str
    function_call_id: str
    input_id: str
    time: float = field(default_factory=time.time)

    def proto(self) -> api_pb2.TaskLogs:
        return api_pb2.TaskLogs(
            data=self.text,
            file_descriptor=self.descriptor,
            timestamp=self.time,
            timestamp_ns=int(self.time * 1e9),
            function_call_id=self.function_call_id,
            input_id=self.input_id,
        )

    def matches(self, request) -> bool:
        """Whether a request for logs asks for this entry; an empty field asks for all."""
        descriptor = getattr(request, "file_descriptor", 0) or getattr(request, "source", 0)
        wanted = ("task_id", "function_id", "function_call_id")
        return (
            all(getattr(request, name) in ("", getattr(self, name)) for name in wanted)
            and descriptor in (0, self.descriptor)
            and request.search_text in self.text
        )


@dataclass
class App:
    app_id: str
    description: str
    state: int
    name: str = ""
    function_ids: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    logs: list[LogEntry] = field(default_factory=list)
    created: float = field(default_factory=time.time)
    deployed: float = 0.0
    stopped: float = 0.0
    last_heartbeat: float = field(default_factory=time.time)

    def lifecycle(self) -> api_pb2.AppLifecycle:
        return api_pb2.AppLifecycle(
            app_state=self.state, created_at=self.created, deployed_at=self.deployed, stopped_at=self.stopped
        )


class Apps:
    """Calls about apps."""

    def __init__(self):
        self.apps: dict[str, App] = {}

    async def AppCreate(self, request, container):
        self.check_environment(request.environment_name)
        app = App(self.new_id("ap"), request.description, request.app_state, tags=dict(request.tags))
        self.apps[app.app_id] = app
        return api_pb2.AppCreateResponse(app_id=app.app_id, app_page_url=f"https://modal.com/apps/{app.app_id}")

    def deployed(self, name: str) -> App | None:
        return next((a for a in self.apps.values() if a.name == name and a.state == api_pb2.APP_STATE_DEPLOYED), None)

    async def AppGetByDeploymentName(self, request, container):
        self.check_environment(request.environment_name)
        app = self.deployed(request.name)
        if app:
            return api_pb2.AppGetByDeploymentNameResponse(
                app_id=app.app_id, environment_name=ENVIRONMENT, lifecycle=app.lifecycle()
            )
        return api_pb2.AppGetByDeploymentNameResponse(environment_name=ENVIRONMENT)

    async def AppGetOrCreate(self, request, container):
        app = self.deployed(request.app_name)
        if app is None:
            refuse(Status.NOT_FOUND, f"App '{request.app_name}' not found in environment '{ENVIRONMENT}'")
        return api_pb2.AppGetOrCreateResponse(app_id=app.app_id, handle_metadata=self._about(app))

    async def AppGetInfo(self, request, container):
        return api_pb2.AppGetInfoResponse(info=self._about(self.the(self.apps, request.app_id, "App")))

    def _about(self, app: App) -> api_pb2.AppHandleMetadata:
        return api_pb2.AppHandleMetadata(app_id=app.app_id, description=app.description, lifecycle=app.lifecycle())

    async def AppGetLifecycle(self, request, container):
        return api_pb2.AppGetLifecycleResponse(lifecycle=self.the(self.apps, request.app_id, "App").lifecycle())

    async def AppGetLayout(self, request, container):
        return api_pb2.AppGetLayoutResponse(app_layout=self.layout(self.apps[request.app_id]))

    async def AppPublish(self, request, container):
        app = self.the(self.apps, request.app_id, "App")
        app.state, app.deployed = request.app_state, time.time()
        app.name = request.name
        app.function_ids = dict(request.function_ids)
        app.tags = dict(request.tags) or app.tags
        self.wake()
        url = f"https://modal.com/apps/test-workspace/main/deployed/{app.name}"
        return api_pb2.AppPublishResponse(url=url, deployed_at=app.deployed)

    async def AppHeartbeat(self, request, container):
        # One may be under way while its client says goodbye, and the client prints what is refused.
        self.the(self.apps, request.app_id, "App").last_heartbeat = time.time()

    async def AppStop(self, request, container):
        self.stop_app(self.the(self.apps, request.app_id, "App"))

    async def AppClientDisconnect(self, request, container):
        app = self.the(self.apps, request.app_id, "App")
        if app.state == api_pb2.APP_STATE_DETACHED:
            app.state = api_pb2.APP_STATE_DETACHED_DISCONNECTED
            self.stop_if_finished(app)
        elif app.state != api_pb2.APP_STATE_DEPLOYED:
            self.stop_app(app)

    # Logs

    async def AppGetLogs(self, request, container):
        app = self.the(self.apps, request.app_id, "App")
        seen = int(request.last_entry_id or 0)
        ended = time.monotonic() + request.timeout
        more = True
        while more:
            while seen < len(app.logs):
                entry, seen = app.logs[seen], seen + 1
                if entry.matches(request):
                    yield self._batch(entry, str(seen))
            if app.state == api_pb2.APP_STATE_STOPPED:
                yield api_pb2.TaskLogsBatch(app_done=True)
                return
            more = await self.until(partial(self._has_news, app, seen), ended - time.monotonic())

    def _has_news(self, app: App, seen: int) -> bool:
        return len(app.logs) > seen or app.state == api_pb2.APP_STATE_STOPPED

    def _batch(self, entry: LogEntry, entry_id: str = "") -> api_pb2.TaskLogsBatch:
        return api_pb2.TaskLogsBatch(
            task_id=entry.task_id, function_id=entry.function_id, items=[entry.proto()], entry_id=entry_id
        )
