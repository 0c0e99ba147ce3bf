"""How often what was quoted for a run's time held, over runs of many shapes on this machine.

    .venv/bin/python benchmarks/quotes.py [--only TEXT] [--priority]
    .venv/bin/python benchmarks/quotes.py RUNS_DIR ...

Each case is quoted as a user would have it, by `kit.quote` before its launch, and then made by `grpo-kit` in a process
of its own: the tiny model and models with random weights, in other batches, generations and lengths, a warm start,
filter_difficulty, held-out scores, a judge on loopback, more steps for a complete run; evaluations; sweeps. They share
a home and a folder of runs, both new, so that the first of all is quoted with nothing to go by, the first of its shape
by runs of other shapes, and what has "again" in its name by one of its own. `cold` is what would have been quoted with
no earlier run. A run takes what its status.json has as `actual`, a sweep or an evaluation what its process takes.
Other programs on the machine make runs slower than quoted: `waited` is the share of its time in which a process that
could have worked was kept waiting for a processor, and --priority, as root, has them kept waiting in its place. Writes
benchmarks/quotes.json. With folders of runs it only looks at what was quoted for those that are there.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

os.environ["HOME"] = tempfile.mkdtemp()  # where the kit's cache is; before it is imported
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import psutil
from judge_server import KEY, JudgeServer, judge
from peaks import make_model

import grpo_kit as kit
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.costs.earlier import earlier_runs
from grpo_kit.costs.forecast import evaluation_minutes, models_evaluated
from grpo_kit.sweeps.sweep import Sweep

PRIORITY = "-18" if "--priority" in sys.argv else ""  # of a session among others
HOME, CLI = Path.home(), [sys.executable, "-m", "grpo_kit.cli"]
LLAMA = {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576, "intermediate_size": 1536}  # SmolLM2's
NARROW = {**LLAMA, "hidden_size": 144, "intermediate_size": 384}
MODELS = {  # random weights, and the tiny model's tokenizer
    "smol6": LLAMA | {"num_hidden_layers": 6, "vocab_size": 12000},
    "smol2": LLAMA | {"num_hidden_layers": 2, "vocab_size": 49152},
    "deep": NARROW | {"num_hidden_layers": 24, "vocab_size": 2000},
}
BATCH, PASSES = "per_device_train_batch_size", "gradient_accumulation_steps"
SMALL = {BATCH: 8, PASSES: 1, "num_generations": 4, "max_completion_length": 24, "max_prompt_length": 256}
GEMINI = {"judge": "gemini", "canaries": "off"}
CASES = {
    "default": {},
    "default, again": {},
    "one step, again": {"max_steps": 1},
    "12 steps, again": {"max_steps": 12, "save_steps": 12},
    "more steps for it": {"run_id": "12_steps_again", "max_steps": 24, "save_steps": 12},
    "8 completions": {BATCH: 8, PASSES: 1, "max_steps": 20},
    "64 completions": {BATCH: 64, "max_steps": 10},
    "64 in 8 passes": {BATCH: 8, PASSES: 8, "max_steps": 10},
    "64 completions, again": {BATCH: 64, "max_steps": 15},
    "16 generations": {"num_generations": 16, "max_steps": 20},
    "100 tokens": {"max_completion_length": 100, "max_steps": 10},
    "100 tokens, again": {"max_completion_length": 100, "max_steps": 15},
    "short prompts": {"max_prompt_length": 64, "max_steps": 20},
    "all weights": {"use_lora": False, "max_steps": 20},
    "2 updates each": {"num_iterations": 2, "max_steps": 20},
    "two threads": {"torch_threads": 2, "max_steps": 20},
    "warm start": {"sft_steps": 30, "max_steps": 10},
    "warm start, again": {"sft_steps": 15, "max_steps": 20},
    "held-out scores": {"eval_steps": 5, "max_steps": 20},
    "held-out scores, again": {"eval_steps": 10, "eval_prompts": 64, "max_steps": 20},
    "filter_difficulty": {"filter_difficulty": True, "max_steps": 10, "num_generations": 4},
    "filter_difficulty, again": {"filter_difficulty": True, "max_steps": 15, "num_generations": 4},
    "saves each step": {"save_steps": 1, "max_steps": 20},
    "a judge of 0.3 s": {**GEMINI, "max_steps": 10},
    "a judge of 0.3 s, again": {**GEMINI, "max_steps": 20},
    "a judge of 0.3 s, hidden": {**GEMINI, "max_steps": 20, "max_staleness": 2},
    "smol6": {**SMALL, "model_name": "smol6", "max_steps": 5},
    "smol6, again": {**SMALL, "model_name": "smol6", "max_steps": 8},
    "smol6, 32 completions": {**SMALL, "model_name": "smol6", "max_steps": 3, PASSES: 4},
    "smol6, warm start": {**SMALL, "model_name": "smol6", "max_steps": 3, "sft_steps": 8},
    "smol2": {**SMALL, "model_name": "smol2", "max_steps": 5},
    "smol2, all weights": {**SMALL, "model_name": "smol2", "max_steps": 4, "use_lora": False},
    "deep": {**SMALL, "model_name": "deep", "max_steps": 6},
    "deep, checkpointing": {**SMALL, "model_name": "deep", "max_steps": 6, "gradient_checkpointing": True},
    "SmolLM2-135M": {"model_name": "SmolLM2-135M-Instruct", "max_steps": 2, "num_generations": 4},
}
EVALUATIONS = {
    "evaluation": ("default", {}),
    "evaluation, 32 prompts": ("default", {"n": 32}),
    "evaluation, 100 tokens": ("100_tokens", {"n": 64}),
    "evaluation, smol6": ("smol6", {"n": 32, "batch_size": 16}),
}
SWEEPS = {
    "sweep of 4, 2 at a time": ({"learning_rate": [1e-3, 2e-3], "seed": [1, 2], "max_steps": 10, "save_steps": 10}, 2),
    "sweep of 2": ({"seed": [1, 2], "max_steps": 10, "save_steps": 10, "evaluation": {"n": 32}}, 1),
}


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds of a process of grpo-kit, which must end well, and the share of them that it waited for a processor."""
    started, waited = time.perf_counter(), {}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*CLI, *command], stdout=said, stderr=subprocess.STDOUT, cwd=HOME)
        while process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            for each in [process.pid, *(child.pid for child in children)]:
                with suppress(OSError):  # it has ended, or this is no Linux
                    if PRIORITY:  # a kernel is in a session of its own
                        Path(f"/proc/{each}/autogroup").write_text(PRIORITY)
                    waited[each] = int(Path(f"/proc/{each}/schedstat").read_text().split()[1]) / 1e9
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        said.seek(0)
        assert not process.returncode, said.read()[-2000:].decode()
    return seconds, round(max(waited.values(), default=0.0) / seconds, 3)


