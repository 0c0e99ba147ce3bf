"""The checks of Modal for `grpo-kit doctor`: token, secrets, volumes, data, and a container of the deployed app."""

from collections.abc import Set
from pathlib import Path, PurePosixPath

import modal

from grpo_kit.backends.modal.client import APP, DATA_VOLUME, MODELS_VOLUME, RUNS_VOLUME, kit_errors
from grpo_kit.backends.modal.secrets import GEMINI_SECRET, HUB_SECRET, KEYS, exists, missing_secret, required_secrets
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.errors import RunError
from grpo_kit.preflight.doctor import (
    NOT_CHECKED,
    OK,
    PREPARE,
    PROBLEM,
    SECONDS_TO_START,
    Check,
    Checks,
    checked,
    judges_in,
    listed,
    model_problem,
    samples_in,
)
from grpo_kit.utils.environment import versions

DEPLOY = "kit.deploy(), or `modal deploy grpo_kit/app.py`,"
MOST_TO_COMPARE = 200_000_000  # bytes of a file; a larger one would take minutes to fetch


def token() -> Checks:
    with kit_errors():
        yield Check("Modal token", OK, f"workspace {modal.Workspace.from_context().hydrate().name}")


def secrets(config: TrainConfig) -> Checks:
    reasons = {
        GEMINI_SECRET: "judge=gemini needs it" if "gemini" in config.judge else "",
        HUB_SECRET: _why_token_needed(config.model_name),
    }
    for name, reason in reasons.items():
        missing = missing_secret(name)
        if missing and reason:
            yield Check(name, PROBLEM, f"{missing.what}, and {reason}", missing.fix)
        else:
            found = "not there" if missing else f"there, with {KEYS[name]}"
            yield Check(name, OK, found if reason else f"{found}; this run does not need it")


def _why_token_needed(name: str) -> str:
    """Why the hub gives the model to nobody without a token; empty where it does, or can't be asked."""
    import httpx
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    from grpo_kit.models.hub import SECONDS

    if "/" not in name or Path(name).is_dir():
        return ""
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), token=False, timeout=SECONDS)
    except errors.GatedRepoError:
        return f"{name} is gated"
    except errors.RepositoryNotFoundError:  # private or misnamed, which only its owner's token can tell
        return "" if model_problem(name) else f"{name} is private"
    except (OSError, ValueError, httpx.HTTPError):
        pass
    return ""


def volumes() -> Checks:
    missing = [n for n in (DATA_VOLUME, RUNS_VOLUME, MODELS_VOLUME) if not exists(modal.Volume.from_name(n))]
    yield Check("volumes", OK, f"{', '.join(missing)} made at first use" if missing else "there")


def data(config: TrainConfig, name: str) -> Checks:
    """Whether the file is on the volume, and is the one that is here: data prepared again must be uploaded again."""
    is_default, given = config.data == DEFAULT_DATA, Path(config.data)
    called = given.name if given.is_absolute() else config.data
    here = (given if is_default or given.is_dir() else Path("data", given)) / name
    upload = "modal run grpo_kit/app.py::upload_data" + ("" if is_default else f" --path {here.parent} --name {called}")
    if given.is_absolute():
        what = f"{given}: it is a path of this machine; on Modal, data has the name that it was uploaded with"
        yield Check(name, PROBLEM, what, f"{upload}, then --data {called}")
        return
    folder = PurePosixPath("/", "" if is_default else config.data)
    try:
        sizes = {PurePosixPath(e.path).name: e.size for e in modal.Volume.from_name(DATA_VOLUME).listdir(str(folder))}
    except (FileNotFoundError, modal.exception.NotFoundError):
        sizes = {}
    samples = samples_in(here) if here.exists() else None
    there = f"on the volume {DATA_VOLUME}, {sizes.get(name)} bytes"
    if name in sizes and samples is None:
        yield Check(name, OK, f"{there}; there is no {here} to compare it with")
    elif name in sizes:
        size = here.stat().st_size
        is_same, can_compare = sizes[name] == size, size <= MOST_TO_COMPARE
        if is_same and can_compare:
            content = modal.Volume.from_name(DATA_VOLUME).read_file(str(folder / name))
            is_same = b"".join(content) == here.read_bytes()
        if is_same:
            yield Check(name, OK, f"{there}, {'the same' if can_compare else 'as large'} as {here} ({samples} samples)")
        else:
            yield Check(name, PROBLEM, f"{there}, and not the same as {here} ({size} bytes)", upload)
    elif samples is not None:
        yield Check(name, PROBLEM, f"not on the volume {DATA_VOLUME}, but in {here} ({samples} samples)", upload)
    elif is_default and config.model_name == "tiny" and "train.jsonl" not in sizes:
        yield Check(name, OK, "none on the volume, so the samples that come with the kit are taken")
    elif name == "eval.jsonl":
        yield Check(name, OK, "none on the volume; only an evaluation needs it")
    else:
        yield Check(name, PROBLEM, f"neither on the volume {DATA_VOLUME} nor in {here}", f"{PREPARE}, then {upload}")


