"""What the kit's settings do on a GPU: completions a second, memory, a step's parts, and the chip's own limits.

    .venv/bin/python benchmarks/gpu.py                        # any CUDA machine; some minutes for each model
    .venv/bin/python benchmarks/gpu.py --shapes 2b --cases guide defaults
    .venv/bin/python benchmarks/gpu.py --device cpu --shapes tiny --cases guide defaults     # to try the script itself

Models with random weights in the shape of Gemma-2-2B, of a 0.5B and of a 4B are trained by the kit's own trainer, each
case in a process of its own, so that one that fails or runs out of memory is written down as that and the next begins
with an empty GPU. Prompts and completions are as long as they may be (random weights do not end a sentence). The first
step is not counted. What a case changes stands in CASES; what is not installed is skipped.

The chip's limits are measured here: bytes a second of a copy, operations a second of a large bfloat16 product. Counted
against them are the bytes that decoding reads (all weights and the cache, for each token) and the operations of an
update. Prints a table and writes benchmarks/gpu.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import torch

import grpo_kit as kit
from grpo_kit import models, training
from grpo_kit.counting import _work
from grpo_kit.demo import TINY_MODEL
from grpo_kit.memory import Device
from grpo_kit.prices import modal_usd_per_hour, prices
from grpo_kit.shapes import SHAPES, shape_of

MODELS = {"0.5b": "Qwen/Qwen2.5-0.5B", "2b": "google/gemma-2-2b", "4b": "Qwen/Qwen3-4B", "tiny": None}
STEP = {"max_prompt_length": 512, "max_completion_length": 128, "num_generations": 8}
TINY_STEP = {"max_prompt_length": 32, "max_completion_length": 8, "num_generations": 4}
PLAIN = {"use_vllm": False}
# What each case changes from the kit's defaults; names with a dot are TRL's own, which the kit has no setting for.
CASES: dict[str, dict] = {
    "guide": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "num_generations": 2, **PLAIN},
    "defaults": {},
    "no vLLM": PLAIN,
    "batch 4": {**PLAIN, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8},
    "batch 16": {**PLAIN, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2},
    "batch 32": {**PLAIN, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
    "4 generations": {**PLAIN, "num_generations": 4},
    "16 generations": {**PLAIN, "num_generations": 16},
    "all weights": {**PLAIN, "use_lora": False},
    "4 bits": {"load_in_4bit": True},
    "no checkpointing": {**PLAIN, "gradient_checkpointing": False},
    "Liger": {**PLAIN, "trl.use_liger_kernel": True},
    "static cache": {**PLAIN, "trl.cache_implementation": "static"},
    "eager attention": {**PLAIN, "model.attn_implementation": "eager"},
    "FlashAttention": {**PLAIN, "model.attn_implementation": "flash_attention_2"},
    "sorted prompts": {**PLAIN, "sorted": True},
}
NEEDS = {"Liger": "liger_kernel", "FlashAttention": "flash_attn", "4 bits": "bitsandbytes"}


def make_model(name: str, folder: Path) -> None:
    """Random weights in that shape, with the tiny model's tokenizer, whose words are the first of the vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if MODELS[name] is None:
        config = AutoConfig.from_pretrained(str(TINY_MODEL))
    else:
        known = json.loads(SHAPES.read_bytes())["models"][MODELS[name]]
        config = AutoConfig.for_model(**known)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    models.load_tokenizer("tiny").save_pretrained(folder)


def make_data(folder: Path, length: int, is_sorted: bool) -> None:
    """64 prompts of about `length` tokens, every other one half as long, or first all that are short."""
    texts = [
        "Find me a table at 11 pm for 3 people in Vienna, please. " * (length // (16 if i % 2 else 32) + 1)
        for i in range(64)
    ]
    rows = [
        {"prompt": text, "ground_truth": "At what time?"} for text in (sorted(texts, key=len) if is_sorted else texts)
    ]
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row | {"id": str(i)}) + "\n" for i, row in enumerate(rows)))


def run_case(case: dict) -> dict:
    """In a process of its own: trains, and returns what was measured."""
    changes, folder, tiny = dict(case["changes"]), Path(case["folder"]), case["shape"] == "tiny"
    trl = {name.removeprefix("trl."): changes.pop(name) for name in list(changes) if name.startswith("trl.")}
    loading = {name.removeprefix("model."): changes.pop(name) for name in list(changes) if name.startswith("model.")}
    step = TINY_STEP if tiny else STEP
    make_data(folder / "data", step["max_prompt_length"], changes.pop("sorted", False))
    if trl:
        arguments = training.grpo_arguments

        def with_trls_own(*args, **options):
            made = arguments(*args, **options)
            for name, value in trl.items():
                setattr(made, name, value)
            return made

        training.grpo_arguments = with_trls_own
    if loading:
        load = models._load
        models._load = lambda kind, *args, **options: load(
            kind, *args, **options, **(loading if "dtype" in options else {})
        )
    if torch.cuda.is_available() and case["memory_gb"]:
        share = case["memory_gb"] * 1e9 / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    settings = {"model_name": case["model"], "data": str(folder / "data"), "canaries": "off", **step, **changes}
    config = kit.TrainConfig(
        **settings, reward_funcs="length=1", max_steps=1 + case["steps"], save_steps=1 + case["steps"]
    )
    run = kit.train(config, runs_dir=folder / "runs", echo=lambda text: print(text, file=sys.stderr))
    rows = run.metrics().iloc[1:]
    parts = {part: mean(rows[f"seconds/{part}"]) for part in ("generating", "judging", "updating")}
    peak = (
        torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else run.status["actual"]["memory_gib"]
    )
    length, shape = config.max_prompt_length + config.max_completion_length / 2, shape_of(case["model"])
    work = _work(config, shape, Device(torch.cuda.is_available(), 0.0))
    read = config.max_completion_length * (
        2 * shape.parameters + config.completions_per_step * shape.cache_bytes(int(length), 2)
    )
    return {
        "completions_per_step": config.completions_per_step,
        "seconds": parts,
        "step_seconds": mean(rows["step_time"]),
        "completions_per_second": config.completions_per_step / mean(rows["step_time"]),
        "peak_gib": peak,
        "bytes_read_generating": read,
        "operations_updating": work.passing * work.forward_passes,
    }


