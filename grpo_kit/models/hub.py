"""The Hugging Face hub: fetching a model, and what to do where the hub does not give it out."""

from pathlib import Path
from typing import Literal

from grpo_kit.errors import ConfigError, Problem

SECONDS = 10  # to wait for the hub's answer
TOKENS = "https://huggingface.co/settings/tokens"
GIVE_TOKEN = (
    "on this machine `export HF_TOKEN=hf_…`, on Modal `modal secret create --force huggingface-secret HF_TOKEN=hf_…`"
)

# The files that transformers reads. Weights count only at the top: folders below hold the same ones in other formats.
READ = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
WEIGHTS = ["*.safetensors"]
NOT_READ = ["*/*.safetensors", "consolidated*", "*.fp16*", "original/*", "onnx/*", "openvino/*"]
OLD_WEIGHTS = ["pytorch_model*.bin"]  # only of models that have no safetensors


def hub_problem(name: str, token: Literal[False] | None = None) -> Problem | None:
    """Why the model called `name` ("owner/name") can't be downloaded; None where the hub gives it out, or does not
    answer and the model is in its cache.

    Asks for the head of config.json, which answers for the name, the licence, the token and the connection at once.
    `token`: False asks as without one.
    """
    import httpx
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), token=token, timeout=SECONDS)
    except (OSError, ValueError, httpx.HTTPError) as error:
        is_answer = isinstance(error, ValueError) or (
            isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500
        )
        if is_answer or not isinstance(try_to_load_from_cache(name, "config.json"), str):
            return _explained(name, error)
    return None


def fetch_from_hub(name: str, patterns: list[str]) -> Path:
    """Downloads the files of the model that the hub's cache lacks; returns their folder. Where it has them all, a hub
    that does not answer is no problem. Raises ConfigError where the hub does not give the model out."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=NOT_READ, etag_timeout=SECONDS))
    except (OSError, ValueError, httpx.HTTPError) as error:
        problem = _explained(name, error)
        raise ConfigError(f"model_name={name!r} can't be loaded: {problem.what}", problem.fix) from error


def _explained(name: str, error: BaseException) -> Problem:
    """One of the hub's errors as a problem with its fix."""
    import httpx
    from huggingface_hub import constants, errors, get_token

    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # "not in the cache either" says less than why the hub was of no help
    page = f"https://huggingface.co/{name}"
    cache = f"the model is not, or not all, in the cache ({constants.HF_HUB_CACHE})"
    match error:
        case errors.GatedRepoError():
            fix = f"Accept its licence at {page}, and give a token of that account: {GIVE_TOKEN}"
            return Problem("the model is gated, and your account has no access to it", fix)
        case errors.RepositoryNotFoundError() | errors.HfHubHTTPError(response=httpx.Response(status_code=401)) if (
            get_token() is None or isinstance(error, errors.RepositoryNotFoundError)
        ):  # asked without a token, the hub does not tell the one from the other
            fix = f"Check the name; a private one needs its owner's token: {GIVE_TOKEN}"
            return Problem("there is no such folder, and on the Hugging Face hub the name is wrong or private", fix)
        case errors.HFValidationError():
            what = "there is no such folder, and it is not the name of a model on the Hugging Face hub"
            return Problem(what, "Correct the folder, or name a model as owner/name")
        case errors.RemoteEntryNotFoundError():
            return Problem(f"{page} has no config.json", "Choose a model that transformers can load")
        case errors.HfHubHTTPError(response=httpx.Response(status_code=401 | 403), server_message=said):
            fix = f"Make one at {TOKENS} that may read the model, and give it: {GIVE_TOKEN}"
            return Problem(f"the Hugging Face hub refuses your token ({said})", fix)
        case errors.HfHubHTTPError(response=response):
            answer = f"{response.status_code} {response.reason_phrase}"
            return Problem(f"the Hugging Face hub answers {answer}, and {cache}", "Try again in a while")
        case errors.OfflineModeIsEnabled():
            return Problem(f"HF_HUB_OFFLINE is set, and {cache}", "Unset it, so that the model can be downloaded")
        case httpx.HTTPError():
            hub = f"the Hugging Face hub can't be reached at {constants.ENDPOINT} ({error})"
            return Problem(f"{hub}, and {cache}", "Try again with a connection to it")
    return Problem(str(error))
