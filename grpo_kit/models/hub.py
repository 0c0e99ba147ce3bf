"""The Hugging Face hub: whether it gives out a model, what to do where it does not, and fetching a model."""

import difflib
from functools import partial
from pathlib import Path

from grpo_kit.errors import ConfigError, Problem

SECONDS = 10  # to wait for the hub's answer
TOKENS = "https://huggingface.co/settings/tokens"
GIVE_TOKEN = "on this machine `export HF_TOKEN=hf_…`, on Modal `modal secret create {}huggingface-secret HF_TOKEN=hf_…`"

# The files that transformers reads. Weights count only at the top: folders below hold the same ones in other formats.
READ = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
WEIGHTS = ["*.safetensors"]
NOT_READ = ["*/*.safetensors", "consolidated*", "*.fp16*", "original/*", "onnx/*", "openvino/*"]
OLD_WEIGHTS = ["pytorch_model*.bin"]  # only of models that have no safetensors


def hub_problem(name: str) -> Problem | None:
    """Why the model called `name` ("owner/name") can't be downloaded; None where the hub gives it out, or can't be
    asked and the model is in its cache.

    Asks for the head of config.json, which answers for the name, the licence, the token and the connection at once.
    """
    import httpx
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=SECONDS)
    except (OSError, ValueError, httpx.HTTPError) as error:
        has_no_answer = isinstance(error, errors.OfflineModeIsEnabled | httpx.TransportError) or (
            isinstance(error, errors.HfHubHTTPError) and error.response.status_code >= 500
        )
        if has_no_answer and isinstance(try_to_load_from_cache(name, "config.json"), str):
            return None
        return _explained(name, error)
    return None


def fetch_from_hub(name: str, weights: bool) -> Path:
    """Downloads the files of the model that the hub's cache lacks, with or without its weights; returns their folder.

    Where the cache has them all, a hub that does not answer is no problem. Raises ConfigError where the hub does not
    give the model out.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=NOT_READ, etag_timeout=SECONDS))

    try:
        folder = fetch(READ + WEIGHTS if weights else READ)
        return folder if not weights or list(folder.glob("*.safetensors")) else fetch(READ + OLD_WEIGHTS)
    except (OSError, ValueError, httpx.HTTPError) as error:
        problem = _explained(name, error)
        raise ConfigError(f"model_name={name!r} can't be loaded: {problem.what}", problem.fix) from error


def _explained(name: str, error: BaseException) -> Problem:
    """One of the hub's errors as a problem with its fix."""
    import httpx
    from huggingface_hub import constants, errors, get_token

    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # "not in the cache either" says less than why the hub was of no help
    page, other_token = f"https://huggingface.co/{name}", GIVE_TOKEN.format("--force ")
    cache = f"the model is not, or not all, in the cache ({constants.HF_HUB_CACHE})"
    match error:
        case errors.GatedRepoError() if get_token() is None:
            give = f"make a token at {TOKENS} and give it: {GIVE_TOKEN.format('')}"
            return Problem("the model is gated", f"Accept its licence at {page}, {give}")
        case errors.GatedRepoError():
            return Problem(
                "the model is gated, and your token's account is not let in",
                f"Accept its licence at {page} with that account, or give a token of one that is let in: {other_token}",
            )
        case errors.RepositoryNotFoundError() | errors.HfHubHTTPError(response=httpx.Response(status_code=401)) if (
            get_token() is None or isinstance(error, errors.RepositoryNotFoundError)
        ):  # asked without a token, the hub does not tell the one from the other
            near = nearest_names(name)
            return Problem(
                "there is no such folder, and on the Hugging Face hub it is misnamed or private",
                (f"Did you mean {' or '.join(near)}? " if near else "")
                + f"A private one needs its owner's token: {GIVE_TOKEN.format('')}",
            )
        case errors.HFValidationError():
            return Problem("there is no such folder, and models on the Hugging Face hub are called owner/name")
        case errors.RemoteEntryNotFoundError():
            what = f"{page} has no config.json, so transformers can't load it"
            return Problem(what, "Choose a model in transformers' format")
        case errors.HfHubHTTPError(response=httpx.Response(status_code=401), server_message=said):
            return Problem(
                f"the hub does not know your token ({said})", f"Make one at {TOKENS} and give it: {other_token}"
            )
        case errors.HfHubHTTPError(response=httpx.Response(status_code=403), server_message=said):
            return Problem(f"the hub does not let your token read it ({said})", f"Let it, at {TOKENS}")
        case errors.HfHubHTTPError(response=response):
            answer = f"{response.status_code} {response.reason_phrase}"
            return Problem(f"the Hugging Face hub answers {answer}", "Try again in a while")
        case UnicodeError():
            return Problem(
                "HF_TOKEN holds characters that are in no token", f"Make one at {TOKENS} and give it: {other_token}"
            )
        case errors.OfflineModeIsEnabled():
            return Problem(f"HF_HUB_OFFLINE is set, and {cache}", "Unset it, so that the model can be downloaded")
        case httpx.HTTPError():
            return Problem(
                f"the Hugging Face hub can't be reached at {constants.ENDPOINT} ({error or type(error).__name__}), and "
                f"{cache}",
                "Try again with a connection to it",
            )
    return Problem(str(error))


def nearest_names(name: str) -> list[str]:
    """Up to three models on the hub with a similar name, of those most downloaded; none where the hub can't say."""
    import httpx
    from huggingface_hub import HfApi

    owner, _, model = name.rpartition("/")
    list_models = partial(HfApi().list_models, sort="downloads", limit=300)
    try:
        found = [known.id for known in [*list_models(search=model), *(list_models(author=owner) if owner else [])]]
    except (OSError, httpx.HTTPError):
        return []
    # A name without its owner is likely one of those that end with it, the most downloaded first.
    exact = [known for known in dict.fromkeys(found) if known.rpartition("/")[2] == model]
    return list(dict.fromkeys(exact + difflib.get_close_matches(name, dict.fromkeys(found), n=3)))[:3]