def row(name: str, minutes: tuple | None, by: str, seconds: float, **more) -> dict:
    """A case, in seconds, and whether it took what was quoted; it is printed too."""
    assert minutes, f"{name} has no quote: {by}"
    low, likely, high = (round(60 * value, 1) for value in minutes)
    found = {"case": name, "low": low, "likely": likely, "high": high, "took": round(seconds, 1)}
    found |= {"within": low <= seconds <= high, "by": by, **more}
    beside = " ".join(f"{key} {value}" for key, value in more.items())
    verdict = "   " if found["within"] else "OUT"
    print(f"{name:<28}{likely:>7.1f} ({low:.1f} to {high:.1f}){seconds:>9.1f} {verdict} {beside}", flush=True)
    return found


def trained(name: str, settings: dict, runs: Path) -> dict:
    """A run, quoted before."""
    name_of = name.replace(",", "").replace(" ", "_")
    config = kit.TrainConfig(**{"save_steps": settings.get("max_steps", 20), "run_id": name_of, **settings})
    quote, run = kit.quote(config, runs, "local", ask=False), runs / config.run_id
    cold = kit.quote(config, runs / "none", "local", ask=False).minutes
    before = kit.Run(run).status["seconds"] if run.exists() else 0.0
    (runs / "config.json").write_text(json.dumps(config.given))
    _, waited = timed(["train", "--config", str(runs / "config.json"), "--runs-dir", str(runs)])
    more = {"cold": None if before else [round(60 * value, 1) for value in cold], "waited": waited}
    return row(name, quote.minutes, quote.minutes_from, kit.Run(run).status["seconds"] - before, **more)


