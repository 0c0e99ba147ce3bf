"""A first run that goes wrong says what to do: the hub, the memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import GATED, LET_IN, MODEL, NOT_LET_IN, TINY, HubServer, Repository
from safetensors.torch import load_file, save_file
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

from grpo_kit import ConfigError, Run, TrainConfig, train
from grpo_kit.errors import RunStopped
from grpo_kit.models.load import has_chat_template, is_of_gpu, is_out_of_memory, load_model, load_tokenizer
from grpo_kit.training.failures import memory_fixes, out_of_memory
from grpo_kit.training.trainer import KitTrainer

TOO_MUCH = 10**15  # floats: more than any machine has
GPU = 22.1  # GiB of an A10, as torch sees it
# Dropout draws in the update: resumed, the run has to draw as if it had never been stopped.
STEPS = {"max_steps": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": 4}
QUICK = {**STEPS, "max_completion_length": 8, "lora_dropout": 0.1, "canaries": "off"}


def in_process(code: str, home: Path, endpoint: str, **variables: str) -> str:
    """The output of a process of its own: the hub's address is read when its library is imported."""
    keep = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    environment = {**keep, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **variables}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(home: Path, endpoint: str, asked: list[tuple[str, str | None]], **variables: str) -> list[str | None]:
    """model_problem for each of several names, with a token or none."""
    code = f"""
import json, os
from grpo_kit.models.load import model_problem
found = []
for name, token in {asked!r}:
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({{"HF_TOKEN": token}} if token else {{}})
    found.append(str(problem) if (problem := model_problem(name)) else None)
print(json.dumps(found))
"""
    return json.loads(in_process(code, home, endpoint, **variables))


def test_the_hubs_own_answer_says_what_to_do(tmp_path):
    with HubServer() as hub:
        own = [("tiny", None), (str(TINY), None), ("SmolLM2-135M-Instruct", None)]
        *had, smollm2 = answers(tmp_path, hub.url, own)
        assert had == [None] * 2 and not hub.requests and "make smollm2" in (smollm2 or "make smollm2")
        asked = [
            *((MODEL, None), (GATED, None), (GATED, NOT_LET_IN), (GATED, LET_IN), (MODEL, "hf_expired")),
            *(("demo-lab/tiny-gema-it", None), ("demo-lab/tiny-gema-it", LET_IN), ("tiny-gemma-it", None)),
            *(("local_models/run1", None), ("./local_models/run1", None)),
        ]
        free, no_token, not_let_in, let_in, expired, *misnamed, folder, path = answers(tmp_path, hub.url, asked)
        hub.is_down = True
        [down] = answers(tmp_path, hub.url, [(MODEL, None)])
    assert (free, let_in) == (None, None)
    page = f"https://huggingface.co/{GATED}"
    for said in (no_token, not_let_in):
        assert "gated" in said and page in said and "export HF_TOKEN=" in said
        assert "modal secret create --force huggingface-secret HF_TOKEN=" in said
    assert "refuses your token" in expired and "modal secret create --force huggingface-secret" in expired
    assert "hf_expired" not in expired and NOT_LET_IN not in not_let_in, "a token is never shown"
    for said in (*misnamed, folder):
        assert "no such folder" in said and "the name is wrong or private" in said
    assert "owner/name" in path
    assert "503" in down
    [gone] = answers(tmp_path, hub.url, [(MODEL, None)])
    [offline] = answers(tmp_path, hub.url, [(MODEL, None)], HF_HUB_OFFLINE="1")
    assert f"can't be reached at {hub.url}" in gone and "HF_HUB_OFFLINE is set" in offline


