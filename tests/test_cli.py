"""The shell commands, as a newcomer types them in an empty folder."""

import pytest
from helpers import shell
from typer.main import get_command

from grpo_kit.cli import app
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig


def test_from_an_empty_folder_to_an_evaluation(standin, tmp_path):
    trained = shell(tmp_path, "train", "--run-id", "first", "--max-steps", "2", "--use-lora", "true")
    assert "Step 2/2: loss=" in trained and (tmp_path / "runs/first/adapter_model.safetensors").exists()
    assert "samples that come with the kit" in trained, "data/processed is not there"

    by_name = shell(tmp_path, "eval", "first", "--n", "8")
    assert by_name.splitlines()[-1].startswith("base ") and "checkpoint-2" in by_name
    by_folder = shell(tmp_path, "eval", "--model-path", "runs/first/checkpoint-2", "--n", "8")
    assert by_folder.splitlines()[-1] == by_name.splitlines()[-1]
    assert "complete" in shell(tmp_path, "runs")


def test_own_traces_take_the_place_of_the_demos(standin, tmp_path):
    chats = [
        f'{{"messages": [{{"role": "user", "content": "Question {i}?"}}, {{"role": "assistant", "content": "Yes."}}]}}'
        for i in range(60)
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(chats))
    assert "samples to train on" in shell(tmp_path, "prepare", "chats.jsonl")
    trained = shell(tmp_path, "train", "--run-id", "own", "--max-steps", "1")
    assert "Step 1/1" in trained and "come with the kit" not in trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--num-generations", "1"], "num_generations='1': should be greater"),
        (["train", "--max-step", "3"], "--max-steps"),
        (["train", "--data", "nowhere"], "grpo-kit prepare"),
        (["eval", "nobody"], "no run nobody"),
        (["eval"], "grpo-kit eval RUN"),
        (["prepare", "nowhere"], "nowhere"),
        (["prepare", "nowhere", "--eval-fraction", "0"], "eval_fraction"),
        (["train", "--model-name", "./nothing"], "can't be loaded"),
        (["train", "--use-vllm", "true"], "vllm is not installed"),
        (["train", "--scale-rewards", "all"], "'group', 'batch' or 'none'"),
    ],
)
def test_mistakes_get_one_message_and_leave_nothing(tmp_path, words, message):
    assert message in shell(tmp_path, *words, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("eval --use-vllm first", {"use_vllm": "true", "run": "first"}),
        ("eval first --use-vllm", {"use_vllm": "true", "run": "first"}),
        ("eval --use-vllm auto first", {"use_vllm": "auto", "run": "first"}),
        ("eval --use-vllm=false first", {"use_vllm": "false", "run": "first"}),
        ("train --use-lora false --warm-start", {"use_lora": "false", "warm_start": "true"}),
        ("train --fsdp --bf16 AUTO", {"fsdp": "true", "bf16": "AUTO"}),
        ("doctor --load-in-4bit --max-steps 3", {"load_in_4bit": "true", "max_steps": "3"}),
    ],
)
def test_what_is_true_or_false_needs_no_value_in_any_command(words, read):
    name, *others = words.split()
    command = get_command(app).commands[name]
    given = command.make_context(name, others).params
    assert {each: given[each] for each in read} == read


def test_every_setting_is_a_flag():
    commands = {command.name: command.callback.__signature__ for command in app.registered_commands[-2:]}
    assert TrainConfig.model_fields.keys() <= commands["train"].parameters.keys()
    assert EvalConfig.model_fields.keys() <= commands["eval"].parameters.keys()
