"""How long chat models' judgements take beside the best that could be, and how long cached ones do.

    .venv/bin/python benchmarks/gemini.py

A server on loopback (tests/judge_server.py, a process of its own) takes 0.2 s for each answer. 256 judgements with 32
in flight then take 1.6 s at best. In one run, in turn, they are made by plain sockets that do nothing else, and by the
kit through each of the clouds' libraries; what counts is the ratio to 1.6 s (goal: 1.15), with the sockets' to see what
the machine itself takes. The loop that scripts usually have, one call after the other, is made for 16 judgements and
counted for all. Absolute and group mode are compared by their calls and by what they send for 256 answers in groups of
8, a token counted as 4 letters. As where a run trains, the collector never looks at what libraries have loaded. Then
10,000 cached judgements are looked up (goal: 0.3 s). Writes benchmarks/gemini.json.
"""

import json
import os
import platform
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Verdict, make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.judges.cache import RewardCache
from grpo_kit.judges.chat.judge import ChatJudge
from grpo_kit.judges.gemini import GeminiJudge
from grpo_kit.utils.garbage import loading_libraries

ROOT = Path(__file__).parents[1]
SECONDS, JUDGEMENTS, IN_FLIGHT, ROUNDS = 0.2, 256, 32, 7
IDEAL = SECONDS * JUDGEMENTS / IN_FLIGHT
SAMPLES = [
    Sample(f"{i}", f"I want to eat in town {i}.", "What kind of food do you like?", rubric="ask for: the cuisine")
    for i in range(JUDGEMENTS // 8)
]


def by_sockets(url: str, request: bytes) -> float:
    """Seconds for the same requests from threads that only send and receive."""
    host, port = url.removeprefix("http://").split(":")
    left, done = queue.SimpleQueue(), queue.SimpleQueue()

    def ask() -> None:
        with socket.create_connection((host, int(port))) as connection:
            while left.get():
                connection.sendall(request)
                done.put(connection.recv(65536))

    threads = [threading.Thread(target=ask) for _ in range(IN_FLIGHT)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    for _ in range(JUDGEMENTS):
        left.put(True)
    for _ in range(JUDGEMENTS):
        done.get()
    seconds = time.perf_counter() - started
    for _ in threads:
        left.put(False)
    return seconds


def by_kit(judge: ChatJudge, name: str) -> float:
    samples = [sample for sample in SAMPLES for _ in range(8)]
    answers = [f"Answer {i} of {name}: which food?" for i in range(JUDGEMENTS)]
    started = time.perf_counter()
    judged = run_async(judge_batch(judge, None, samples, answers))
    seconds = time.perf_counter() - started
    assert all(verdict.score is not None for verdict in judged.verdicts) and len(judged.fresh) == JUDGEMENTS
    return seconds


def one_by_one(judge: ChatJudge, count: int = 16) -> float:
    """Seconds for all judgements in a loop, by `count` of them."""
    started = time.perf_counter()
    for i in range(count):
        run_async(judge.judge(SAMPLES[i % len(SAMPLES)], [f"Answer {i} in a loop: which food?"]))
    return (time.perf_counter() - started) * JUDGEMENTS / count


def sent(mode: str) -> dict[str, int]:
    """Calls and tokens of one step's judgements in that mode."""
    judge = GeminiJudge(JudgeConfig(judge_mode=mode))
    samples = [sample for sample in SAMPLES for _ in range(8)]
    answers = [f"Answer {i}: what kind of food would you like to eat tonight?" for i in range(JUDGEMENTS)]
    groups = [answers[i : i + 8] for i in range(0, JUDGEMENTS, 8)] if mode == "group" else [[each] for each in answers]
    size = 8 if mode == "group" else 1
    prompts = [judge.prompt(samples[i * size], group) for i, group in enumerate(groups)]
    judge.close()
    return {"calls": len(prompts), "tokens_read": sum(map(len, prompts)) // 4}


class Scored:
    """A judge whose 10,000 judgements are all cached."""

    name, version, compares, samples, usage = "gemini", "benchmark", False, 1, None

    async def judge(self, sample, answers, repeat=0):
        reason = "It asks for the cuisine and nothing else, as it should; one word is misspelt, which costs little."
        return [Verdict(0.5, reason, {"ask for the cuisine": 1.0, "nothing else": 0.5}, 125) for _ in answers]


def cached(count: int = 10_000) -> float:
    samples = [sample for sample in SAMPLES for _ in range(count // len(SAMPLES) + 1)][:count]
    answers = [f"Answer {i}: what kind of food would you like to eat tonight?" for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        cache = RewardCache(Path(folder) / "cache.sqlite")
        run_async(judge_batch(Scored(), cache, samples, answers))
        started = time.perf_counter()
        judged = run_async(judge_batch(Scored(), cache, samples, answers))
        seconds = time.perf_counter() - started
        cache.close()
    assert judged.hits == count
    return seconds


def main() -> None:
    command = [sys.executable, ROOT / "tests" / "judge_server.py", "--seconds", str(SECONDS)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        os.environ |= {"GOOGLE_GEMINI_BASE_URL": url, "OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        os.environ |= {"GEMINI_API_KEY": "none", "OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none"}
        judges = {name: GeminiJudge(JudgeConfig(gemini_sdk=name)) for name in ("google-generativeai", "google-genai")}
        others = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-4-5"}
        judges |= {name: make_judge(name, JudgeConfig(judge_model=model)) for name, model in others.items()}
        with loading_libraries():
            import transformers  # noqa: F401
        prompt = judges["google-genai"].prompt(SAMPLES[0], ["Which food?"])
        content = {
            "contents": [{"parts": [{"text": prompt}]}],
            "generationConfig": {"responseSchema": {"properties": {}}},
        }
        body = json.dumps(content).encode()
        head = (
            f"POST /v1beta/models/gemini-3.5-flash-lite:generateContent HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        seconds = {"sockets": [], **{name: [] for name in judges}}
        for number in range(ROUNDS):
            seconds["sockets"].append(by_sockets(url, head.encode() + body))
            for name, judge in judges.items():
                seconds[name].append(by_kit(judge, f"{name} {number}"))
        loop = one_by_one(judges["google-genai"])
        modes = {mode: sent(mode) for mode in ("absolute", "group")}
    finally:
        server.kill()
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "judgements": JUDGEMENTS,
        "in_flight": IN_FLIGHT,
        "ideal_seconds": IDEAL,
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "median_ratio": {name: round(statistics.median(values) / IDEAL, 3) for name, values in seconds.items()},
        "best_ratio": {name: round(min(values) / IDEAL, 3) for name, values in seconds.items()},
        "loop_seconds": round(loop, 1),
        "times_faster_than_loop": {
            name: round(loop / statistics.median(values), 1) for name, values in seconds.items() if name != "sockets"
        },
        "modes": modes,
        "tokens_saved_by_groups": round(1 - modes["group"]["tokens_read"] / modes["absolute"]["tokens_read"], 3),
        "cached_10000_seconds": round(statistics.median(cached() for _ in range(5)), 3),
    }
    (ROOT / "benchmarks" / "gemini.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
