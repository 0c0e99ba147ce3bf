"""Web servers in containers: an HTTP request becomes an input, whose body and answer go through the call's data
streams, as Modal's proxy does it. A function's URL is a path of this server."""

import pickle
from dataclasses import dataclass, field

from aiohttp import web
from modal_proto import api_pb2

from .apps import APP_ENDED
from .calls import Call, Input
from .functions import Function

ASGI = api_pb2.DATA_FORMAT_ASGI


@dataclass(eq=False)
class WebCall(Call):
    """A call that is an HTTP request."""

    data_in: list[api_pb2.Asgi] = field(default_factory=list)
    data_out: list[api_pb2.DataChunk] = field(default_factory=list)


class Web:
    """Requests to functions, and the containers' calls about them."""

    def web_url(self, function: Function) -> str:
        return f"{self.http_url}/web/{function.function_id}" if function.data.webhook_config.type else ""

    async def answer_web(self, request: web.Request) -> web.StreamResponse:
        function = self.functions.get(request.match_info["function"])
        if function is None or function.app.state in APP_ENDED:
            return web.Response(status=404, text="modal-http: app for invoked web endpoint is stopped")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": request.method,
            "scheme": "https",
            "path": f"/{request.match_info['path']}",
            "query_string": request.query_string.encode(),
            "headers": list(request.raw_headers),
            "client": ("203.0.113.7", 50000),
        }
        call = WebCall(self.new_id("fc"), function, api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC)
        call.data_in.append(api_pb2.Asgi(http_request=api_pb2.Asgi.HttpRequest(body=await request.read())))
        given = api_pb2.FunctionInput(args=pickle.dumps(((scope,), {})), data_format=api_pb2.DATA_FORMAT_PICKLE)
        item = Input(self.new_id("in"), 0, given, call)
        self.calls[call.call_id], self.inputs[item.input_id] = call, item
        call.inputs.append(item)
        self.enqueue(item)
        return await self._reply(request, call, item)

    async def _reply(self, request: web.Request, call: WebCall, item: Input) -> web.StreamResponse:
        reply = None
        while True:
            await self.until(lambda: call.data_out or item.output, 3600)
            if not call.data_out:
                break
            for chunk in call.data_out[:]:
                part = api_pb2.Asgi.FromString(chunk.data)
                if part.HasField("http_response_start"):
                    start = part.http_response_start
                    reply = web.StreamResponse(status=start.status)
                    for name, value in zip(start.headers[::2], start.headers[1::2], strict=True):
                        reply.headers.add(name.decode(), value.decode())
                    await reply.prepare(request)
                elif part.HasField("http_response_body") and part.http_response_body.body:
                    await reply.write(part.http_response_body.body)
                call.data_out.remove(chunk)
        return reply or web.Response(status=500, text="modal-http: internal error: the function failed")

    async def FunctionCallGetDataIn(self, request, container):
        call = self.the(self.calls, request.function_call_id, "Function call")
        for index, part in enumerate(call.data_in, start=1):
            if index > request.last_index:
                yield api_pb2.DataChunk(data_format=ASGI, data=part.SerializeToString(), index=index)
        await self.until(lambda: call.inputs[0].output, 50)

    async def FunctionCallPutDataOut(self, request, container):
        call = self.the(self.calls, request.function_call_id, "Function call")
        call.data_out.extend(request.data_chunks)
        self.wake()