def limits(device: str) -> dict[str, float]:
    """Bytes and operations a second that this chip comes to."""
    size = 2**28 if device == "cuda" else 2**24
    numbers, side = torch.ones(size, device=device), 8192 if device == "cuda" else 512
    matrix = torch.ones(side, side, device=device, dtype=torch.bfloat16)

    def best(work) -> float:
        seconds = []
        for _ in range(5):
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    return {
        "bytes_per_second": 2 * 4 * size / best(numbers.clone),
        "operations_per_second": 2 * side**3 / best(lambda: matrix @ matrix),
    }


def goals(found: dict[str, dict], chip: dict[str, float]) -> dict[str, object]:
    """The three goals, where the 2B's cases were measured."""
    guide, own, sure = (found.get(name, {}) for name in ("2b: guide", "2b: defaults", "2b: no vLLM"))
    result: dict[str, object] = {}
    if "peak_gib" in guide and "peak_gib" in own:
        result["times the guide's completions per second (10)"] = (
            own["completions_per_second"] / guide["completions_per_second"]
        )
        result["memory of the guide's (1)"] = own["peak_gib"] / guide["peak_gib"]
    if "peak_gib" in sure:
        result["GiB for 8 generations of 512 + 128 tokens (20)"] = sure["peak_gib"]
    if "step_seconds" in own:
        a10 = prices()["gpus"]["A10"]
        slower = max(
            chip["operations_per_second"] / (a10["teraflops"] * 1e12),
            chip["bytes_per_second"] / (a10["gb_per_second"] * 1e9),
        )
        hourly = modal_usd_per_hour(kit.TrainConfig(), "A10")
        result["dollars for 200 steps on an A10, by its share of this chip's speed (2)"] = (
            200 * own["step_seconds"] * slower * hourly / 3600
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=MODELS, default=["0.5b", "2b", "4b"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--memory-gb", type=float, default=None, help="Of the GPU's memory, 24 for what an A10 has.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(json.loads(args.case))))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        print("not measured: this machine has no CUDA GPU (--device cpu --shapes tiny tries the script itself)")
        return
    chip, found = limits(args.device), {}
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    with tempfile.TemporaryDirectory() as temporary:
        for shape in args.shapes:
            folder = Path(temporary) / shape
            make_model(shape, folder)
            for number, case in enumerate(args.cases):
                title = f"{shape}: {case}"
                if (package := NEEDS.get(case)) and find_spec(package) is None:
                    found[title] = {"skipped": f"{package} is not installed"}
                    continue
                told = {"shape": shape, "model": str(folder), "changes": CASES[case], "steps": args.steps}
                told |= {"memory_gb": args.memory_gb, "folder": f"{folder} {number}"}
                done = subprocess.run(
                    [sys.executable, __file__, "--case", json.dumps(told)], capture_output=True, text=True
                )
                try:
                    found[title] = json.loads(done.stdout.splitlines()[-1])
                except (IndexError, ValueError):
                    said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
                    found[title] = {"failed": said}
                print(_line(title, found[title], chip), flush=True)
    reached = goals(found, chip)
    for goal, value in reached.items():
        print(f"{goal}: {value:.2f}")
    result = {"device": name, "torch": torch.__version__, "memory_gb": args.memory_gb, **chip}
    args.out.write_text(json.dumps({**result, "goals": reached, "cases": found}, indent=2) + "\n")


def _line(title: str, case: dict, chip: dict[str, float]) -> str:
    if "seconds" not in case:
        return f"{title:<24}{case}"
    generating = case["bytes_read_generating"] / chip["bytes_per_second"] / case["seconds"]["generating"]
    updating = case["operations_updating"] / chip["operations_per_second"] / case["seconds"]["updating"]
    parts = ", ".join(f"{part} {seconds / case['step_seconds']:.0%}" for part, seconds in case["seconds"].items())
    return (
        f"{title:<24}{case['completions_per_second']:>7.2f} completions/s {case['peak_gib']:>6.1f} GiB  {parts}; "
        f"generating at {generating:.0%} and updating at {updating:.0%} of the chip's limits"
    )


if __name__ == "__main__":
    main()
