"""The Hugging Face hub: whether it gives out a model, what to do where it does not, and fetching one ahead of a GPU."""

import difflib
from pathlib import Path

from grpo_kit.errors import ConfigError

SECONDS = 10  # to wait for the hub's answer
TOKENS = "https://huggingface.co/settings/tokens"
GIVE_TOKEN = "on this machine `export HF_TOKEN=hf_…`, on Modal `modal secret create {}huggingface-secret HF_TOKEN=hf_…`"

# What transformers reads. Weights count only at the top: folders below hold the same ones in other formats.
READ = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
WEIGHTS = ["*.safetensors"]
NOT_READ = ["*/*.safetensors", "consolidated*", "*.fp16*", "original/*", "onnx/*", "openvino/*"]
OLD_WEIGHTS = ["pytorch_model*.bin"]  # only of models that have no safetensors


def why_not_from_hub(name: str) -> str | None:
    """Why the model called `name` ("owner/name") can't be had, with what to do; None where the hub gives it out, or
    can't be asked and the model is in its cache.

    It asks for the head of the first file that loading a model reads, which answers for the name, the licence, the
    token and the connection at once.
    """
    import httpx
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=SECONDS)
    except (OSError, ValueError, httpx.HTTPError) as error:
        gives_no_answer = isinstance(error, errors.OfflineModeIsEnabled | httpx.TransportError) or (
            isinstance(error, errors.HfHubHTTPError) and error.response.status_code >= 500
        )
        if gives_no_answer and isinstance(try_to_load_from_cache(name, "config.json"), str):
            return None
        return _why_not(name, error)
    return None


def fetch_from_hub(name: str, weights: bool) -> Path:
    """The folder in the hub's cache with what transformers reads of the model, with or without its weights, fetched as
    far as it is not there. A hub that gives no answer is not waited for where all of it is there.

    Raises ConfigError, saying what to do, where the hub does not give it out.
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
        raise ConfigError(f"model_name={name!r} can't be loaded: {_why_not(name, error)}") from error


def _why_not(name: str, error: Exception) -> str:
    """One of the hub's errors in words, with what to do."""
    import httpx
    from huggingface_hub import constants, errors, get_token

    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # "not in the cache either" says less than why the hub was of no help
    page = f"https://huggingface.co/{name}"
    cache = f"the model is not, or not all, in the cache ({constants.HF_HUB_CACHE})"
    match error:
        case errors.GatedRepoError() if get_token() is None:
            return (
                f"the model is gated. Accept its licence at {page}, make a token at {TOKENS} and give it: "
                f"{GIVE_TOKEN.format('')}"
            )
        case errors.GatedRepoError():
            return (
                f"the model is gated, and your token's account is not let in. Accept its licence at {page} with that "
                f"account, or give a token of one that is let in: {GIVE_TOKEN.format('--force ')}"
            )
        case errors.RepositoryNotFoundError() | errors.HfHubHTTPError(response=httpx.Response(status_code=401)) if (
            get_token() is None or isinstance(error, errors.RepositoryNotFoundError)
        ):  # asked without a token, the hub does not tell the one from the other
            near = nearest_names(name)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            return (
                f"there is no such folder, and on the Hugging Face hub it is misnamed or private.{hint} A private one "
                f"needs its owner's token: {GIVE_TOKEN.format('')}"
            )
        case errors.HFValidationError():
            return "there is no such folder, and models on the Hugging Face hub are called owner/name"
        case errors.RemoteEntryNotFoundError():
            return f"{page} has no config.json, so transformers can't load it. Choose a model in transformers' format"
        case errors.HfHubHTTPError(response=response, server_message=said):
            if response.status_code == 401:
                return (
                    f"the hub does not know your token ({said}). Make one at {TOKENS} and give it: "
                    f"{GIVE_TOKEN.format('--force ')}"
                )
            if response.status_code == 403:
                return f"the hub does not let your token read it ({said}). Let it, at {TOKENS}"
            return f"the Hugging Face hub answers {response.status_code} {response.reason_phrase}. Try again in a while"
        case UnicodeError():
            give = GIVE_TOKEN.format("--force ")
            return f"HF_TOKEN holds characters that are in no token. Make one at {TOKENS} and give it: {give}"
        case errors.OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set, and {cache}. Unset it, so that the model can be downloaded"
        case httpx.HTTPError():
            return (
                f"the Hugging Face hub can't be reached at {constants.ENDPOINT} ({error or type(error).__name__}), and "
                f"{cache}. Try again with a connection to it"
            )
    return str(error)


def nearest_names(name: str) -> list[str]:
    """Up to three models on the hub that are called nearly so, of those most downloaded; none where it can't say."""
    import httpx
    from huggingface_hub import HfApi

    owner, _, model = name.rpartition("/")
    searches = [{"search": model}] + ([{"author": owner}] if owner else [])
    try:
        found = [
            model.id for search in searches for model in HfApi().list_models(**search, sort="downloads", limit=300)
        ]
    except (OSError, httpx.HTTPError):
        return []
    # Without an owner it is likely one of those that end so, the most downloaded first.
    exact = [known for known in dict.fromkeys(found) if known.rpartition("/")[2] == model]
    return list(dict.fromkeys(exact + difflib.get_close_matches(name, dict.fromkeys(found), n=3)))[:3]
