"""`grpo-kit`: the kit from a shell. Every setting of TrainConfig and EvalConfig is a flag, made from the setting."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from grpo_kit.cli import commands, runs
from grpo_kit.cli.flags import KitCommand, KitCommands
from grpo_kit.errors import KitError
from grpo_kit.utils.text import printable

app = typer.Typer(
    cls=KitCommands,
    help="Fine-tune small language models by GRPO on dialogue traces.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(name: str, command: Callable, *examples: str) -> None:
    lines = "".join(f"\n  grpo-kit {name} {example}".rstrip() for example in examples)
    app.command(name, cls=KitCommand, epilog=f"\b\nExamples:{lines}")(command)  # \b: its lines stay as they are


# In the order of work, in which --help lists them.
_add("demo", commands.demo, "", "--out demo --max-steps 20")
_add("prepare", commands.prepare, "path/to/traces", "chats.jsonl --out data/chats --skip-bad")
_add("doctor", commands.doctor, "--probe", "--backend modal --model-name google/gemma-2-2b-it")
_add("train", commands.train, "--run-id first --max-steps 40", "--config settings.yaml --learning-rate 1e-3 --dry-run")
_add("watch", runs.watch, "first", "elsewhere/first")
_add("stop", runs.stop, "first", "first --runs-dir elsewhere")
_add("resume", runs.resume, "first", "first --max-steps 60")
_add("runs", runs.list_runs, "", "--runs-dir elsewhere")
_add("logs", runs.logs, "first", "first --lines 5")
_add("eval", commands.evaluate, "first --n 64", "--model-path runs/first/checkpoint-20")
_add("label", runs.label, "first", "first --choose --labeller Ann")
_add("chat", runs.chat, "first", 'first "A table for two" --temperature 0')
_add("serve", runs.serve, "first --port 8001", "first --stop")
_add("report", runs.report, "first", "first --out first_report --labels labels.csv")
_add("export", runs.export, "first --to merged", "first --to gguf --quantize q8_0")
_add("push", runs.push, "first your-name/first", "first your-name/first --merged --public --yes")
_add(
    "sweep",
    commands.sweep,
    "03_launch_training '{seed: [1, 2]}' --out sweeps/seeds",
    "03_launch_training grid.yaml --out sweeps/first --dry-run",
)
_add("download", runs.download, "first models/first", "first models/elsewhere --runs-dir elsewhere")
_add("delete", runs.delete, "first", "first --yes")


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """An error that the user can correct is one message on stderr and exit code 2; any other is a traceback."""
    try:
        yield
    except (KitError, OSError) as error:
        if isinstance(error, OSError) and not error.filename:
            raise
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"error: {printable(str(said))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    with errors_on_one_line():
        app()
