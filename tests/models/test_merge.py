"""Shows that a merged model says what its adapter says, a bad one leaves nothing, and a talk can be repeated."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import grpo_kit as kit
from grpo_kit.backends.run import Run
from grpo_kit.models.checkpoints import adapted
from grpo_kit.models.load import load_model, load_tokenizer
from grpo_kit.models.shapes import TINY_MODEL

TEXT = "I would like a table in Porto for 4 people, please."


def logits(model, tokenizer) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**tokenizer(TEXT, return_tensors="pt")).logits[0].float()


def copy_of(run: Run, folder: Path) -> Path:
    return Path(shutil.copytree(run.checkpoints[-1], folder / "checkpoint-20"))


def test_a_merged_model_is_the_adapted_one_and_needs_no_kit(trained, tmp_path):
    folder = kit.merge(trained, tmp_path / "new" / "merged")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert merged.dtype == torch.bfloat16, "the base's own"
    own = load_tokenizer("tiny")
    before = logits(load_model("tiny", bf16=False), own)
    wanted = logits(adapted(load_model("tiny", bf16=False), trained.checkpoints[-1]), own)
    got = logits(merged.float(), tokenizer)
    assert torch.allclose(got, wanted, rtol=0, atol=0.02 * float(wanted.abs().max()))
    assert (before - wanted).abs().max() > 5 * (got - wanted).abs().max(), "the adapter changes more than rounding does"
    assert tokenizer.chat_template == own.chat_template
    assert merged.generation_config.eos_token_id == [own.eos_token_id]
    assert [path.name for path in folder.parent.iterdir()] == ["merged"]

    earlier = kit.merge(trained, tmp_path / "earlier", checkpoint=10)
    assert not torch.equal(logits(AutoModelForCausalLM.from_pretrained(earlier).float(), tokenizer), got)
    with pytest.raises(kit.RunError, match="exists already"):
        kit.merge(trained, earlier)
    with pytest.raises(kit.RunError, match=r"no checkpoint-99 in .*checkpoint-10, checkpoint-20"):
        kit.merge(trained, tmp_path / "none", checkpoint=99)


def test_a_whole_model_is_saved_as_it_is(trained, tmp_path):
    merged = kit.merge(trained, tmp_path / "merged")
    again = kit.merge(merged, tmp_path / "again")
    one, other = (load_file(folder / "model.safetensors") for folder in (merged, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((merged / "config.json").read_text()) == json.loads((again / "config.json").read_text())


def test_a_broken_adapter_leaves_nothing(trained, tmp_path):
    folder = copy_of(trained, tmp_path)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    save_file(weights | {name: torch.full_like(weights[name], float("nan"))}, file)
    with pytest.raises(kit.ConfigError, match=r"checkpoint-20 can't be merged"):
        kit.merge(folder, tmp_path / "merged")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(kit.ConfigError, match=r"checkpoint-20 can't be read"):
        kit.merge(folder, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-20"]


def test_a_talk_is_side_by_side_and_repeatable(trained):
    turns = [
        {"role": "user", "content": "I need a visit."},
        {"role": "assistant", "content": "What kind of doctor do you need?"},
        {"role": "user", "content": "A dentist, please."},
    ]
    prompts = ["I want a table.", "Please book a room in Paris.", turns]
    table = kit.chat(trained, prompts, seed=1)
    assert list(table.columns) == ["prompt", "base", "trained"]
    assert list(table["prompt"]) == [*prompts[:2], "A dentist, please."]
    assert table.equals(kit.chat(trained.path, prompts, seed=1))
    assert not table.equals(kit.chat(trained, prompts, seed=2))
    first = kit.chat(trained, prompts[0], temperature=0, checkpoint="checkpoint-10")
    assert len(first) == 1 and first.equals(kit.chat(trained, prompts[0], temperature=0, checkpoint=10, seed=5))


def test_a_complete_run_whose_model_has_moved_is_complete_and_told_its_base_as_ever(tmp_path, demo_data, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(TINY_MODEL, old)
    settings = {"model_name": str(old), "run_id": "run", "data": str(demo_data), "max_steps": 1, "save_steps": 1}
    settings |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "runs_dir": tmp_path}
    run = kit.train(**settings)
    old.rename(new)
    kit.train(**settings)
    assert "Run run is complete" in capsys.readouterr().out
    lone = Path(shutil.copytree(run.checkpoints[-1], tmp_path / "adapter"))
    for number, subject in enumerate((run, lone)):
        for ask in (
            partial(kit.evaluate, subject, n=2, data=str(demo_data)),
            partial(kit.merge, subject, tmp_path / f"merged-{number}"),
            partial(kit.chat, subject, "Hello", max_completion_length=2),
        ):
            with pytest.raises(kit.ConfigError, match=r"trained from .*old.* base_model \(--base-model\)"):
                ask()
            ask(base_model=str(new))
