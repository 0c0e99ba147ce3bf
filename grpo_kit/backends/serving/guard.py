"""A middleware for `vllm serve`, whose key guards what lies under /v1 alone, while /invocations answers anybody."""

from typing import Any


class OnlyV1:
    """Lets requests under /v1 pass, and answers others that there is nothing."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/v1/"):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif scope["type"] != "websocket":
            await self._app(scope, receive, send)
