"""The quote: what a run will do, need and cost, and what stands in its way, before it does. No network is asked.

memory.py counts what it needs, estimates.py says how long it takes, obstacles.py what is wrong; what only a network can
answer, doctor.py asks.
"""

import html
import shutil
import subprocess
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from grpo_kit.backends import chosen_backend
from grpo_kit.config import GPUS, TrainConfig
from grpo_kit.estimates import Range, earlier_runs, judge_usd, minutes, prices
from grpo_kit.memory import Device, Memory, memory_needed, shape_of
from grpo_kit.obstacles import Problem, memory_problems, problems_of_settings, shortage, time_problems
from grpo_kit.runs import RUNS_DIR
from grpo_kit.troubles import duration
from grpo_kit.versions import version_of

CORES = 2  # of a container on Modal (app.py)
WARN, ERROR = "var(--jp-warn-color1, #f57c00)", "var(--jp-error-color1, #d32f2f)"


@dataclass(frozen=True)
class Fit:
    """One of Modal's GPUs that the run fits on, and what it would take and cost there."""

    gpu: str
    usd_per_hour: float  # of the GPU alone
    minutes: Range | None
    usd: Range | None  # GPU, cores and memory


@dataclass(frozen=True)
class Quote:
    """A run before it is made. Ranges are (low, likely, high); None: not known, `…_from` says why or where from."""

    where: str  # "here", or "Modal, A10"
    model: str
    parameters: int | None
    prompts_per_step: int
    completions_per_step: int
    completions: int  # in all
    memory: Memory | None
    gpu_gib: float | None  # what there is: the GPU's memory, or this machine's where it has no GPU
    is_gpu: bool
    minutes: Range | None
    minutes_from: str
    usd: Range | None  # for GPU, cores and memory; 0 here
    usd_most: float  # that, where every container that may be had runs out its time; 0 here
    usd_from: str
    judge_usd: Range | None
    judge_usd_from: str
    problems: tuple[Problem, ...]
    fits: tuple[Fit, ...]  # on Modal: the GPUs that it fits on, by their price

    @property
    def is_on_modal(self) -> bool:
        return self.where != "here"

    @property
    def memory_gib(self) -> float | None:
        return self.memory.needed if self.memory else None

    @property
    def cheapest_fit(self) -> Fit | None:
        return self.fits[0] if self.fits else None

    def rows(self) -> list[tuple[str, str]]:
        """What it says apart from problems: a name and a text each."""
        steps = f"{self.prompts_per_step} prompts, {self.completions_per_step} completions"
        kind = "GPU" if self.is_gpu else "machine"
        memory = "not known: the shape of this model is not (no config.json here, and not in grpo_kit/shapes.json)"
        if self.memory:
            memory = f"{self.memory.needed:.1f} of the {kind}'s {self.gpu_gib:.1f} GiB ({_parts(self.memory)})"
        known = f"{_range(self.minutes, _minutes)}, by " if self.minutes else "not known: "
        rows = [
            ("where", self.where),
            ("model", self.model + (f", {self.parameters:,} parameters" if self.parameters else "")),
            ("a step", steps),
            ("in all", f"{self.completions:,} completions"),
            ("memory", memory),
            ("time", known + self.minutes_from),
        ]
        if self.is_on_modal:
            known = f"{_range(self.usd, _usd)}; " if self.usd else ""
            rows.append(("Modal", f"{known}at most {_usd(self.usd_most)} ({self.usd_from})"))
        if self.judge_usd_from:
            judge = f"{_range(self.judge_usd, _usd)} " if self.judge_usd else "dollars not known "
            rows.append(("judge", f"{judge}({self.judge_usd_from})"))
        if not self.is_on_modal and not self.judge_usd_from:
            rows.append(("cost", "nothing"))
        if self.is_on_modal:
            rows.append(("unasked", "Modal's data and secrets, and the hub: kit.doctor(config) looks at them"))
        if self.fits:
            rows.append(("fits on", "; ".join(map(_fit, self.fits[:4]))))
        return rows

    def __str__(self) -> str:
        lines = [f"{name:<8} {text}" for name, text in self.rows()]
        lines += [f"problem  {problem.what}\n      -> {problem.fix}" for problem in self.problems]
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        lines = ["| | |", "| --- | --- |", *(f"| {name} | {_cell(text)} |" for name, text in self.rows())]
        lines += [f"| **problem** | **{_cell(problem.what)}.** {_cell(problem.fix)} |" for problem in self.problems]
        return "\n".join(lines)

    def html(self) -> str:
        """A small table, for a widget; in the page's own colours."""
        cell = 'style="text-align: left; vertical-align: top; padding: 0.1em 0.6em 0.1em 0"'
        rows = [
            f'<tr><td {cell}><span style="opacity: 0.7">{html.escape(name)}</span></td>'
            f"<td {cell}>{html.escape(text)}</td></tr>"
            for name, text in self.rows()
        ]
        problems = [
            f'<div style="margin-top: 0.4em; padding-left: 0.5em; border-left: 3px solid {WARN}">'
            f'<b style="color: {ERROR}">{html.escape(problem.what)}.</b> {html.escape(problem.fix)}</div>'
            for problem in self.problems
        ]
        look = "border: 0; background: none; color: inherit; font: inherit; line-height: 1.4"
        table = f'<table style="{look}">{"".join(rows)}</table>'
        return f"<div>{table}{''.join(problems)}</div>"


