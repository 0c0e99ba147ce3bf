"""Volumes: one folder per volume with its committed state, and for each container a view of its own.

What a container writes stays in its view until it commits; what others commit reaches the view when it reloads. The
last to commit a file wins, file by file. A committed file is replaced, never rewritten: a download in progress goes on.
"""

import asyncio
import contextlib
import os
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from grpclib.const import Status
from modal_proto import api_pb2

from .objects import ANONYMOUS, CREATE_FAIL_IF_EXISTS, CREATE_IF_MISSING
from .protocol import ENVIRONMENT, refuse

BLOCK_SIZE = 8 * 1024 * 1024
FileEntry = api_pb2.FileEntry


@dataclass
class Volume:
    volume_id: str
    name: str
    version: int
    folder: Path
    partial: Path
    created: float = field(default_factory=time.time)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def metadata(self) -> api_pb2.VolumeMetadata:
        info = api_pb2.CreationInfo(created_at=self.created, created_by="tester")
        return api_pb2.VolumeMetadata(version=self.version, name=self.name, creation_info=info)

    def inside(self, path: str) -> Path:
        file = Path(os.path.normpath(self.folder / path.lstrip("/")))
        return file if file.is_relative_to(self.folder) else refuse(Status.INVALID_ARGUMENT, f"bad path {path!r}")


def fingerprints(folder: Path) -> dict[str, tuple]:
    """Tells whether a file, link or directory under `folder` changed, by its path relative to it."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(parent, name)
            try:
                info = path.lstat()
            except FileNotFoundError:  # a file that was there only for a moment
                continue
            is_folder = path.is_dir() and not path.is_symlink()
            mark = ("folder",) if is_folder else (info.st_ino, info.st_size, info.st_mtime_ns)
            found[str(path.relative_to(folder))] = mark
    return found


def _remove(folder: Path, paths: set[str]) -> None:
    """Remove `paths` under `folder`; a directory that others have put something into stays."""
    for path in sorted(paths, reverse=True):
        target = folder / path
        with contextlib.suppress(OSError):
            target.rmdir() if target.is_dir() and not target.is_symlink() else target.unlink()


def _place(source: Path, target: Path, partial: Path) -> None:
    """Make `target` a copy of `source`, whole or not at all; `partial` is a folder for what is not whole yet."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    temporary = partial / str(uuid.uuid4())
    shutil.copy2(source, temporary, follow_symlinks=False)
    os.replace(temporary, target)


class View:
    """A container's copy of a volume, in `folder`."""

    def __init__(self, volume: Volume, folder: Path, read_only: bool):
        self.volume, self.folder, self.read_only = volume, folder, read_only
        shutil.copytree(volume.folder, folder, symlinks=True)
        self._here = fingerprints(folder)
        self._there = fingerprints(volume.folder)

    def commit(self) -> None:
        here = fingerprints(self.folder)
        for path in sorted(here):
            if here[path] != self._here.get(path):
                try:
                    _place(self.folder / path, self.volume.folder / path, self.volume.partial)
                except FileNotFoundError:  # deleted since
                    here.pop(path)
        _remove(self.volume.folder, self._here.keys() - here.keys())
        self._here = here

    def reload(self) -> None:
        self.commit()
        there = fingerprints(self.volume.folder)
        for path in sorted(there):
            if there[path] != self._there.get(path):
                _place(self.volume.folder / path, self.folder / path, self.volume.partial)
        _remove(self.folder, fingerprints(self.folder).keys() - there.keys())
        self._here, self._there = fingerprints(self.folder), there


