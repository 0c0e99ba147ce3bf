"""benchmarks/gpu.py, which needs a GPU, tried here with the tiny model: its cases train and its numbers agree."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def call(*words: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_cases_train_and_its_numbers_agree(tmp_path):
    out = tmp_path / "gpu.json"
    cases = ["guide", "static cache", "4 bits"]
    said = call("--device", "cpu", "--shapes", "tiny", "--cases", *cases, "--steps", "1", "--out", str(out))
    found = json.loads(out.read_text())
    guide, static, bits = (found["cases"][f"tiny: {case}"] for case in cases)
    assert (guide["completions_per_step"], static["completions_per_step"]) == (2, 32)
    for case in (guide, static):
        assert sum(case["seconds"].values()) == pytest.approx(case["step_seconds"], rel=0.05)
        assert case["completions_per_second"] == pytest.approx(case["completions_per_step"] / case["step_seconds"])
        assert case["peak_gib"] > 0 and case["operations_updating"] > 0
    assert "completions/s" in said and ("skipped" in bits or "failed" in bits) and not found["goals"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_it_says_that_nothing_was_measured():
    assert "not measured: this machine has no CUDA GPU" in call()
