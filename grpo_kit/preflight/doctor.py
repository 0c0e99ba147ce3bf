"""Checks that ask the data, the hub and the judge whether a run can come to its end, each with what to do about it.

They ask what training would ask, change nothing and wait for no answer for long. backends/modal/checks.py asks Modal.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grpo_kit.agents.asked_user import asked_user
from grpo_kit.agents.episodes import episodes
from grpo_kit.config.judge import NEED_MODEL, rungs
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA, KITS_OWN, data_folder
from grpo_kit.data.samples import read_samples
from grpo_kit.errors import ConfigError, KitError, Problem
from grpo_kit.judges.base import make_judge
from grpo_kit.models.files import templates_in
from grpo_kit.models.load import check_model, check_template, model_problem, no_template
from grpo_kit.preflight.models import of_one_family
from grpo_kit.rewards.travel import Rewards
from grpo_kit.runs.alarms import post, webhook_problem, why
from grpo_kit.training.plan import check_trl, no_held_out, plain_rewards
from grpo_kit.utils.text import settings_text

OK, PROBLEM, NOT_CHECKED = "ok", "problem", "not checked"
SECONDS = 20  # for one check; left alone, Modal's library tries for a minute to connect
SECONDS_FOR_DATA = 120
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


class NotChecked(Exception):
    """Raised by a check that can't tell from here; the message says why."""


def tried(name: str, look: Callable[..., str], *args: Any, seconds: float = SECONDS) -> Check:
    """The check that `look` makes: it returns what it found, or raises what is wrong. It is a problem too that it fails
    in another way, or takes longer than `seconds`."""
    answer: Future[str] = Future()

    def work() -> None:
        try:
            answer.set_result(look(*args))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    again = "check the network, and try again in a while"
    try:
        return Check(name, OK, answer.result(timeout=seconds))
    except TimeoutError:
        return Check(name, PROBLEM, f"no answer within {seconds:.0f} s: it can't be reached, or is slow", again)
    except NotChecked as reason:
        return Check(name, NOT_CHECKED, str(reason))
    except KitError as error:
        where = f"{error.problem.where}: " if error.problem.where else ""
        return Check(name, PROBLEM, where + error.problem.what, error.problem.fix)
    except Exception as error:
        kind = type(error)  # others may hold what was sent, a key with it
        said = f": {error}" if kind.__module__ == "modal.exception" else ""
        return Check(name, PROBLEM, f"can't be checked ({kind.__name__}{said})", again)


def samples_in(file: Path) -> int:
    """Raises BadTrace, naming the line, where it is not valid."""
    return sum(1 for _ in read_samples(file))


def data(config: TrainConfig, name: str) -> str:
    file = (data_folder(config.data) if ":" in config.data else Path(config.data)) / name
    if file.exists():
        return f"{samples_in(file)} samples in {file}"
    if config.data in KITS_OWN and not file.with_name("train.jsonl").exists():
        return f"none in {config.data}, so the kit's own samples are used"
    if name == "eval.jsonl" and config.eval_steps:
        raise no_held_out(config, f"there is no {file}")
    if name == "eval.jsonl":
        return f"no {file}; only an evaluation needs it"
    raise ConfigError(f"no {file}", PREPARE)


def functions(config: TrainConfig, rewards: Rewards, on_modal: bool) -> str:
    """Raises ConfigError for a reward function that asks for what train.jsonl, as it is here, does not have."""
    file = (Path(config.data) if on_modal else data_folder(config.data)) / "train.jsonl"
    if on_modal and not file.exists():
        raise NotChecked(f"there is no {file} here; Modal checks them before it starts a GPU")
    return ", ".join(each.__name__ for each in plain_rewards(config, rewards, list(read_samples(file))))


def environment(config: TrainConfig) -> str:
    """Begins a dialogue in another's. Raises ConfigError where that fails, or the samples have no calls."""
    samples = read_samples(data_folder(config.data) / "train.jsonl")
    found = episodes(list(samples), config.environment, config.data)
    tools = {tool.get("function", tool)["name"]: None for sample in found for tool in sample.tools}
    return f"{config.environment}: {len(found)} dialogues, with " + (", ".join(tools) or "no tools")


def trl(config: TrainConfig, on_modal: bool) -> str:
    check_trl(config, may_have_vllm=on_modal, elsewhere=on_modal)
    return settings_text(config.trl)


def model(config: TrainConfig) -> str:
    if problem := model_problem(config.model_name):
        raise ConfigError(problem.what, problem.fix)
    check_model(config.model_name, config)
    first = None
    with suppress(KitError, OSError):  # which the check of the data says
        first = next(read_samples(data_folder(config.data) / "train.jsonl"), None)
    if first and not isinstance(first.prompt, str):
        if (folder := Path(config.model_name)).is_dir() and not templates_in(folder):
            raise no_template(config.model_name)
        check_template(config.model_name, config.chat_template_kwargs)
    return config.model_name


def notify(config: TrainConfig, sends: bool = False) -> str:
    """Looks at the form of the webhook's URL, and with `sends` has it take a message."""
    if problem := webhook_problem(config):
        raise ConfigError(problem.what, problem.fix)
    if not (name := config.notify):
        raise ConfigError("notify names no environment variable with a webhook's URL", "notify=GRPO_KIT_NOTIFY_URL")
    if not sends:
        return f"{name} holds a URL, to which doctor --test-message sends a line"
    try:
        post(os.environ[name].strip(), "grpo-kit doctor: a run will post its warnings and its end here")
    except Exception as error:
        what = f"the webhook in {name} did not accept a message ({why(error)})"
        raise ConfigError(what, "Check its settings, and the variable") from None
    return f"the webhook in {name} accepted a message"


def judge(config: TrainConfig) -> str:
    quick = config.replace(judge_timeout=min(config.judge_timeout, SECONDS / 4))
    user = asked_user(quick)
    for judge in filter(None, [*(make_judge(name, quick) for name in config.judge), user]):
        judge.check()
        judge.close()
    told = {rung: f"{rung} ({config.model_of(rung)})" if rung in NEED_MODEL else rung for rung in config.rungs}
    names = [">".join(told[rung] for rung in rungs([name])) for name in config.judge]
    names += [f"{user.about} speaks for the user"] if user else []
    return "\n".join([", ".join(names), *of_one_family(config, config.model_name)])
