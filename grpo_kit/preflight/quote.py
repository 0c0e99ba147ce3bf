"""A quote and how it is shown: as text, as a small table in a notebook, and in short at a launch."""

from dataclasses import dataclass
from html import escape
from typing import Any

from grpo_kit.config.batching import BATCH, PASSES
from grpo_kit.config.recipes import RECIPES
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.memory import Device, Memory
from grpo_kit.costs.ranges import Range, range_text
from grpo_kit.errors import Problem
from grpo_kit.models.load import thinks
from grpo_kit.models.shapes import Shape
from grpo_kit.preflight.doctor import Check
from grpo_kit.preflight.verdict import Verdict
from grpo_kit.runs.directory import Dollars
from grpo_kit.utils.text import dollars, duration, settings_text

# In JupyterLab's own colours.
LEVEL_LOOKS = {
    "green": "color: var(--jp-success-color1, #388e3c)",
    "amber": "color: var(--jp-warn-color1, #f57c00)",
    "red": "color: var(--jp-error-color1, #d32f2f)",
}


def filled_in_text(config: TrainConfig) -> str:
    """ "; gradient_accumulation_steps=32 follows, as the recipe's step has 32": what config/batching.py made of what
    was given; empty where it is as the recipe or the defaults have it."""
    fields, recipe = TrainConfig.model_fields, RECIPES.get(config.model_name, {})
    usual = {name: recipe.get(name, fields[name].default) for name in (BATCH, PASSES)}
    found = {name: getattr(config, name) for name in usual if name not in config.given}
    changed = {name: value for name, value in found.items() if value != usual[name]}
    whose = f"the {'recipe' if recipe else 'default'}'s step has {usual[BATCH] * usual[PASSES]}"
    return f"; {settings_text(changed)} follows, as {whose}" if changed else ""