class Volumes:
    """Calls about volumes."""

    def __init__(self, root: Path):
        self.volume_root = root / "volumes"
        self.volumes: dict[str, Volume] = {}

    def volume_named(self, name: str) -> Volume | None:
        return next((v for v in self.volumes.values() if v.name == name), None)

    def create_volume(self, name: str, version: int = api_pb2.VOLUME_FS_VERSION_V1) -> Volume:
        volume = Volume(self.new_id("vo"), name, version, self.volume_root / (name or "anonymous"), self.stored)
        volume.folder.mkdir(parents=True)
        self.volumes[volume.volume_id] = volume
        return volume

    async def VolumeGetOrCreate(self, request, container):
        self.check_environment(request.environment_name)
        name, kind = request.deployment_name, request.object_creation_type
        volume = None if kind in ANONYMOUS else self.volume_named(name)
        if volume and kind == CREATE_FAIL_IF_EXISTS:
            refuse(Status.ALREADY_EXISTS, f"Volume '{name}' already exists in environment '{ENVIRONMENT}'")
        if volume is None:
            if kind not in (CREATE_IF_MISSING, CREATE_FAIL_IF_EXISTS, *ANONYMOUS):
                refuse(Status.NOT_FOUND, f"Volume '{name}' not found in environment '{ENVIRONMENT}'")
            volume = self.create_volume(name, request.version or api_pb2.VOLUME_FS_VERSION_V1)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.volume_id, version=volume.version, metadata=volume.metadata()
        )

    async def VolumeGetById(self, request, container):
        volume = self.the(self.volumes, request.volume_id, "Volume")
        return api_pb2.VolumeGetByIdResponse(volume_id=volume.volume_id, metadata=volume.metadata())

    async def VolumeHeartbeat(self, request, container):
        return None

    # From a container

    def _view(self, request, container) -> View:
        view = container and container.views.get(request.volume_id)
        return view or refuse(Status.NOT_FOUND, f"volume {request.volume_id} is not mounted here")

    async def VolumeCommit(self, request, container):
        view = self._view(request, container)
        if not view.read_only:
            async with view.volume.lock:
                await asyncio.to_thread(view.commit)
        # The client then asks for a reload, which open files forbid: the strictest of what Modal's backends do.
        return api_pb2.VolumeCommitResponse(skip_reload=False)

    async def VolumeReload(self, request, container):
        view = self._view(request, container)
        async with view.volume.lock:
            if container.open_files(view.folder):
                refuse(Status.FAILED_PRECONDITION, "there are open files preventing the operation")
            await asyncio.to_thread(view.reload)

    # From outside

    async def VolumeListFiles2(self, request, container):
        volume = self.the(self.volumes, request.volume_id, "Volume")
        top = volume.inside(request.path)
        if not top.exists():
            refuse(Status.NOT_FOUND, f"No such file or directory: {request.path}")
        reply = api_pb2.VolumeListFiles2Response()
        async with volume.lock:  # a commit replaces files
            for file in [top] if top.is_file() else sorted(top.rglob("*") if request.recursive else top.iterdir()):
                info = file.lstat()
                kind = (
                    FileEntry.SYMLINK if file.is_symlink() else FileEntry.DIRECTORY if file.is_dir() else FileEntry.FILE
                )
                path = str(file.relative_to(volume.folder))
                reply.entries.add(path=path, type=kind, mtime=int(info.st_mtime), size=info.st_size)
        yield reply

    async def VolumeListFiles(self, request, container):
        async for reply in self.VolumeListFiles2(request, container):
            yield api_pb2.VolumeListFilesResponse(entries=reply.entries)

    async def VolumeGetFile2(self, request, container):
        volume, key = self.the(self.volumes, request.volume_id, "Volume"), self.new_id("dl")
        async with volume.lock:  # a commit replaces files
            file = volume.inside(request.path)
            if not file.is_file():
                refuse(Status.NOT_FOUND, f"No such file: {request.path}")
            os.link(file, self.stored / key)
        size = (self.stored / key).stat().st_size
        end = min(size, request.start + request.len) if request.len else size
        urls, position = [], request.start
        while position < end:
            block_end = min(end, (position // BLOCK_SIZE + 1) * BLOCK_SIZE)
            urls.append(f"{self.http_url}/blob/{key}?start={position}&length={block_end - position}")
            position = block_end
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=size, start=request.start, len=end - request.start)

    def _check_upload(self, volume: Volume, paths: list[str], may_overwrite: bool) -> None:
        for path in paths:
            target = volume.inside(path)
            if target.is_dir() or (target.exists() and not may_overwrite):
                refuse(Status.ALREADY_EXISTS, f"{path}: already exists")

    async def VolumePutFiles(self, request, container):
        volume = self.the(self.volumes, request.volume_id, "Volume")
        names = [file.filename for file in request.files]
        self._check_upload(volume, names, not request.disallow_overwrite_existing_files)
        async with volume.lock:
            for file in request.files:
                _place(self.stored / file.sha256_hex, volume.inside(file.filename), volume.partial)

    async def VolumeRemoveFile2(self, request, container):
        volume = self.the(self.volumes, request.volume_id, "Volume")
        file = volume.inside(request.path)
        if not file.exists():
            refuse(Status.NOT_FOUND, f"No such file or directory: {request.path}")
        if file.is_dir() and not request.recursive:
            refuse(Status.INVALID_ARGUMENT, f"{request.path} is a directory: remove it recursively")
        async with volume.lock:
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    async def VolumeRemoveFile(self, request, container):
        await self.VolumeRemoveFile2(request, container)