def quote(config: TrainConfig | None = None, runs_dir: str | Path = RUNS_DIR, backend: str | None = None) -> Quote:
    """What a run with these settings will do, need and cost; see Quote. Takes milliseconds, and asks no network.

    Times come from earlier runs under `runs_dir` where they fit. `backend`: "local" or "modal"; None: the chosen one.
    Print it, or leave it as a cell's last line.
    """
    config = config or TrainConfig()
    on_modal = (backend or chosen_backend()) == "modal"
    runs, shape = earlier_runs(runs_dir), shape_of(config.model_name)
    gpu = config.gpu if on_modal else None
    device = modal_device(config.gpu) if on_modal else this_machine()
    memory = memory_needed(config, shape, device) if shape else None
    time, judge = minutes(config, shape, device, runs, gpu), judge_usd(config, runs)
    fits = []
    for name in sorted(GPUS, key=_price) if on_modal and shape else ():
        other = modal_device(name)
        if not shortage(memory_needed(config, shape, other), other):
            there = minutes(config, shape, other, runs, name).range
            fits.append(Fit(name, _price(name), there, _modal_usd(config, name, there)))
    cheapest = f"gpu={fits[0].gpu} (${fits[0].usd_per_hour:.2f} an hour)" if fits else None
    problems = [*problems_of_settings(config, Path(runs_dir), on_modal)]
    if memory:
        problems += memory_problems(config, shape, device, memory, cheapest, on_modal)
    problems += time_problems(config, time.range, on_modal)
    hourly = modal_usd_per_hour(config, config.gpu)
    usd = _modal_usd(config, config.gpu, time.range) if on_modal else (0.0, 0.0, 0.0)
    usd_most = hourly * config.timeout / 3600 * (1 + config.retries) if on_modal else 0.0
    return Quote(
        where=f"Modal, {config.gpu}" if on_modal else "here",
        model=config.model_name,
        parameters=shape.parameters if shape else None,
        prompts_per_step=config.prompts_per_step,
        completions_per_step=config.completions_per_step,
        completions=config.completions_per_step * -(-config.max_steps // config.num_iterations),
        memory=memory,
        gpu_gib=device.gib,
        is_gpu=device.is_gpu,
        minutes=time.range,
        minutes_from=time.source,
        usd=usd and tuple(min(each, usd_most) for each in usd),
        usd_most=usd_most,
        usd_from=f"${hourly:.2f} an hour, prices of {prices()['as_of']}" if on_modal else "",
        judge_usd=judge.range,
        judge_usd_from=judge.source,
        problems=tuple(problems),
        fits=tuple(fits),
    )


def modal_device(gpu: str) -> Device:
    return Device(True, prices()["gpus"][gpu]["usable_gib"], has_vllm=True)  # requirements-gpu.lock has it


@lru_cache(1)
def this_machine() -> Device:
    """This machine's GPU where torch can use one, else its memory. torch itself is not asked: importing it is slow."""
    import psutil

    asker = shutil.which("nvidia-smi")
    if asker and "+cpu" not in (version_of("torch") or "+cpu"):
        query = [asker, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=5)
            return Device(True, int(done.stdout.split()[0]) / 1024, version_of("vllm") is not None)
        except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
            pass  # a driver with no GPU
    return Device(False, psutil.virtual_memory().total / 2**30)


def modal_usd_per_hour(config: TrainConfig, gpu: str) -> float:
    """Dollars an hour of a container: its GPU, memory and cores, by Modal's list in prices.json."""
    listed = prices()
    beside = config.memory / 1024 * listed["usd_per_gib_hour"] + CORES * listed["usd_per_core_hour"]
    return _price(gpu) + beside


def _price(gpu: str) -> float:
    return prices()["gpus"][gpu]["usd_per_hour"]


def _modal_usd(config: TrainConfig, gpu: str, time: Range | None) -> Range | None:
    hourly = modal_usd_per_hour(config, gpu)
    return time and tuple(hourly * each / 60 for each in time)


def _parts(memory: Memory) -> str:
    names = {"weights": "weights", "trained": "what is trained", "vllm": "vLLM", "overhead": "overhead"}
    names[memory.phase] = memory.phase
    sizes = [(names[field.name], getattr(memory, field.name)) for field in fields(memory) if field.name in names]
    return ", ".join(f"{name} {size:.1f}" for name, size in sizes if size >= 0.05)


def _range(values: Range, shown) -> str:
    low, likely, high = values
    return f"{shown(likely)} ({shown(low)} to {shown(high)})"


def _minutes(value: float) -> str:
    return duration(60 * value)


def _usd(value: float) -> str:
    return f"${value:.2f}" if value >= 0.1 or not value else f"${value:.3f}"


def _fit(fit: Fit) -> str:
    price = f"${fit.usd_per_hour:.2f}/h"
    return (
        f"{fit.gpu} ({price}, {_minutes(fit.minutes[1])}, {_usd(fit.usd[1])})"
        if fit.minutes
        else f"{fit.gpu} ({price})"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("$", "\\$")
