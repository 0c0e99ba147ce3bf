"""The commands for a run that is there, here or on Modal: kit.Run's methods from a shell."""

import getpass
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from grpo_kit.backends.run import Run, runs
from grpo_kit.cli.flags import RunsDir, to_write, with_flags
from grpo_kit.config.base import names_where
from grpo_kit.config.train import TrainConfig
from grpo_kit.runs.directory import RUNS_DIR, UNFINISHED
from grpo_kit.utils.files import check_new_folder
from grpo_kit.utils.text import printable

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")]
# The settings that a run keeps when it is resumed: see runs/resume.py.
KEPT = TrainConfig.model_fields.keys() - {*names_where(TrainConfig, "resume"), "num_processes", "max_steps"}


def watch(run: RunName, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Follow a run until it ends. Ctrl-C only ends the watching.

    Exit code: 0 if the run ended well, 2 if it failed, 130 if you stopped watching.
    """
    from grpo_kit.backends.watch import watch

    found, words = Run(run, runs_dir), _words(run, runs_dir)
    verbs = f"`grpo-kit watch {words}` continues watching, `grpo-kit stop {words}` ends the run at its next step"
    watch(found, f"Stopped watching; run {found.id} continues. {verbs}")
    if found.status["state"] in UNFINISHED:
        raise typer.Exit(130)


def stop(run: RunName, runs_dir: RunsDir = RUNS_DIR) -> None:
    """End a run at its next step, with a checkpoint."""
    Run(run, runs_dir).stop()


@with_flags(TrainConfig, leave_out=KEPT)
def resume(
    settings: TrainConfig,
    run: RunName,
    runs_dir: RunsDir = RUNS_DIR,
    trust: Annotated[bool, typer.Option("--trust", help="Load reward functions that another machine saved.")] = False,
) -> None:
    """Continue a run from its last checkpoint, in the background.

    It runs where its files are: here or on Modal. The flags are the settings that may change; a file may have the
    others too, as they were.
    """
    given = {name: value for name, value in settings.given.items() if name != "run_id"}  # which RUN is
    resumed = Run(run, runs_dir).resume(trust=trust, **given)
    if resumed.status["state"] in UNFINISHED:
        print(f"`grpo-kit watch {_words(run, runs_dir)}` follows it")


def list_runs(runs_dir: RunsDir = RUNS_DIR) -> None:
    """List all runs, here and on Modal."""
    from grpo_kit.plots.tables import table

    found = runs(runs_dir)
    print(table(found) if len(found) else printable(f"no runs to list under {runs_dir}"))


def logs(
    run: RunName,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="How many of the last lines.")] = 50,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Show the last lines that a run printed, tracebacks included."""
    Run(run, runs_dir).logs(lines)


def report(
    run: RunName,
    out: Annotated[Path | None, to_write(help="Folder for both; default: reports/RUN.")] = None,
    labels: Annotated[Path | None, typer.Option(help="People's labels; by default labels.csv, if there.")] = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Write a page about a run to send, and a model card.

    The page is one file with all figures and samples; it opens without a network.
    """
    from grpo_kit.backends.report import report

    page = report(Run(run, runs_dir), out, labels)
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB, to send or to open in a browser")
    print(f"{page.with_name('model_card.md')}: for the hub, as README.md beside the model")


def serve(
    run: RunName,
    checkpoints: Annotated[
        list[str] | None, typer.Argument(metavar="CHECKPOINT", help="Names or steps; default: all.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0: one that is free.")] = 8000,
    gpu: Annotated[str | None, typer.Option(help="Modal's GPU; default: the run's.")] = None,
    idle_seconds: Annotated[int, typer.Option(min=2, help="That Modal's machine waits for a request.")] = 300,
    use_vllm: Annotated[
        Literal["auto", "true", "false"], typer.Option(help="Serve here with vLLM; auto: on a GPU, if it is installed.")
    ] = "auto",
    stop: Annotated[bool, typer.Option("--stop", help="End the endpoint, and see that nothing is left.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Serve base and checkpoints to any OpenAI client.

    Here by vLLM or a small server, in the background; a run on Modal there, where it costs nothing idle.
    """
    from grpo_kit.backends.serving import serve, stop_serving

    found = Run(run, runs_dir)
    if stop:
        return stop_serving(found)
    how = {"port": port, "gpu": gpu, "idle_seconds": idle_seconds}
    serve(found, *(checkpoints or []), use_vllm=use_vllm if use_vllm == "auto" else use_vllm == "true", **how)
    print(f"`grpo-kit serve {_words(run, runs_dir)} --stop` ends it")


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder, or the folder of a model.")],
    to: Annotated[str, typer.Option(metavar="[adapter|merged|gguf|ollama]", help="What other program reads it.")],
    out: Annotated[Path | None, typer.Option(help="A new folder; default: exports/RUN-FORM.")] = None,
    quantize: Annotated[str | None, typer.Option(help="Fewer bits a weight in a GGUF file: q8_0, q4_k_m …")] = None,
    data: Annotated[str | None, typer.Option(help="Folder whose held-out prompts a GGUF file is tried on.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Name or step of a checkpoint; default: the newest.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The adapter's base, where it has another name here.")] = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Write a checkpoint as an adapter, a whole model, or a GGUF file.

    A GGUF file, for llama.cpp or with a Modelfile for Ollama, is loaded and compared with the merged model. It takes
    llama.cpp: docs/publish.md.
    """
    if out:
        check_new_folder(out)  # before libraries are loaded
    from grpo_kit.models.export import export

    target, how = run if Path(run).is_dir() else Run(run, runs_dir), {"quantize": quantize, "data": data}
    print(export(target, to, out, **how, checkpoint=checkpoint, base_model=base_model, runs_dir=runs_dir))  # pyright: ignore[reportArgumentType]


def push(
    run: RunName,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="What it is called on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; else it is private.")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="Send a whole model in place of an adapter.")] = False,
    with_data: Annotated[bool, typer.Option("--with-data", help="Send the data too, and samples in the card.")] = False,
    labels: Annotated[Path | None, typer.Option(help="People's labels; by default labels.csv, if there.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Name or step of a checkpoint; default: the newest.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send it without asking.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Put a run's weights on the Hugging Face hub, with a model card.

    Card and files are shown first. Data, and what is quoted of them, stay here unless --with-data is given.
    """
    from grpo_kit.backends.publish import push

    what = {"public": public, "merged": merged, "with_data": with_data, "labels": labels, "yes": yes}
    if url := push(Run(run, runs_dir), name, **what, checkpoint=checkpoint):
        print(f"It is at {url}")


def label(
    run: RunName,
    to: Annotated[Path, typer.Option(help="The CSV file of labels.")] = Path("labels.csv"),
    choose: Annotated[bool, typer.Option("--choose", help="Say which of two answers is better.")] = False,
    labeller: Annotated[str | None, typer.Option(help="Who labels; default: this machine's user.")] = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Score the answers of a run's evaluation, its largest.

    You are not told who wrote an answer, nor what a judge said of it. Each label is saved before the next is asked for;
    at the end you see how far the judges agree with you.
    """
    from grpo_kit.cli.label import label_answers

    label_answers(Run(run, runs_dir), to, choose, labeller or getpass.getuser())


def chat(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder, or the folder of a model.")],
    messages: Annotated[list[str] | None, typer.Argument(metavar="MESSAGE", help="Each in quotes.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Name or step of a checkpoint; default: the newest.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0: likeliest answer; default: the run's.")] = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Ask the base model and the trained model the same.

    Without messages it asks for one after the other, until an empty line or Ctrl-D. Each starts a new conversation.
    """
    target = run if Path(run).is_dir() else Run(run, runs_dir)
    from grpo_kit.models.chat import NO_TOOLS, chat

    if isinstance(target, Run) and target.config.environment:
        print(NO_TOOLS)
    for asked in [messages] if messages else map(lambda message: [message], _typed()):
        table = chat(target, asked, checkpoint=checkpoint, temperature=temperature, runs_dir=runs_dir)
        for row in table.to_dict("records"):
            prompt = row.pop("prompt")
            answers = "\n".join(f"{name}: {printable(answer)}" for name, answer in row.items())
            print(f"you: {prompt}\n{answers}" if messages else answers)


def _typed() -> Iterator[str]:
    try:
        while message := input("you: ").strip():
            yield message
    except EOFError:
        print()


def download(
    run: RunName,
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder; parents are made too.")],
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Copy a run's folder, from Modal or from here."""
    found = Run(run, runs_dir)
    print(f"Run {found.id} is copied to {found.download(to).path}")


def delete(
    run: RunName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete it without asking.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Delete a run's folder for good, here or on Modal."""
    found = Run(run, runs_dir)
    status = found.status
    if not yes and status["state"] not in UNFINISHED:  # which is refused, and needs no answer
        what = f"{found.storage}: {status['state']}, step {status['step']} of {status['max_steps']}"
        typer.confirm(f"Delete run {found.id} ({what})?", abort=True)
    found.delete()


def _words(run: str, runs_dir: Path) -> str:
    """What a command needs to find the same run."""
    return shlex.join([run, *(["--runs-dir", str(runs_dir)] if runs_dir != RUNS_DIR else [])])
