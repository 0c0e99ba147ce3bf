"""The shell commands, as a newcomer types them in an empty folder."""

import json
import os
import re
import signal

import pytest
from helpers import shell, start, wait_for_step, wait_until
from typer.main import get_command
from typer.testing import CliRunner

from grpo_kit import Run
from grpo_kit.cli import app
from grpo_kit.config.base import about
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.config.usual_names import USUAL_COMMANDS
from grpo_kit.runs.directory import find_run
from grpo_kit.training.console import completions_text

IN_ORDER = """
demo prepare doctor train watch stop resume runs logs eval label chat serve report export push sweep download delete
""".split()
SETTINGS_OF = {"prepare": JudgeConfig, "doctor": TrainConfig, "train": TrainConfig, "eval": EvalConfig}


@pytest.mark.wide
def test_from_an_empty_folder_to_an_evaluation(standin, tmp_path):
    (tmp_path / "settings.yaml").write_text("max_steps: 2\nrun_id: other")
    trained = shell(tmp_path, "train", "--config", "settings.yaml", "--run-id", "first", "--use-lora", "true")
    assert "Step 2/2: loss=" in trained and (tmp_path / "runs/first/adapter_model.safetensors").exists()
    assert "trains on the kit's own samples" in trained, "data/processed is not there"

    by_name = shell(tmp_path, "eval", "first", "--n", "8")
    assert by_name.splitlines()[-1].startswith("base ") and by_name.splitlines()[-2].startswith("checkpoint-2: ")
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
        (["doctor", "--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["train", "--backend", "mars"], "backend='mars' is not a backend"),
        (["resume", "nobody", "--gpu", "H100"], "no run nobody under runs. There are no runs there yet"),
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


def told(*words, code=0, **options):
    """What a command says in this process, at a terminal's usual width, with the error that ends it."""
    done = CliRunner().invoke(app, [*map(str, words)], terminal_width=80, **options)
    assert done.exit_code == code, done.output
    return f"{done.output}{done.exception or ''}"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("train --lr 1e-4", "Did you mean --learning-rate?"),
        ("train --batch-size=4", "Did you mean --per-device-train-batch-size?"),
        ("doctor --epochs 3", "Did you mean --num-train-epochs?"),
        ("train --lora-rank 8", "Did you mean --lora-r?"),
        ("resume first --epochs 3", "Did you mean --max-steps?"),
        ("eval --max-new-tokens 8", "Did you mean --max-completion-length?"),
        ("train --wandb", "Did you mean --report-to wandb?"),
        ("merge first", "Did you mean `grpo-kit export --to merged`?"),
        ("status", "Did you mean `grpo-kit runs`?"),
    ],
)
def test_a_flags_usual_name_leads_to_the_kits(words, hint):
    assert hint in told(*words.split(), code=2)


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("doctor", "probee: true", "probee is no setting of root doctor. Did you mean probe?"),
        ("train", "max-steps: 4", "max-steps is no setting of root train. Did you mean max_steps?"),
        ("resume first", "lr: 4", "lr is no setting of root resume. Did you mean learning_rate?"),
        ("eval first", "learning_rate: 4", "learning_rate is no setting of root eval."),
        ("prepare", "config: other.yaml", "config is no setting of root prepare."),
        ("prepare", "traces: [", "settings.yaml is not YAML or JSON"),
        ("prepare", "traces: chats.jsonl\njudge_timeout: -1", "judge_timeout=-1: should be greater than 0"),
        ("prepare", "traces: chats.jsonl\neval_fraction: 3", "Invalid value for '--eval-fraction'"),
    ],
)
def test_a_file_of_settings_is_checked_alike_by_each_command(command, text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text(text)
    done = CliRunner().invoke(app, [*command.split(), "--config", "settings.yaml"])
    assert done.exit_code and message in f"{done.output}{done.exception}"


def test_a_file_may_hold_a_commands_other_options_and_flags_override_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chats = [[{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"{i}."}] for i in range(40)]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps({"messages": each}) for each in chats))
    own = "traces: chats.jsonl\nout: made\neval_fraction: 0.5\nstrict: true\nformat: null\njudge_timeout: 3"
    (tmp_path / "settings.yaml").write_text(own)
    assert "made: 16 samples" in told("prepare", "--config", "settings.yaml")
    assert "other: 31 samples" in told(
        "prepare", "--config", "settings.yaml", "--eval-fraction", "0.1", "--out", "other"
    )
    card = json.loads((tmp_path / "other/data_card.json").read_text())
    assert card["eval_fraction"] == 0.1 and card["source"].endswith("chats.jsonl")


