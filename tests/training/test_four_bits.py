"""A run whose weights are held in 4 bits: interrupted and resumed it ends the same; evaluated and merged.

bitsandbytes has a folder of its own, .venv/4bit, which `make test-wide` fills, and is used by a process of its own:
wherever PEFT finds it, loading takes a second more.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

OWN = ROOT / ".venv" / "4bit"

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
import grpo_kit as kit
from grpo_kit.errors import RunStopped

runs, said = Path(sys.argv[1]), {}
def asks(completions, trainer_state, **_):
    if trainer_state.global_step == 2:
        (runs / "cut" / "stop").touch()
    return [len(str(completion)) / 100 for completion in completions]
settings = {"data": sys.argv[2], "runs_dir": runs, "rewards": [asks], "max_steps": 4, "canaries": "off"}
settings |= {"per_device_train_batch_size": 8, "num_generations": 2, "load_in_4bit": True, "learning_rate": 1e-3}
(runs / "cut").mkdir()
whole = kit.train(run_id="whole", bf16=True, **settings)
(runs / "cut" / "stop").unlink()
try:
    kit.train(run_id="cut", bf16=True, **settings)
except RunStopped:
    said["stopped_at"] = json.loads((runs / "cut" / "status.json").read_text())["step"]
cut = kit.train(run_id="cut", **settings)
said["resumed"] = cut.status["resumed"]
one, other = (load_file(run.path / "adapter_model.safetensors") for run in (whole, cut))
said["alike"] = [torch.equal(one[name], other[name]) for name in one]
moments = torch.load(cut.path / "checkpoint-4" / "optimizer.pt")["state"].values()
said["kinds"] = sorted({str(each.dtype) for each in [*one.values(), *(state["exp_avg"] for state in moments)]})
said["moved"] = max(float(weight.abs().max()) for name, weight in one.items() if "lora_B" in name)
said["evaluated"] = len(kit.evaluate(cut, n=4).summary())
said["merged"] = (kit.merge(cut, runs / "merged") / "model.safetensors").exists()
print(json.dumps(said))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None and not OWN.exists(),
    reason="bitsandbytes is not installed: `make test` does that",
)
@pytest.mark.wide
def test_a_run_in_4_bits_that_is_resumed_ends_the_same(tmp_path, demo_data):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, OWN, os.environ["PYTHONPATH"]]))}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(demo_data)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("moved") > 0
    assert said.pop("alike") == [True] * 28
    wanted = {"stopped_at": 3, "resumed": True, "kinds": ["torch.float32"], "evaluated": 3, "merged": True}
    assert said == wanted
