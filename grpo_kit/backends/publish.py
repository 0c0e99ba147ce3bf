"""`kit.push`: a run's weights with their model card to the Hugging Face hub, and nothing else that is in its folder."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_kit.backends.report.facts import HUB_NAME
from grpo_kit.backends.report.settings import shareable
from grpo_kit.backends.report.write import model_card, people_in
from grpo_kit.backends.run import Run
from grpo_kit.config.recipes import RECIPES
from grpo_kit.data.demo import DATA_FILES, data_folder
from grpo_kit.data.prepare import CARD
from grpo_kit.data.samples import fingerprint
from grpo_kit.errors import ConfigError, KitError, RunError
from grpo_kit.models.checkpoints import checkpoints_of, is_adapter
from grpo_kit.models.export import copy_adapter
from grpo_kit.models.hub import TOKENS
from grpo_kit.models.merge import merge
from grpo_kit.runs.directory import RUNS_DIR

WRITING = f"Make one that may write at {TOKENS}, and `export HF_TOKEN=hf_…`"
ENDPOINT = "Check the network, and HF_ENDPOINT if you have set it"
AGAIN = "Nothing is published yet. The same command goes on: what has arrived is not sent again"


def push(
    run: Run | str | Path,
    name: str,
    *,
    public: bool = False,
    merged: bool = False,
    with_data: bool = False,
    labels: str | Path | None = None,
    checkpoint: str | int | None = None,
    runs_dir: str | Path = RUNS_DIR,
    yes: bool = False,
) -> str | None:
    """Puts a checkpoint of a run on the Hugging Face hub as `name`, "owner/name", and returns its address.

    It is private unless `public`. An adapter goes as it is, or `merged` into its base; `checkpoint` is its name or
    step, the newest by default. With it goes a model card made from the run's files and from `labels` (people's, by
    default labels.csv where it is there). Data stay here: neither prompts nor answers are in the card. `with_data`
    sends train.jsonl and eval.jsonl too, and three samples in the card.

    Card and files are shown first, and sent once that is answered with y, or `yes` is given; else None is returned and
    nothing is made. Raises ConfigError for a name, a token or data with which it can't be done, RunError for a run that
    is on Modal or has no checkpoint, and where the hub is out of reach.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its warnings would show addresses that files may be written to
    hub, run = HfApi(), Run.of(run, runs_dir)
    if not HUB_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a name on the Hugging Face hub", "Give owner/name, such as your-name/first")
    found = checkpoints_of(run, None, Path(runs_dir))
    folder = found.folder(checkpoint)
    is_whole = merged or not is_adapter(folder)
    people, data = people_in(labels), _data_of(run) if with_data else None
    is_there = _check_place(hub, name, public)
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch, "model")
        if is_whole:
            merge(run, staged, checkpoint=checkpoint)
        else:
            copy_adapter(folder, _public_name(found.base), staged)
        card = model_card(run, people, name=name, weights=folder.name, is_adapter=not is_whole, with_data=with_data)
        (staged / "README.md").write_text(card, "utf-8")
        if data:
            (staged / "data").mkdir()
            for file in (*DATA_FILES, CARD):
                if (data / file).exists():
                    shutil.copyfile(data / file, staged / "data" / file)
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        sizes = "\n".join(f"  {file.relative_to(staged)}  {file.stat().st_size:,} bytes" for file in files)
        print(f"{card}\nFiles:\n{sizes}")
        seen = "everybody" if public else "you, or your organisation, alone"
        into = "to the model that is there" if is_there else "as a new model"
        if not yes and not _is_yes(f"Send these {len(files)} files to {name}, {into}, which {seen} can see?"):
            print("Nothing was sent")
            return None
        with _hubs_errors(name):
            if not is_there:
                hub.create_repo(name, private=not public)
            hub.upload_folder(repo_id=name, folder_path=staged, commit_message=f"{run.id}, {folder.name}")
    return f"{hub.endpoint}/{name}"


def _is_yes(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _public_name(base: str | None) -> str | None:
    """The base's name, without the folders that it lies in here."""
    return base if base is None or base in RECIPES or not Path(base).exists() else Path(base).resolve().name


def _data_of(run: Run) -> Path:
    """The folder of the data that the run was trained on. Raises ConfigError where it is not here."""
    own = run.path / "data"  # of a run that was made on Modal
    folder = own if own.exists() else data_folder(run.config.data)
    train, known = folder / DATA_FILES[0], run.about["data"]["fingerprint"]
    if not train.exists() or fingerprint([train]) != known:
        what = f"the data that run {run.id} was trained on (fingerprint {known}) are not in {folder}"
        raise ConfigError(what, "Put them back, or leave --with-data out")
    return folder


def _check_place(hub: Any, name: str, public: bool) -> bool:
    """Whether there is such a model already. Raises ConfigError where this account can't write there, or others would
    see it who were not to, or the other way round."""
    from huggingface_hub import errors, get_token

    if get_token() is None:
        raise ConfigError("there is no token for the Hugging Face hub here", WRITING)
    with _hubs_errors(name, is_asking=True):
        account, owner = hub.whoami(), name.split("/")[0]
        if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise ConfigError("the token for the Hugging Face hub can only read", WRITING)
        owners = [account["name"], *(each["name"] for each in account.get("orgs", ()))]
        if owner not in owners:
            what = f"{owner} is not whose token this is: {', '.join(owners)}"
            raise ConfigError(what, f"Use one of these for {name}, or another account's token")
        try:
            is_private = hub.model_info(name).private
        except errors.RepositoryNotFoundError:
            return False
    if public and is_private:
        fix = "Leave --public out, or make it public in its settings on the hub first"
        raise ConfigError(f"{name} is there already, and is private", fix)
    if not public and not is_private:
        raise ConfigError(f"{name} is there already, and is public", "Choose another name, or give --public")
    return True


@contextmanager
def _hubs_errors(name: str, is_asking: bool = False) -> Iterator[None]:
    """Turns an error of the hub's client into one of the kit's. `is_asking`: nothing is sent yet."""
    import httpx
    from huggingface_hub import constants, errors

    try:
        yield
    except KitError:
        raise
    except (ValueError, RuntimeError, OSError, httpx.HTTPError) as problem:
        error = problem.__cause__ if type(problem) is RuntimeError and problem.__cause__ else problem  # of one file
        said = shareable(getattr(error, "server_message", None) or str(error).splitlines()[0])
        place = re.sub("//[^/]*@", "//", constants.ENDPOINT)  # without a password
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
        match error, status:
            case errors.HFValidationError(), _:
                raise ConfigError(f"{name!r} can't be a name on the Hugging Face hub: {said}", "Give another") from None
            case errors.OfflineModeIsEnabled(), _:
                raise ConfigError("HF_HUB_OFFLINE is set", "Unset it to push") from None
            case _, 401:
                raise ConfigError("the Hugging Face hub does not know the token", WRITING) from None
            case _, 403:
                raise ConfigError(f"the token may not write to {name} ({said})", WRITING) from None
        if is_asking and (status == 404 or isinstance(error, ValueError)):
            raise ConfigError(f"what answers at {place} is no Hugging Face hub ({said})", ENDPOINT) from None
        if status and status < 500:
            raise RunError(f"the Hugging Face hub refuses {name}: {said}", "Correct that, and push again") from None
        why = f"answers {status}" if status else f"can't be reached at {place} ({said})"
        raise RunError(f"the Hugging Face hub {why}", ENDPOINT if is_asking and not status else AGAIN) from None
