"""The protocol's plumbing: dispatch, tokens, waiting; and who the client is.

A method named like an RPC answers it: it gets the request and the container that asks (None for a client) and returns
the reply, or yields replies. Every request is recorded; one without a method is answered UNIMPLEMENTED, with its name.
"""

import asyncio
import traceback
from typing import NoReturn

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

CONTAINER_HEADER = "x-test-container"
ENVIRONMENT = "main"
IMAGE_BUILDER_VERSION = "2025.06"

_EveryRpc = type("_EveryRpc", (ModalClientBase,), dict.fromkeys(ModalClientBase.__abstractmethods__))


def refuse(status: Status, message: str) -> NoReturn:
    raise GRPCError(status, message)


class Protocol:
    """Dispatch, waiting, and the calls about who asks."""

    def __init__(self):
        self.requests = []  # (method name, message), in the order of arrival
        self.errors = []  # tracebacks of this server's own mistakes
        self.accepts_tokens = True
        self.containers = []
        self._changed = asyncio.Event()
        self._id_count = 0

    def __mapping__(self) -> dict[str, Handler]:
        return {
            path: handler._replace(func=self._answerer(path.rpartition("/")[2]))
            for path, handler in _EveryRpc().__mapping__().items()
        }

    def _answerer(self, name: str):
        method = getattr(self, name, None)

        async def answer(stream):
            request = await stream.recv_message()
            self.requests.append((name, request))
            container = self._sender(stream.metadata)
            if method is None:
                refuse(Status.UNIMPLEMENTED, f"the test server does not implement {name}")
            try:
                reply = method(request, container)
                if hasattr(reply, "__aiter__"):
                    async for message in reply:
                        await stream.send_message(message)
                else:
                    reply = await reply
                    await stream.send_message(Empty() if reply is None else reply)
            except (GRPCError, ConnectionError):
                raise
            except Exception as error:
                self.errors.append(traceback.format_exc())
                refuse(Status.DATA_LOSS, f"mistake in the test server, in {name}: {error!r}")

        return answer

    def _sender(self, metadata):
        if metadata.get("x-modal-client-type") == str(api_pb2.CLIENT_TYPE_CONTAINER):
            known = {c.task_id: c for c in self.containers}
            return self.the(known, metadata.get(CONTAINER_HEADER, ""), "Container")
        if not (self.accepts_tokens and metadata.get("x-modal-token-id") and metadata.get("x-modal-token-secret")):
            refuse(Status.UNAUTHENTICATED, "Token validation failed")
        return None

    def new_id(self, prefix: str) -> str:
        self._id_count += 1
        return f"{prefix}-{self._id_count:022d}"  # 22 characters, as the command line expects of an id

    def wake(self) -> None:
        """Something changed: let everyone who waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, predicate, timeout: float) -> bool:
        """Wait until `predicate()` is true, at most `timeout` seconds; whether it is."""
        try:
            async with asyncio.timeout(timeout):
                while not predicate():
                    await self._changed.wait()
        except TimeoutError:
            return bool(predicate())
        return True

    def the(self, collection: dict, key: str, kind: str):
        return collection[key] if key in collection else refuse(Status.NOT_FOUND, f"{kind} '{key}' not found")

    # Who asks

    async def ClientHello(self, request, container):
        return api_pb2.ClientHelloResponse()

    async def WorkspaceNameLookup(self, request, container):
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="test-workspace", username="test-workspace")

    async def EnvironmentGetOrCreate(self, request, container):
        self.check_environment(request.deployment_name)
        settings = api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER_VERSION)
        metadata = api_pb2.EnvironmentMetadata(name=ENVIRONMENT, settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    async def EnvironmentList(self, request, container):
        return api_pb2.EnvironmentListResponse(items=[api_pb2.EnvironmentListItem(name=ENVIRONMENT, default=True)])

    async def ObjectSuggest(self, request, container):
        return api_pb2.ObjectSuggestResponse()

    def check_environment(self, name: str) -> None:
        if name not in ("", ENVIRONMENT):
            refuse(Status.NOT_FOUND, f"Environment '{name}' not found")
