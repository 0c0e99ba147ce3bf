"""The volumes as a container sees them: where they are mounted, the data on them, and the judgements of other runs."""

import shutil
from pathlib import Path

from grpo_kit.backends.modal.client import DATA_VOLUME, MODELS_VOLUME, RUNS_VOLUME, volume
from grpo_kit.backends.modal.lease import Lease
from grpo_kit.backends.modal.sync import RunSync
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.data.samples import fingerprint
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.cache import CACHE_FILE
from grpo_kit.runs.directory import RunDirectory

DATA, CHECKPOINTS, MODELS = Path("/data"), Path("/checkpoints"), Path("/models")
MOUNTED = {str(DATA): DATA_VOLUME, str(CHECKPOINTS): RUNS_VOLUME, str(MODELS): MODELS_VOLUME}
RUNS = CHECKPOINTS / "runs"
HERE = Path("/tmp/grpo_kit/runs")  # the container's own disk


def sync_of(run_id: str, lease: Lease) -> RunSync:
    return RunSync(HERE / run_id, RUNS / run_id, volume(RUNS_VOLUME), lease)


def data_folder(config: TrainConfig) -> Path | None:
    """Where the run's data is mounted; None for the kit's own samples. Raises ConfigError where it is not there."""
    volume(DATA_VOLUME).reload()  # what was uploaded since this container's last call
    is_default = config.data == DEFAULT_DATA
    folder = DATA if is_default else DATA / config.data
    if (folder / "train.jsonl").exists():
        return folder
    if is_default and config.model_name == "tiny":
        return None  # for a first try
    there = sorted(str(file.parent.relative_to(DATA)) for file in DATA.rglob("train.jsonl"))
    name = "" if is_default else f", name={Path(config.data).name!r}"
    raise ConfigError(
        f"no train.jsonl for data={config.data!r} on the volume {DATA_VOLUME} (it has: {', '.join(there) or 'none'})",
        f'Put it there with kit.upload_data.remote("data/processed"{name}), or from a shell with '
        f"modal run grpo_kit/app.py::upload_data",
    )


def check_same_data(run: RunDirectory, data: str) -> None:
    """Raises RunError where `data` on the volume is not what the run was started with."""
    if folder := data_folder(run.config.replace(data=data)):
        given, own = fingerprint([folder / "train.jsonl"]), run.about["data"]["fingerprint"]
        if given != own:
            raise RunError(
                f"run {run.id} was trained on other data than data={data!r} holds now (fingerprint {own}, now {given})",
                "Leave data out, since the run has its own copy, or use another run_id",
            )


def fetch_caches(names: list[str]) -> None:
    """Copies other runs' judgements to where training looks for them. Raises ConfigError for a run that has none."""
    for name in names:
        if not (RUNS / name / CACHE_FILE).exists():
            raise ConfigError(f"cache_from={name!r}: on Modal it should name a run on the volume that has judgements")
        (HERE / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(RUNS / name / CACHE_FILE, HERE / name / CACHE_FILE)
