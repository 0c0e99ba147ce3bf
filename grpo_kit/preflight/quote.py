"""A quote and how it is shown: as text, as Markdown, as a small table for a widget, and in short at a launch."""

import html
from dataclasses import dataclass, fields
from typing import Any

from grpo_kit.costs.memory import Memory
from grpo_kit.costs.time import Range
from grpo_kit.preflight.checks import Problem
from grpo_kit.preflight.doctor import NOT_CHECKED, OK, PROBLEM, Check
from grpo_kit.utils.text import duration

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
    processes: int  # that train together
    prompts_per_step: int
    completions_per_step: int
    completions: int  # in all
    memory: Memory | None
    measured_gib: float | None  # the peak of earlier runs of the same sizes on the same machine
    gpu_gib: float | None  # what there is: the GPU's memory, or this machine's where it has no GPU
    is_gpu: bool
    minutes: Range | None
    minutes_from: str
    usd: Range | None  # for GPU, cores and memory; 0 here
    usd_most: float  # that, where every container that may be had runs out its time; 0 here
    usd_from: str
    judge_usd: Range | None
    judge_usd_from: str
    max_usd: float | None
    # Dollars to the end of the first step: usd_machine (of which usd_loaded are the step's own) and usd_judge
    first_step: dict[str, float] | None
    checks: tuple[Check, ...]  # what was asked of data, hub, Modal and judge; empty where nothing was
    problems: tuple[Problem, ...]
    fits: tuple[Fit, ...]  # on Modal: the GPUs that it fits on, by their price

    @property
    def is_on_modal(self) -> bool:
        return self.where != "here"

    @property
    def memory_gib(self) -> float | None:
        """What was measured where something was, else what was counted."""
        return self.measured_gib or (self.memory.needed if self.memory else None)

    @property
    def cheapest_fit(self) -> Fit | None:
        return self.fits[0] if self.fits else None

    @property
    def usd_in_all(self) -> float | None:
        """Likely dollars for the machine and the judge; None where one of them is not known."""
        return self.usd[1] + self.judge_usd[1] if self.usd and self.judge_usd else None

    @property
    def quoted(self) -> dict[str, Any]:
        """What status.json keeps, to be held against what the run took: the likely values, and the first step's."""
        return {
            "minutes": self.minutes and round(self.minutes[1], 3),
            "usd": rounded(self.usd_in_all),
            "usd_machine": self.usd and rounded(self.usd[1]),
            "usd_judge": self.judge_usd and rounded(self.judge_usd[1]),
            "memory_gib": self.memory_gib and round(self.memory_gib, 2),
            "first_step": self.first_step,
        }

    def in_short(self) -> str:
        """What every launch says: a line of time and memory, one of dollars where it costs any, and the problems."""
        rows = dict(self.rows())
        memory = f"{self.memory_gib:.1f} of {self.gpu_gib:.1f} GiB" if self.memory_gib else "memory not known"
        lines = [f"Quote ({self.where}): {rows['time']}; {memory}"]
        if dollars := [f"{name} {rows[name]}" for name in ("Modal", "judge", "max_usd") if name in rows]:
            lines.append(f"Quote: {'; '.join(dollars)}")
        return "\n".join([*lines, *(f"Warning: {problem}" for problem in self.problems)])

    def rows(self) -> list[tuple[str, str]]:
        """What it says apart from problems: a name and a text each."""
        steps = f"{self.prompts_per_step} prompts, {self.completions_per_step} completions"
        if self.processes > 1:
            steps += f", by {self.processes} processes"
            steps += " that share the weights out (FSDP)" if self.memory and self.memory.shares > 1 else ""
        kind = "GPU" if self.is_gpu else "machine"
        memory = "not known" if not self.measured_gib else f"{self.measured_gib:.1f} of {self.gpu_gib:.1f} GiB measured"
        memory += ": the shape of this model is not (no config.json here, and not in grpo_kit/models/shapes.json)"
        if self.memory:
            memory = f"{self.memory.needed:.1f} of the {kind}'s {self.gpu_gib:.1f} GiB ({_parts(self.memory)})"
            memory += f"; earlier runs of these sizes peaked at {self.measured_gib:.1f}" if self.measured_gib else ""
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
        if self.max_usd is not None:
            rows.append(("max_usd", f"${self.max_usd:g}: before the step that would pass it the run stops"))
        if not self.is_on_modal and not self.judge_usd_from:
            rows.append(("cost", "nothing"))
        rows.append(("checked", self._checked()))
        if self.fits:
            rows.append(("fits on", "; ".join(map(_fit, self.fits[:4]))))
        return rows

    def _checked(self) -> str:
        """What was looked at beside this machine, and what came of it."""
        if not self.checks:
            return "only this machine: kit.quote(config), --dry-run and every launch ask the hub, Modal and the judge"
        by_state = {
            state: [check.name for check in self.checks if check.state == state] for state in (OK, PROBLEM, NOT_CHECKED)
        }
        return "; ".join(f"{state}: {', '.join(names)}" for state, names in by_state.items() if names)

    def __str__(self) -> str:
        lines = [f"{name:<8} {text}" for name, text in self.rows()]
        for problem in self.problems:
            lines += [f"problem  {problem.what}"] + ([f"      -> {problem.fix}"] if problem.fix else [])
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


def rounded(usd: float | None) -> float | None:
    return usd if usd is None else round(usd, 6)


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
