"""A local server that speaks Modal's protocol, for tests that drive the real `modal` library and the real command.

It runs each input with Modal's own container entry point, in a process that sees the interpreter, the third-party
packages and what the client uploaded, and nothing of the project. What it cannot show (image builds, GPUs, memory,
quotas) it records, for tests to look at. Needs Linux, and `unshare -rm`.

    with ModalServer(tmp_path / "modal", secrets={"gemini-secret": {"GEMINI_API_KEY": "k"}}) as server:
        subprocess.run(["modal", "deploy", "app.py"], env={**os.environ, **server.environment})
        with server.in_this_process():
            modal.Function.from_name("app", "train").remote()

    server.py      ModalServer: what a test starts, looks at and interferes with
    protocol.py    a method of these classes answers the RPC of its name; anything else is UNIMPLEMENTED
    apps.py        apps and their logs
    objects.py     what functions are made of: blobs, mounts, images, secrets, dicts
    volumes.py     volumes: the committed state, each container's own view of it, upload and download
    functions.py   functions, and their variants by with_options
    calls.py       calls and their inputs, as clients and as containers see them
    web.py         web servers in containers: HTTP requests as inputs
    scheduling.py  queues, retries, time-outs, crashes, preemption, the end of an app
    containers.py  one container: its file system, environment, process and signals
"""

from .containers import HOME
from .server import ModalServer

__all__ = ["HOME", "ModalServer"]
