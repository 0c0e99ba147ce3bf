"""Measures the kit's settings on a GPU: completions a second, memory, a step's parts, and the chip's own limits.

    .venv/bin/python benchmarks/gpu.py                        # any CUDA machine, all shapes and cases
    .venv/bin/python benchmarks/gpu.py --device cpu --shapes tiny --cases guide defaults     # to try the script itself

Models with random weights in the shape of Gemma-2-2B, of a 0.5B and of a 4B are trained by the kit's own trainer, each
case in a process of its own, so that one that fails or runs out of memory is written down as that and the next begins
with an empty GPU. Each may have --memory-gb of it: what runs out of memory does not fit there. Prompts and completions
are as long as they may be (random weights hardly ever end a sentence), and the first two steps are not counted. What a
case changes stands in CASES; what is not installed is skipped.

The chip's limits are measured here: bytes a second of a copy, operations a second of a large bfloat16 product.
`counted` says what is held against them. Prints a table and writes benchmarks/gpu.json, anew after each case.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import torch
from torch.utils.benchmark import Timer
from transformers import AutoConfig, AutoModelForCausalLM

import grpo_kit as kit
from grpo_kit.config.gpus import GPUS, modal_usd_per_hour
from grpo_kit.costs.memory import GIB, VLLM_SHARE, Device, decided, memory_needed, uses_vllm
from grpo_kit.models.load import load_tokenizer
from grpo_kit.models.shapes import SHAPES, TINY_MODEL, Shape, shape_of
from grpo_kit.utils.environment import version_of

MODELS = {"0.5b": "Qwen/Qwen2.5-0.5B", "2b": "google/gemma-2-2b", "4b": "Qwen/Qwen3-4B", "tiny": "the kit's own"}
STEP = {"max_prompt_length": 512, "max_completion_length": 128, "num_generations": 8}
TINY_STEP = {"max_prompt_length": 32, "max_completion_length": 8, "num_generations": 4}
PLAIN = {"use_vllm": False}
# Each case with its changes from the kit's defaults; `patch` says what "trl", "model" and "compiled" are.
CASES: dict[str, dict] = {
    "guide": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "num_generations": 2, **PLAIN},
    "defaults": {},
    "no vLLM": PLAIN,  # those below are held against it
    "batch 4": {**PLAIN, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8},
    "batch 16": {**PLAIN, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2},
    "batch 32": {**PLAIN, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
    "4 generations": {**PLAIN, "num_generations": 4},
    "16 generations": {**PLAIN, "num_generations": 16},
    "all weights": {**PLAIN, "use_lora": False},
    "4 bits": {"load_in_4bit": True},
    "no checkpointing": {**PLAIN, "gradient_checkpointing": False},
    "Liger": {**PLAIN, "trl": {"use_liger_kernel": True}},
    "static cache": {**PLAIN, "trl": {"cache_implementation": "static"}},
    "compiled": {**PLAIN, "trl": {"cache_implementation": "static"}, "compiled": True},
    "eager attention": {**PLAIN, "model": {"attn_implementation": "eager"}},
    "FlashAttention": {**PLAIN, "model": {"attn_implementation": "flash_attention_2"}},
    "mixed prompts": {**PLAIN, "prompts": "mixed"},
    "sorted prompts": {**PLAIN, "prompts": "sorted"},  # this one against the mixed
}
NEEDS = {"Liger": "liger_kernel", "FlashAttention": "flash_attn", "4 bits": "bitsandbytes"}
WARM_UP_STEPS = 2
CUDA_GB = 0.5  # that CUDA itself takes of a GPU's memory, beside what torch gives out
TIMES, SETTING_GB, STEPS, USD = 10, 20, 200, 2  # the goals
WORDS = "find me a table at eleven for three people in Vienna please and the cheapest flight to London on March".split()


def make_model(name: str, folder: Path) -> None:
    """Random weights in that shape, with the tiny model's tokenizer, whose words are the first of the vocabulary."""
    tiny = json.loads((TINY_MODEL / "config.json").read_bytes()) | {"vocab_size": 4000}  # more than it has words
    config = AutoConfig.for_model(**json.loads(SHAPES.read_bytes())["models"].get(MODELS[name], tiny))
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)


