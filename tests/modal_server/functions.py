"""Functions: what was deployed, and the variants that with_options makes of it."""

from dataclasses import dataclass

from google.protobuf import json_format
from grpclib.const import Status
from modal_proto import api_pb2

from .apps import App
from .protocol import ENVIRONMENT, refuse

GPUS = "T4 L4 A10 A10G L40S A100 A100-40GB A100-80GB RTX-PRO-6000 H100 H100! H200 B200 B200+ B300 ANY".split()


@dataclass
class Function:
    function_id: str
    app: App
    data: api_pb2.FunctionData
    definition_id: str
    base: "Function | None" = None  # of a with_options variant
    options: api_pb2.FunctionOptions | None = None

    def current(self) -> "Function":
        """The function whose code runs: a variant's is its base, as last deployed."""
        return self.base or self

    def definition(self) -> api_pb2.Function:
        """The definition by which a container is started."""
        merged = api_pb2.Function()
        merged.CopyFrom(self.current().data.ranked_functions[0].function)
        options = self.options or api_pb2.FunctionOptions()
        if options.replace_secret_ids:
            merged.secret_ids[:] = options.secret_ids
        if options.replace_volume_mounts:
            del merged.volume_mounts[:]
            merged.volume_mounts.extend(options.volume_mounts)
        if options.HasField("resources"):
            merged.resources.MergeFrom(options.resources)
        if options.HasField("retry_policy"):
            merged.retry_policy.CopyFrom(options.retry_policy)
        for name in ("timeout_secs", "concurrency_limit", "task_idle_timeout_secs"):
            if options.HasField(name):
                setattr(merged, name, getattr(options, name))
        return merged

    def handle(self) -> api_pb2.FunctionHandleMetadata:
        data = self.current().data
        return api_pb2.FunctionHandleMetadata(
            function_name=data.function_name,
            function_type=data.function_type,
            function_schema=data.function_schema,
            supported_input_formats=data.supported_input_formats,
            supported_output_formats=data.supported_output_formats,
            definition_id=self.current().definition_id,
            app_id=self.app.app_id,
        )


def check(definition: api_pb2.Function | api_pb2.FunctionOptions) -> None:
    """Refuses what Modal refuses about a function, as far as this project could ask for it."""
    gpu = definition.resources.gpu_config
    if gpu.count and gpu.gpu_type not in GPUS:
        refuse(Status.INVALID_ARGUMENT, f"GPU type '{gpu.gpu_type}' is not valid; choose one of {', '.join(GPUS)}")
    if definition.timeout_secs > 24 * 3600:
        refuse(Status.INVALID_ARGUMENT, f"timeout of {definition.timeout_secs}s is above the maximum of 86400s")
    for mount in definition.volume_mounts:
        if mount.sub_path:
            refuse(Status.UNIMPLEMENTED, "the test server does not mount a volume's sub_path")


class Functions:
    """Calls about functions."""

    def __init__(self):
        self.functions: dict[str, Function] = {}

    async def FunctionPrecreate(self, request, container):
        app = self.the(self.apps, request.app_id, "App")
        function_id = request.existing_function_id or self.new_id("fu")
        handle = api_pb2.FunctionHandleMetadata(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
            app_id=app.app_id,
        )
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=handle)

    async def FunctionCreate(self, request, container):
        app = self.the(self.apps, request.app_id, "App")
        data = request.function_data
        if not data.ranked_functions:
            # FunctionData has many of Function's fields, by the same names.
            data = json_format.ParseDict(
                json_format.MessageToDict(request.function), api_pb2.FunctionData(), ignore_unknown_fields=True
            )
            data.ranked_functions.add(rank=0, function=request.function)
        for ranked in data.ranked_functions:
            check(ranked.function)
        is_other_web = data.webhook_config.type not in (0, api_pb2.WEBHOOK_TYPE_WEB_SERVER)
        if data.is_class or is_other_web or data.schedule.WhichOneof("schedule_oneof"):
            refuse(Status.UNIMPLEMENTED, "the test server runs functions and web servers: no classes, schedules")
        function_id = request.existing_function_id or self.new_id("fu")
        if function_id in self.functions:
            function = self.functions[function_id]
            function.data, function.definition_id = data, self.new_id("de")
        else:
            function = self.functions[function_id] = Function(function_id, app, data, self.new_id("de"))
        self.wake()  # idle containers of the previous definition leave
        return api_pb2.FunctionCreateResponse(
            function_id=function_id,
            function=data.ranked_functions[0].function,
            function_data=data,
            handle_metadata=self.handle(function),
        )

    async def FunctionGet(self, request, container):
        self.check_environment(request.environment_name)
        app = self.deployed(request.app_name)
        if app is None:
            refuse(Status.NOT_FOUND, f"App '{request.app_name}' not found in environment '{ENVIRONMENT}'")
        if request.object_tag not in app.function_ids:
            refuse(Status.NOT_FOUND, f"Function '{request.object_tag}' not found in app '{request.app_name}'")
        function = self.functions[app.function_ids[request.object_tag]]
        return api_pb2.FunctionGetResponse(
            function_id=function.function_id, handle_metadata=self.handle(function), function=function.data
        )

    async def FunctionBindParams(self, request, container):
        base = self.the(self.functions, request.function_id, "Function")
        if base.base:
            refuse(Status.INVALID_ARGUMENT, "options on top of options: the client should have merged them")
        options = request.function_options
        check(options)
        for known in self.functions.values():
            if known.base is base and known.options == options:
                return api_pb2.FunctionBindParamsResponse(
                    bound_function_id=known.function_id, handle_metadata=known.handle()
                )
        bound = Function(self.new_id("fu"), base.app, base.data, base.definition_id, base, options)
        self.functions[bound.function_id] = bound
        return api_pb2.FunctionBindParamsResponse(bound_function_id=bound.function_id, handle_metadata=bound.handle())

    def handle(self, function: Function) -> api_pb2.FunctionHandleMetadata:
        """What clients are told: with the URL of a web server."""
        handle = function.handle()
        handle.web_url = self.web_url(function)
        return handle

    def layout(self, app: App) -> api_pb2.AppLayout:
        """The app's functions and all they depend on, as a container or a second deployment wants to know them."""
        layout = api_pb2.AppLayout(function_ids=app.function_ids)
        dependencies = set()
        for function_id in app.function_ids.values():
            function = self.functions[function_id]
            layout.objects.add(object_id=function_id, function_handle_metadata=function.handle())
            dependencies |= {d.object_id for d in function.definition().object_dependencies}
        for object_id in sorted(dependencies - set(app.function_ids.values())):
            entry = layout.objects.add(object_id=object_id)
            if object_id in self.volumes:
                entry.volume_metadata.CopyFrom(self.volumes[object_id].metadata())
            elif object_id in self.mounts:
                entry.mount_handle_metadata.SetInParent()
        return layout
