"""Training that starts from something: a supervised stage, another run, an adapter, or its own complete run."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import grpo_kit as kit
from grpo_kit import ConfigError, RunError, TrainConfig, evaluate, train
from grpo_kit.errors import RunStopped
from grpo_kit.models.load import load_tokenizer
from grpo_kit.models.prompts import prompt_tokens, reply_tokens
from grpo_kit.runs.directory import STOP_FILE

WARM = {"sft_steps": 4, "sft_learning_rate": 5e-3, "sft_batch_size": 4, "max_steps": 2, "save_steps": 2, "beta": 0.1}
SMALL = {"per_device_train_batch_size": 16, "max_completion_length": 8, "learning_rate": 1e-3}
QUICK = {"n": 6, "batch_size": 6, "max_completion_length": 8, "echo": lambda text: None}


def weights(folder: Path) -> dict:
    return load_file(next(folder.glob("*model.safetensors")))


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@pytest.fixture(scope="module")
def data(tmp_path_factory, demo_data) -> Path:
    """The demo's, every reply the same, which is quickly learnt."""
    folder = tmp_path_factory.mktemp("data") / "same"
    shutil.copytree(demo_data, folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()[:40]]
    said = [json.dumps(row | {"ground_truth": "Which city, please?"}) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(said) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def warm(runs, data):
    """A run with a warm start, made in one go."""
    return train(run_id="warm", data=str(data), runs_dir=runs, **WARM, **SMALL)


@pytest.fixture(scope="module")
def onward(runs, data, warm):
    """One that goes on from it, with a rate that changes nothing."""
    return train(
        run_id="onward", model_name="warm", data=str(data), runs_dir=runs, **SMALL | {"learning_rate": 1e-12},
        max_steps=1, save_steps=1, beta=0.1,
    )  # fmt: skip


def test_a_warm_start_learns_the_replies_and_grpo_goes_on_from_it(warm):
    rows = [json.loads(line) for line in (warm.path / "sft_metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert [row["learning_rate"] for row in rows] == pytest.approx([5e-3 * share for share in (1, 0.75, 0.5, 0.25)])
    assert warm.metrics()["step"].tolist() == [1, 2], "which are GRPO's alone"
    assert warm.metrics()["kl"].iloc[0] == 0 < warm.metrics()["kl"].iloc[1], "the reference is where GRPO started"
    assert [path.name for path in warm.sft_checkpoints] == ["checkpoint-sft-4"]
    adapter = json.loads((warm.path / "checkpoint-sft-4" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "tiny" and not (warm.path / "checkpoint-2" / "ref").exists()
    tokens = [row["num_tokens"] for row in rows]
    assert warm.status["sft_step"] == 4 and tokens == sorted(tokens)


def test_interrupted_in_either_stage_it_ends_the_same(tmp_path, data, warm):
    def until(text: str, end):
        def echo(said: str) -> None:
            if said.startswith(text):
                end()

        return echo

    def stop() -> None:
        (tmp_path / "warm" / STOP_FILE).touch()

    def interrupt() -> None:
        raise KeyboardInterrupt

    def again(echo) -> None:
        train(run_id="warm", data=str(data), runs_dir=tmp_path, echo=echo, **WARM, **SMALL)

    with pytest.raises(RunStopped, match="at step 3 of the warm start, as asked; checkpoint-sft-3 is saved"):
        again(until("Warm start 2/4", stop))
    with pytest.raises(KeyboardInterrupt):
        again(until("Warm start 4/4", interrupt))  # before that step is saved
    assert [path.name for path in kit.Run("warm", tmp_path).sft_checkpoints] == ["checkpoint-sft-3"]
    with pytest.raises(RunStopped, match="stopped before step 1, as asked"):
        again(until("Warm start 4/4", stop))
    with pytest.raises(KeyboardInterrupt):
        again(until("Step 1/2", interrupt))
    again(lambda said: None)
    run = kit.Run("warm", tmp_path)
    for name in ("checkpoint-sft-4", "checkpoint-2", "."):
        assert same(weights(run.path / name), weights(warm.path / name)), name
    for name in ("sft_metrics.jsonl", "metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in (run.path / name).read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) in (2, 4)


def test_a_run_goes_on_from_another_with_exactly_its_adapter(onward, warm):
    assert (onward.config.model_name, onward.config.adapter) == ("tiny", "warm")
    before, after = weights(warm.path), weights(onward.path)
    assert same(weights(onward.path / "start"), before)
    assert max((before[name] - after[name]).abs().max() for name in before) < 1e-9
    assert onward.metrics()["kl"].tolist() == [0], "probabilities are the same as those of the adapter as it was given"


def test_evaluated_are_what_it_started_from_the_warm_start_and_checkpoints(onward, warm, runs, tmp_path):
    evaluation = evaluate(warm, **QUICK)
    assert [each["name"] for each in evaluation.models] == ["base", "checkpoint-sft-4", "checkpoint-2"]
    versus, samples = evaluation.trained["versus_sft"], evaluation.samples()
    gain = samples["checkpoint-2 score"] - samples["checkpoint-sft-4 score"]
    assert versus["difference"] == pytest.approx(gain.mean()) == evaluation.summary()["over_sft"].iloc[-1]
    assert evaluation.added().startswith("GRPO ") and "checkpoint-2 less checkpoint-sft-4" in evaluation.added()
    assert evaluation.result()["warm_start"]["name"] == "checkpoint-sft-4"

    further = evaluate(onward, **QUICK)
    assert further.base["source"] == str(onward.path / "start") and not further.added()
    assert further.samples()["base"].tolist() == samples["checkpoint-2"].tolist()
    untrained = evaluate(onward, base_model="tiny", **QUICK)
    assert untrained.path != further.path and untrained.samples()["base"].tolist() == samples["base"].tolist()

    table = kit.compare(further, evaluation).set_index("model")
    assert list(table.index) == [
        *("warm: base", "warm: checkpoint-sft-4", "warm: checkpoint-2", "onward: base", "onward: checkpoint-1")
    ]
    assert table.loc["warm: checkpoint-2", "newest_gains"] == 0 and table["n"].dropna().eq(6).all()
    merged = kit.merge(onward, tmp_path / "merged")
    again = evaluate(merged, base_model="tiny", data=str(onward.config.data), temperature=1.0, **QUICK)
    assert again.samples()["merged"].tolist() == further.samples()["checkpoint-1"].tolist()
    answers = kit.chat("onward", "Hello", runs_dir=runs, max_completion_length=4)
    assert list(answers.columns) == ["prompt", "base", "trained"]


def test_a_complete_run_goes_on_to_a_larger_max_steps(tmp_path, data, capsys):
    def trained(run_id: str, steps: int, **settings):
        own = {"max_steps": steps, "save_steps": 2, "runs_dir": tmp_path, "data": str(data)}
        return train(run_id=run_id, **own, **SMALL, **settings)

    whole = trained("whole", 4, lr_scheduler_type="constant")
    trained("two", 2, lr_scheduler_type="constant")
    two = trained("two", 4)
    assert same(weights(two.path), weights(whole.path)) and two.metrics()["step"].tolist() == [1, 2, 3, 4]
    assert (two.status["max_steps"], two.config.max_steps, two.status["state"]) == (4, 4, "complete")
    with pytest.raises(RunError, match=r"max_steps=3 \(it has 4\)"):
        trained("two", 3)
    trained("linear", 2)
    capsys.readouterr()
    run = trained("linear", 4)
    rates, at = run.metrics()["learning_rate"], {step: weights(run.path / f"checkpoint-{step}") for step in (2, 4)}
    moved = max((at[4][name] - at[2][name]).abs().max() for name in at[2])
    assert moved > 5e-4, "what AdamW moves in a step at that rate"
    assert rates.tolist() == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4]), "the course to 4 steps, from step 3 on"
    assert "goes on from step 2: the learning rate follows its linear course to step 4" in capsys.readouterr().out


def test_all_weights_are_warmed_up_and_gone_on_from(tmp_path, data):
    own = {"use_lora": False, "data": str(data), "runs_dir": tmp_path, "beta": 0.1, "max_steps": 1, **SMALL}
    first = train(run_id="first", sft_steps=1, sft_batch_size=4, **own | {"learning_rate": 1e-9})
    assert not same(weights(first.path / "checkpoint-sft-1"), weights(kit.models.shapes.TINY_MODEL))
    second = train(model_name="first/checkpoint-sft-1", **own)
    assert second.metrics()["kl"].tolist() == [0] == first.metrics()["kl"].tolist()
    assert second.config.model_name == str((first.path / "checkpoint-sft-1").absolute())


def test_what_contradicts_is_said_before_anything_is_loaded(warm, runs, data, tmp_path):
    own = {"data": str(data), "runs_dir": runs}
    with pytest.raises(ConfigError, match=r"the adapter .*-2 was made with other settings: lora_r=8 \(it has 16\)"):
        train(model_name=str(warm.path / "checkpoint-2"), lora_r=8, **own | {"runs_dir": tmp_path})
    with pytest.raises(ConfigError, match=r"use_lora=False, and warm is an adapter.*kit\.merge"):
        train(model_name="warm", use_lora=False, **own)
    with pytest.raises(ConfigError, match="nowhere is neither a run under"):
        train(adapter="nowhere", **own)
    with pytest.raises(ConfigError, match="runs/nowhere is neither a run under"):
        train(model_name="runs/nowhere", **own)
    rows = (data / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(json.loads(rows[0]) | {"ground_truth": " "}), *rows]))
    with pytest.raises(ConfigError, match=r"sft_steps=2 learns the samples' own replies, and 1 of .* have none"):
        train(sft_steps=2, data=str(tmp_path), runs_dir=tmp_path)
    with pytest.raises(ConfigError, match="warm_start=False and sft_steps=3 contradict each other"):
        TrainConfig(warm_start=False, sft_steps=3)
    with pytest.raises(ConfigError, match="fsdp=True: a warm start needs the whole model"):
        TrainConfig(sft_steps=3, fsdp=True, num_processes=2, gpu="A10:2")
    assert TrainConfig(warm_start=True).sft_steps == 20 and TrainConfig(sft_steps=3).warm_start
    quoted = kit.quote(TrainConfig(model_name="warm", sft_steps=200, sft_batch_size=64), runs, "local", ask=False)
    assert "200 steps first, which imitate 64 samples each" in str(quoted) and quoted.shape and not quoted.problems
    assert quoted.minutes[1] > kit.quote(TrainConfig(model_name="warm"), runs, "local", ask=False).minutes[1]


def test_a_reply_is_written_by_the_template_to_its_end_token():
    tokenizer = load_tokenizer("tiny")
    prompt = [{"role": "user", "content": "A table, please."}]
    reply = reply_tokens(tokenizer, prompt, "For how many?", [tokenizer.eos_token_id])
    whole = [*prompt, {"role": "assistant", "content": "For how many?"}]
    text = tokenizer.apply_chat_template(whole, tokenize=False)
    assert tokenizer.decode(prompt_tokens(tokenizer, prompt) + reply) == text.rstrip("\n")
    assert reply[-1] == tokenizer.eos_token_id == reply_tokens(tokenizer, "Q:", "A", [tokenizer.eos_token_id])[-1]