def test_a_model_is_downloaded_once_without_what_is_not_read_and_trained_without_the_hub(tmp_path, demo_data):
    big = shutil.copytree(TINY, tmp_path / "big")
    old = shutil.copytree(TINY, tmp_path / "old", ignore=shutil.ignore_patterns("*.safetensors"))
    for file in (
        "pytorch_model.bin",
        "original/params.json",
        "onnx/config.json",
        "onnx/model.safetensors",
        "model.gguf",
        "README.md",
    ):
        (big / file).parent.mkdir(exist_ok=True)
        (big / file).write_bytes(b"not for transformers")
    torch.save(load_file(TINY / "model.safetensors"), old / "pytorch_model.bin")
    (old / "training_args.bin").write_bytes(b"nor this")
    with HubServer() as hub:
        hub.models |= {"demo-lab/big": Repository(big), "demo-lab/old": Repository(old)}
        code = f"""
from grpo_kit import ConfigError
from grpo_kit.models.load import download_model
for name in ("demo-lab/big", "demo-lab/old", "demo-lab/big", {GATED!r}):
    try:
        print(*sorted(path.name for path in download_model(name).iterdir()))
    except ConfigError as error:
        print(error)
"""
        first, of_old, again, gated = in_process(code, tmp_path, hub.url).splitlines()
        fetched = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
    assert first == again == " ".join(sorted(path.name for path in TINY.iterdir()))
    assert of_old.split() == sorted({*first.split(), "pytorch_model.bin"} - {"model.safetensors"})
    assert len(fetched) == len(set(fetched)) == 2 * len(first.split())
    assert (
        gated.startswith(f"model_name='{GATED}' can't be loaded: the model is gated, and")
        and "Accept its licence" in gated
    )
    # The hub is gone. What was fetched trains; what was not is refused at once, with nothing written.
    settings = {"data": str(demo_data), "max_steps": 1, "max_completion_length": 4, "canaries": "off"}
    code = f"""
from grpo_kit import ConfigError, train
try:
    train(model_name="demo-lab/never", runs_dir="refused", **{settings!r})
except ConfigError as error:
    print(error)
run = train(model_name="demo-lab/big", runs_dir="runs", echo=lambda text: None, **{settings!r})
print(run.status["state"])
"""
    refused, state = in_process(code, tmp_path, hub.url, OMP_NUM_THREADS="1").splitlines()
    assert "model_name='demo-lab/never' can't be loaded: the Hugging Face hub can't be reached" in refused
    assert state == "complete" and not (tmp_path / "refused").exists()
    [adapter] = tmp_path.glob("runs/*/adapter_config.json")
    assert json.loads(adapter.read_text())["base_model_name_or_path"] == "demo-lab/big"


class Fails:
    """Really asks for too much memory at one of its calls."""

    def __init__(self, at: int):
        self.at, self.calls = at, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            torch.empty(TOO_MUCH)


def fails_in_forward(monkeypatch, at: int, in_update: bool) -> None:
    fail, forward = Fails(at), Gemma3TextModel.forward

    def failing(self, *args, **kwargs):
        if torch.is_grad_enabled() == in_update:
            fail()
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Gemma3TextModel, "forward", failing)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, demo_data) -> Run:
    return train(data=str(demo_data), run_id="run", runs_dir=tmp_path_factory.mktemp("undisturbed"), **QUICK)


def same_as(run: Run, other: Run) -> bool:
    weights, expected = (load_file(run.path / "adapter_model.safetensors") for run in (run, other))
    said, wanted = (run.completions()["completion"].tolist() for run in (run, other))
    return said == wanted and all((weights[name] == expected[name]).all() for name in expected)


def test_out_of_memory_in_an_update_keeps_the_last_step_and_says_what_to_change(
    tmp_path, demo_data, undisturbed, monkeypatch
):
    with monkeypatch.context() as patch:
        fails_in_forward(patch, at=6, in_update=True)  # the second of step 3's two passes
        with pytest.raises(RunStopped) as stopped:
            train(data=str(demo_data), run_id="run", runs_dir=tmp_path, **QUICK)
    said = str(stopped.value)
    assert said.startswith(
        "Out of memory while updating in step 3: the machine's memory is full. Stopped, checkpoint-2 is saved; run_id "
        "run resumes it. Resume with memory=65536 on Modal. Start a new run (cache_from=run uses its judgements "
        "again) with per_device_train_batch_size=4 gradient_accumulation_steps=4, or gradient_checkpointing=true, or "
        "max_completion_length=4"
    )
    status = Run("run", tmp_path).status
    assert (status["state"], status["step"], status["reason"]) == ("stopped", 2, said)
    assert same_as(train(run_id="run", memory=65536, runs_dir=tmp_path), undisturbed)


def test_out_of_memory_while_generating_and_while_judging(tmp_path, demo_data, monkeypatch):
    with monkeypatch.context() as patch:
        fails_in_forward(patch, at=1, in_update=False)
        with pytest.raises(
            RunStopped, match=r"while generating in step 1.*no step was made.*num_generations=2 per_device"
        ):
            train(data=str(demo_data), run_id="generating", runs_dir=tmp_path, **QUICK)
    fail = Fails(at=2)

    def heavy(completions, **_):
        fail()
        return [0.0] * len(completions)

    with pytest.raises(RunStopped, match=r"while judging in step 2.*reward functions fill it.*checkpoint-1 is saved"):
        train(data=str(demo_data), run_id="judging", rewards=[heavy], runs_dir=tmp_path, **QUICK)
    assert train(run_id="judging", rewards=[heavy], runs_dir=tmp_path).status["state"] == "complete"


