"""Function calls and their inputs, as the client sees them and as the containers do."""

import asyncio
import time
from dataclasses import dataclass, field

from grpclib.const import Status
from modal_proto import api_pb2

from .apps import APP_ENDED
from .containers import HEARTBEAT_INTERVAL_S, Container
from .functions import Function
from .protocol import refuse

Result = api_pb2.GenericResult
HEARTBEAT_POLL_S = HEARTBEAT_INTERVAL_S - 1  # the container waits for an answer as long as its interval


@dataclass(eq=False)
class Input:
    input_id: str
    idx: int
    data: api_pb2.FunctionInput
    call: "Call"
    retry_count: int = 0
    output: api_pb2.FunctionGetOutputsItem | None = None
    container: Container | None = None
    alarm: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class Call:
    call_id: str
    function: Function
    invocation: int
    inputs: list[Input] = field(default_factory=list)
    created: float = field(default_factory=time.time)


class Calls:
    """Calls about calls."""

    def __init__(self):
        self.calls: dict[str, Call] = {}
        self.inputs: dict[str, Input] = {}

    # From a client

    async def FunctionMap(self, request, container):
        function = self.the(self.functions, request.function_id, "Function")
        if request.function_call_type != api_pb2.FUNCTION_CALL_TYPE_UNARY:
            refuse(Status.UNIMPLEMENTED, "the test server does not implement .map")
        if function.app.state in APP_ENDED:
            refuse(Status.FAILED_PRECONDITION, f"App '{function.app.app_id}' is stopped")
        call = Call(self.new_id("fc"), function, request.function_call_invocation_type)
        self.calls[call.call_id] = call
        reply = api_pb2.FunctionMapResponse(
            function_call_id=call.call_id,
            function_call_jwt=call.call_id,
            retry_policy=function.definition().retry_policy,
            sync_client_retries_enabled=True,
            max_inputs_outstanding=1000,
        )
        for item in request.pipelined_inputs:
            new = Input(self.new_id("in"), item.idx, item.input, call)
            self.inputs[new.input_id] = new
            call.inputs.append(new)
            reply.pipelined_inputs.add(idx=item.idx, input_id=new.input_id, input_jwt=new.input_id)
            self.enqueue(new)
        return reply

    async def FunctionGetOutputs(self, request, container):
        call = self.the(self.calls, request.function_call_id, "Function call")
        wanted = call.inputs
        if request.HasField("start_idx"):
            wanted = [i for i in call.inputs if request.start_idx <= i.idx <= request.end_idx]
        await self.until(lambda: any(i.output for i in wanted), request.timeout)
        return api_pb2.FunctionGetOutputsResponse(
            outputs=[i.output for i in wanted if i.output],
            num_unfinished_inputs=sum(i.output is None for i in call.inputs),
        )

    async def FunctionCallFromId(self, request, container):
        call = self.the(self.calls, request.function_call_id, "Function call")
        handle = api_pb2.FunctionCallHandleMetadata(
            app_id=call.function.app.app_id, function_id=call.function.function_id
        )
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.call_id, num_inputs=len(call.inputs), metadata=handle
        )

    async def FunctionCallGetInfo(self, request, container):
        call = self.the(self.calls, request.function_call_id, "Function call")
        states = [i.output.result.status if i.output else 0 for i in call.inputs]
        info = api_pb2.FunctionCallInfo(
            function_call_id=call.call_id, created_at=call.created, total_inputs=len(states)
        )
        info.pending_inputs.total = states.count(0)
        info.succeeded_inputs.total = states.count(Result.GENERIC_STATUS_SUCCESS)
        info.timeout_inputs.total = states.count(Result.GENERIC_STATUS_TIMEOUT)
        info.cancelled_inputs.total = states.count(Result.GENERIC_STATUS_TERMINATED)
        info.failed_inputs.total = len(states) - sum(
            getattr(info, f"{kind}_inputs").total for kind in ("pending", "succeeded", "timeout", "cancelled")
        )
        return api_pb2.FunctionCallGetInfoResponse(info=info)

    async def FunctionCallCancel(self, request, container):
        call = self.the(self.calls, request.function_call_id, "Function call")
        for item in call.inputs:
            worker = item.container
            if item.output is None:
                self.finish(item, Result(status=Result.GENERIC_STATUS_TERMINATED, exception="Cancelled by user"))
                if worker and request.terminate_containers:
                    worker.kill("cancelled")
                elif worker:
                    worker.cancelled.append(item.input_id)
        self.wake()

    # From a container

    async def ContainerHello(self, request, container):
        container.greet()

    async def ContainerHeartbeat(self, request, container):
        await self.until(lambda: container.cancelled, HEARTBEAT_POLL_S)
        reply = api_pb2.ContainerHeartbeatResponse()
        if container.cancelled:
            reply.cancel_input_event.input_ids.extend(container.cancelled)
            container.cancelled = []
        return reply

    async def FunctionGetInputs(self, request, container):
        function = self.functions[container.function_id]
        queue = self.queues[function.function_id]
        await self.until(lambda: queue or not self.usable(container, function), self.scaledown)
        if not queue or not self.usable(container, function):
            container.stopping = True
            self.scale(function)
            return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
        item = queue.popleft()
        item.container, container.input = container, item
        container.calls.append(item.call.call_id)
        container.stopping = container.definition.single_use_containers
        if container.timeout:
            loop = asyncio.get_running_loop()
            item.alarm = loop.call_later(container.timeout, self.time_out, item, container)
        given = api_pb2.FunctionGetInputsItem(
            input_id=item.input_id,
            input=item.data,
            function_call_id=item.call.call_id,
            function_call_invocation_type=item.call.invocation,
            retry_count=item.retry_count,
        )
        return api_pb2.FunctionGetInputsResponse(inputs=[given])

    async def FunctionPutOutputs(self, request, container):
        for given in request.outputs:
            item = self.the(self.inputs, given.input_id, "Input")
            if item.output is None and item.container is container and item.retry_count == given.retry_count:
                if given.result.status == Result.GENERIC_STATUS_SUCCESS:
                    self.crashes[container.function_id] = 0
                self.finish(item, given.result, given.data_format, container.task_id)
            elif container.input is item:
                container.input = None

    async def TaskResult(self, request, container):
        container.failure = request.result