def make_data(folder: Path, config: "kit.TrainConfig", order: str) -> float:
    """Prompts for all steps, no two alike, and their mean tokens: all as long as they may be; "mixed": every other one
    half as long; "sorted": as many of each, but alike within a step."""
    tokenizer, dice, rows, tokens = load_tokenizer("tiny"), random.Random(0), [], []
    for i in range(config.max_steps * config.prompts_per_step):
        is_half = {"long": 0, "mixed": i % 2, "sorted": i // config.prompts_per_step % 2}[order]
        words = dice.choices(WORDS, k=(length := config.max_prompt_length // (1 + is_half)))
        while len(ids := tokenizer(" ".join(words))["input_ids"]) > length:
            words.pop()
        rows.append({"id": str(i), "prompt": " ".join(words), "ground_truth": "At what time?"})
        tokens.append(len(ids))
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return mean(tokens)


def patch(changes: dict, memory_gb: float) -> dict:
    """Sets in this process what a case changes beside the kit's settings, which are returned.

    "trl" goes to GRPOConfig, "model" to from_pretrained, and "compiled" takes back that TRL turns compiling off.
    """
    from grpo_kit.models import load as models
    from grpo_kit.training import grpo as training

    load, build = models._load, training.build_trainer
    trls = {"save_strategy": "no", "shuffle_dataset": False, **changes.get("trl", {})}
    if torch.cuda.is_available() and memory_gb:
        share = min(1.0, memory_gb * 1e9 / torch.cuda.get_device_properties(0).total_memory)
        torch.cuda.set_per_process_memory_fraction(share * (1 - CUDA_GB / memory_gb))
        trls["vllm_gpu_memory_utilization"] = VLLM_SHARE * share

    def load_so(*args, **options):
        return load(*args, **options | (changes.get("model", {}) if "dtype" in options else {}))  # not the tokenizer

    def build_so(*args, **options):
        trainer = build(*args, **options)
        if "compiled" in changes:
            trainer.generation_config.disable_compile = False
        return trainer

    training.GRPOConfig = partial(training.GRPOConfig, **trls)
    models._load, training.build_trainer = load_so, build_so
    training.KitTrainer.save_into_run = lambda trainer: None  # whole models would be written, of many GB
    return {name: value for name, value in changes.items() if name in kit.TrainConfig.model_fields}


def run_case(case: dict) -> dict:
    """In a process of its own: trains, and returns what was measured."""
    folder, on_gpu, said = Path(case["folder"]), torch.cuda.is_available(), []
    settings = {"model_name": case["model"], "data": str(folder / "data"), "canaries": "off"}
    settings |= (TINY_STEP if Path(case["model"]).name == "tiny" else STEP) | patch(case["changes"], case["memory_gb"])
    config = kit.TrainConfig(**settings, max_steps=WARM_UP_STEPS + case["steps"])
    prompt = make_data(folder / "data", config, case["changes"].get("prompts", "long"))
    run = kit.train(config, runs_dir=folder / "runs", echo=lambda text: said.append((text, time.perf_counter())))
    means = run.metrics().iloc[WARM_UP_STEPS:].mean(numeric_only=True)
    ends = [at for what, at in said if what.startswith("Step ")]  # said after the optimiser's part
    step = (ends[-1] - ends[WARM_UP_STEPS - 1]) / case["steps"]
    seconds = {part: means[f"seconds/{part}"] for part in ("generating", "judging")}
    seconds["updating"] = step - sum(seconds.values())  # the run's own leaves the optimiser out
    return {
        "completions_per_step": config.completions_per_step,
        "prompt_tokens": prompt,
        "completion_tokens": means["completions/mean_length"],
        "seconds": seconds,
        "step_seconds": step,
        "step_seconds_before_optimiser": means["step_time"],
        "completions_per_second": config.completions_per_step / step,
        "peak_gb": (torch.cuda.max_memory_allocated() if on_gpu else run.status["actual"]["memory_gib"] * GIB) / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else None,
        "counted": counted(config, shape_of(case["model"]), prompt, on_gpu),
    }


def counted(config: "kit.TrainConfig", shape: Shape, prompt: float, on_gpu: bool) -> dict[str, float]:
    """The least work of a step with prompts of so many tokens: the bytes that decoding reads (all weights for each
    token, once for all completions, and each one's keys and values), and operations, 2 a weight and token and those of
    attention: of decoding, of reading each prompt once, and of the update's passes (one more over vLLM's words)."""
    device = Device(on_gpu, 0.0, version_of("vllm") is not None)
    together, completion = config.completions_per_step, config.max_completion_length
    middle, length, attending = prompt + completion / 2, prompt + completion, 4 * shape.layers * shape.q
    adapter = shape.lora_parameters(config.lora_r) if config.use_lora else 0
    a_token, head = 2 * (shape.layers * shape.layer_parameters + adapter), 2 * shape.vocab * shape.hidden
    weights = GIB * memory_needed(config, shape, device).weights
    passes = 2 + (not config.use_lora) + decided(config.gradient_checkpointing, on_gpu) + uses_vllm(config, device)
    return {
        "decoding_bytes": completion * (weights + together * shape.cache_bytes(round(middle), 2 if on_gpu else 4)),
        "decoding_operations": together * completion * (a_token + attending * middle + head),
        "reading_operations": config.prompts_per_step * prompt * (a_token + attending * prompt / 2),
        "updating_operations": passes * together * (length * (a_token + attending * length / 2) + completion * head),
    }


def least_seconds(work: dict[str, float], chip: dict[str, float]) -> dict[str, float]:
    """Seconds of the two parts of a step that the chip does, if it did only what is counted, at its limits."""
    needs = {name: amount / chip[f"{name.split('_')[1]}_per_second"] for name, amount in work.items()}
    decoding = max(needs["decoding_bytes"], needs["decoding_operations"])
    return {"generating": decoding + needs["reading_operations"], "updating": needs["updating_operations"]}


def limits(device: str) -> dict:
    """Bytes and operations a second that this chip comes to. In a process of its own, which leaves the GPU empty."""
    size, side = (2**28, 8192) if device == "cuda" else (2**24, 512)
    numbers, matrix = torch.ones(size, device=device), torch.ones(side, side, device=device, dtype=torch.bfloat16)
    copy, product = (
        Timer("work()", globals={"work": work}).blocked_autorange(min_run_time=1).median
        for work in (numbers.clone, lambda: matrix @ matrix)
    )
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "bytes_per_second": 2 * 4 * size / copy,
        "operations_per_second": 2 * side**3 / product,
    }


def seconds_on_a10(case: dict, chip: dict) -> float:
    """Seconds of a step, were each part as near to the limits of an A10's data sheet as here to those of this chip."""
    if chip["device"] in ("NVIDIA A10", "NVIDIA A10G"):
        return case["step_seconds"]
    listed = GPUS["A10"]
    a10 = {"bytes_per_second": listed["gb_per_second"] * 1e9, "operations_per_second": listed["teraflops"] * 1e12}
    here, there = least_seconds(case["counted"], chip), least_seconds(case["counted"], a10)
    return case["seconds"]["judging"] + sum(case["seconds"][part] * there[part] / here[part] for part in here)


def goals(found: dict[str, dict], chip: dict) -> dict[str, dict]:
    """The three goals, what was measured of each or counted from it, and whether it is reached."""
    guide, own = (found.get(f"2b: {name}", {}) for name in ("guide", "defaults"))
    speed, memory, gb, usd = None, None, own.get("peak_gb"), None
    if "seconds" in own:
        usd = STEPS * seconds_on_a10(own, chip) / 3600 * modal_usd_per_hour("A10", kit.TrainConfig().memory)
        if "seconds" in guide:
            speed = own["completions_per_second"] / guide["completions_per_second"]
            memory = gb / guide["peak_gb"]
    fits = False if "memory" in own.get("failed", "") else gb and gb <= SETTING_GB
    is_reached = (speed and speed >= TIMES and memory <= 1, fits, usd and usd < USD)
    said = [{None: "not measured", True: "yes", False: "no"}[reached] for reached in is_reached]
    return {
        f"{TIMES} times the guide's speed at its memory": {"reached": said[0], "speed": speed, "memory": memory},
        f"2B, LoRA, 8 generations, 512 + 128 tokens in {SETTING_GB} GB": {"reached": said[1], "gb": gb},
        f"{STEPS} steps for under {USD} dollars on an A10": {"reached": said[2], "usd": usd},
    }


def child(folder: Path, **told) -> dict:
    """Runs this script in a new process with what it is told; returns what it measured, or how it failed."""
    folder.mkdir()
    told["folder"], result = str(folder), folder / "result.json"
    done = subprocess.run([sys.executable, __file__, "--child", json.dumps(told)], capture_output=True, text=True)
    said = f"exit {done.returncode}: {done.stderr.strip()[-300:]}"
    found = json.loads(result.read_text()) if result.exists() else {"failed": said}
    shutil.rmtree(folder)
    return found


def in_child(told: dict) -> None:
    if "make" in told:
        return make_model(told["make"], Path(told["folder"]))
    try:
        found = run_case(told) if "changes" in told else limits(told["device"])
    except Exception as error:  # whatever it is: the other cases are not to end with it
        found = {"failed": f"{type(error).__name__}: {error}"}
    (Path(told["folder"]) / "result.json").write_text(json.dumps(found))


def row(title: str, found: dict[str, dict], chip: dict) -> str:
    """A line of the table. A case is held against "no vLLM" of its shape, the sorted prompts against the mixed."""
    case, (shape, _, name) = found[title], title.partition(": ")
    if "seconds" not in case:
        return f"| {title} | {' '.join(': '.join(next(iter(case.items()))).split())} | | | | |"
    plain = found.get(f"{shape}: {'mixed prompts' if name == 'sorted prompts' else 'no vLLM'}", {})
    speed, seconds, least = case["completions_per_second"], case["seconds"], least_seconds(case["counted"], chip)
    times = f"{speed / plain['completions_per_second']:.2f}" if "seconds" in plain else ""
    parts = " / ".join(f"{spent / case['step_seconds']:.0%}" for spent in seconds.values())
    case["share_of_limit"] = {part: least[part] / seconds[part] for part in least}
    near = " / ".join(f"{share:.1%}" for share in case["share_of_limit"].values())
    return f"| {title} | {speed:.2f} | {times} | {case['peak_gb']:.1f} | {parts} | {near} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=MODELS, default=["0.5b", "2b", "4b"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=4, help="Measured ones; even, for the mixed and sorted prompts.")
    parser.add_argument("--memory-gb", type=float, default=24, help="Of the GPU's memory; 0 for all.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return in_child(args.child)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("not measured: this machine has no CUDA GPU (--device cpu --shapes tiny tries the script itself)")
        return
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the cases' processes
    versions = {name: version_of(name) for name in ("torch", "transformers", "trl", "vllm", "liger-kernel")}
    found, rows = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        chip = child(Path(temporary) / "chip", device=args.device)
        if "failed" in chip:
            sys.exit(f"The speed of {args.device} could not be measured: {chip['failed']}")
        for shape in args.shapes:
            model = Path(temporary) / shape
            told = {"make": shape, "folder": str(model)}  # in a process of its own, which leaves the GPU empty
            subprocess.run([sys.executable, __file__, "--child", json.dumps(told)], check=True)
            for case in args.cases:
                title, told = f"{shape}: {case}", {"steps": args.steps, "memory_gb": args.memory_gb}
                if (package := NEEDS.get(case)) and find_spec(package) is None:
                    found[title] = {"skipped": f"{package} is not installed"}
                else:
                    found[title] = child(Path(temporary) / "case", model=str(model), changes=CASES[case], **told)
                rows.append(row(title, found, chip))
                print(rows[-1], file=sys.stderr, flush=True)
                about = {**chip, "versions": versions, "memory_gb": args.memory_gb, "goals": goals(found, chip)}
                args.out.write_text(json.dumps({**about, "cases": found}, indent=1) + "\n")
    print("| case | completions/s | times | GB | generating / judging / updating | of the limits |")
    print("\n".join(["| --- | ---: | ---: | ---: | ---: | ---: |", *rows]))
    for goal, said in about["goals"].items():
        print(f"{goal}: " + ", ".join(f"{what} {value}" for what, value in said.items() if value is not None))


if __name__ == "__main__":
    main()
