"""The checks of Modal for `grpo-kit doctor` and a quote: token, secrets, data, and the model as containers get it."""

import os
from pathlib import Path, PurePosixPath

import modal

from grpo_kit.backends.modal.client import (
    DATA_VOLUME,
    HUB_SECRET,
    JUDGE_SECRETS,
    KEYS,
    NOTIFY_SECRET,
    kit_errors,
    missing_secret,
)
from grpo_kit.backends.modal.storage import known_on_modal
from grpo_kit.config.environment import engines
from grpo_kit.config.judge import CLOUD
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DATA_FILES, DEFAULT_DATA, DEMO_CALLS
from grpo_kit.errors import ConfigError
from grpo_kit.models.hub import GIVE_TOKEN
from grpo_kit.models.load import SMOLLM2
from grpo_kit.preflight import doctor
from grpo_kit.preflight.doctor import OK, SECONDS, SECONDS_FOR_DATA, Checks, NotChecked, tried
from grpo_kit.training.plan import no_held_out

NEED = {HUB_SECRET: "gated and private models"} | {JUDGE_SECRETS[name]: f"runs with judge={name}" for name in CLOUD}


def checks_on_modal(config: TrainConfig, has_start: bool = True) -> Checks:
    """Secrets and data are looked at where Modal takes the token; the judge is asked in any case, and the hub where
    it is known what the run starts from."""
    token = tried("Modal token", _workspace, seconds=SECONDS / 2)
    yield token
    if token.state == OK:
        for judge in dict.fromkeys(["gemini", *engines(config)]):
            yield tried(JUDGE_SECRETS[judge], _secret, JUDGE_SECRETS[judge], judge in engines(config))
        yield tried(HUB_SECRET, _secret, HUB_SECRET)
        if config.notify:
            yield tried(NOTIFY_SECRET, _secret, NOTIFY_SECRET, True, config.notify)
        for name in DATA_FILES:
            yield tried(name, _data, config, name, seconds=SECONDS_FOR_DATA)
    if has_start:
        yield tried("model", _model, config.model_name, token.state == OK)
    yield tried("judge", _judge, config)


def _workspace() -> str:
    with kit_errors():
        return f"workspace {modal.Workspace.from_context().hydrate().name}"


def _secret(name: str, is_needed: bool = False, key: str = "") -> str:
    if missing := missing_secret(name, key):
        if is_needed:
            raise ConfigError(missing.what, missing.fix)
        return f"not there; only {NEED[name]} need it"
    return f"there, with {key or KEYS[name]}"


def _data(config: TrainConfig, name: str) -> str:
    """Whether the file is on the volume, and is the one that is here: data prepared again must be uploaded again."""
    is_default, given = config.data == DEFAULT_DATA, Path(config.data)
    here = (given if is_default or given.is_dir() else Path("data", given)) / name
    upload = "modal run grpo_kit/app.py::upload_data"
    if not is_default:
        called = given.name if given.is_absolute() else config.data
        upload += f" --path {here.parent} --name {called}" + (f", then --data {called}" if given.is_absolute() else "")
    volume, folder = modal.Volume.from_name(DATA_VOLUME), PurePosixPath("/", "" if is_default else given)
    samples = doctor.samples_in(here) if here.exists() else None
    try:
        size = next(entry.size for entry in volume.listdir(str(folder)) if PurePosixPath(entry.path).name == name)
    except (StopIteration, FileNotFoundError, modal.exception.NotFoundError):
        if samples is not None:
            raise ConfigError(f"not on the volume {DATA_VOLUME}, but in {here} ({samples} samples)", upload) from None
        is_kits = config.data == DEMO_CALLS or ":" in config.data or (is_default and config.model_name == "tiny")
        if name == "eval.jsonl" and config.eval_steps and not is_kits:
            raise no_held_out(config, f"it is not on the volume {DATA_VOLUME}") from None
        if name == "eval.jsonl":
            return "none on the volume; only an evaluation needs it"
        if is_kits:
            own = f"those of {config.data}" if ":" in config.data else "the kit's own samples"
            return f"none on the volume, so {own} are used"
        fix = f"{doctor.PREPARE}, then {upload}"
        raise ConfigError(f"neither on the volume {DATA_VOLUME} nor in {here}", fix) from None
    there = f"on the volume {DATA_VOLUME}, {size} bytes"
    if samples is None:
        return f"{there}; there is no {here} to compare it with"
    here_size = here.stat().st_size
    if size != here_size or b"".join(volume.read_file(str(folder / name))) != here.read_bytes():
        raise ConfigError(f"{there}, and not the same as {here} ({here_size} bytes)", upload)
    return f"{there}, the same as {here} ({samples} samples)"


def _model(name: str, can_ask_modal: bool) -> str:
    """Asked from here, with the token here; without it where containers have none, since Modal has no secret for it."""
    from huggingface_hub import get_token

    if can_ask_modal and known_on_modal(name.partition("/")[0]):
        return f"run {name}, on the volume"
    if Path(name).is_dir() or name == SMOLLM2:
        fix = f"push it to the Hugging Face hub and name it owner/name, such as HuggingFaceTB/{SMOLLM2}"
        raise ConfigError(f"{name} is a model on this machine, and containers can't see it", fix)
    has_secret = not can_ask_modal or missing_secret(HUB_SECRET) is None
    if problem := doctor.model_problem(name, token=None if has_secret else False):
        if has_secret and get_token() is None and GIVE_TOKEN in problem.fix:
            raise NotChecked(f"{problem.what}; there is no token here, so Modal asks again when the run begins")
        raise ConfigError(problem.what, problem.fix)
    return name


def _judge(config: TrainConfig) -> str:
    for judge in engines(config):
        if not any(map(os.environ.get, CLOUD[judge].keys)):
            key = CLOUD[judge].keys[0]
            raise NotChecked(f"no {key} here, so {judge} is asked on Modal, when the run begins")
    return doctor.judge(config)