def evaluated(name: str, run: str, asked: dict, runs: Path) -> dict:
    config, flags = kit.Run(runs / run).config, [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    models = models_evaluated(config)
    minutes = evaluation_minutes(config, EvalConfig(**asked), earlier_runs(runs), None, models)
    seconds, waited = timed(["eval", run, "--runs-dir", str(runs), *flags])
    return row(name, minutes, f"run {run}", seconds, waited=waited)


def swept(name: str, grid: dict, jobs: int) -> dict:
    out = HOME / name.replace(",", "").replace(" ", "_")
    minutes = Sweep("03_launch_training", grid, out).quote(jobs).minutes
    seconds, waited = timed(["sweep", "03_launch_training", json.dumps(grid), "--out", str(out), "-j", str(jobs)])
    return row(name, minutes, "its runs' quotes", seconds, waited=waited)


def made(only: str) -> list[dict]:
    """All cases whose names have `only` in them."""
    runs, rows = HOME / "runs", []
    runs.mkdir()
    os.chdir(HOME)
    os.environ |= {"GRPO_KIT_BACKEND": "local", "HF_HUB_OFFLINE": "1"}
    models = {name: make_model(HOME / name, "llama", **sizes) for name, sizes in MODELS.items()}
    with JudgeServer(lambda request: replace(judge(request), seconds=0.3)) as server:
        os.environ |= {"GOOGLE_GEMINI_BASE_URL": server.url, "GEMINI_API_KEY": KEY}
        for name, settings in CASES.items():
            if only in name:
                where = {"model_name": models[own]} if (own := settings.get("model_name")) in models else {}
                rows.append(trained(name, settings | where, runs))
        rows += [evaluated(name, *case, runs) for name, case in EVALUATIONS.items() if only in name]
        rows += [swept(name, *case) for name, case in SWEEPS.items() if only in name]
    return rows


def collected(folders: list[Path]) -> list[dict]:
    """The complete runs in these folders, by what their status.json has."""
    rows = []
    for file in sorted(file for folder in folders for file in folder.glob("*/status.json")):
        status = json.loads(file.read_bytes())
        quoted = status.get("quoted") or {}
        if status["state"] == "complete" and not status["resumed"] and quoted.get("minutes_low"):
            low, high = quoted["minutes_low"], quoted["minutes_high"]
            rows.append(row(file.parent.name, (low, quoted["minutes"], high), "", status["seconds"]))
    return rows


def summed(rows: list[dict]) -> dict:
    """How many, the share that was within, and medians: of high by low, and of what it took by what was likely."""
    within = [r["low"] <= r["took"] <= r["high"] for r in rows]
    return {
        "runs": len(rows),
        "within": round(statistics.mean(within), 3),
        "high_by_low": round(statistics.median(r["high"] / r["low"] for r in rows), 2),
        "took_by_likely": round(statistics.median(r["took"] / r["likely"] for r in rows), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs, in place of making any")
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    parser.add_argument("--priority", action="store_true")
    args = parser.parse_args()
    started = time.perf_counter()
    try:
        rows = collected(args.folders) if args.folders else made(args.only)
    finally:
        shutil.rmtree(HOME)
    cold = [r | dict(zip(("low", "likely", "high"), r["cold"], strict=True)) for r in rows if r.get("cold")]
    kinds = {
        "all": rows,
        "by a run of its shape": [r for r in rows if "same size" in r["by"]],
        "by others": [r for r in rows if "same size" not in r["by"]],
        "by nothing, had there been none": cold,
    }
    summary = {kind: summed(own) for kind, own in kinds.items() if own}
    for kind, numbers in summary.items():
        print(f"{kind:<34}", *(f"{name} {value}" for name, value in numbers.items()), sep="  ")
    if not args.folders and not args.only:
        about = {"cores": os.cpu_count(), "seconds": round(time.perf_counter() - started)}
        found = json.dumps({"summary": summary, **about, "rows": rows}, indent=1)
        Path(__file__).with_suffix(".json").write_text(found + "\n")


if __name__ == "__main__":
    main()
