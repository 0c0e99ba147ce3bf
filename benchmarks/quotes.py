"""How often a run's time lies within what was quoted for it, over runs of many shapes here.

    .venv/bin/python benchmarks/quotes.py [--only NAME] [--priority]

Each case is quoted as a user would have it, `kit.quote` before its launch, and then made by `grpo-kit` in a process of
its own: training of the tiny model and of models with random weights, with other batches, generations and lengths, a
warm start, filter_difficulty, held-out scores, judges on loopback, more steps for a complete run; evaluations; sweeps.
The runs share a home and a folder of runs, both new, so the first of all is quoted by counting alone, a first of its
shape by what other shapes took, and a second (`again`) by the first. What would have been quoted for each without any
earlier run is kept too (`cold`). A run's time is the one that its status.json has as `actual`, a sweep's and an
evaluation's that of their process. Writes benchmarks/quotes.json. Other work on the machine makes runs slower than
quoted: the machine's load beside is kept with each, and --priority takes a larger share of a busy one (as root).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HOME = tempfile.TemporaryDirectory()
os.environ |= {"HOME": HOME.name, "GRPO_KIT_BACKEND": "local", "HF_HUB_OFFLINE": "1"}  # before the kit is imported
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import psutil
from judge_server import KEY, JudgeServer, judge
from peaks import make_model

import grpo_kit as kit
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.costs import forecast
from grpo_kit.sweeps import Sweep

CLI = [sys.executable, "-m", "grpo_kit.cli"]
LLAMA = {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576, "intermediate_size": 1536}  # SmolLM2's
MODELS = {  # random weights with the tiny model's tokenizer
    "smol6": ("llama", {**LLAMA, "num_hidden_layers": 6, "vocab_size": 12000}),
    "smol2": ("llama", {**LLAMA, "num_hidden_layers": 2, "vocab_size": 49152}),
    "deep": ("llama", {**LLAMA, "hidden_size": 144, "intermediate_size": 384, "num_hidden_layers": 24, "vocab_size": 2000}),
}
SMALL = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 4}
SMALL |= {"max_completion_length": 24, "max_prompt_length": 256}
GEMINI = {"judge": "gemini", "canaries": "off"}
# A name, and settings. `again`: the case before once more, or with what it names changed.
CASES = [
    ("default", {}),
    ("default, again", {}),
    ("one step", {"max_steps": 1}),
    ("12 steps, again", {"max_steps": 12}),
    ("more steps for a complete run", {"run_id": "12_steps__again", "max_steps": 24, "save_steps": 12}),
    ("batch 8", {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 20}),
    ("64 completions", {"per_device_train_batch_size": 64, "max_steps": 10}),
    ("64 completions in 8 passes", {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 8, "max_steps": 10}),
    ("64 completions, again", {"per_device_train_batch_size": 64, "max_steps": 20}),
    ("16 generations", {"num_generations": 16, "max_steps": 20}),
    ("100 tokens", {"max_completion_length": 100, "max_steps": 10}),
    ("100 tokens, again", {"max_completion_length": 100, "max_steps": 15}),
    ("short prompts", {"max_prompt_length": 64, "max_steps": 20}),
    ("all weights", {"use_lora": False, "max_steps": 20}),
    ("2 updates each", {"num_iterations": 2, "max_steps": 20}),
    ("two threads", {"torch_threads": 2, "max_steps": 20}),
    ("warm start", {"sft_steps": 30, "max_steps": 10}),
    ("warm start, again", {"sft_steps": 15, "max_steps": 20}),
    ("held-out scores", {"eval_steps": 5, "max_steps": 20}),
    ("held-out scores, again", {"eval_steps": 10, "eval_prompts": 64, "max_steps": 20}),
    ("filter_difficulty", {"filter_difficulty": True, "max_steps": 10}),
    ("filter_difficulty, known answers", {"filter_difficulty": True, "max_steps": 15}),
    ("filter_difficulty, other answers", {"filter_difficulty": True, "max_steps": 5, "num_generations": 4}),
    ("saves each step", {"save_steps": 1, "max_steps": 20}),
    ("a judge of 0.3 s", {**GEMINI, "max_steps": 10}),
    ("a judge of 0.3 s, again", {**GEMINI, "max_steps": 20}),
    ("a judge of 0.3 s, hidden", {**GEMINI, "max_steps": 20, "max_staleness": 2}),
    ("smol6", {**SMALL, "model_name": "smol6", "max_steps": 5}),
    ("smol6, again", {**SMALL, "model_name": "smol6", "max_steps": 8}),
    ("smol6, 32 completions", {**SMALL, "model_name": "smol6", "max_steps": 3, "gradient_accumulation_steps": 4}),
    ("smol6, warm start", {**SMALL, "model_name": "smol6", "max_steps": 3, "sft_steps": 8}),
    ("smol2", {**SMALL, "model_name": "smol2", "max_steps": 5}),
    ("smol2, all weights", {**SMALL, "model_name": "smol2", "max_steps": 4, "use_lora": False}),
    ("deep", {**SMALL, "model_name": "deep", "max_steps": 6}),
    ("deep, checkpointing", {**SMALL, "model_name": "deep", "max_steps": 6, "gradient_checkpointing": True}),
    ("SmolLM2-135M", {"model_name": "SmolLM2-135M-Instruct", "max_steps": 2, "num_generations": 4}),
]
EVALUATIONS = [("default", {}), ("default", {"n": 32}), ("100_tokens", {"n": 64}), ("smol6", {"n": 32, "batch_size": 16})]
SWEEPS = [
    ("sweep of 4, 2 at a time", {"learning_rate": [1e-3, 2e-3], "seed": [1, 2], "max_steps": 10}, 2),
    ("sweep of 2, one at a time", {"learning_rate": [1e-3, 2e-3], "max_steps": 10, "evaluation": {"n": 32}}, 1),
]


def timed(command: list[str]) -> float:
    """Seconds of a process, which must end well."""
    started = time.perf_counter()
    done = subprocess.run([*CLI, *command], capture_output=True, text=True, cwd=HOME.name)
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    return time.perf_counter() - started


def beside() -> float:
    """Processors that other programs have kept busy since this was called last."""
    busy = psutil.cpu_times()._asdict()
    own = psutil.Process().cpu_times()
    now = sum(busy[name] for name in ("user", "system", "nice", "steal")), sum(own[:4]), time.monotonic()
    before, beside.last = getattr(beside, "last", now), now
    others, ours, passed = (a - b for a, b in zip(now, before, strict=True))
    return round(max(0.0, others - ours) / max(passed, 1e-9), 2)


def row(name: str, quoted: tuple | None, source: str, seconds: float, cold: tuple | None, **more) -> dict:
    """One case, in seconds; `within` says whether it took what was quoted."""
    low, likely, high = [round(60 * value, 1) for value in quoted or (0, 0, 0)]
    found = {"case": name, "low": low, "likely": likely, "high": high, "took": round(seconds, 1)}
    found |= {"within": low <= seconds <= high, "by": source, "others_busy": beside(), **more}
    found["cold"] = cold and [round(60 * value, 1) for value in cold]
    print(f"{name:<34}{likely:>8} ({low} to {high}){'':<4}{seconds:>8.1f}  {'' if found['within'] else 'OUT'}"
          f"  cold {found['cold']}  others {found['others_busy']}", flush=True)
    return found


def trained(name: str, settings: dict, runs: Path) -> dict:
    """A run, quoted before."""
    run_id = settings.get("run_id", name.replace(" ", "_").replace(",", "_").replace(".", "_"))
    config = kit.TrainConfig(**{"save_steps": max(1, settings.get("max_steps", 40)), **settings, "run_id": run_id})
    quote = kit.quote(config, runs, "local", ask=False)
    cold = kit.quote(config.replace(run_id=f"{run_id}_"), runs / "none", "local", ask=False)
    had = kit.Run(runs / run_id).status["seconds"] if (runs / run_id).exists() else 0.0
    (runs / "config.json").write_text(json.dumps(config.given))
    beside()
    wall = timed(["train", "--config", str(runs / "config.json"), "--runs-dir", str(runs)])
    status = kit.Run(runs / run_id).status
    more = {"wall": round(wall, 1), "starting": status["starting_seconds"]}
    if quote.measuring:
        more |= {"measuring": [round(60 * x, 1) for x in quote.measuring], "measured": status["difficulty"]["seconds"]}
    return row(name, quote.minutes, quote.minutes_from, status["seconds"] - had, None if had else cold.minutes, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    parser.add_argument("--priority", action="store_true")
    args = parser.parse_args()
    if args.priority:
        Path("/proc/self/autogroup").write_text("-15")
    home, runs = Path(HOME.name), Path(HOME.name) / "runs"
    runs.mkdir()
    os.chdir(home)
    models = {name: make_model(home / name, family, **sizes) for name, (family, sizes) in MODELS.items()}
    rows = []
    with JudgeServer(lambda request: replace(judge(request), seconds=0.3)) as server:
        os.environ |= {"GOOGLE_GEMINI_BASE_URL": server.url, "GEMINI_API_KEY": KEY}
        for name, settings in CASES:
            if args.only in name:
                where = {"model_name": models[own]} if (own := settings.get("model_name")) in models else {}
                rows.append(trained(name, settings | where, runs))
        for run, asked in EVALUATIONS:
            if args.only in (name := f"evaluation of {run} {asked or ''}") and (runs / run).exists():
                quoted = forecast.evaluation_minutes(kit.Run(runs / run).config, EvalConfig(**asked), None)
                beside()
                flags = [f"--{setting.replace('_', '-')}={value}" for setting, value in asked.items()]
                took = timed(["eval", run, "--runs-dir", str(runs), *flags])
                rows.append(row(name, quoted, "", took, None))
        for name, grid, jobs in SWEEPS:
            if args.only in name:
                out = home / name.replace(" ", "_").replace(",", "")
                quoted = Sweep("03_launch_training", grid, out).quote(jobs).minutes
                beside()
                took = timed(["sweep", "03_launch_training", json.dumps(grid), "--out", str(out), "-j", str(jobs)])
                rows.append(row(name, quoted, "", took, None))
    kinds = {"by an earlier run": lambda r: "steps of" in r["by"], "first of its shape": lambda r: "steps of" not in r["by"]}
    summary = {}
    for kind, belongs in {"all": lambda r: True, **kinds}.items():
        own = [r for r in rows if belongs(r)]
        if own:
            summary[kind] = summed(own)
    colds = [r | dict(zip(("low", "likely", "high"), r["cold"], strict=True)) for r in rows if r["cold"]]
    if colds:
        summary["without any earlier run"] = summed([r | {"within": r["low"] <= r["took"] <= r["high"]} for r in colds])
    found = {"summary": summary, "cores": os.cpu_count(), "rows": rows}
    if not args.only:
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    for kind, numbers in summary.items():
        print(f"{kind:<26}", *(f"{name} {value}" for name, value in numbers.items()), sep="  ")


def summed(rows: list[dict]) -> dict:
    """How many, how often within, the median of high by low, and of what it took by what was likely."""
    return {
        "runs": len(rows),
        "within": round(sum(r["within"] for r in rows) / len(rows), 3),
        "high_by_low": round(statistics.median(r["high"] / r["low"] for r in rows), 2),
        "took_by_likely": round(statistics.median(r["took"] / r["likely"] for r in rows), 2),
    }


if __name__ == "__main__":
    main()
