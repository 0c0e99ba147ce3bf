"""Answers that a judge's server may give and should not: each is a failed call, none takes long or leaks the key."""

import asyncio
import gzip
import json
import subprocess
import sys
import time
import zlib

import pytest
from judge_server import KEY, JudgeServer, Reply, judge as well, says

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Verdict
from grpo_kit.judges.chat.calls import MOST_BYTES
from grpo_kit.judges.chat.judge import LONGEST_REASON
from grpo_kit.judges.gemini import GeminiJudge

TURN = Sample(id="turn", prompt=[{"role": "user", "content": "Where?"}], ground_truth="There.")
GOOD = {"analysis": "Fine.", "criteria": [], "score": 0.5}


pytestmark = pytest.mark.fault("a judge's answer, with each of the two SDKs")


@pytest.fixture(params=["google-generativeai", "google-genai"])
def sdk(request) -> str:
    if request.param == "google-genai":
        pytest.importorskip("google.genai", reason="google-genai, the extra genai, is not installed")
    return request.param


def asked(sdk: str, **settings) -> tuple[Verdict, GeminiJudge]:
    """The verdict on one answer, and the judge that gave it."""
    judge = GeminiJudge(JudgeConfig(**{"gemini_sdk": sdk, "judge_max_retries": 0, **settings}))
    return asyncio.run(judge.judge(TURN, ["In Paris."]))[0], judge


def body_of(text: str) -> bytes:
    """An answer of the server's in which the model has written `text`."""
    return json.dumps(says(text).body.to("gemini")).encode()


MALFORMED = {
    "a list for a number": says(json.dumps(GOOD | {"score": [0.5]})),
    "a number for an object": says("7"),
    "null": says("null"),
    "text for a score": says(json.dumps(GOOD | {"score": "high"})),
    "a list for a verdict": says(json.dumps(GOOD | {"criteria": [{"criterion": [], "met": {}}]})),
    "10,000 levels": says("[" * 10_000 + "]" * 10_000),
    "10,000 levels outside": Reply(b"[" * 10_000 + b"]" * 10_000),
    "a list outside": Reply(b"[]"),
    "candidates of another kind": Reply({"candidates": "none"}),
    "parts of another kind": Reply({"candidates": [{"content": {"parts": 5}, "finishReason": "STOP"}]}),
    "a gateway's error": Reply({"error": "x"}, 500),
    "a gateway's page": Reply(b"<html>Bad gateway</html>", 502),
    "no JSON": Reply(b"{"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_answer_is_a_failed_call_that_is_tried_again(gemini, sdk, kind):
    gemini.first = [MALFORMED[kind]]
    verdict, judge = asked(sdk, judge_max_retries=1)
    assert verdict.score is not None and (judge.usage.calls, judge.usage.retries) == (2, 1)
    gemini.first = [MALFORMED[kind]]
    verdict, judge = asked(sdk)
    assert verdict.score is None and verdict.reason.startswith("not judged: ") and judge.usage.failures == 1


def test_an_answer_that_drips_is_given_up_in_time(gemini, sdk):
    gemini.reply = lambda request: Reply(well(request).body, drips=0.2)
    started = time.monotonic()
    verdict, _ = asked(sdk, judge_timeout=1)
    assert verdict.score is None and "not whole after 1 s" in verdict.reason
    assert time.monotonic() - started < 60, "and not after the hundreds of bytes that there are"


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(gemini, sdk, code):
    with JudgeServer() as elsewhere:
        gemini.reply = lambda _: Reply({}, code, {"Location": f"{elsewhere.url}/v1beta/models/x:generateContent"})
        verdict, _ = asked(sdk)
        assert verdict.score is None and KEY not in verdict.reason and elsewhere.requests == []


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "deflate"}])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_answer_is_read_whole_however_it_comes(gemini, sdk, headers, is_chunked):
    body = body_of(json.dumps(GOOD | {"analysis": "x" * 100_000}))
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(headers.get("Content-Encoding"), bytes)
    gemini.reply = lambda _: Reply(
        pack(body), headers=headers | ({"Transfer-Encoding": "chunked"} if is_chunked else {})
    )
    assert [asked(sdk)[0].score for _ in range(3)] == [0.5] * 3


def test_a_body_has_its_bounds(gemini, sdk):
    long = body_of(json.dumps(GOOD | {"analysis": "x" * 2 * MOST_BYTES}))
    for reply in (Reply(long), Reply(gzip.compress(long), headers={"Content-Encoding": "gzip"})):
        gemini.first = [reply]
        verdict, _ = asked(sdk)
        assert verdict.score is None and f"longer than {MOST_BYTES} bytes" in verdict.reason
    gemini.reply = lambda _: says(json.dumps(GOOD | {"analysis": "x " * 100_000}))
    verdict, _ = asked(sdk)
    assert verdict.score == 0.5 and len(verdict.reason) <= LONGEST_REASON


VERBOSE = """
import json, os, sys
for name in ("GEMINI", "OPENAI", "ANTHROPIC"):
    os.environ[f"{name}_API_KEY"] = "AIza-planted-key"
from IPython.core.ultratb import VerboseTB
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.judges.base import make_judge
library, usual = sys.argv[1], dict(os.environ)
own = {"gemini_sdk": library} if library.startswith("google") else {"judge_model": "some"}
for environment in json.loads(sys.argv[2]):
    os.environ |= environment
    try:
        judge = make_judge("gemini" if "gemini_sdk" in own else library, JudgeConfig(**own))
        judge.check()
    except Exception:
        print(VerboseTB(color_scheme="NoColor", include_vars=True).text(*sys.exc_info()), end="\\0")
    for name in environment:
        os.environ.pop(name)
    os.environ |= usual
"""
ADDRESSES = ("GOOGLE_GEMINI_BASE_URL", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL")
AMISS = {  # by what is said of it
    "ftp://example.com is not a web address": dict.fromkeys(ADDRESSES, "ftp://me:word@example.com"),
    "can't be reached at http://127.0.0.1:9": dict.fromkeys(ADDRESSES, "http://me:word@127.0.0.1:9"),
    "ConfigError": dict.fromkeys(["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"], "/none"),
}


@pytest.mark.parametrize(
    "library",
    [
        "google-generativeai",
        "anthropic",
        pytest.param("google-genai", marks=pytest.mark.wide),
        pytest.param("openai", marks=pytest.mark.wide),
    ],
)
def test_a_verbose_traceback_shows_no_key_and_no_password(library):
    command = [sys.executable, "-c", VERBOSE, library, json.dumps([*AMISS.values()])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    tracebacks = done.stdout.split("\0")[:-1]
    assert len(tracebacks) == len(AMISS), done.stdout + done.stderr
    for said, traceback in zip(AMISS, tracebacks, strict=True):
        assert said in traceback, traceback
    assert "planted" not in done.stdout + done.stderr and "me:word" not in done.stdout
