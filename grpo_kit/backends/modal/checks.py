"""What `grpo-kit doctor` asks of Modal: token, secrets, volumes, data, and a container of the deployed app."""

import hashlib
from collections.abc import Set
from pathlib import Path, PurePosixPath

import modal

from grpo_kit.backends.modal.client import (
    APP,
    DATA_VOLUME,
    GEMINI_SECRET,
    HUB_SECRET,
    MODELS_VOLUME,
    RUNS_VOLUME,
    required_secrets,
)
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
    judges_in,
    listed,
    model_problem,
    problem,
    samples_in,
)
from grpo_kit.utils.environment import versions

DEPLOY = "kit.deploy(), or `modal deploy grpo_kit/app.py`,"
MOST_TO_COMPARE = 200_000_000  # bytes of a file; a larger one would take minutes to fetch


def token() -> Checks:
    try:
        workspace = modal.Workspace.from_context().hydrate().name
    except modal.exception.AuthError as error:
        yield Check("Modal token", PROBLEM, f"Modal does not take it ({error})", "modal setup")
    except ValueError:  # its text has the token
        yield Check("Modal token", PROBLEM, "it holds characters that are in no token", "modal setup")
    else:
        yield Check("Modal token", OK, f"workspace {workspace}")


def gemini_secret(config: TrainConfig) -> Checks:
    yield _secret(GEMINI_SECRET, "GEMINI_API_KEY", "judge=gemini needs it" if "gemini" in config.judge else "")


def hub_secret(config: TrainConfig) -> Checks:
    yield _secret(HUB_SECRET, "HF_TOKEN", _needs_token(config.model_name))


def _secret(name: str, key: str, reason: str) -> Check:
    """`reason` says why this run needs it; "" where it does not."""
    if _is_there(modal.Secret.from_name(name, required_keys=[key])):
        return Check(name, OK, f"there, with {key}" + ("" if reason else "; this run does not need it"))
    if not reason:
        return Check(name, OK, "not there, and this run does not need it")
    if _is_there(modal.Secret.from_name(name)):
        return Check(name, PROBLEM, f"it has no {key}, and {reason}", f"modal secret create --force {name} {key}=…")
    return Check(name, PROBLEM, f"not there, and {reason}", f"modal secret create {name} {key}=…")


def _needs_token(name: str) -> str:
    """Why the hub gives the model to nobody without a token; "" where it does, or can't be asked."""
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


def _is_there(thing: modal.Secret | modal.Volume | modal.Function) -> bool:
    try:
        thing.hydrate()
    except modal.exception.NotFoundError:
        return False
    return True


def volumes() -> Checks:
    names = (DATA_VOLUME, RUNS_VOLUME, MODELS_VOLUME)
    there = [name for name in names if _is_there(modal.Volume.from_name(name))]
    missing = [name for name in names if name not in there]
    said = [f"{', '.join(there)} there"] * bool(there) + [f"{', '.join(missing)} made at first use"] * bool(missing)
    yield Check("volumes", OK, "; ".join(said))


def data(config: TrainConfig, name: str) -> Checks:
    """Whether the volume's file is there, and is what lies here: what was prepared anew must be uploaded anew."""
    is_default, there = config.data == DEFAULT_DATA, _on_volume(config)
    called = Path(config.data).name if Path(config.data).is_absolute() else config.data
    here = (Path(config.data) if is_default or Path(config.data).is_dir() else Path("data", config.data)) / name
    samples = samples_in(here) if here.exists() else None
    upload = "modal run grpo_kit/app.py::upload_data"
    upload += "" if is_default else f" --path {here.parent} --name {called}"
    if Path(config.data).is_absolute():
        wrong = "it is a path of this machine; on Modal, data has the name that it was uploaded with"
        yield Check(name, PROBLEM, f"{config.data}: {wrong}", f"{upload}, then --data {called}")
    elif name in there:
        where = f"on the volume {DATA_VOLUME}, {there[name]} bytes"
        if samples is None:
            yield Check(name, OK, f"{where}; there is no {here} to compare it with")
            return
        size = here.stat().st_size
        if there[name] != size or (size <= MOST_TO_COMPARE and _digest_on_volume(config, name) != _digest(here)):
            yield Check(name, PROBLEM, f"{where}, and not the same as {here} ({size} bytes)", upload)
        else:
            same = "the same" if size <= MOST_TO_COMPARE else "as large"
            yield Check(name, OK, f"{where}, {same} as {here} ({samples} samples)")
    elif samples is not None:
        yield Check(name, PROBLEM, f"not on the volume {DATA_VOLUME}, but in {here} ({samples} samples)", upload)
    elif is_default and config.model_name == "tiny" and "train.jsonl" not in there:
        yield Check(name, OK, "none on the volume, so the samples that come with the kit are taken")
    elif name == "eval.jsonl":
        yield Check(name, OK, "none on the volume; only an evaluation needs it")
    else:
        yield Check(name, PROBLEM, f"neither on the volume {DATA_VOLUME} nor in {here}", f"{PREPARE}, then {upload}")


