"""`grpo-kit`: the kit from a shell. Every setting of TrainConfig and EvalConfig is a flag, made from the setting."""

import inspect
import re
import signal
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from grpo_kit.config.base import Settings, names_where
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.tables import defaults_of, fields_of
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA
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


TRUTHS = {*"true false auto none yes no on off t f y n 1 0".split()}  # what may follow such a flag


def bare_flags(model: type[Settings]) -> type[TyperCommand]:
    """A command that takes the model's settings that are true or false without a value for true: `--use-vllm`."""
    switches = {f"--{name.replace('_', '-')}" for name, field in fields_of(model).items() if _is_bool(field.annotation)}

    class BareFlags(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            pairs = pairwise([*args, "-"])
            bare = [[arg, "true"] if arg in switches and after.lower() not in TRUTHS else [arg] for arg, after in pairs]
            return super().parse_args(ctx, [arg for part in bare for arg in part])

    return BareFlags


def _is_bool(kind: Any) -> bool:
    return kind is bool or any(map(_is_bool, get_args(kind)))


def with_flags(command: Callable, model: type[Settings], leave_out: Container[str] = ()) -> Callable:
    """Puts a flag for each of the model's settings in the place of the command's `**flags`.

    Their texts go to pydantic as they are, which knows the types and the ranges.
    """
    parameters = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    former = {present: [before] for before, present in model.renamed.items()}
    for name, field in fields_of(model).items():
        if name not in leave_out:
            help = f"{field.description} [default: {defaults_of(model, name)}]"
            called = [f"--{each.replace('_', '-')}" for each in (name, *former.get(name, ()))]
            option = typer.Option(*called, help=help, metavar=_metavar(field.annotation), show_default=False)
            kind = Annotated[str | None, option]
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None))
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


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
        return "|".join(map(_metavar, args))
    return "[true|false]" if kind is bool else kind.__name__.upper()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for notebooks, figures, data and run.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the training run.")] = 42,
    max_steps: Annotated[int | None, typer.Option(help="Train for fewer steps than the demo's own.")] = None,
) -> None:
    """Run the four notebooks on the embedded default: no account, no GPU, no network."""
    from grpo_kit.sweeps.notebooks import run_demo

    run_demo(out, seed=seed, max_steps=max_steps)


def prepare(
    traces: Annotated[Path, typer.Argument(help="A file, a folder or hf://owner/name: see docs/data.md.")],
    out: Annotated[Path, typer.Option(help="Folder for train.jsonl, eval.jsonl and their card.")] = Path(DEFAULT_DATA),
    eval_fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of dialogues to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed holds out other dialogues.")] = 0,
    format: Annotated[str, typer.Option(help="auto, sgd, chat, gemini, sharegpt or samples.")] = "auto",
    learn: Annotated[str, typer.Option(help="answers, or calls: the assistant's tool calls too.")] = "answers",
    ground: Annotated[str, typer.Option(help="SGD's prompts: with results, acts too, or history alone.")] = "results",
    max_results: Annotated[int, typer.Option(min=1, help="How many of a call's results a prompt holds.")] = 3,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what would be repaired.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad dialogues out and count them.")] = False,
    rubric: Annotated[str, typer.Option(help="Who writes rubrics: schema, gemini, openai or anthropic.")] = "schema",
    **flags: str | None,
) -> None:
    """Turn dialogue traces into training samples."""
    config = JudgeConfig.from_text(flags)
    from grpo_kit.data.answerable import answerable_in_words
    from grpo_kit.judges.prepare import prepare

    options: dict[str, Any] = {"format": format, "rubric": rubric, "judge_config": config, "skip_bad": skip_bad}
    options |= {"strict": strict, "learn": learn, "ground": ground, "max_results": max_results}
    card = prepare(traces, out, eval_fraction=eval_fraction, seed=seed, **options)
    print(f"{out}: {card['samples']['train']} samples to train on, {card['samples']['eval']} held out")
    if card["answerable"]["turns"]:
        print(answerable_in_words(card))
    if card["repairs"]:
        print("repaired: " + ", ".join(f"{name} {count}" for name, count in card["repairs"].items()))
    for reason, count in card["skipped"]["reasons"].items():
        print(f"skipped {count}: {reason}")
    if rubric != "schema":
        from grpo_kit.judges.rubric_writer import in_words

        print(in_words(card["rubrics"]))
    from grpo_kit.preflight.verdict import will_it_learn

    # By who judges unless another is asked for; whoever has rubrics written wants them read.
    reads = {} if rubric == "schema" else {**config.given, "judge": rubric}
    print(will_it_learn(TrainConfig(data=str(out), **reads), data_only=True))


