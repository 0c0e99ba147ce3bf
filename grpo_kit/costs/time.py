"""How long a run will take and what its judge will cost: by earlier runs where there are any, else by counting.

Each estimate says in words where it comes from. A count of operations is rough, and its range is wide.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from grpo_kit.config.base import Role, names_where
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.gpus import gpu_and_count
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.counting import STARTING_HERE_SECONDS, cpu_seconds, gpu_seconds, judge_calls, seconds_of_evaluation
from grpo_kit.costs.memory import Device
from grpo_kit.costs.prices import prices
from grpo_kit.errors import RunError
from grpo_kit.judges.gemini.prices import gemini_prices, judge_price
from grpo_kit.models.shapes import Shape, shape_of
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.utils.files import write_bytes
from grpo_kit.utils.json_lines import read_lines

Range = tuple[float, float, float]  # low, likely, high
NEWEST = 50  # runs that are looked at
HERE = "here"  # a run's machine, where that is not a GPU of Modal's
REMEMBERED = ".modal"  # below runs_dir: what runs on Modal told

# A judgement that no earlier run tells of. The prompt is gemini_absolute.txt, at 4 letters a token.
TOKENS_OF_PROMPT, TOKENS_OF_RUBRIC, TOKENS_WRITTEN = 480, 80, 160

WIDE, WIDER, SCALED, ONE_STEP = (1 / 2, 1, 2.5), (1 / 3, 1, 3), (1 / 2, 1, 2), (1 / 2, 1, 1.25)


class Estimate(NamedTuple):
    """A range and where it comes from, in words; None where nothing can be said."""

    range: Range | None
    source: str


class EarlierRun(NamedTuple):
    """What a run under runs_dir tells of the next one."""

    id: str
    settings: dict[str, Any]
    machine: str | None  # Modal's GPU, or "here"
    cycles: tuple[float, ...]  # seconds of its steps, as means over those that share their completions
    around: float | None  # seconds before, between and after its steps, where it was made in one go
    judged: dict[str, float]  # calls, tokens and usd of Gemini's
    memory_gib: float | None  # its peak

    @property
    def completions(self) -> int:
        """Of one process, a step."""
        return self.settings["per_device_train_batch_size"] * self.settings["gradient_accumulation_steps"]


def earlier_runs(runs_dir: str | Path) -> list[EarlierRun]:
    """The newest runs that have made a step, the newest first. A file is read anew only where it has changed.

    Of runs on Modal it knows what `remember` kept.
    """
    found = []
    for pattern in ("*/metrics.jsonl", f"{REMEMBERED}/*/metrics.jsonl"):
        for metrics in Path(runs_dir).glob(pattern):
            status = metrics.with_name("status.json")
            if status.exists():
                found.append((metrics.stat().st_mtime_ns, status.stat().st_mtime_ns, metrics.parent))
    newest = sorted(found, reverse=True)[:NEWEST]
    return [run for *modified, folder in newest if (run := _read_run(folder, *modified))]


def remember(run: RunDirectory, runs_dir: str | Path) -> None:
    """Keeps under `runs_dir` what a run on Modal tells of the next one."""
    folder = Path(runs_dir) / REMEMBERED / run.id
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "status.json", "metrics.jsonl"):
        if content := run.read_text(name):
            write_bytes(folder / name, content.encode())


@lru_cache(4 * NEWEST)
def _read_run(folder: Path, metrics_modified: int, status_modified: int) -> EarlierRun | None:
    try:
        about = json.loads((folder / "config.json").read_bytes())
        status = json.loads((folder / "status.json").read_bytes())
        rows = read_lines(folder / "metrics.jsonl")
        settings, every = about["settings"], about["settings"]["num_iterations"]
        times = [row["step_time"] for row in rows]
        cycles = [mean(times[start : start + every]) for start in range(0, len(times), every)]
        in_one_go = status["state"] == "complete" and not status.get("resumed")  # else steps were made twice
        around = status["seconds"] - sum(times) if in_one_go else None
        judged = {
            name: sum(row.get(f"judge/gemini/{name}") or 0.0 for row in rows) for name in ("calls", "tokens", "usd")
        }
        machine, peak = about.get("machine"), (status.get("actual") or {}).get("memory_gib")
    except (OSError, ValueError, KeyError, TypeError, RunError):
        return None  # no run, or one that is being made or spoilt: it tells nothing
    if not cycles:
        return None
    return EarlierRun(folder.name, settings, machine, tuple(cycles), around, judged, peak)


def minutes(
    config: TrainConfig,
    shape: Shape | None,
    device: Device,
    runs: Sequence[EarlierRun],
    gpu: str | None,
) -> Estimate:
    """Minutes from the start to the end of a run on Modal's `gpu`, or on this machine where that is None."""
    there = [run for run in runs if run.machine == (gpu or HERE)]
    if same := same_runs(config, runs, gpu):
        if all(len(run.cycles) == 1 for run in same):
            source = f"the first step of {_named(same)}, which is slower than later ones: likely less"
            return Estimate(_times(_by_runs(config, same)[1], ONE_STEP), source)
        return Estimate(_by_runs(config, same), f"the steps of {_named(same)}, which had the same sizes")
    if near := [run for run in there if _alike(run, config, "step")][:1]:
        earlier = near[0]
        size = config.completions_per_process * config.max_completion_length
        ratio = size / (earlier.completions * earlier.settings["max_completion_length"])
        likely = _by_runs(config, near, ratio)[1]
        return Estimate(_times(likely, SCALED), f"the steps of {earlier.id}, scaled to this size: rough")
    if shape is None:
        return Estimate(None, "the model's shape is not, and there is no earlier run of it")
    if not device.is_gpu:
        likely = cpu_seconds(config, shape) / 60
        return Estimate(_times(likely, WIDER), "counted operations, at a usual CPU's speed: very rough")
    if gpu is None:
        return Estimate(None, "there is no earlier run of this model on this machine's GPU")
    likely = gpu_seconds(config, shape, device, prices()["gpus"][gpu_and_count(gpu)[0]]) / 60
    return Estimate(
        _times(likely, WIDE), f"counted operations and {gpu}'s published speed: rough, nothing was measured"
    )


