"""The parts that functions are made of and share: blobs and blocks over HTTP, mounts, images, secrets, dicts."""

import hashlib
import shlex
import shutil
import string
from pathlib import Path

from aiohttp import web
from grpclib.const import Status
from modal_proto import api_pb2

from .protocol import ENVIRONMENT, refuse

CREATE_IF_MISSING = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
CREATE_FAIL_IF_EXISTS = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
CREATE_OVERWRITE = api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS
ANONYMOUS = (api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP, api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL)


class Objects:
    """Calls about blobs, mounts, images, secrets and dicts."""

    def __init__(self, root: Path, secrets: dict[str, dict[str, str]]):
        self.stored = root / "stored"  # every uploaded file, under its id or its hash
        self.stored.mkdir(parents=True)
        self.http_url = ""
        self.secrets = secrets
        self.secret_ids: dict[str, str] = {}  # id -> name
        self.anonymous_secrets: dict[str, dict[str, str]] = {}  # id -> values
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        self.images: dict[str, api_pb2.Image] = {}
        self.dicts: dict[str, dict[bytes, bytes]] = {}
        self.dict_ids: dict[str, str] = {}  # name -> id

    # HTTP: what Modal does with S3

    def web_app(self) -> web.Application:
        app = web.Application(client_max_size=2**32)
        app.add_routes([web.put("/blob/{key}", self._put_blob), web.get("/blob/{key}", self._get_blob)])
        app.add_routes([web.put("/block", self._put_block)])
        app.add_routes([web.route("*", "/web/{function}/{path:.*}", self.answer_web)])
        return app

    async def _put_blob(self, request: web.Request) -> web.Response:
        body = await request.read()
        (self.stored / request.match_info["key"]).write_bytes(body)
        return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    async def _get_blob(self, request: web.Request) -> web.Response:
        with (self.stored / request.match_info["key"]).open("rb") as file:
            file.seek(int(request.query.get("start", 0)))
            return web.Response(body=file.read(int(request.query.get("length", -1))))

    async def _put_block(self, request: web.Request) -> web.Response:
        body = await request.read()
        digest = hashlib.sha256(body).hexdigest()
        (self.stored / digest).write_bytes(body)
        return web.Response(text=digest)

    async def BlobCreate(self, request, container):
        blob_id = self.new_id("bl")
        urls = api_pb2.UploadUrlList(items=[f"{self.http_url}/blob/{blob_id}"])
        return api_pb2.BlobCreateResponse(blob_id=blob_id, blob_ids=[blob_id], upload_urls=urls)

    async def BlobGet(self, request, container):
        return api_pb2.BlobGetResponse(download_url=f"{self.http_url}/blob/{request.blob_id}")

    # Mounts and images

    async def MountBatchedCheckExistence(self, request, container):
        missing = [digest for digest in request.sha256_hex_hashes if not (self.stored / digest).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request, container):
        file = self.stored / request.sha256_hex
        if request.WhichOneof("data_oneof") == "data_blob_id":
            shutil.copyfile(self.stored / request.data_blob_id, file)
        elif request.WhichOneof("data_oneof") == "data":
            file.write_bytes(request.data)
        return api_pb2.MountPutFileResponse(exists=file.exists())

    async def MountGetOrCreate(self, request, container):
        # A named mount can only be Modal's own client, which containers here have among their packages.
        mount_id = self.new_id("mo")
        self.mounts[mount_id] = list(request.files)
        checksum = hashlib.sha256(b"".join(f.SerializeToString() for f in request.files)).hexdigest()
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    async def ImageGetOrCreate(self, request, container):
        image_id = next((key for key, image in self.images.items() if image == request.image), None)
        image_id = image_id or self.new_id("im")
        self.images[image_id] = request.image
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id,
            result=api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS),
            metadata=api_pb2.ImageMetadata(image_builder_version=request.builder_version),
        )

    def image_layers(self, image_id: str) -> list[api_pb2.Image]:
        """The image and those it builds on, the lowest first."""
        image = self.images[image_id]
        below = [layer for base in image.base_images if base.image_id for layer in self.image_layers(base.image_id)]
        return [*below, image]

    def image_settings(self, image_id: str, path: str) -> tuple[dict[str, str], str, list[str]]:
        """Environment, working directory and copied-in mounts of an image, as its Dockerfile lines say."""
        env, workdir, mounts = {"PATH": path}, "/root", []
        for layer in self.image_layers(image_id):
            for line in layer.dockerfile_commands:
                instruction, _, rest = line.strip().partition(" ")
                if instruction == "ENV" and "=" in rest:
                    for setting in shlex.split(rest):
                        key, _, value = setting.partition("=")
                        env[key] = string.Template(value).safe_substitute(env)
                elif instruction == "WORKDIR":
                    workdir = shlex.split(rest)[0]
                elif instruction == "COPY" and rest.startswith(". ") and layer.context_mount_id:
                    mounts.append((layer.context_mount_id, rest[2:].strip()))
        return env, workdir, mounts

    # Secrets

    async def SecretGetOrCreate(self, request, container):
        self.check_environment(request.environment_name)
        name, kind = request.deployment_name, request.object_creation_type
        if kind in ANONYMOUS:
            secret_id = self.new_id("st")
            self.anonymous_secrets[secret_id] = dict(request.env_dict)
            return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id)
        if kind == CREATE_FAIL_IF_EXISTS and name in self.secrets:
            refuse(Status.ALREADY_EXISTS, f"Secret '{name}' already exists in environment '{ENVIRONMENT}'")
        if kind in (CREATE_FAIL_IF_EXISTS, CREATE_OVERWRITE):
            self.secrets[name] = dict(request.env_dict)
        if name not in self.secrets:
            refuse(Status.NOT_FOUND, f"Secret '{name}' not found in environment '{ENVIRONMENT}'")
        missing = [key for key in request.required_keys if key not in self.secrets[name]]
        if missing:
            refuse(Status.NOT_FOUND, f"Secret '{name}' is missing key(s): {', '.join(missing)}")
        metadata = api_pb2.SecretMetadata(name=name)
        return api_pb2.SecretGetOrCreateResponse(secret_id=self._secret_id(name), metadata=metadata)

    def _secret_id(self, name: str) -> str:
        known = next((key for key, value in self.secret_ids.items() if value == name), None)
        if known is None:
            known = self.new_id("st")
            self.secret_ids[known] = name
        return known

    async def SecretList(self, request, container):
        items = [
            api_pb2.SecretListItem(
                label=name, secret_id=self._secret_id(name), metadata=api_pb2.SecretMetadata(name=name)
            )
            for name in self.secrets
        ]
        return api_pb2.SecretListResponse(items=items, environment_name=ENVIRONMENT)

    def secret_values(self, secret_id: str) -> dict[str, str]:
        if secret_id in self.anonymous_secrets:
            return self.anonymous_secrets[secret_id]
        return self.secrets.get(self.secret_ids[secret_id], {})

    # Dicts

    async def DictGetOrCreate(self, request, container):
        self.check_environment(request.environment_name)
        name, kind = request.deployment_name, request.object_creation_type
        if kind == CREATE_FAIL_IF_EXISTS and name in self.dict_ids:
            refuse(Status.ALREADY_EXISTS, f"Dict '{name}' already exists in environment '{ENVIRONMENT}'")
        if name not in self.dict_ids or kind in ANONYMOUS:
            if kind not in (CREATE_IF_MISSING, CREATE_FAIL_IF_EXISTS, *ANONYMOUS):
                refuse(Status.NOT_FOUND, f"Dict '{name}' not found in environment '{ENVIRONMENT}'")
            dict_id = self.dict_ids[name] = self.new_id("di")
            self.dicts[dict_id] = {}
        dict_id = self.dict_ids[name]
        return api_pb2.DictGetOrCreateResponse(dict_id=dict_id, metadata=api_pb2.DictMetadata(name=name))

    async def DictUpdate(self, request, container):
        content = self.the(self.dicts, request.dict_id, "Dict")
        if request.if_not_exists and request.updates[0].key in content:
            return api_pb2.DictUpdateResponse(created=False)
        content.update({entry.key: entry.value for entry in request.updates})
        return api_pb2.DictUpdateResponse(created=True)

    async def DictGet(self, request, container):
        content = self.the(self.dicts, request.dict_id, "Dict")
        return api_pb2.DictGetResponse(found=request.key in content, value=content.get(request.key))

    async def DictContains(self, request, container):
        return api_pb2.DictContainsResponse(found=request.key in self.the(self.dicts, request.dict_id, "Dict"))

    async def DictPop(self, request, container):
        content = self.the(self.dicts, request.dict_id, "Dict")
        return api_pb2.DictPopResponse(found=request.key in content, value=content.pop(request.key, None))

    async def DictContents(self, request, container):
        for key, value in list(self.the(self.dicts, request.dict_id, "Dict").items()):
            yield api_pb2.DictEntry(key=key if request.keys else b"", value=value if request.values else b"")
