"""A command's settings as flags: made from their declarations and shown in their groups."""

import inspect
from collections.abc import Callable, Container
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

RunsDir = Annotated[Path, typer.Option(help="Folder of run directories.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="File of settings (YAML or JSON); flags override it.")
]
TRUTHS = {*"true false auto none yes no on off t f y n 1 0".split()}  # what may follow such a flag
# As in the launch panel, but for the judge's many.
GROUPS = sorted(get_args(Group), key="Judge".__eq__)


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


def with_flags(command: Callable, model: type[Settings], leave_out: Container[str] = ()) -> Callable:
    """Puts a flag for each of the model's settings in the place of the command's `**flags`; former names are hidden.

    Their texts go to pydantic as they are, which knows the types and the ranges.
    """
    parameters = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    former = {present: before for before, present in model.renamed.items()}
    for name, field in fields_of(model).items():
        if name in leave_out:
            continue
        default = defaults_of(model, name)
        help = f"{field.description} [default: {default}]" if default != "none" else field.description
        shown: dict[str, Any] = {"help": help, "metavar": _metavar(field.annotation), "show_default": False}
        shown["rich_help_panel"] = about(field)["group"]
        for each in filter(None, (name, former.get(name))):
            option = typer.Option(_flag(each), hidden=each != name, **shown)
            kind = Annotated[str | None, option]
            parameters.append(inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None))
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


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
