"""One container: its file system, environment, process and signals.

The process is Modal's own container entry point behind `unshare -rm` and chroot. It sees the machine's programs and
libraries (read-only), this interpreter at /usr/local with the third-party packages installed here, and in /root what
the client uploaded. An editable install, and with it the project, is left out.
"""

import asyncio
import codecs
import contextlib
import importlib.metadata
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from modal_proto import api_pb2

from .apps import LogEntry
from .protocol import CONTAINER_HEADER, ENVIRONMENT
from .volumes import View

PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
HOST_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "etc", "opt", "dev", "proc", "sys")
HOME = "/root"  # a container's, where what the client uploads goes
HEARTBEAT_INTERVAL_S = 5
ARGUMENTS = "/__modal/container-arguments.bin"
SITE = "/__modal/site-packages"
CONTAINER_SITE = f"/usr/local/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def check_machine() -> None:
    """Raise RuntimeError where containers cannot be made."""
    try:
        subprocess.run(["unshare", "-rm", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(
            "the Modal server's containers need Linux and `unshare -rm` (user namespaces), which this machine refuses"
        ) from error


def link_site_packages(folder: Path) -> None:
    """Fill `folder` with links to all that is installed here, except what is installed in editable mode."""
    installed = Path(sysconfig.get_path("purelib"))
    hidden = set()
    for distribution in importlib.metadata.distributions(path=[str(installed)]):
        if '"editable": true' in (distribution.read_text("direct_url.json") or ""):
            hidden |= {Path(file).parts[0] for file in distribution.files or []}
    folder.mkdir(parents=True)
    for entry in installed.iterdir():
        if entry.name not in hidden:
            (folder / entry.name).symlink_to(f"{SITE}/{entry.name}")


@dataclass(eq=False)
class Container:
    """A container that was started: what it was asked to be, and what became of it."""

    task_id: str
    function_id: str
    definition: api_pb2.Function  # as created, changed by with_options
    definition_id: str
    app: object
    folder: Path
    secrets: list[str] = field(default_factory=list)  # names; "" for one made from values
    volumes: dict[str, str] = field(default_factory=dict)  # mount path -> name
    views: dict[str, View] = field(default_factory=dict)  # by the volume's id
    process: asyncio.subprocess.Process | None = None
    started: float = field(default_factory=time.time)
    ended: float | None = None
    # "finished", "crashed", "killed", "preempted", "timed out", "cancelled", "app stopped", "server closed"
    exit_reason: str = ""
    input: object = None  # what it works on
    calls: list[str] = field(default_factory=list)  # the calls whose inputs it was given
    stopping: bool = False  # it gets no more inputs
    cancelled: list[str] = field(default_factory=list)  # inputs it is to be told of
    failure: api_pb2.GenericResult | None = None  # why it could not start
    _namespace: str = ""
    _namespace_file: TextIO | None = None

    @property
    def pid(self) -> int | None:
        return self.process and self.process.pid

    @property
    def function_name(self) -> str:
        return self.definition.function_name

    @property
    def gpu(self) -> str:
        """The GPU asked for, such as A10 or H100:2; empty for none."""
        gpu = self.definition.resources.gpu_config
        return f"{gpu.gpu_type}:{gpu.count}" if gpu.count > 1 else gpu.gpu_type if gpu.count else ""

    @property
    def memory(self) -> int:
        """MiB of memory asked for."""
        return self.definition.resources.memory_mb

    @property
    def timeout(self) -> int:
        """Seconds an input may take."""
        return self.definition.timeout_secs

    @property
    def retries(self) -> int:
        return self.definition.retry_policy.retries

    # Signals

    def interrupt(self, reason: str) -> None:
        """SIGINT to its main process, as Modal does before it takes a container away."""
        self.stopping, self.exit_reason = True, self.exit_reason or reason
        with contextlib.suppress(ProcessLookupError):
            if self.process and self.ended is None:
                os.kill(self.process.pid, signal.SIGINT)

    def kill(self, reason: str) -> None:
        """SIGKILL to all its processes."""
        self.stopping, self.exit_reason = True, self.exit_reason or reason
        if self.process is None:
            return
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def greet(self) -> None:
        """It runs: from now on its processes are those in its mount namespace. While the file is open the system gives
        that namespace's number to no other."""
        self._namespace_file = open(f"/proc/{self.process.pid}/ns/mnt")  # noqa: SIM115
        self._namespace = os.readlink(f"/proc/{self.process.pid}/ns/mnt")

    def processes(self) -> list[int]:
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if self._namespace and folder.name.isdigit() and os.readlink(folder / "ns/mnt") == self._namespace:
                    found.append(int(folder.name))
        return found

    def _forget_processes(self) -> None:
        self._namespace = ""
        if self._namespace_file:
            self._namespace_file.close()

    def open_files(self, folder: Path) -> list[str]:
        """The files under `folder` that its processes have open, mapped, or as a working directory."""
        inside = "/" + str(folder.relative_to(self.folder / "rootfs"))
        found = set()
        for process in self.processes():
            for link in [Path(f"/proc/{process}/cwd"), *Path(f"/proc/{process}/fd").glob("*")]:
                with contextlib.suppress(OSError):
                    found.add(os.readlink(link))
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process}/maps").read_text().splitlines()
                found |= {line.split(maxsplit=5)[5] for line in lines if line.count(" ") > 5 and "/" in line}
        return sorted(path for path in found if path.startswith((str(folder), inside)))

    # Life

    async def run(self, server) -> None:
        """From nothing to the end of its process."""
        async with contextlib.AsyncExitStack() as nobody_commits:
            for volume_id in sorted(mount.volume_id for mount in self.definition.volume_mounts):
                await nobody_commits.enter_async_context(server.volumes[volume_id].lock)
            env, command = await asyncio.to_thread(self._prepare, server)
        if self.stopping:
            self.ended = time.time()
            return
        self.process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        readers = [
            asyncio.create_task(self._read(server, self.process.stdout, api_pb2.FILE_DESCRIPTOR_STDOUT)),
            asyncio.create_task(self._read(server, self.process.stderr, api_pb2.FILE_DESCRIPTOR_STDERR)),
        ]
        code = await self.process.wait()
        self.ended = time.time()
        self.exit_reason = self.exit_reason or ("finished" if self.stopping and code == 0 else "crashed")
        self.kill(self.exit_reason)  # what it left running
        self._forget_processes()
        await asyncio.wait(readers, timeout=5)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _read(self, server, pipe: asyncio.StreamReader, descriptor: int) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while chunk := await pipe.read(65536):
            self.log(server, decoder.decode(chunk), descriptor)

    def log(self, server, text: str, descriptor: int) -> None:
        call_id, input_id = (self.input.call.call_id, self.input.input_id) if self.input else ("", "")
        self.app.logs.append(LogEntry(text, descriptor, self.task_id, self.function_id, call_id, input_id))
        server.wake()

    # What it sees

    def _prepare(self, server) -> tuple[dict[str, str], list[str]]:
        root = self.folder / "rootfs"
        for name in ("root", "tmp", "run", "var/tmp", "mnt", "home", "__modal/volumes", SITE[1:]):
            (root / name).mkdir(parents=True)
        mounts = []
        for name in HOST_FOLDERS:
            source = Path("/", name)
            if source.is_symlink():
                (root / name).symlink_to(os.readlink(source))
            elif source.exists():
                (root / name).mkdir()
                mounts.append((source, root / name, name in ("usr", "etc", "opt")))
        mounts.append((sys.base_prefix, root / "usr/local", True))
        mounts.append((server.site_packages, root / CONTAINER_SITE[1:], True))
        mounts.append((sysconfig.get_path("purelib"), root / SITE[1:], True))

        image_env, workdir, copied = server.image_settings(self.definition.image_id, PATH)
        for mount_id, target in [*copied, *((mount_id, "/") for mount_id in self.definition.mount_ids)]:
            for file in server.mounts[mount_id]:
                place = Path(os.path.normpath(f"{root}/{target}/{file.filename}"))
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(server.stored / file.sha256_hex, place)
                place.chmod(file.mode or 0o644)
        for mount in self.definition.volume_mounts:
            folder = root / "__modal/volumes" / mount.volume_id
            self.views[mount.volume_id] = View(server.volumes[mount.volume_id], folder, mount.read_only)
            place = root / mount.mount_path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(f"/__modal/volumes/{mount.volume_id}")
            if mount.read_only:
                mounts.append((folder, folder, True))
        (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (root / ARGUMENTS[1:]).write_bytes(self._arguments(server).SerializeToString())

        script = ["set -e"]
        for source, target, read_only in mounts:
            source, target = shlex.quote(str(source)), shlex.quote(str(target))
            script.append(f"mount --rbind {source} {target}")
            if read_only:  # not allowed everywhere; it only protects this machine from what runs inside
                script.append(f"mount -o remount,bind,ro {target} 2>/dev/null || true")
        inner = f"cd {shlex.quote(workdir)} && exec setpriv --pdeathsig KILL python -m modal._container_entrypoint"
        script.append(f"exec chroot {shlex.quote(str(root))} /bin/sh -c {shlex.quote(inner)}")
        return self._environment(server, image_env), ["unshare", "-rm", "sh", "-c", "\n".join(script)]

    def _environment(self, server, image_env: dict[str, str]) -> dict[str, str]:
        env = {
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": "/usr/local/lib",
            "PYTHONPATH": HOME,
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "MODAL_SERVER_URL": server.url,
            "MODAL_CONTAINER_ARGUMENTS_PATH": ARGUMENTS,
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": self.task_id,
            "MODAL_IMAGE_ID": self.definition.image_id,
            "MODAL_ENVIRONMENT": ENVIRONMENT,
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_AWS",
            "MODAL_REGION": "us-east-1",
            "MODAL_DISABLE_API_PROXY": "1",
            "MODAL_HEARTBEAT_INTERVAL": str(HEARTBEAT_INTERVAL_S),
            "MODAL_OVERRIDE_HEADERS": f"{CONTAINER_HEADER}:{self.task_id}",
            **image_env,
            **server.container_env,
            **{name: os.environ[name] for name in ("GRPO_KIT_TEST_SESSION",) if name in os.environ},  # see conftest.py
        }
        for secret_id in self.definition.secret_ids:
            env |= server.secret_values(secret_id)
        return env

    def _arguments(self, server) -> api_pb2.ContainerArguments:
        return api_pb2.ContainerArguments(
            task_id=self.task_id,
            function_id=self.function_id,
            app_id=self.app.app_id,
            function_def=self.definition,
            environment_name=ENVIRONMENT,
            app_layout=server.layout(self.app),
        )