@pytest.mark.parametrize(
    "words",
    [
        "demo --out",
        "prepare nowhere --out",
        "report nobody --out",
        "export nobody --to merged --out",
        "sweep 03 {seed:[1]} --out",
        "train --runs-dir",
    ],
)
def test_a_target_that_is_a_file_is_told_before_anything_is_done(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert told(*words.split(), "file/inside", code=1).endswith("file is a file. Name a folder to write into")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_commands_are_listed_in_the_order_of_work():
    assert told("--version").startswith("grpo_kit 0.")
    assert {command.split()[0] for command in USUAL_COMMANDS.values()} <= {*IN_ORDER} - USUAL_COMMANDS.keys()
    lines = told("--help").partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == IN_ORDER
    assert all(len(line) < 80 and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("name", IN_ORDER)
def test_help_has_each_flag_in_its_settings_group_the_judges_last(name):
    text = told(name, "--help")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80 and lines[-3] == "  Examples:"
    assert all(line.startswith(f"    grpo-kit {name}") for line in lines[-2:])
    groups, title = {}, ""
    for line in lines:
        if line.endswith(":") and line[0] != " ":
            groups[title := line[:-1]] = []
        elif line.startswith("  --"):
            groups[title].append(line.split()[0])
    if model := SETTINGS_OF.get(name):
        titles = [each for each in groups if each not in ("Arguments", "Options")]
        assert titles[-1] == "Judge" and (titles[0] == "Run" or name == "prepare")
        shown = {flag: title for title in titles for flag in groups[title]}
        for setting, field in model.model_fields.items():
            if name != "prepare" or "judging" not in about(field)["roles"]:
                assert shown.pop(f"--{setting.replace('_', '-')}") == about(field)["group"]
        assert not shown, "former names are taken, and not shown"


def test_a_run_is_watched_stopped_resumed_and_deleted(standin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hold = os.environ | {"STANDIN_HOLD": "2"}
    training = start("train", "--run-id", "first", "--max-steps", "4", env=hold)
    wait_for_step(wait_until(lambda: find_run("first", "runs")), 2)
    watching = start("watch", "first")
    assert "Run first: step 2/4" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    assert (
        "Stopped watching; run first continues. `grpo-kit watch first` continues watching" in watching.communicate()[0]
    )
    assert watching.returncode == 130
    assert "run first is running. End it first" in told("delete", "first", code=1)

    assert "stops at its next step" in told("stop", "first")
    assert "The run stopped at step 3, as asked; checkpoint-3 is saved" in training.communicate()[0]
    assert training.returncode == 3
    assert Run("first").checkpoints[-1].name == "checkpoint-3"
    settings = "run_id: other\nmodel_name: tiny\nlora_r: {}\nmax_failure_rate: 0.4"
    (tmp_path / "other.yaml").write_text(settings.format(5))
    assert "other settings: lora_r=5 (it has 16)" in told("resume", "first", "--config", "other.yaml", code=1)
    (tmp_path / "settings.yaml").write_text(settings.format(16))
    assert "`grpo-kit watch first` follows it" in told("resume", "first", "--config", "settings.yaml")
    assert Run("first").config.max_failure_rate == 0.4
    assert "Run first is complete: runs/first" in told("watch", "first")
    assert "Step 4/4" in told("logs", "first", "--lines", 1)


EVIL = "\x1b[31mred\x1b[0m [bold]not bold[/bold] \x1b]0;title\x07\x9b2J\u202eback \r" + "long " * 40


def test_completions_are_a_table_in_a_terminal_and_plain_lines_elsewhere(standin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = shell(tmp_path, "train", "--run-id", "first", "--max-steps", "4", "--logging-steps", "2")
    steps = [line for line in said.splitlines() if line.startswith("Step ")]
    assert re.fullmatch(r"Step 1/4: loss=0\.100 reward=\d\.\d{3}±\d\.\d{3}( \d+ s left)?", steps[0])
    asked = Run("first").completions().groupby("step")["sample_id"].first()
    titles = [f"Step {step}, best and worst of 8 completions to {asked[step]}" for step in (2, 4)]
    assert [line for line in steps if "best and worst" in line] == titles
    table = [line for line in said.splitlines() if line[:1] in "|+"]
    assert {*map(len, table)} == {100} and "| prompt" in table[1] and "| advantage | reason" in table[1]
    assert "best and worst" not in shell(tmp_path, "watch", "first"), "it was over before"

    rows = Run("first").completions().assign(completion=EVIL, reason=EVIL)
    rows.to_json("runs/first/completions.jsonl", orient="records", lines=True)
    (Run("first").path / "train.log").write_text(EVIL)
    assert "\x1b" not in told("logs", "first") and "\u202e" not in told("logs", "first")
    plain = completions_text(Run("first"), 4)
    assert "[bold]" in plain
    assert not re.search(r"[^\n\x20-\x7e…–]", plain) and max(map(len, plain.splitlines())) <= 100
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    coloured = completions_text(Run("first"), 4)
    assert re.search("\x1b\\[32m", coloured) and "┌" in coloured
    bare = re.sub("\x1b\\[[0-9;]*m", "", coloured)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", bare) and max(map(len, bare.splitlines())) == 120


def test_a_run_is_copied_talked_to_and_deleted_when_that_is_confirmed(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "is copied to a/b" in told("download", trained.path, "a/b")
    (tmp_path / "file").touch()
    assert "file is a file" in told("download", trained.path, "file/b", code=1)
    assert "is inside run" in told("download", trained.path, trained.path / "copy", code=1)
    runs = ["--runs-dir", "a"]
    said = told("chat", "b", "A table for two", "--temperature", 0, "--checkpoint", 10, *runs)
    assert re.search("you: A table for two\nbase: .+\ntrained: .+", said)
    assert told("chat", "b", *runs, input="Hello\n\n").count("trained: ") == 1
    assert "There are: b." in told("delete", "nobody", *runs, code=1)
    assert "complete, step 20 of 20)? [y/N]" in told("delete", "b", *runs, input="n\n", code=1)
    assert Run("a/b").status["state"] == "complete"
    told("delete", "b", "--yes", *runs)
    assert list((tmp_path / "a").iterdir()) == []
