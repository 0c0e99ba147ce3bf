"""The commands that prepare, train, evaluate and sweep, in the order of work."""

import shlex
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from grpo_kit.cli.flags import RunsDir, to_write, with_flags
from grpo_kit.config.backend import asked_backend, backend as choose_backend
from grpo_kit.config.base import names_where
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.errors import ConfigError, RunStopped
from grpo_kit.runs.directory import RUNS_DIR

Backend = Annotated[str | None, typer.Option(metavar="[local|modal]", help="Where to run; default: GRPO_KIT_BACKEND.")]


def demo(
    out: Annotated[Path, to_write(help="Folder for notebooks, figures, data and the run.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the training run.")] = 42,
    max_steps: Annotated[int | None, typer.Option(help="Train for fewer steps than the demo's own.")] = None,
) -> None:
    """Run the four notebooks here: no account, GPU or network.

    A tiny model and its dialogues come with the kit.
    """
    from grpo_kit.sweeps.notebooks import run_demo

    run_demo(out, seed=seed, max_steps=max_steps)


@with_flags(JudgeConfig, leave_out=names_where(JudgeConfig, "judging"))
def prepare(
    settings: JudgeConfig,
    traces: Annotated[
        Path, typer.Argument(metavar="TRACES", help="A file, a folder or hf://owner/name: see docs/data.md.")
    ],
    out: Annotated[Path, to_write(help="Folder for train.jsonl, eval.jsonl and a card.")] = Path(DEFAULT_DATA),
    eval_fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of dialogues to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Chooses which dialogues are held out.")] = 0,
    format: Annotated[str, typer.Option(help="auto, sgd, chat, gemini, sharegpt or samples.")] = "auto",
    learn: Annotated[str, typer.Option(help="What to learn: answers, or calls (tool calls too).")] = "answers",
    ground: Annotated[str, typer.Option(help="What SGD's prompts hold: results, acts or history.")] = "results",
    max_results: Annotated[int, typer.Option(min=1, help="Most results of a call in a prompt.")] = 3,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse data that needs repair.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad dialogues out, and count them.")] = False,
    rubric: Annotated[str, typer.Option(help="Who writes rubrics: schema, gemini, openai or anthropic.")] = "schema",
) -> None:
    """Turn dialogue traces into training samples."""
    from grpo_kit.data.answerable import answerable_in_words
    from grpo_kit.judges.prepare import prepare

    options: dict[str, Any] = {"learn": learn, "ground": ground, "max_results": max_results, "rubric": rubric}
    options |= {"eval_fraction": eval_fraction, "seed": seed, "format": format, "strict": strict, "skip_bad": skip_bad}
    card = prepare(traces, out, **options, judge_config=settings)
    print(f"{out}: {card['samples']['train']} samples to train on, {card['samples']['eval']} held out")
    named = "" if out == Path(DEFAULT_DATA) else f" --data {shlex.quote(str(out))}"
    print(f"`grpo-kit train{named}` trains on them")
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
    reads = {} if rubric == "schema" else {**settings.given, "judge": rubric}
    print(will_it_learn(TrainConfig(data=str(out), **reads), data_only=True))


@with_flags(TrainConfig)
def doctor(
    settings: TrainConfig,
    probe: Annotated[bool, typer.Option("--probe", help="Let the model answer 8 prompts here; judge them.")] = False,
    test_message: Annotated[bool, typer.Option("--test-message", help="Send a test to --notify's webhook.")] = False,
    backend: Backend = None,
) -> None:
    """Check that a run can work, here or on Modal, and will learn."""
    if backend:
        choose_backend(backend)
    from grpo_kit.backends.before_launch import doctor

    if not doctor(settings, with_probe=probe, with_message=test_message):
        raise typer.Exit(1)


@with_flags(TrainConfig)
def train(
    settings: TrainConfig,
    backend: Backend = None,
    runs_dir: RunsDir = RUNS_DIR,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show a quote; exit code 1 if it can't work.")
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Make one real step, and quote the run from that.")] = False,
) -> None:
    """Train a model by GRPO. The same --run-id resumes the run.

    It trains on this machine, or on Modal with --backend modal or GRPO_KIT_BACKEND=modal. A complete run stays as it
    is, unless a larger --max-steps continues it. Exit code 3: the run stopped, with a checkpoint, before its last step,
    by `grpo-kit stop`, --max-usd, falling held-out scores or too many failed judgements.
    """
    where = choose_backend(backend) if backend else asked_backend() or "local"
    from grpo_kit.backends import api, before_launch

    if dry_run or smoke:
        quoted = (before_launch.quote if dry_run else before_launch.smoke)(settings, runs_dir=runs_dir, backend=where)
        print(quoted)
        if quoted.problems:
            raise typer.Exit(1)
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
        try:
            (api.train.remote if where == "modal" else api.train.local)(settings, runs_dir=runs_dir)
        except RunStopped as stopped:
            print(f"The run {stopped}" if str(stopped).startswith("stopped") else stopped)
            raise typer.Exit(3) from None


@with_flags(EvalConfig)
def evaluate(
    settings: EvalConfig,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's name or folder: its base model and checkpoints.")
    ] = None,
    model_path: Annotated[Path | None, typer.Option(help="A model or adapter folder, in place of a run.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Model to compare with, in place of the run's own.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Have what is served there answer (`grpo-kit serve`).")
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Compare checkpoints with the base model on held-out data.

    A run on Modal is evaluated there. With --endpoint, the run that is served is taken where none is named.
    """
    if endpoint and not (run or model_path):
        from grpo_kit.models.endpoint import endpoint_at

        run = endpoint_at(endpoint).run_id()
    target = run or model_path
    if target is None or (run and model_path):
        raise ConfigError("eval needs one run or one folder", "`grpo-kit eval RUN` or `grpo-kit eval --model-path DIR`")
    from grpo_kit.backends.api import evaluate

    where = evaluate.remote if run and not endpoint else evaluate.local
    how = {"endpoint": endpoint} if endpoint else {}
    evaluation = where(target, settings, base_model=base_model, runs_dir=runs_dir, **how)
    from grpo_kit.plots import scores, table

    print(scores(evaluation))
    if len(by_act := evaluation.by_act()):
        print(f"\nBy class of act, {evaluation.trained['name']}:\n{table(by_act)}\n")
    print(evaluation.path)
    print(evaluation.chosen())
    print(evaluation.line())


def sweep(
    notebook: Annotated[
        str, typer.Argument(metavar="NOTEBOOK", help="A notebook, or the name of one of the kit's: 03_launch_training.")
    ],
    grid: Annotated[
        str, typer.Argument(metavar="GRID", help="Settings in YAML: a file, or '{learning_rate: [1e-5, 5e-5]}'.")
    ],
    out: Annotated[Path, to_write(help="Folder for the runs' folders and results.csv.")],
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Runs at once: 2 here, 8 on Modal.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="US dollars that all runs together may cost.")] = None,
    halving: Annotated[int | None, typer.Option(min=1, help="Stop runs that are behind at this step, 2x, 4x …")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how long it takes and what it costs.")] = False,
) -> None:
    """Run a notebook with every setting of a grid. The same command continues a sweep.

    04 evaluates the runs that 03 trains. Exit code 1 if a run failed.
    """
    from grpo_kit.sweeps.sweep import Sweep

    found = Sweep(notebook, grid, out)
    print(found.quote(jobs, budget, halving), flush=True)
    if dry_run:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    found.run(jobs, budget, halving)
    print(found.summary())
    if any(run.record["state"] == "failed" for run in found.runs):
        raise typer.Exit(1)
