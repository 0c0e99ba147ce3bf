"""A checkpoint as other programs read it: its adapter alone, and GGUF files that llama.cpp reads as the model itself.

What needs llama.cpp is skipped where that is not installed: docs/publish.md says how.
"""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import grpo_kit as kit
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.base import make_judge
from grpo_kit.models.chat_template import chat_template_of
from grpo_kit.models.export import export
from grpo_kit.models.gguf import check_tools, compare
from grpo_kit.models.llama import ask
from grpo_kit.models.load import load_tokenizer
from grpo_kit.models.ollama import Parts
from grpo_kit.models.shapes import TINY_MODEL

try:
    check_tools(None)
    LACKS = ""
except ConfigError as problem:
    LACKS = str(problem)
needs_llama_cpp = pytest.mark.skipif(bool(LACKS), reason=LACKS)


def test_an_adapter_goes_alone_and_what_can_not_be_exported_leaves_nothing(trained, tmp_path, monkeypatch):
    folder = export(trained, "adapter", tmp_path / "new" / "adapter", checkpoint=10)
    assert {file.name for file in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    of_run = (trained.path / "checkpoint-10" / "adapter_model.safetensors").read_bytes()
    assert (folder / "adapter_model.safetensors").read_bytes() == of_run
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"

    whole = export(folder, "merged", tmp_path / "merged")
    assert (whole / "model.safetensors").exists()
    with pytest.raises(RunError, match="exists already"):
        export(folder, "merged", whole)
    with pytest.raises(ConfigError, match="is a whole model, not an adapter"):
        export(whole, "adapter", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"no form 'gguff' to export to\. Did you mean gguf\?"):
        export(folder, "gguff", tmp_path / "none")
    with pytest.raises(ConfigError, match="quantize='q8_0' is for GGUF files"):
        export(folder, "merged", tmp_path / "none", quantize="q8_0")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(ConfigError, match=r"has no convert_hf_to_gguf\.py\. Name the folder of llama.cpp's sources"):
        export(folder, "gguf", tmp_path / "none")
    monkeypatch.delenv("LLAMA_CPP")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"llama\.cpp's converter, convert_hf_to_gguf\.py, is not installed here"):
        export(folder, "gguf", tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "merged"}


OTHERS = {
    "by_default": "{% if messages[0].role != 'system' %}[S]Help.[/S]{% endif %}{% for m in messages %}"
    "[{{ m.role }}]{{ m.content }}[/]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    "ends_alone": "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}",
}
COUNTS = (
    "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


@pytest.mark.parametrize("name", ["tiny", *OTHERS])
def test_ollamas_template_writes_what_the_models_own_writes(name):
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = OTHERS.get(name, tokenizer.chat_template)
    parts = Parts.of(chat_template_of(tokenizer))  # raises where it writes another text for one of its talks
    in_go = parts.in_go("<bos>")
    assert "<bos>" not in in_go and in_go.count("{{ end }}") == 4


def test_a_template_that_turns_can_not_follow_is_refused():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    tokenizer.chat_template = COUNTS
    with pytest.raises(ConfigError, match="the chat template writes a turn in another way later on"):
        Parts.of(chat_template_of(tokenizer))


@needs_llama_cpp
def test_a_gguf_file_answers_as_the_model_and_another_model_is_found_out(trained, tmp_path, demo_data, capsys):
    folder = export(trained, "ollama", tmp_path / "ollama", data=str(demo_data))
    told = json.loads((folder / "comparison.json").read_text())
    assert told["prompts"] == told["equal_answers"] == 32 and told["log_prob_difference"] < 0.01
    assert told["score"] == told["model_score"]
    assert "32 of 32 answers are the merged model's" in capsys.readouterr().out
    file = folder / "grpo_20.gguf"
    text = (folder / "Modelfile").read_text()
    assert "FROM ./grpo_20.gguf\n" in text and 'PARAMETER stop "<end_of_turn>"\n' in text

    small = export(trained, "gguf", tmp_path / "small", data=str(demo_data), quantize="q8_0")
    assert (small / "grpo_20-q8_0.gguf").stat().st_size < 0.6 * file.stat().st_size
    with pytest.raises(ConfigError, match="no quantisation 'q8_k_0'"):
        export(trained, "gguf", tmp_path / "none", quantize="q8_k_0")

    other = Path(shutil.copytree(TINY_MODEL, tmp_path / "other"))
    samples = list(kit.read_samples(demo_data / "eval.jsonl"))[:16]
    judge = make_judge("offline", kit.TrainConfig(model_name="tiny"))
    with pytest.raises(RunError, match="is another model: its log-probabilities differ by 0"):
        compare(file, other, samples, judge, 28, is_quantized=False)
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("model", "assistant"))
    with pytest.raises(RunError, match="another model: its chat template is not the model's"):
        compare(file, other, samples, judge, 28, is_quantized=False)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(RunError, match=r"llama.cpp can't use broken\.gguf"):
        ask(broken)
