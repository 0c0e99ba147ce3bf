"""benchmarks/gpu.py, which needs a GPU, tried here with the tiny model: a case trains and its numbers agree."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from helpers import ROOT

from grpo_kit import TrainConfig
from grpo_kit.models.shapes import shape_of

SCRIPT = ROOT / "benchmarks" / "gpu.py"
CHIP = {"device": "NVIDIA L4", "bytes_per_second": 300e9, "operations_per_second": 35e12}  # half an A10


@pytest.fixture(scope="module")
def gpu():
    spec = spec_from_file_location("gpu_benchmark", SCRIPT)
    spec.loader.exec_module(module := module_from_spec(spec))
    return module


@pytest.fixture
def call(gpu, monkeypatch, capsys):
    """Runs the script here, with these words as its arguments; its cases are processes of their own."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
        gpu.main()
        return capsys.readouterr().out

    return run


@pytest.mark.wide
def test_a_case_trains_and_its_numbers_agree(call, tmp_path):
    out = tmp_path / "gpu.json"
    said = call("--device", "cpu", "--shapes", "tiny", "--cases", "compiled", "--steps", "1", "--out", str(out))
    found = json.loads(out.read_text())
    case = found["cases"]["tiny: compiled"]
    assert case["completions_per_step"] == 32
    assert sum(case["seconds"].values()) == pytest.approx(case["step_seconds"])
    assert min(case["seconds"].values()) > 0 and case["step_seconds"] > case["step_seconds_before_optimiser"]
    assert case["completions_per_second"] == pytest.approx(case["completions_per_step"] / case["step_seconds"])
    assert case["prompt_tokens"] == pytest.approx(32, abs=2) and 1 <= case["completion_tokens"] <= 8
    updating = case["counted"]["updating_operations"] / found["operations_per_second"]
    assert case["share_of_limit"]["updating"] == pytest.approx(updating / case["seconds"]["updating"])
    assert case["peak_gb"] > 0
    assert {goal["reached"] for goal in found["goals"].values()} == {"not measured"}
    assert "| tiny: compiled |" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_it_says_that_nothing_was_measured(call):
    assert "not measured: this machine has no CUDA GPU" in call()


def test_a_case_that_fails_is_written_down(gpu, tmp_path):
    gpu.in_child({"device": "abacus", "folder": str(tmp_path)})
    assert "abacus" in json.loads((tmp_path / "result.json").read_text())["failed"]


def test_what_is_counted_of_a_2b_model(gpu):
    config = TrainConfig(model_name="google/gemma-2-2b", use_vllm=False)
    shape = shape_of(config.model_name)
    work = gpu.counted(config, shape, prompt=512, on_gpu=True)
    cache = 26 * 2 * 4 * 256 * 2 * (512 + 64)  # layers, keys and values, heads, width, bytes, tokens
    assert work["decoding_bytes"] == pytest.approx(128 * (2 * 2.614e9 + 32 * cache), rel=0.001)
    # Of 32 completions there, back and there again: 2 operations for each of 2.0e9 weights below the head and token.
    assert work["updating_operations"] == pytest.approx(3 * 32 * 640 * 2 * 2.024e9, rel=0.1)
    more = gpu.counted(config.replace(use_lora=False), shape, prompt=512, on_gpu=True)
    assert more["updating_operations"] == pytest.approx(work["updating_operations"] * 4 / 3, rel=0.02)


@pytest.mark.parametrize(
    "own, reached",
    [
        ({"completions_per_second": 10.0, "peak_gb": 12.0, "seconds_each": 4.0}, ["yes", "yes", "yes"]),
        ({"completions_per_second": 9.0, "peak_gb": 12.0, "seconds_each": 4.0}, ["no", "yes", "yes"]),
        ({"completions_per_second": 10.0, "peak_gb": 21.0, "seconds_each": 60.0}, ["no", "no", "no"]),
        ({"failed": "RunStopped: out of memory at step 1"}, ["not measured", "no", "not measured"]),
    ],
)
def test_the_goals(gpu, own, reached):
    work = {"decoding_bytes": 3e9, "decoding_operations": 1e9, "reading_operations": 0, "updating_operations": 1e12}
    if each := own.pop("seconds_each", None):
        own |= {"seconds": dict.fromkeys(("generating", "judging", "updating"), each), "counted": work}
        assert gpu.seconds_on_a10(own, CHIP) == pytest.approx((0.5 + 1 + 0.5) * each)
    guide = {"seconds": {}, "completions_per_second": 1.0, "peak_gb": 12.0}
    found = gpu.goals({"2b: guide": guide, "2b: defaults": own}, CHIP)
    assert [goal["reached"] for goal in found.values()] == reached
