# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Tasksets of `verifiers` from 0.4 on: an agent of theirs, whose model and whose chat loop are here.

Their own loop is a program in a process of its own, which would start anew for each dialogue.
"""

from contextlib import AsyncExitStack
from functools import cache
from typing import Any

import orjson

from grpo_kit.agents.verifiers import CUT, Ask, NoRoom, completion
from grpo_kit.data.environments import row_of
from grpo_kit.data.samples import Sample


async def lead(taskset: Any, sample: Sample, ask: Ask) -> dict[str, Any]:
    """Has an agent's dialogue about the sample's task."""
    import verifiers.v1 as vf
    from verifiers.v1.interception import InterceptionServer

    class Client(vf.Client):
        def __init__(self, trace: Any):
            self._trace = trace

        async def get_response(self, dialect, body, *_, **__):
            try:
                raw = await ask(body["messages"], body.get("tools"))
            except NoRoom:
                self._trace.stop("max_total_tokens")  # so that it asks no more, and is scored
                raw = completion(CUT)
            response = dialect.parse_response(dialect.validate_response(raw))
            response.raw = raw
            return response

    class Interception(InterceptionServer):
        def register(self, session):
            secrets = super().register(session)
            session.client = Client(session.trace)
            return secrets

    kind = type(taskset).task_type()
    task = kind(kind.data_type().model_validate(row_of(sample)), taskset.config.task)
    nowhere = vf.EvalClientConfig(base_url="http://127.0.0.1", api_key_var="NONE")
    config = vf.AgentConfig(model="model", harness={"id": "null"}, runtime=vf.SubprocessConfig(), client=nowhere)
    async with Interception() as server:
        agent = vf.Agent(config, interception=server)
        agent.harness = _harness()(agent.config.harness)
        trace = await agent.run(task)
    return {"reward": trace.reward, "error": None if trace.ok else trace.errors[-1].message, "metrics": trace.metrics}


@cache
def _harness() -> Any:
    import openai
    import verifiers.v1 as vf
    from verifiers.v1.dialects.chat import message_to_wire
    from verifiers.v1.harnesses.null import NullHarness
    from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp

    class Harness(NullHarness):
        SUPPORTS_TOOL_INTERCEPTION = False

        async def setup(self, runtime):
            """Nothing is installed."""

        async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data, **_):
            system, prompt = self.resolve_prompt(data)
            asks = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else prompt
            messages = [*([vf.SystemMessage(content=system)] if system else []), *asks]
            messages = [message_to_wire(each) for each in messages]
            async with AsyncExitStack() as stack:
                urls = {"mcpServers": {name: {"url": url} for name, url in mcp_urls.items()}}
                tools, known, servers = await connect_mcp(urls, stack)
                client = openai.AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0, timeout=None)
                chat = (await stack.enter_async_context(client)).chat.completions
                while not messages or messages[-1]["role"] != "assistant":
                    asked = {"messages": messages, **({"tools": tools} if tools else {})}
                    try:
                        said = (await chat.create(model=ctx.model, **asked)).choices[0].message
                    except openai.BadRequestError:  # it was stopped
                        break
                    messages.append(said.model_dump(exclude_none=True))
                    for call in said.tool_calls or ():
                        name, result = call.function.name, f"error: there is no tool {call.function.name}"
                        if name in known:
                            result = await call_mcp(servers, known, name, orjson.loads(call.function.arguments))
                        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            return vf.ProgramResult(exit_code=0, stdout="", stderr="")

    return Harness
