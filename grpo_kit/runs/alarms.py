"""What a run tells people who are elsewhere: a line to a webhook (notify) and alerts in trackio (report_to=trackio).

A webhook's URL is a secret. It stands in an environment variable, of which the setting has the name, and in nothing
that is written, printed or raised. A webhook that is down, slow or wrong costs a run no more than a line in its log.
"""

import html
import importlib
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from statistics import fmean
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

import certifi
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import Problem
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.utils.text import dollars

SECONDS = 10  # that one try may take, and that the end of a run waits for what is still being sent
TRIES = 3
FEW = 5  # steps whose mean reward is told, the first and the last ones
LONGEST = 1500  # characters of a line; Discord takes 2,000


def webhook_problem(config: TrainConfig) -> Problem | None:
    """Why `notify` can't work, without the URL: only its form is looked at."""
    if not (name := config.notify):
        return None
    address, what = os.environ.get(name, "").strip(), f"notify={name}: the environment variable {name}"
    fix = f"`export {name}=https://…` before you start the run, or notify=None (`--notify none`)"
    if not address:
        return Problem(f"{what} is not set", fix, "notify")
    with suppress(ValueError):
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and re.fullmatch("[!-~]+", address):
            return None
    return Problem(f"{what} is not the URL of a webhook, which begins with https:// or http://", fix, "notify")


class _NoRedirects(HTTPRedirectHandler):
    """A redirect is an error: what would follow it is a request without the message."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def _may_help(error: BaseException) -> bool:
    code = getattr(error, "code", None)
    return isinstance(error, OSError) and (code is None or code == 429 or code >= 500)


@cache
def _opener() -> OpenerDirector:
    secure = ssl.create_default_context()
    secure.load_verify_locations(certifi.where())
    return build_opener(_NoRedirects, HTTPSHandler(context=secure))


@retry(retry=retry_if_exception(_may_help), stop=stop_after_attempt(TRIES), wait=wait_fixed(1), reraise=True)
def post(url: str, line: str) -> None:
    """Sends a line to a webhook, as Slack and Mattermost (text) and Discord (content) take it. What it raises may have
    the URL in it: show `why` alone."""
    # Slack reads <, > and & as its own marks; Discord refuses Python's own User-Agent.
    body = json.dumps({"text": html.escape(line, quote=False), "content": line}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "grpo_kit"}
    _opener().open(Request(url, body, headers), timeout=SECONDS).close()


def why(error: Exception) -> str:
    """What went wrong with a message: "HTTP 404", "ConnectionRefusedError"."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    reason = getattr(error, "reason", None)
    return type(reason if isinstance(reason, Exception) else error).__name__


def kind_of(sign: Problem) -> str:
    """ "Cut off", of "Cut off: 80% of completions …"."""
    return sign.what.partition(":")[0]


class Alarms:
    """Tells of a run. `log` adds a line to the run's log."""

    def __init__(self, run: RunDirectory, config: TrainConfig, log: Callable[[str], None]):
        self._run, self._config, self._log = run, config, log
        self._sending: list[Thread] = []

    @contextmanager
    def harmless(self) -> Iterator[None]:
        """Has whatever goes wrong be a line in the log."""
        try:
            yield
        except Exception as error:
            self._warn(f"{type(error).__name__}: {error}")

    def tell_sign(self, sign: Problem, step: int) -> None:
        self._alert(kind_of(sign), str(sign).partition(": ")[2], "warn")
        self._post(f"{self._run.id} at step {step} of {self._config.max_steps}: {sign}")

    def tell_failure(self, status: dict[str, Any]) -> None:
        """Tells trackio that the run ended within a step. After another end, trackio's own run is closed."""
        self._alert(f"Run {status['state']}", status["reason"], "error")

    def tell_end(self, status: dict[str, Any]) -> None:
        """Tells the webhook how the run ended, and waits, for a while, until all is sent."""
        self._post(_end_line(self._run, status))
        deadline = time.monotonic() + SECONDS
        for thread in self._sending:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._sending):
            self._warn(f"no answer within {SECONDS} s")

    def _alert(self, title: str, text: str, level: str) -> None:
        if "trackio" in self._config.report_to:
            with suppress(ImportError, RuntimeError):  # no run of trackio's is open
                trackio = importlib.import_module("trackio")
                trackio.alert(title=title, text=text, level=trackio.AlertLevel(level))

    def _post(self, line: str) -> None:
        if problem := webhook_problem(self._config):
            self._warn(str(problem))
        elif self._config.notify:
            url = os.environ[self._config.notify].strip()
            thread = Thread(target=self._deliver, args=(url, line[:LONGEST]), daemon=True)
            self._sending.append(thread)
            thread.start()

    def _deliver(self, url: str, line: str) -> None:
        try:
            post(url, line)
        except Exception as error:
            self._warn(why(error))

    def _warn(self, text: str) -> None:
        with suppress(OSError):  # a full disk
            self._log(f"Warning: this message may not have arrived (notify={self._config.notify}): {text}")


def _end_line(run: RunDirectory, status: dict[str, Any]) -> str:
    """ "first finished: 40 of 40 steps, reward from 0.31 to 0.74, $0.12"; or why it ended, and how it goes on."""
    place = f"{status['step']} of {status['max_steps']}"
    if status["state"] != "complete":
        reason = str(status["reason"]).partition("\n")[0]
        reason = reason.removeprefix(f"stopped at step {status['step']}").lstrip(" ,:;")
        again = "" if re.search("run_id|resumes", reason) else f"; run_id {run.id} resumes it"
        return f"{run.id} {status['state']} at step {place}: {reason}{again}"
    rewards = [row["reward"] for row in read_lines(run.path / "metrics.jsonl") if row.get("reward") is not None]
    reward = f", reward from {fmean(rewards[:FEW]):.2f} to {fmean(rewards[-FEW:]):.2f}" if rewards else ""
    return f"{run.id} finished: {place} steps{reward}" + (f", {dollars(status['usd'])}" if status["usd"] else "")