def model(config: TrainConfig, has_secret: bool) -> Checks:
    """Asked from here, with the token here. `has_secret`: containers have a token of their own."""
    from huggingface_hub import get_token

    from grpo_kit.models.load import SMOLLM2

    name = config.model_name
    problem = model_problem(name)
    if Path(name).is_dir():
        fix = "push it to the Hugging Face hub and name it owner/name"
        yield Check("model", PROBLEM, f"{name} is a folder of this machine, which containers don't see", fix)
    elif name == SMOLLM2:
        fix = f"--model-name HuggingFaceTB/{name}"
        yield Check("model", PROBLEM, f"{name} comes from a package that is not in Modal's image", fix)
    elif problem and has_secret and get_token() is None and _why_token_needed(name):
        yield Check("model", NOT_CHECKED, f"{name} is gated; with no token here, it is asked for on Modal")
    else:
        yield checked("model", problem, name)


def app(config: TrainConfig, secrets: Set[str]) -> Checks:
    """The checks that a container of the deployed app makes. `secrets` are the names of those that are usable."""
    examine = modal.Function.from_name(APP, "examine")
    if not exists(examine):
        yield Check("app", OK, f"{APP} is not deployed yet; the first train.remote() does that")
        return
    can_judge = GEMINI_SECRET in secrets
    config = config if can_judge else config.replace(judge="offline")
    settings = {name: value for name, value in config.given.items() if name != "gemini_prompt"}  # which names a file
    call = examine.with_options(secrets=required_secrets(config.judge, config.model_name)).spawn(settings)
    try:
        there = call.get(timeout=SECONDS_TO_START)
    except TimeoutError:
        call.cancel()
        what = f"{APP} is deployed, but no container has answered within {SECONDS_TO_START} s"
        yield Check("app", PROBLEM, what, f"`modal app logs {APP}` says why; {DEPLOY} makes it anew")
        return
    except modal.exception.Error:
        raise
    except Exception as error:  # as in an app that an older kit deployed; its text may hold anything
        what = f"{APP} is deployed, but there it can't be looked at ({type(error).__name__})"
        yield Check("app", PROBLEM, what, f"{DEPLOY} makes it anew; `modal app logs {APP}` has the traceback")
        return
    if "error" in there:
        raise RunError(**there["error"])
    yield Check("app", OK, f"{APP} is deployed, and a container answers")
    yield from compare_versions(versions(), there["versions"])
    yield checked("model on Modal", there["model"], config.model_name)
    if can_judge:
        yield checked("judge on Modal", there["judge"], judges_in(config))


def compare_versions(here: dict[str, str], there: dict[str, str]) -> Checks:
    """Python counts by its minor version, a package by what stands before a "+", which says what it is built for. A
    package that is there alone is one that only a GPU can use."""

    def counts(found: dict[str, str], name: str) -> str:
        return found[name].rpartition(".")[0] if name == "python" else found.get(name, "none").partition("+")[0]

    differing = [name for name in here if counts(here, name) != counts(there, name)]
    if "python" in differing:
        differing.remove("python")
        what = f"{there['python']}, and {here['python']} here, so reward functions from a notebook can't travel"
        fix = f"{DEPLOY} with this Python; or a notebook with Python {counts(there, 'python')}"
        yield Check("Python on Modal", PROBLEM, what, fix)
    if differing:
        what = ", ".join(f"{name} {there.get(name, 'none')} (here {here[name]})" for name in differing)
        fix = f"{DEPLOY} brings the image to the kit's versions, `pip install -r requirements.lock` this machine"
        yield Check("versions on Modal", PROBLEM, what, fix)
    else:
        alone = {name: found for name, found in there.items() if name not in here}
        more = f"; there alone {listed(alone)}" if alone else ""
        yield Check("versions on Modal", OK, f"as here: {listed(here)}{more}")
