"""Who runs what, and what follows a failure, a time-out, a crash, a preemption or the end of an app.

As Modal documents it: a failure or a time-out is retried as the function's `retries` say (by this server for `.spawn`,
by the client for `.remote`); an input whose container crashed or was preempted is given to a new container whatever
`retries` says. A deployed app's crashing containers are restarted for ever, more and more slowly; an ephemeral app's
inputs fail after `ephemeral_crash_limit` crashes in a row.
"""

import asyncio
import time
from collections import defaultdict, deque

from modal_proto import api_pb2

from .apps import APP_ENDED, App
from .calls import Input, Result
from .containers import Container
from .functions import Function

CLIENT_SILENCE_S = 40.0


class Scheduling:
    """Queues of inputs and the containers for them; calls about containers."""

    def __init__(self):
        self.ephemeral_crash_limit = 3
        self.scaledown = 1.0  # seconds that an idle container waits for another input; 60 on Modal
        self.grace = 5.0  # seconds from SIGINT to SIGKILL when an app stops; 30 on Modal
        self.queues: dict[str, deque[Input]] = defaultdict(deque)  # by the function's id
        self.crashes: dict[str, int] = defaultdict(int)  # in a row, by the function's id
        self._tasks: set[asyncio.Task] = set()

    def in_background(self, coroutine) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def enqueue(self, item: Input, first: bool = False) -> None:
        item.container = None
        queue = self.queues[item.call.function.function_id]
        queue.appendleft(item) if first else queue.append(item)
        self.scale(item.call.function)
        self.wake()

    def usable(self, worker: Container, function: Function) -> bool:
        current = function.current().definition_id
        return worker.function_id == function.function_id and worker.definition_id == current and not worker.stopping

    def scale(self, function: Function) -> None:
        """Start the containers that the waiting inputs need."""
        if function.app.state in APP_ENDED:
            return
        live = [c for c in self.containers if c.ended is None and self.usable(c, function)]
        definition = function.definition()
        limit = definition.concurrency_limit or definition.autoscaler_settings.max_containers or 1000
        idle = sum(c.input is None for c in live)
        for _ in range(min(len(self.queues[function.function_id]) - idle, limit - len(live))):
            task_id = self.new_id("ta")
            names = {v.volume_id: v.name for v in self.volumes.values()}
            worker = Container(
                task_id=task_id,
                function_id=function.function_id,
                definition=definition,
                definition_id=function.current().definition_id,
                app=function.app,
                folder=self.root / "containers" / task_id,
                secrets=[self.secret_ids.get(secret_id, "") for secret_id in definition.secret_ids],
                volumes={mount.mount_path: names[mount.volume_id] for mount in definition.volume_mounts},
            )
            self.containers.append(worker)
            self.in_background(self._live(worker, function))

    async def _live(self, worker: Container, function: Function) -> None:
        try:
            await worker.run(self)
        except Exception as error:
            self.errors.append(f"container {worker.task_id} could not be started: {error!r}")
            worker.ended, worker.exit_reason = time.time(), "crashed"
        self.wake()
        item, worker.input = worker.input, None
        lost = item if item and item.output is None and item.container is worker else None
        if lost and lost.alarm:
            lost.alarm.cancel()
        if worker.exit_reason == "preempted":
            if lost:
                self.enqueue(lost, first=True)
            return
        if worker.exit_reason in ("crashed", "killed"):
            self._crashed(worker, function, lost)
        else:
            self.scale(function)

    def _crashed(self, worker: Container, function: Function, lost: Input | None) -> None:
        code = worker.process.returncode if worker.process else 1
        worker.log(self, f"Runner failed with exit code: {code}\n", api_pb2.FILE_DESCRIPTOR_INFO)
        queue = self.queues[function.function_id]
        if lost:
            lost.container = None
            queue.appendleft(lost)
        self.crashes[function.function_id] += 1
        crashes = self.crashes[function.function_id]
        deployed = function.app.state == api_pb2.APP_STATE_DEPLOYED
        if not deployed and crashes >= self.ephemeral_crash_limit:
            text = f"Container crashed {crashes} times in a row, exit code {code}"
            for item in list(queue):
                self.finish(item, worker.failure or Result(status=Result.GENERIC_STATUS_FAILURE, exception=text))
        else:
            delay = 0.0 if crashes == 1 else min(0.25 * 2**crashes, 10.0)
            asyncio.get_running_loop().call_later(delay, self.scale, function)

    def finish(self, item: Input, result: Result, data_format: int = 0, task_id: str = "") -> None:
        """An attempt at an input has ended, with this result."""
        if item.alarm:
            item.alarm.cancel()
        if item.container and item.container.input is item:
            item.container.input = None
        queue = self.queues[item.call.function.function_id]
        if item in queue:
            queue.remove(item)
        policy = item.call.function.definition().retry_policy
        failed = result.status in (Result.GENERIC_STATUS_FAILURE, Result.GENERIC_STATUS_TIMEOUT)
        by_server = item.call.invocation == api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC
        if failed and by_server and item.retry_count < policy.retries:
            delay_ms = policy.initial_delay_ms * policy.backoff_coefficient**item.retry_count
            item.retry_count += 1
            item.container = None
            asyncio.get_running_loop().call_later(max(delay_ms, 1000) / 1000, self._retry, item)
        else:
            item.output = api_pb2.FunctionGetOutputsItem(
                result=result,
                idx=item.idx,
                input_id=item.input_id,
                data_format=data_format,
                task_id=task_id,
                retry_count=item.retry_count,
            )
            self.stop_if_finished(item.call.function.app)
        self.wake()

    def _retry(self, item: Input) -> None:
        if item.output is None:  # not cancelled meanwhile
            self.enqueue(item)

    def time_out(self, item: Input, worker: Container) -> None:
        text = f"Task's current input {item.input_id} hit its timeout of {worker.timeout}s"
        worker.log(self, text + "\n", api_pb2.FILE_DESCRIPTOR_INFO)
        worker.kill("timed out")
        self.finish(item, Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=text), task_id=worker.task_id)

    # Stopping

    async def _preempt(self, worker: Container, grace: float) -> None:
        """SIGINT, then SIGKILL after `grace` seconds; what it worked on goes to a new container."""
        worker.interrupt("preempted")
        if not await self.until(lambda: worker.ended, grace):
            worker.kill("preempted")

    def running(self, app: App) -> list[Container]:
        return [c for c in self.containers if c.app is app and c.ended is None]

    def stop_if_finished(self, app: App) -> None:
        """A detached app ends with its last call."""
        calls = (call for call in self.calls.values() if call.function.app is app)
        if app.state == api_pb2.APP_STATE_DETACHED_DISCONNECTED and all(i.output for c in calls for i in c.inputs):
            self.stop_app(app)

    def stop_app(self, app: App) -> None:
        if app.state in APP_ENDED:
            return
        app.state = api_pb2.APP_STATE_STOPPING
        busy = [c for c in self.running(app) if c.input]
        for call in self.calls.values():
            for item in call.inputs:
                if call.function.app is app and item.output is None:
                    self.finish(item, Result(status=Result.GENERIC_STATUS_TERMINATED, exception="The app was stopped"))
        for worker in self.running(app):
            worker.stopping, worker.exit_reason = True, "app stopped"
        for worker in busy:
            worker.interrupt("app stopped")
        self.wake()
        self.in_background(self._stopped(app))

    async def _stopped(self, app: App) -> None:
        if not await self.until(lambda: not self.running(app), self.grace):
            for worker in self.running(app):
                worker.kill("app stopped")
            await self.until(lambda: not self.running(app), 60)  # so long may a busy machine take
        app.state, app.stopped = api_pb2.APP_STATE_STOPPED, time.time()
        self.wake()

    async def watch_clients(self) -> None:
        """Stop ephemeral apps whose client is gone without a word."""
        while True:
            await asyncio.sleep(1)
            for app in self.apps.values():
                silent = time.time() - app.last_heartbeat > CLIENT_SILENCE_S
                if app.state == api_pb2.APP_STATE_EPHEMERAL and silent:
                    self.stop_app(app)
