"""A command's settings as flags: made from their declarations and shown in their groups."""

import inspect
from collections.abc import Callable, Container
from functools import partial, wraps
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from grpo_kit.config.base import Group, Settings, about
from grpo_kit.config.tables import defaults_of, fields_of
from grpo_kit.config.usual_names import USUAL_COMMANDS, by_usual_name
from grpo_kit.utils.environment import version_of
from grpo_kit.utils.files import check_folder

RunsDir = Annotated[Path, typer.Option(help="Folder of run directories.")]
TRUTHS = {*"true false auto none yes no on off t f y n 1 0".split()}  # what may follow such a flag
# As in the launch panel, but for the judge's many.
GROUPS = sorted(get_args(Group), key="Judge".__eq__)


def _writable(folder: Path | None) -> Path | None:
    if folder:
        check_folder(folder)
    return folder


# An option with the folder that a command writes into, which is looked at before anything is loaded.
to_write = partial(typer.Option, callback=_writable)


class KitCommands(TyperGroup):
    """All commands, which know what else people call them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args == ["--version"]:
            print(f"grpo_kit {version_of('grpo_kit')}")
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if command := USUAL_COMMANDS.get(args[0]):
            ctx.fail(f"No such command '{args[0]}'. Did you mean `grpo-kit {command}`?")
        return super().resolve_command(ctx, args)


class KitCommand(TyperCommand):
    """A command with settings as flags. One that is true or false needs no value for true: `--use-vllm`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        names = {each.name for each in self.params if each.name}
        for arg in args:
            flag = arg.partition("=")[0]
            name = flag.removeprefix("--").replace("-", "_")
            if flag.startswith("--") and name not in names and (hint := by_usual_name(name, names, _flag)):
                ctx.fail(f"No such option: {flag}.{hint}")
        switches = {flag for each in self.params for flag in each.opts if "[true|" in str(each.metavar)}
        pairs = pairwise([*args, "-"])
        bare = [[arg, "true"] if arg in switches and after.lower() not in TRUTHS else [arg] for arg, after in pairs]
        return super().parse_args(ctx, [arg for part in bare for arg in part])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, the command's own options, then the settings by group."""
        sections: dict[str, list] = {title: [] for title in ("Arguments", "Options", *GROUPS)}
        for each in self.get_params(ctx):
            own = "Arguments" if each.param_type_name == "argument" else "Options"
            if record := each.get_help_record(ctx):
                sections[getattr(each, "rich_help_panel", None) or own].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def with_flags(model: type[Settings], leave_out: Container[str] = ()) -> Callable[[Callable], Callable]:
    """Puts `--config FILE` and a flag for each of the model's settings in the place of the command's `settings`. Former
    names are hidden; settings to `leave_out` have no flag, and may be in the file.

    What is typed goes to pydantic as it is, which knows the types and the ranges.
    """
    return partial(_with_flags, model=model, leave_out=leave_out)


def _with_flags(command: Callable, model: type[Settings], leave_out: Container[str]) -> Callable:
    own = {name: p for name, p in inspect.signature(command).parameters.items() if name != "settings"}
    former = {present: before for before, present in model.renamed.items()}
    flags: dict[str, Any] = {}
    for name, field in fields_of(model).items():
        if name in leave_out:
            continue
        default = defaults_of(model, name)
        help = f"{field.description} [default: {default}]" if default != "none" else field.description
        shown: dict[str, Any] = {"help": help, "metavar": _metavar(field.annotation), "show_default": False}
        shown["rich_help_panel"] = about(field)["group"]
        for each in filter(None, (name, former.get(name))):
            flags[each] = Annotated[str | None, typer.Option(_flag(each), hidden=each != name, **shown)]

    def read(ctx: typer.Context, file: str | None) -> dict[str, Any]:
        """The file's settings. What it has of the command's own options are their defaults from then on."""
        found = model.found_in(file, ctx.command_path, own) if file else {}
        ctx.default_map = {name: found.pop(name) for name in own if name in found}
        return found

    @wraps(command)
    def run(config: Any = None, **given: Any) -> Any:
        if isinstance(config, str):  # of Modal's command, which does not call `read`
            config = model.found_in(config)
        typed = {name: given.pop(name) for name in flags}
        return command(settings=model.from_text(typed, config), **given)

    help = "File of settings, and of the options here (YAML or JSON); flags override it."
    file = typer.Option("--config", metavar="FILE", help=help, callback=read, is_eager=True)
    added = {"config": Annotated[str | None, file], **flags}
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own.values()]
    flag = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters += [flag(name, annotation=kind) for name, kind in added.items()]
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _metavar(kind: Any) -> str:
    """The values that a setting takes, as help shows them: "FLOAT", "[group|batch|none]"."""
    origin, args = get_origin(kind), [arg for arg in get_args(kind) if arg is not NoneType]
    if origin is Annotated:
        return _metavar(args[0])
    if origin is dict:
        return "{NAME: VALUE, ...}" if args[1] is Any else "NAME[=WEIGHT],..."
    if origin is list:
        return f"{_metavar(args[0])},..."
    if origin is Literal:
        return f"[{'|'.join(args)}]"
    if args:
        return "|".join(map(_metavar, args)).replace("]|[", "|")
    return "[true|false]" if kind is bool else kind.__name__.upper()
