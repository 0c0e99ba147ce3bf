"""Earlier runs, and what they tell of the next one: seconds of their steps, dollars of their judge, their memory."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from grpo_kit.config.base import Role, names_where
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.memory import device_of, is_sharded
from grpo_kit.data.demo import data_folder
from grpo_kit.data.samples import fingerprint_of
from grpo_kit.errors import KitError, RunError
from grpo_kit.models.shapes import shape_of
from grpo_kit.runs.directory import SFT_METRICS, RunDirectory
from grpo_kit.runs.storage import LocalStorage
from grpo_kit.utils.files import write_bytes
from grpo_kit.utils.json_lines import read_lines

NEWEST = 50  # runs that are looked at
HERE = "here"  # a run's machine, where that is not a GPU of Modal's
REMEMBERED = ".modal"  # the folder in runs_dir that keeps what runs on Modal told


class EarlierRun(NamedTuple):
    """A run that made a step."""

    id: str
    settings: dict[str, Any]
    machine: str | None  # Modal's GPU, or "here"
    cycles: tuple[float, ...]  # seconds of its steps, as means over those that share their completions
    # Seconds from its start to its first step; here without those that counted the prompts' tokens, which the next run
    # on the data finds counted, as one in a container does not, and without a warm start's. None where that was not
    # measured.
    before: float | None
    # Seconds of a step beside its own: saving, recording, the optimiser. 0 where it was resumed or is not complete.
    between: float
    generating: float  # seconds in which a step's completions are generated
    judging: float  # and in which their scores are waited for
    longest: float | None  # tokens of a step's longest completion, the median; None where that was not measured
    is_resumed: bool
    sft_seconds: float | None  # a step of its warm start, the mean; None where it made none
    calls: float  # to its judges
    usd: float  # for them
    memory_gib: float | None  # its peak
    data: str | None = None  # the fingerprint of its train.jsonl, whose lengths decide memory too

    def has_same(self, config: TrainConfig, names: Iterable[str]) -> bool:
        """Whether these settings are the same; one that is newer than the run had its default."""
        fields = TrainConfig.model_fields
        return all(self.settings.get(name, fields[name].default) == getattr(config, name) for name in names)

    def is_like(self, config: TrainConfig, *roles: Role) -> bool:
        """Whether the settings that have one of these roles are the same."""
        return self.has_same(config, names_where(TrainConfig, *roles))


def earlier_runs(runs_dir: str | Path) -> list[EarlierRun]:
    """The newest runs that have made a step, the newest first; of those on Modal what `remember` kept."""
    found, folder = [], Path(runs_dir)
    for metrics in [*folder.glob("*/metrics.jsonl"), *folder.glob(f"{REMEMBERED}/*/metrics.jsonl")]:
        if (status := metrics.with_name("status.json")).exists():
            found.append((metrics.stat().st_mtime_ns, status.stat().st_mtime_ns, metrics.parent))
    newest = sorted(found, reverse=True)[:NEWEST]
    return [run for *modified, folder in newest if (run := _read_run(folder, *modified))]


def like_run(config: TrainConfig, runs: Sequence[EarlierRun], gpu: str | None, *roles: Role) -> EarlierRun | None:
    """The newest run on `gpu` (None: here) with the same settings of these roles; of several steps if any is."""
    like = [run for run in runs if run.machine == (gpu or HERE) and run.is_like(config, *roles)]
    return next((run for run in like if len(run.cycles) > 1), like[0] if like else None)


def measured_memory(config: TrainConfig, runs: Sequence[EarlierRun], gpu: str | None) -> float | None:
    """GiB at the peak of the newest run on `gpu` (None: here) with the same of all that decides memory."""
    try:
        train = data_folder(config.data) / "train.jsonl"
        data = fingerprint_of(train, train.stat().st_mtime_ns)
        runs = [run for run in runs if run.data == data]
    except (KitError, OSError):  # it is on Modal's volume alone
        pass
    shape = shape_of(config.model_name)
    shares = is_sharded(config, shape, device_of(config, gpu)) if shape else config.fsdp is True
    same = like_run(config.model_copy(update={"fsdp": shares}), runs, gpu, "step", "size", "memory")
    return same and same.memory_gib


def remember(run: RunDirectory, runs_dir: str | Path) -> None:
    """Keeps under `runs_dir` what a run on Modal tells of the next one."""
    folder = Path(runs_dir) / REMEMBERED / run.id
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "status.json", "metrics.jsonl", SFT_METRICS):
        if content := run.read_text(name):
            write_bytes(folder / name, content.encode())


def judged(row: dict, what: str, *kinds: str) -> float:
    """The "calls" or "usd" of all judges in a row of metrics.jsonl, of these kinds: "judge", "eval_judge"."""
    return sum(row.get(name) or 0.0 for name in row if name.endswith(f"/{what}") and name.split("/")[0] in kinds)


@lru_cache(4 * NEWEST)
def _read_run(folder: Path, metrics_modified: int, status_modified: int) -> EarlierRun | None:
    """None where it is no run, or one that is being made or broken."""
    try:
        about, status = (json.loads(LocalStorage(folder).read(name)) for name in ("config.json", "status.json"))
        lines = read_lines(folder / "metrics.jsonl")
        rows = [row for row in lines if "step_time" in row]  # step 0 has held-out scores alone
        settings, every = TrainConfig.present_names(about["settings"]), about["settings"]["num_iterations"]
        settings |= {"fsdp": status.get("fsdp", False)}  # as "auto" was decided
        times = [row["step_time"] for row in rows]
        cycles = tuple(mean(times[start : start + every]) for start in range(0, len(times), every))
        in_one_go = status["state"] == "complete" and not status.get("resumed")  # else steps were made twice
        warm = [row["step_time"] for row in read_lines(folder / SFT_METRICS)]
        started = status.get("starting_seconds")  # of the process that trained it last
        counting = status.get("fitting_seconds", 0.0) if about.get("machine") == HERE else 0.0
        before = None if started is None else max(0.0, started - counting)
        evaluating = sum(row.get("eval_runtime", 0.0) for row in lines)
        beside = sum(times) + sum(warm) + evaluating + (status.get("difficulty") or {}).get("seconds", 0.0)
        rest = status["seconds"] - started - beside if in_one_go and started is not None else 0.0
        between = max(0.0, rest) / max(1, len(times))
        parts = ("seconds/generating", "seconds/judging")
        generating, judging = (sum(row.get(part, 0.0) for row in rows) / max(1, len(cycles)) for part in parts)
        lengths = [row["completions/max_length"] for row in rows if "completions/max_length" in row]
        calls, usd = (sum(judged(row, name, "judge", "eval_judge") for row in lines) for name in ("calls", "usd"))
        peak, data = (status.get("actual") or {}).get("memory_gib"), about.get("data", {}).get("fingerprint")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RunError):
        return None
    steps = cycles, before, between, generating, judging, median(lengths) if lengths else None
    rest = bool(status.get("resumed")), mean(warm) if warm else None, calls, usd, peak, data
    return EarlierRun(folder.name, settings, about.get("machine"), *steps, *rest) if cycles else None
