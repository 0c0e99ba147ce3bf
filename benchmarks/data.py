"""How quickly dialogues are prepared, beside reading the same JSON with the fastest library, and with how much memory.

    .venv/bin/python benchmarks/data.py --sgd path/to/sgd [--rounds 5]

All of a Schema-Guided Dialogue folder is read by orjson alone and prepared by the kit (samples with rubrics, the split,
train.jsonl, eval.jsonl and the card written), without and with the services' results in the prompts, in turn; the
fastest counts. Then the folder ten times over, each with ids and opening messages of its own, is prepared in a process
whose peak memory is held against that of one copy. Likewise for a Parquet file of 1,000,000 rows with a prompt and an
answer each, and one of 10,000. Writes benchmarks/data.json.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import pyarrow as pa
from pyarrow import parquet

import grpo_kit as kit

ROOT = Path(__file__).parents[1]
ROWS = (10_000, 1_000_000)
# VmHWM is the process's own; ru_maxrss begins with that of the process that started it.
PEAK = "import re, sys, grpo_kit; grpo_kit.prepare(sys.argv[1], sys.argv[2]);"
PEAK += "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"


def read_alone(folder: Path) -> int:
    return sum(len(orjson.loads(file.read_bytes())) for file in sorted(folder.glob("*.json")))


def copies(source: Path, target: Path, count: int) -> None:
    target.mkdir()
    shutil.copy(source / "schema.json", target)
    for number in range(count):
        for file in sorted(source.glob("dialogues_*.json")):
            dialogues = orjson.loads(file.read_bytes())
            for dialogue in dialogues:
                dialogue["dialogue_id"] += f"_{number}"
                dialogue["turns"][0]["utterance"] += f" (copy {number})"
            (target / f"{file.stem}_{number}.json").write_bytes(orjson.dumps(dialogues))


def write_table(path: Path, rows: int) -> None:
    schema = pa.schema({"prompt": pa.string(), "completion": pa.string()})
    with parquet.ParquetWriter(path, schema) as writer:
        for begin in range(0, rows, ROWS[0]):
            numbers = range(begin, begin + ROWS[0])
            columns = [[f"What is {n} plus 1?" for n in numbers], [f"It is {n + 1}." for n in numbers]]
            writer.write_table(pa.table(columns, schema=schema))


def peak_mib(folder: Path, out: Path) -> float:
    command = [sys.executable, "-c", PEAK, str(folder), str(out)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sgd", type=Path, default=ROOT.parent / "shared" / "data" / "sgd")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    folders = [folder for folder in sorted(args.sgd.glob("*")) if (folder / "schema.json").exists()]
    if not folders:
        sys.exit(f"skipped: no Schema-Guided Dialogue folder at {args.sgd}; give one with --sgd")
    seconds = {"orjson": [], "history": [], "results": []}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        for _ in range(args.rounds):
            started = time.perf_counter()
            for folder in folders:
                read_alone(folder)
            seconds["orjson"].append(time.perf_counter() - started)
            for ground in ("history", "results"):
                started = time.perf_counter()
                for folder in folders:
                    kit.prepare(folder, out / folder.name, ground=ground)
                seconds[ground].append(time.perf_counter() - started)
        peaks = {}
        for count in (1, 10):
            copies(folders[-1], out / f"{count}", count)
            peaks[count] = round(peak_mib(out / f"{count}", out / f"prepared {count}"), 1)
        table_peaks, started = {}, 0.0
        for rows in ROWS:
            write_table(out / f"{rows}.parquet", rows)
            started = time.perf_counter()
            table_peaks[rows] = round(peak_mib(out / f"{rows}.parquet", out / f"prepared {rows}"), 1)
        rows_per_second = round(ROWS[-1] / (time.perf_counter() - started))
    best = {name: min(values) for name, values in seconds.items()}
    size = sum(file.stat().st_size for folder in folders for file in folder.glob("*.json"))
    result = {
        "mb": round(size / 1e6, 1),
        "best_seconds": {name: round(value, 4) for name, value in best.items()},
        "speed_ratio": {ground: round(best["orjson"] / best[ground], 3) for ground in ("history", "results")},
        "peak_mib": peaks,
        "peak_ratio": round(peaks[10] / peaks[1], 3),
        "parquet": {"rows_per_second": rows_per_second, "peak_mib_by_rows": table_peaks},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