def _folder(config: TrainConfig) -> PurePosixPath:
    return PurePosixPath("/", "" if config.data == DEFAULT_DATA else config.data)


def _on_volume(config: TrainConfig) -> dict[str, int]:
    """Files of the data's folder, with their bytes."""
    try:
        entries = modal.Volume.from_name(DATA_VOLUME).listdir(str(_folder(config)))
    except (FileNotFoundError, modal.exception.NotFoundError):
        return {}
    return {PurePosixPath(entry.path).name: entry.size for entry in entries}


def _digest_on_volume(config: TrainConfig, name: str) -> bytes:
    content = hashlib.sha256()
    for piece in modal.Volume.from_name(DATA_VOLUME).read_file(str(_folder(config) / name)):
        content.update(piece)
    return content.digest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def model(config: TrainConfig, has_secret: bool) -> Checks:
    """Asked from here, with the token here. `has_secret`: containers have a token of their own."""
    from huggingface_hub import get_token

    from grpo_kit.models.load import SMOLLM2

    name = config.model_name
    why_not = model_problem(name)
    if Path(name).is_dir():
        fix = "push it to the Hugging Face hub and name it owner/name"
        yield Check("model", PROBLEM, f"{name} is a folder of this machine, which containers don't see", fix)
    elif name == SMOLLM2:
        fix = f"--model-name HuggingFaceTB/{name}"
        yield Check("model", PROBLEM, f"{name} comes from a package that is not in Modal's image", fix)
    elif why_not and has_secret and get_token() is None and _needs_token(name):
        yield Check("model", NOT_CHECKED, f"{name} is gated; with no token here, it is asked for on Modal")
    else:
        yield problem("model", why_not) if why_not else Check("model", OK, name)


def app(config: TrainConfig, secrets: Set[str]) -> Checks:
    """What a container of the deployed app finds. `secrets` are the names of those that are as they should be."""
    examine = modal.Function.from_name(APP, "examine")
    if not _is_there(examine):
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
        wrong = f"{APP} is deployed, but no container has answered within {SECONDS_TO_START} s"
        yield Check("app", PROBLEM, wrong, f"`modal app logs {APP}` says why; {DEPLOY} makes it anew")
        return
    except modal.exception.Error:
        raise
    except Exception as error:  # as in an app that an older kit deployed; its text may hold anything
        wrong = f"{APP} is deployed, but there it can't be looked at ({type(error).__name__})"
        yield Check("app", PROBLEM, wrong, f"{DEPLOY} makes it anew; `modal app logs {APP}` has the traceback")
        return
    if "error" in there:
        raise RunError(there["error"])
    yield Check("app", OK, f"{APP} is deployed, and a container answers")
    yield from compare_versions(versions(), there["versions"])
    why_not = there["model"]
    yield problem("model on Modal", why_not) if why_not else Check("model on Modal", OK, config.model_name)
    why_not = there["judge"]
    if can_judge:
        yield problem("judge on Modal", why_not) if why_not else Check("judge on Modal", OK, judges_in(config))


def compare_versions(here: dict[str, str], there: dict[str, str]) -> Checks:
    """Of Python only the minor version counts, of a package what stands before a "+", which says what it is built
    for. What only a GPU can use is there alone."""

    def counts(found: dict[str, str], name: str) -> str:
        return found[name].rpartition(".")[0] if name == "python" else found.get(name, "none").partition("+")[0]

    if counts(here, "python") != counts(there, "python"):
        yield Check(
            "Python on Modal",
            PROBLEM,
            f"{there['python']}, and {here['python']} here, so reward functions from a notebook can't travel",
            f"{DEPLOY} with this Python; or a notebook with Python {counts(there, 'python')}",
        )
    differing = [name for name in here if name != "python" and counts(here, name) != counts(there, name)]
    alone = {name: found for name, found in there.items() if name not in here}
    if differing:
        both = ", ".join(f"{name} {there.get(name, 'none')} (here {here[name]})" for name in differing)
        fix = f"{DEPLOY} brings the image to the kit's versions, `pip install -r requirements.lock` this machine"
        yield Check("versions on Modal", PROBLEM, both, fix)
    else:
        more = f"; there alone {listed(alone)}" if alone else ""
        yield Check("versions on Modal", OK, f"as here: {listed(here)}{more}")