def test_a_half_made_update_is_not_saved_and_a_save_that_fails_hides_nothing(
    tmp_path, demo_data, undisturbed, monkeypatch
):
    fail, step = Fails(at=2), torch.optim.AdamW.step

    def failing(self, *args, **kwargs):
        done = step(self, *args, **kwargs)
        fail()  # with the weights changed already
        return done

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", failing)
        with pytest.raises(
            RunStopped, match=r"while updating in step 2.*Stopped, no step is saved; run_id run resumes"
        ):
            train(data=str(demo_data), run_id="run", runs_dir=tmp_path, **QUICK)

    def full(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        fails_in_forward(patch, at=4, in_update=True)
        patch.setattr(KitTrainer, "_save_checkpoint", full)
        with pytest.raises(RunStopped, match=r"updating in step 2.*checkpoint-1 could not be saved \(MemoryError"):
            train(run_id="run", runs_dir=tmp_path)
    assert same_as(train(run_id="run", runs_dir=tmp_path), undisturbed)


def test_a_model_that_does_not_fit_is_said_to_be_too_large(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "huge", ignore=shutil.ignore_patterns("*.safetensors"))
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"intermediate_size": TOO_MUCH // 1000}))
    name = "model.norm.weight"  # the others are made, as large as the config says
    save_file({name: load_file(TINY / "model.safetensors")[name]}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"huge' does not fit: the machine's memory is full.*smaller model"):
        load_model(str(folder), bf16=False)


@pytest.mark.parametrize("part", ["generating", "updating"])
@pytest.mark.parametrize("batches", [(8, 4, 8), (6, 2, 4), (2, 8, 2), (1, 2, 2), (3, 4, 6)])
def test_what_is_advised_is_a_config_that_works_and_needs_less(part, batches):
    batch, passes, group = batches
    config = TrainConfig(
        per_device_train_batch_size=batch, gradient_accumulation_steps=passes, num_generations=group, use_lora=False
    )
    for fix in memory_fixes(config, True, part, GPU):
        changed = config.replace(**fix)  # refused where its batches don't work
        if "gradient_accumulation_steps" in fix:
            assert changed.per_device_train_batch_size < batch if part == "updating" else True
            fewer = changed.completions_per_step < config.completions_per_step
            assert fewer == (part == "generating") and changed.num_generations >= 2


def test_on_a_gpu_a_larger_one_is_named_and_only_what_applies():
    gpus = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total …")
    assert is_out_of_memory(gpus) and is_of_gpu(gpus) and not is_out_of_memory(RuntimeError("a bug"))
    with pytest.raises(MemoryError) as numpys:
        np.empty(TOO_MUCH)
    assert is_out_of_memory(numpys.value) and not is_of_gpu(numpys.value)
    config = TrainConfig(
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        num_generations=2,
        max_completion_length=128,
        gradient_checkpointing=True,
    )
    said = str(out_of_memory(config, "r", True, "updating", 1, GPU))
    assert "the GPU's memory is full" in said and "Resume with gpu=A100-40GB on Modal. Start a new run" in said
    assert said.endswith("with max_completion_length=64")
    assert "gpu=" not in str(out_of_memory(config, "r", True, "updating", 1, 178.0))
    only = memory_fixes(config, False, "updating", GPU)
    assert only == [{"memory": 65536}], "the machine's memory is full, not the GPU's"
    nothing = out_of_memory(config, "r", True, "judging", 1, 178.0)
    assert nothing.what.endswith("work on fewer completions at once") and not nothing.fix


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, True),
        ({"chat_template.jinja": None}, False),
        ({"chat_template.jinja": None, "additional_chat_templates/default.jinja": "{{ messages }}"}, True),
        ({"tokenizer.json": "{"}, "can't be loaded"),
        ({"tokenizer_config.json": "[]"}, "can't be loaded"),
        ({"config.json": None, "tokenizer.json": None, "tokenizer_config.json": None}, "no config.json"),
    ],
)
def test_whether_a_model_can_write_conversations_is_told_by_its_files(tmp_path, files, told):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    if told in (True, False):
        assert has_chat_template(str(folder)) is told is (load_tokenizer(str(folder)).chat_template is not None)
    else:
        with pytest.raises(ConfigError, match=told):
            has_chat_template(str(folder))