def same_runs(config: TrainConfig, runs: Sequence[EarlierRun], gpu: str | None) -> list[EarlierRun]:
    """The newest three of the same sizes on the same machine; those that made a single step only where no other did."""
    same = [run for run in runs if run.machine == (gpu or HERE) and _alike(run, config, "step", "size")]
    return ([run for run in same if len(run.cycles) > 1] or same)[:3]


def _alike(run: EarlierRun, config: TrainConfig, *roles: Role) -> bool:
    return all(run.settings.get(name) == getattr(config, name) for name in names_where(TrainConfig, *roles))


def _by_runs(config: TrainConfig, runs: Sequence[EarlierRun], ratio: float = 1.0) -> Range:
    """Minutes: the mean step, and for low and high the mean of each run's quicker and slower half of its steps."""
    # The first step of a run is slower than the others, so it counts by itself.
    steps = [sorted(run.cycles[1:] or run.cycles) for run in runs]
    around = [run.around for run in runs if run.around is not None] or [STARTING_HERE_SECONDS]
    halves = [(own[: -(-len(own) // 2)], own, own[len(own) // 2 :]) for own in steps]
    low, likely, high = (mean(mean(part) for part in parts) for parts in zip(*halves, strict=True))
    first = ratio * config.num_iterations * mean(run.cycles[0] for run in runs)
    more = ratio * max(0, config.max_steps - config.num_iterations)
    if low == high:  # one step is no range
        low, likely, high = _times(likely, ONE_STEP)
    return tuple((mean(around) + first + more * step) / 60 for step in (low, likely, high))


def _times(likely: float, factors: Range) -> Range:
    return tuple(likely * factor for factor in factors)


def _named(runs: Sequence[EarlierRun]) -> str:
    return runs[0].id if len(runs) == 1 else f"{runs[0].id} and {len(runs) - 1} more"


def evaluation_minutes(config: TrainConfig, asked: EvalConfig, gpu: str | None) -> Range | None:
    """Minutes of one of Modal's `gpu`, or of this machine's processor where that is None, until the base model and each
    checkpoint have answered; counted, and rough. None where the model's shape is not known.
    """
    shape, numbers = shape_of(config.model_name), prices()["gpus"][gpu_and_count(gpu)[0]] if gpu else None
    return shape and _times(seconds_of_evaluation(config, asked, shape, numbers) / 60, WIDE if gpu else WIDER)


def judge_usd(config: TrainConfig, runs: Sequence[EarlierRun]) -> Estimate:
    """Dollars for Gemini; (0, 0, 0) where it does not judge. Nothing is taken off for what a cache holds already, and
    the canaries are not in it."""
    calls = judge_calls(config)
    if not calls:
        return Estimate((0.0, 0.0, 0.0), "")
    price = judge_price(config)
    answers = config.num_generations if config.gemini_mode == "group" else 1
    conversation = config.max_prompt_length // 2  # as for the run's length
    read = TOKENS_OF_PROMPT + TOKENS_OF_RUBRIC + conversation + config.max_completion_length * (answers + 1) // 2
    written = TOKENS_WRITTEN * answers
    if None in price:
        missing = f"{config.gemini_model} has no price in grpo_kit/judges/gemini/prices.json"
        return Estimate(None, f"{missing}: give gemini_input_price and gemini_output_price")
    asked = ("gemini_model", "gemini_mode", "num_generations")
    alike = [
        run
        for run in runs
        if run.judged["calls"] and all(run.settings.get(name) == getattr(config, name) for name in asked)
    ]
    prices_set = ("gemini_input_price", "gemini_output_price")
    if alike and alike[0].judged["usd"] and all(alike[0].settings.get(n) == getattr(config, n) for n in prices_set):
        earlier = alike[0]
        a_call = earlier.judged["usd"] / earlier.judged["calls"]
        return Estimate(
            _times(calls * a_call, (0.7, 1, 1.2)), f"{calls:,} calls; ${a_call:.2g} a call, as in {earlier.id}"
        )
    if alike:
        earlier = alike[0]
        tokens = earlier.judged["tokens"] / earlier.judged["calls"]
        # Runs keep the sum of both kinds of tokens; how it is parted is assumed.
        read, written = tokens * read / (read + written), tokens * written / (read + written)
        source, factors = f"{tokens:,.0f} tokens a call, as in {earlier.id}", (0.7, 1, 1.2)
    else:
        source = f"assumed: {read:,} tokens read and {written:,} written a call, without thinking"
        factors = (0.5, 1, 2)
    likely = calls * (read * price[0] + written * price[1]) / 1e6
    as_of = "" if config.gemini_input_price is not None else f", prices of {gemini_prices()['as_of']}"
    return Estimate(_times(likely, factors), f"{calls:,} calls; {source}{as_of}")
