"""`grpo-kit`: the kit from a shell. Every setting of TrainConfig and EvalConfig is a flag, made from the setting."""

import inspect
import signal
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from grpo_kit.config.base import Settings, names_where
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.tables import defaults_of, fields_of
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, KitError

app = typer.Typer(
    help="Fine-tune small language models by GRPO on dialogue traces.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RunsDir = Annotated[Path, typer.Option(help="Folder of run directories.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the executed notebooks, figures, data and run.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the training run.")] = 42,
    max_steps: Annotated[int | None, typer.Option(help="Train for fewer steps than the demo's own.")] = None,
) -> None:
    """Run the four notebooks on the embedded default: no account, no GPU, no network."""
    from grpo_kit.sweeps.notebooks import run_demo

    run_demo(out, seed=seed, max_steps=max_steps)


def prepare(
    traces: Annotated[Path, typer.Argument(help="SGD folder, or JSONL of chat messages or of samples.")],
    out: Annotated[Path, typer.Option(help="Where train.jsonl, eval.jsonl and data_card.json go.")] = Path(
        "data/processed"
    ),
    eval_fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of dialogues to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed holds out other dialogues.")] = 0,
    format: Annotated[str, typer.Option(help="auto, sgd, chat or samples.")] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad dialogues out and count them.")] = False,
    rubric: Annotated[
        str, typer.Option(help="Who says what a good reply must do: schema (the traces' own acts) or gemini.")
    ] = "schema",
    **flags: str | None,
) -> None:
    """Turn dialogue traces into training samples."""
    config = JudgeConfig.from_text(flags)
    from grpo_kit.judges.prepare import prepare

    options: dict[str, Any] = {"format": format, "rubric": rubric, "judge_config": config, "skip_bad": skip_bad}
    card = prepare(traces, out, eval_fraction=eval_fraction, seed=seed, **options)
    print(f"{out}: {card['samples']['train']} samples to train on, {card['samples']['eval']} held out")
    if rubric == "gemini":
        from grpo_kit.judges.rubric_writer import in_words

        print(in_words(card["rubrics"]))


@app.command("runs")
def list_runs(runs_dir: RunsDir = Path("runs")) -> None:
    """List all runs."""
    from grpo_kit.backends.run import runs

    table = runs(runs_dir)
    print(table.to_string(index=False) if len(table) else f"no runs under {runs_dir}")


def train(
    runs_dir: RunsDir = Path("runs"),
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it will do, need and cost; exit code 1 where it can't work."),
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Make one real step, quote the whole run from it, and train no further.")
    ] = False,
    **flags: str | None,
) -> None:
    """Train a model by GRPO on this machine. The same --run-id again resumes the run.

    A run that is complete is left alone. GRPO_KIT_BACKEND=modal has Modal train it.
    """
    config = TrainConfig.from_text(flags)
    from grpo_kit.backends.api import train
    from grpo_kit.config.backend import asked_backend

    backend = asked_backend() or "local"
    if dry_run or smoke:
        from grpo_kit.backends.quote import quote as make_quote
        from grpo_kit.backends.smoke import smoke as make_smoke

        options = {"runs_dir": runs_dir, "backend": backend}
        quote = make_smoke(config, **options) if smoke and not dry_run else make_quote(config, **options)
        print(quote)
        if quote.problems:
            raise typer.Exit(1)
    elif backend == "modal":
        train.remote(config, runs_dir=runs_dir)
    else:
        train.local(config, runs_dir=runs_dir)


def evaluate(
    run: Annotated[str | None, typer.Argument(help="A run's name or folder: its base model and checkpoints.")] = None,
    model_path: Annotated[Path | None, typer.Option(help="A model or adapter folder, in place of a run.")] = None,
    base_model: Annotated[str | None, typer.Option(help="What to compare a full model with.")] = None,
    runs_dir: RunsDir = Path("runs"),
    **flags: str | None,
) -> None:
    """Compare checkpoints with the base model on held-out prompts. A run on Modal is evaluated there."""
    target = run or model_path
    if target is None or (run and model_path):
        raise ConfigError("give either a run (grpo-kit eval RUN) or a folder (grpo-kit eval --model-path DIR)")
    config = EvalConfig.from_text(flags)
    from grpo_kit.backends.api import evaluate

    where = evaluate.remote if run else evaluate.local
    evaluation = where(target, config, base_model=base_model, runs_dir=runs_dir)
    print(evaluation.summary().round(3).to_string(index=False))
    print(evaluation.path)
    print(evaluation.line())


@app.command()
def sweep(
    notebook: Annotated[str, typer.Argument(help="A notebook, or the name of one of the kit's: 03_launch_training.")],
    grid: Annotated[
        str,
        typer.Argument(help="A YAML file of settings and lists, or the YAML itself: '{learning_rate: [1e-5, 5e-5]}'."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for a folder per run, and results.csv.")],
    jobs: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, help="Runs at a time. [default: 2 here, up to 8 on Modal]")
    ] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="US dollars that all runs together may cost.")] = None,
    halving: Annotated[
        int | None,
        typer.Option(min=1, help="Stop runs whose reward is behind at this step, at twice as many, and so on."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will take and cost, and run nothing.")
    ] = False,
) -> None:
    """Run a notebook with every setting of a grid. The same command again does what is missing.

    What 03 trains is evaluated by 04. Exit code 1 where a run failed.
    """
    from grpo_kit.sweeps import Sweep

    found = Sweep(notebook, grid, out)
    print(found.quote(jobs, budget, halving), flush=True)
    if dry_run:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    found.run(jobs, budget, halving)
    print(found.summary())
    if any(run.record["state"] == "failed" for run in found.runs):
        raise typer.Exit(1)


def doctor(**flags: str | None) -> None:
    """Look for what could keep a run with these settings from its end, here and on Modal. Changes nothing."""
    from grpo_kit.backends.doctor import doctor

    if not doctor(TrainConfig.from_text(flags)):
        raise typer.Exit(1)


def _option(model: type[Settings], name: str, field: FieldInfo) -> inspect.Parameter:
    """A field as a flag. Its text goes to pydantic as it is, which knows the type and the range."""
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{field.description} [default: {defaults_of(model, name)}]",
        metavar=_metavar(field.annotation),
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def _metavar(annotation) -> str:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is dict:
        return "NAME[=WEIGHT],..."
    if get_origin(annotation) is list:
        (kind,) = get_args(annotation)
        return f"[{'|'.join(get_args(kind))}],..." if get_origin(kind) is Literal else "PATH,..."
    if annotation is bool:
        return "[true|false]"
    if get_origin(annotation) is Literal:
        return f"[{'|'.join(get_args(annotation))}]"
    if args := [arg for arg in get_args(annotation) if arg is not type(None)]:
        return "|".join(_metavar(arg) for arg in args)
    return annotation.__name__.upper()


def _with_flags(command, model: type[Settings], leave_out: Container[str] = ()):
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    flags = [_option(model, name, field) for name, field in fields_of(model).items() if name not in leave_out]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + flags
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


app.command("prepare")(_with_flags(prepare, JudgeConfig, leave_out=names_where(JudgeConfig, "judging")))
app.command("doctor")(_with_flags(doctor, TrainConfig))
app.command("train")(_with_flags(train, TrainConfig))
app.command("eval")(_with_flags(evaluate, EvalConfig))


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """An error that the user can mend is one message on stderr and exit code 2; any other is a traceback."""
    try:
        yield
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not error.filename:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    with errors_on_one_line():
        app()


if __name__ == "__main__":
    main()