@app.command("runs")
def list_runs(runs_dir: RunsDir = Path("runs")) -> None:
    """List all runs."""
    from grpo_kit.backends.run import runs

    table = runs(runs_dir)
    shown = table.to_string(index=False) if len(table) else f"no runs under {runs_dir}"
    print(re.sub(r"[^\n -~\xa0-\U0010ffff]", "?", shown))  # a folder's name may hold what a terminal acts on


def train(
    runs_dir: RunsDir = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only quote it; exit code 1 where it can't work.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Make one real step, and quote it all from that.")] = False,
    **flags: str | None,
) -> None:
    """Train a model by GRPO on this machine. The same --run-id again resumes the run.

    A run that is complete is left alone, unless a larger --max-steps continues it. GRPO_KIT_BACKEND=modal has Modal
    train it.
    """
    config = TrainConfig.from_text(flags)
    from grpo_kit.backends import api, quote
    from grpo_kit.config.backend import asked_backend

    backend = asked_backend() or "local"
    if dry_run or smoke:
        quoted = (quote.quote if dry_run else quote.smoke)(config, runs_dir=runs_dir, backend=backend)
        print(quoted)
        if quoted.problems:
            raise typer.Exit(1)
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
        (api.train.remote if backend == "modal" else api.train.local)(config, runs_dir=runs_dir)


def evaluate(
    run: Annotated[str | None, typer.Argument(help="A run's name or folder: its base model and checkpoints.")] = None,
    model_path: Annotated[Path | None, typer.Option(help="A model or adapter folder, in place of a run.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="What to compare with, for a full model or in place of a run's own start.")
    ] = None,
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
    if len(by_act := evaluation.by_act()):
        print(f"\nBy class of act, {evaluation.trained['name']}:\n{by_act.round(3).to_string()}\n")
    print(evaluation.path)
    print(evaluation.line())


@app.command()
def sweep(
    notebook: Annotated[str, typer.Argument(help="A notebook, or the name of one of the kit's: 03_launch_training.")],
    grid: Annotated[str, typer.Argument(help="Settings in YAML: a file, or '{learning_rate: [1e-5, 5e-5]}'.")],
    out: Annotated[Path, typer.Option(help="Folder for a folder per run, and results.csv.")],
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Runs at a time: 2 here, 8 on Modal.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="US dollars that all runs together may cost.")] = None,
    halving: Annotated[int | None, typer.Option(min=1, help="Stop runs behind at this step, twice as many, …")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it will take and cost.")] = False,
) -> None:
    """Run a notebook with every setting of a grid. The same command again does what is missing.

    04 evaluates the runs that 03 trains. Exit code 1 where a run failed.
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


def doctor(
    probe: Annotated[bool, typer.Option("--probe", help="Have the model answer 8 prompts here, judged.")] = False,
    test_message: Annotated[bool, typer.Option("--test-message", help="Send one to the webhook of --notify.")] = False,
    **flags: str | None,
) -> None:
    """Look for what could keep a run with these settings from its end, here and on Modal, and whether it will learn."""
    from grpo_kit.backends.quote import doctor

    if not doctor(TrainConfig.from_text(flags), with_probe=probe, with_message=test_message):
        raise typer.Exit(1)


_JUDGING = names_where(JudgeConfig, "judging")
app.command("prepare", cls=bare_flags(JudgeConfig))(with_flags(prepare, JudgeConfig, leave_out=_JUDGING))
app.command("doctor", cls=bare_flags(TrainConfig))(with_flags(doctor, TrainConfig))
app.command("train", cls=bare_flags(TrainConfig))(with_flags(train, TrainConfig))
app.command("eval", cls=bare_flags(EvalConfig))(with_flags(evaluate, EvalConfig))


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """An error that the user can mend is one message on stderr and exit code 2; any other is a traceback."""
    try:
        yield
    except (KitError, OSError) as error:
        if isinstance(error, OSError) and not error.filename:
            raise
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    with errors_on_one_line():
        app()


if __name__ == "__main__":
    main()