@dataclass(frozen=True)
class Quote:
    """A run before it is made. Ranges are (low, likely, high); None: not known, `…_from` says why or where from."""

    config: TrainConfig  # for the steps that are left to make
    on_modal: bool
    device: Device
    shape: Shape | None
    memory: Memory | None
    measured_gib: float | None  # the peak of an earlier run of the same sizes on the same machine
    minutes: Range | None
    minutes_from: str
    usd: Range | None  # for GPU, cores and memory; 0 here
    usd_most: float | None  # that, where every container that may be had runs out its time; 0 here
    usd_from: str
    judge_usd: Range | None
    judge_usd_from: str
    first_step: Dollars | None  # to its end, without measuring
    to_measure: int | None  # prompts whose difficulty is measured before it; None: not known
    measuring: Range | None  # minutes for that, which are among all
    measuring_usd: Dollars | None
    fits: dict[str, float]  # on Modal: the GPUs that it fits on and their dollars an hour, by their price
    verdict: Verdict  # whether it will learn
    checks: tuple[Check, ...] = ()  # of data, hub, Modal and judge; empty where none was made
    warnings: tuple[str, ...] = ()  # what works, and may not be what was meant
    slow: str = ""  # where it would take longer here than anyone waits
    problems: tuple[Problem, ...] = ()

    @property
    def _warned(self) -> tuple[str, ...]:
        return (*self.warnings, self.slow) if self.slow else self.warnings

    @property
    def where(self) -> str:
        return f"Modal, {self.config.gpu}" if self.on_modal else "here"

    @property
    def completions(self) -> int:
        """All that its steps make."""
        return self.config.completions_per_step * -(-self.config.max_steps // self.config.num_iterations)

    @property
    def memory_gib(self) -> float | None:
        """The measured peak where there is one, else the counted one."""
        return self.measured_gib or (self.memory.needed if self.memory else None)

    @property
    def usd_in_all(self) -> float | None:
        """Likely dollars for the machine and the judge; None where one of them is not known."""
        return self.usd[1] + self.judge_usd[1] if self.usd and self.judge_usd else None

    @property
    def quoted(self) -> dict[str, Any]:
        """The likely values, the range of the minutes and the first step's dollars, which status.json keeps beside what
        the run took."""
        minutes = self.minutes and [round(each, 3) for each in self.minutes]
        return {
            "minutes": minutes and minutes[1],
            "minutes_low": minutes and minutes[0],
            "minutes_high": minutes and minutes[2],
            "usd": self.usd_in_all and round(self.usd_in_all, 6),
            "usd_machine": self.usd and round(self.usd[1], 6),
            "usd_judge": self.judge_usd and round(self.judge_usd[1], 6),
            "memory_gib": self.memory_gib and round(self.memory_gib, 2),
            "first_step": self.first_step,
            **({"measuring": self.measuring_usd} if self.to_measure else {}),
        }

    def in_short(self) -> str:
        """The lines that every launch says: time and memory, dollars where it costs any, problems and the verdict."""
        rows = dict(self.rows())
        lines = [f"Quote ({self.where}): {rows['time']}; memory {rows['memory']}"]
        lines += [f"Quote: {name} {rows[name]}" for name in ("Modal", "judge") if name in rows]
        lines += [f"Warning: {text}" for text in [*self._warned, *self.problems]]
        return "\n".join([*lines, str(self.verdict)])

    def rows(self) -> list[tuple[str, str]]:
        """All that it says apart from problems: a name and a text each."""
        config, parameters = self.config, f", {self.shape.parameters:,} parameters" if self.shape else ""
        steps = f"{config.prompts_per_step} prompts with {config.num_generations} completions each; "
        steps += f"{self.completions:,} in {config.max_steps} steps"
        if self.verdict.samples:
            epochs = config.max_steps / config.num_iterations * config.prompts_per_step / self.verdict.samples
            steps += f", {epochs:.2g} epochs of the data"
        if config.num_processes > 1:
            steps += f", by {config.num_processes} processes"
            steps += " that share the weights out (FSDP)" if self.memory and self.memory.shares > 1 else ""
        time = f"{range_text(self.minutes, lambda value: duration(60 * value))}, " if self.minutes else "not known: "
        steps += filled_in_text(config)
        rows = [
            ("where", self.where),
            ("data", self.verdict.data),
            ("model", config.model_name + parameters),
            *self._thinking(),
            ("a step", steps),
            *self._warm_start(),
            *self._difficulty(),
            ("memory", self._memory()),
            ("time", time + self.minutes_from),
        ]
        if self.on_modal:
            likely = f"{range_text(self.usd, dollars)}; " if self.usd else ""
            most = f"at most {dollars(self.usd_most)} by timeout" if self.usd_most is not None else "dollars not known"
            rows.append(("Modal", f"{likely}{most} ({self.usd_from})"))
        if self.judge_usd_from:
            likely = range_text(self.judge_usd, dollars) if self.judge_usd else "dollars not known"
            rows.append(("judge", f"{likely} ({self.judge_usd_from})"))
        elif not self.on_modal:
            rows.append(("cost", "nothing"))
        checked = ", ".join(f"{check.name} {check.state}" for check in self.checks)
        unchecked = f"files here; a launch also asks the hub{', Modal' * self.on_modal} and the judge"
        rows.append(("checked", checked or unchecked))
        if self.fits:
            rows.append(("fits on", ", ".join(f"{gpu} (${usd:.2f}/h)" for gpu, usd in list(self.fits.items())[:4])))
        return rows

    def _thinking(self) -> list[tuple[str, str]]:
        on = "on: the judge and rewards see what follows the thought"
        off = "off, as chat_template_kwargs={enable_thinking: true} was not asked for"
        found = thinks(self.config)
        return [] if found is None else [("thinking", on if found else off)]

    def _warm_start(self) -> list[tuple[str, str]]:
        """What comes before GRPO's steps. Its passes are no larger than theirs, so its memory is within theirs."""
        if not (steps := self.config.sft_steps):
            return []
        samples = self.config.samples_per_sft_step
        return [("sft", f"{steps} steps first, which imitate {samples} samples each; time and cost include them")]

    def _difficulty(self) -> list[tuple[str, str]]:
        config, prompts = self.config, self.to_measure
        if not config.filter_difficulty or prompts == 0:
            return []
        if prompts is None:
            return [("measures", "every prompt's difficulty first; how many there are is not known here, nor the cost")]
        answers = prompts * config.num_generations
        made = f"the difficulty of {prompts:,} prompts first, by {answers:,} judged completions"
        time = "how long that takes is not known, and not in the time below"
        if self.measuring:
            time = f"{range_text(self.measuring, lambda value: duration(60 * value))} of the time below"
        judge = f", {dollars(usd.judge)} of the judge's dollars" if (usd := self.measuring_usd) and usd.judge else ""
        return [("measures", f"{made}: {time}{judge}")]

    def _memory(self) -> str:
        gib, peak = f"{self.device.gib:.1f} GiB", f"{self.measured_gib:.1f}" if self.measured_gib else ""
        if (memory := self.memory) is None:
            unknown = "the shape of this model is not (no config.json here, and not in grpo_kit/models/shapes.json)"
            unknown = f"that of {self.config.gpu} is not" if self.shape else unknown
            gib = "what the GPU has" if self.shape else gib
            return f"{f'{peak} of {gib} measured' if peak else 'not known'}: {unknown}"
        parts = {"weights": memory.weights, "what is trained": memory.trained, "vLLM": memory.vllm}
        parts |= {memory.phase: max(memory.updating, memory.generating), "libraries": memory.overhead}
        counted = ", ".join(f"{name} {size:.1f}" for name, size in parts.items() if size >= 0.05)
        earlier = f"; an earlier run of these sizes peaked at {peak}" if peak else ""
        whose = "the GPU" if self.device.is_gpu else "this machine"
        return f"needs {memory.needed:.1f} GiB, {whose} has {self.device.gib:.1f} ({counted}){earlier}"

    def __str__(self) -> str:
        lines = [f"{name:<8} {text}" for name, text in self.rows()]
        lines += [f"warning  {text}" for text in self._warned]
        lines += [f"problem  {problem}" for problem in self.problems]
        lines.append(f"learns   {self.verdict.level.capitalize()}")
        return "\n".join([*lines, *(f"{'':<8} {text}" for text in self.verdict.lines())])

    def _repr_html_(self) -> str:
        """A small table, in the page's own colours."""
        cell = 'style="text-align: left; vertical-align: top; padding: 0.1em 0.6em 0.1em 0'
        rows = [(name, "opacity: 0.7", text) for name, text in self.rows()]
        rows += [("warning", LEVEL_LOOKS["amber"], text) for text in self._warned]
        looks = {True: LEVEL_LOOKS["amber"], False: LEVEL_LOOKS["red"]}  # red is what would be refused
        rows += [("problem", looks[problem.is_forecast], str(problem)) for problem in self.problems]
        learns = "\n".join([self.verdict.level.capitalize(), *self.verdict.lines()])
        rows.append(("learns", LEVEL_LOOKS[self.verdict.level], learns))
        told = f"{cell}; white-space: pre-line"
        body = [
            f'<tr><td {cell}; white-space: nowrap; {look}">{name}</td><td {told}">{escape(text)}</td></tr>'
            for name, look, text in rows
        ]
        look = "border: 0; background: none; color: inherit; font: inherit; line-height: 1.4"
        return f'<table style="{look}">{"".join(body)}</table>'
