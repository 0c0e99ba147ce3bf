"""A model folder that can't work is refused by its files, before anything is loaded, with what would mend it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_kit import ConfigError, TrainConfig, evaluate, quote, train
from grpo_kit.models.load import check_model, has_chat_template
from grpo_kit.models.shapes import TINY_MODEL
from grpo_kit.preflight import doctor


def edit(name: str, **changes) -> Callable[[Path], None]:
    """Changes fields of a JSON file; ... takes one away."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names]


def add_token(content: str, special: bool) -> Callable[[Path], None]:
    """One token more than the model has embeddings."""

    def change(folder: Path) -> None:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        number = json.loads((folder / "config.json").read_text())["vocab_size"]
        tokenizer["added_tokens"].append(
            {**tokenizer["added_tokens"][0], "id": number, "content": content, "special": special}
        )
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

    return change


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [change(folder) for change in changes]


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def no_clone(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def shard_missing(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
REFUSED = {
    "more words": (edit("config.json", vocab_size=600), "more tokens than the model's 600 embeddings: .*resize_token"),
    "an added word": (add_token("zzz", False), "more tokens than .*'zzz'"),
    "a template's token": (add_token("<start_of_turn>", True), "more tokens than .*'<start_of_turn>'"),
    "no end token": (
        edit("tokenizer_config.json", eos_token=None),
        "no end token. Set eos_token .* say '<end_of_turn>'",
    ),
    "none named": (edit("tokenizer_config.json", eos_token=..., **PLAIN), "no end token. Set eos_token"),
    "unknown end token": (edit("tokenizer_config.json", eos_token={"content": "</x>"}), "'</x>' is not in its vocab"),
    "few positions": (edit("config.json", max_position_embeddings=64), "64 tokens.*Use max_prompt_length=32 .*=32"),
    "gpt2's name for them": (
        edit("config.json", max_position_embeddings=..., n_positions=200),
        "can read 200 tokens.*Use max_prompt_length=100 max_completion_length=100",
    ),
    "no model_type": (edit("config.json", model_type=...), "no config.json that names a model_type"),
    "no config": (without("config.json"), "no config.json that names"),
    "torn config": (lambda folder: (folder / "config.json").write_text("{"), "config.json can't be loaded"),
    "adapter": (adapter, "it is an adapter.*kit.merge"),
    "no weights": (without("model.safetensors"), "no weights"),
    "cut weights": (cut, "model.safetensors is missing or cut"),
    "git-lfs's pointer": (no_clone, "model.safetensors is missing or cut.*lfs pull"),
    "missing shard": (shard_missing, "model-2.safetensors is missing"),
    "no tokenizer": (without("tokenizer.json"), "no tokenizer"),
}
WORKS = {
    "as it is": lambda folder: None,
    "an unused special token, as Gemma 3's": add_token("<image>", True),
    "end token beyond the vocabulary": edit("generation_config.json", eos_token_id=[3, 50256]),
    "no pad token": edit("tokenizer_config.json", pad_token=None),
    "end token by its class": edit("tokenizer_config.json", eos_token=..., tokenizer_class="GemmaTokenizer"),
    "old weights": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(TINY_MODEL, tmp_path / "model")


def checked(folder: Path) -> None:
    config = TrainConfig(model_name=str(folder))
    check_model(config.model_name, config)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_with_its_fix(folder, name):
    change, told = REFUSED[name]
    change(folder)
    with pytest.raises(ConfigError, match=told) as refused:
        checked(folder)
    assert refused.value.problem.fix
    quoted = quote(TrainConfig(model_name=str(folder)), backend="local", ask=False)
    (said,) = [problem.what for problem in quoted.problems if problem.where == "model"]
    assert said == refused.value.problem.what or (name == "adapter" and "names no base model" in said)


@pytest.mark.parametrize("name", WORKS)
def test_what_works_is_not_refused(folder, name):
    WORKS[name](folder)
    checked(folder)


def test_training_evaluation_and_doctor_refuse_it_alike(folder, tmp_path):
    edit("tokenizer_config.json", eos_token=None)(folder)
    config = TrainConfig(model_name=str(folder))
    for attempt in (
        lambda: train.local(config, runs_dir=tmp_path / "runs"),
        lambda: evaluate.local(folder, n=2),
        lambda: doctor.model(config),
        lambda: has_chat_template(str(folder)),
    ):
        with pytest.raises(ConfigError, match="no end token"):
            attempt()
    assert not (tmp_path / "runs").exists()


def test_a_model_without_a_chat_template_is_refused_for_conversations_alone(folder, tmp_path, demo_data):
    without("chat_template.jinja")(folder)
    config = TrainConfig(model_name=str(folder), data=str(demo_data))
    for attempt in (lambda: doctor.model(config), lambda: evaluate.local(folder, data=str(demo_data), n=2)):
        with pytest.raises(ConfigError, match="no chat template"):
            attempt()
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "train.jsonl").write_text('{"prompt": "Hello", "ground_truth": "Hi."}\n')
    assert doctor.model(config.replace(data=str(texts))) == str(folder)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for message in messages %}{{ message.content }}", r"chat_template.jinja can't be read, at its line 1"),
        ("{{ raise_exception('Only images, please') }}", "refuses a prompt: Only images, please"),
        ("{{ messages[0].content + tokens }}", "refuses a prompt: 'tokens' is undefined"),
    ],
)
def test_a_chat_template_that_cannot_write_a_question_is_said_before_a_run_begins(folder, demo_data, template, told):
    (folder / "chat_template.jinja").write_text(template)
    config = TrainConfig(model_name=str(folder), data=str(demo_data))
    with pytest.raises(ConfigError, match=told) as refused:
        doctor.model(config)
    (problem,) = quote(config, folder, backend="local").problems
    assert problem.what == refused.value.problem.what and problem.fix.startswith("Correct it")
    with pytest.raises(ConfigError, match=told):
        train.local(config, runs_dir=folder)


def test_a_chat_template_writes_its_own_tokens_and_marks_and_no_torch_is_loaded(folder, tmp_path, demo_data):
    written = "{{ bos_token + messages[0].content + eos_token }}{% generation %}{% endgeneration %}{% break %}"
    named = [{"name": "default", "template": f"{{% for each in messages %}}{written}{{% endfor %}}"}]
    without("chat_template.jinja")(folder)
    edit("tokenizer_config.json", chat_template=[*named, {"name": "tools", "template": "{% if"}], bos_token=...)(folder)
    asks = f"doctor.model(TrainConfig(model_name={str(folder)!r}, data={str(demo_data)!r}))"
    code = f"import sys; from grpo_kit import TrainConfig; from grpo_kit.preflight import doctor; {asks}"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "train.jsonl").write_text('{"prompt": "Hello", "ground_truth": "Hi."}\n')
    edit("tokenizer_config.json", chat_template="{% if")(folder)
    assert doctor.model(TrainConfig(model_name=str(folder), data=str(texts))), "texts need none"
