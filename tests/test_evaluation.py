"""Shows that evaluation is fair and paired, that its numbers are right, and that its errors say what to do."""

import asyncio
import json
import math
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from grpo_kit.comparison import Evaluation, bootstrap_interval, compare, describe
from grpo_kit.config import ConfigError, TrainConfig
from grpo_kit.evaluation import evaluate
from grpo_kit.judges import Verdict
from grpo_kit.models import load_model, load_tokenizer
from grpo_kit.runs import Run, RunError
from grpo_kit.samples import fingerprint, read_samples
from grpo_kit.writing import open_run

QUICK = {"n": 6, "batch_size": 4, "max_completion_length": 12, "echo": lambda text: None}


def new_run(runs_dir: Path, data: Path, **settings) -> Run:
    about = {"data": {"folder": str(data), "fingerprint": fingerprint([data / "train.jsonl"])}, "rewards": ["offline"]}
    return open_run(TrainConfig(model_name="tiny", **settings), about, runs_dir)


def save_adapter(folder: Path, changes_nothing: bool) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=changes_nothing)
    model = get_peft_model(load_model("tiny", bf16=False), lora)
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.save_pretrained(folder, save_embedding_layers=False)


def save_whole_model(folder: Path) -> None:
    load_model("tiny", bf16=False).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, demo_data) -> Run:
    """Three checkpoints, of which the second answers just as the base does."""
    run = new_run(tmp_path_factory.mktemp("runs"), demo_data, run_id="lora")
    save_adapter(run.path / "checkpoint-20", changes_nothing=False)
    save_adapter(run.path / "checkpoint-10", changes_nothing=True)
    save_adapter(run.path / "checkpoint-5", changes_nothing=False)
    return run


@pytest.fixture(scope="module")
def evaluation(run) -> Evaluation:
    return evaluate(run, **QUICK)


def test_every_checkpoint_answers_the_same_held_out_prompts(run, demo_data, evaluation):
    names = ["base", "checkpoint-5", "checkpoint-10", "checkpoint-20"]
    assert [model["name"] for model in evaluation.models] == names
    held_out = {sample.id: sample for sample in read_samples(demo_data / "eval.jsonl")}
    rows = [json.loads(line) for line in evaluation.samples_path.read_text().splitlines()]
    assert len(rows) == 6 and evaluation.results["n"] == 6
    for row in rows:
        assert row["ground_truth"] == held_out[row["id"]].ground_truth and row["rubric"] == held_out[row["id"]].rubric
        assert row["prompt"] == held_out[row["id"]].prompt
        assert list(row["answers"]) == names
    for trained in ("checkpoint-5", "checkpoint-20"):
        assert any(row["answers"]["base"]["answer"] != row["answers"][trained]["answer"] for row in rows)


def test_a_model_that_is_the_base_differs_from_it_by_exactly_nothing(evaluation):
    same = evaluation.models[2]["versus_base"]
    assert (same["difference"], same["interval"], same["win_rate"], same["ties"]) == (0, [0, 0], 0.5, 6)


def test_numbers_agree_with_the_samples_file(evaluation):
    table, samples = evaluation.summary().set_index("model"), evaluation.samples()
    for model in evaluation.models:
        scores = samples[f"{model['name']} score"]
        assert table.loc[model["name"], "mean"] == pytest.approx(scores.mean())
        assert table.loc[model["name"], "stdev"] == pytest.approx(scores.std())
        assert model["words"] == pytest.approx(samples[model["name"]].str.split().str.len().mean())
    assert table.loc["checkpoint-20", "difference"] == pytest.approx(samples["difference"].mean())
    assert "acts" in evaluation.criteria().columns
    number = r"[+-]\d\.\d\d"
    pattern = rf"base \d\.\d\d trained \d\.\d\d difference {number} \[{number}, {number}\] \(n=6\)"
    assert re.fullmatch(pattern, evaluation.line())


def test_again_gives_the_same_answers_and_pays_for_no_judgement_twice(run, evaluation):
    def judged_at() -> list[float]:
        with sqlite3.connect(run.path / "rewards.cache.sqlite") as cache:
            return [at for (at,) in cache.execute("select judged_at from judgements")]

    before, samples = judged_at(), evaluation.samples_path.read_bytes()
    again = evaluate(run.id, runs_dir=run.path.parent, **QUICK)
    assert again.path == evaluation.path and again.samples_path.read_bytes() == samples
    assert before and judged_at() == before
    loaded = Evaluation.load(again.path)
    assert loaded.results["models"] == again.models and loaded.line() == evaluation.line()
    assert not list(again.path.parent.glob("*.partial"))


def test_it_works_where_an_event_loop_runs_and_another_seed_asks_other_prompts(run, evaluation):
    async def cell_of_a_notebook() -> Evaluation:
        return evaluate(run, seed=8, **QUICK)

    other = asyncio.run(cell_of_a_notebook())
    assert other.path.name == "n6_t1.0_seed8_batch_size-4_max_completion_length-12.json"
    assert set(other.samples()["id"]) != set(evaluation.samples()["id"])


@pytest.mark.parametrize(("called", "shown_as"), [("mine", "mine"), ("base", "trained")])
def test_a_lone_adapter_names_its_own_base(run, demo_data, tmp_path, called, shown_as):
    folder = Path(shutil.copytree(run.path / "checkpoint-10", tmp_path / called))
    evaluation = evaluate(folder, data=str(demo_data), temperature=0, **QUICK)
    assert [model["name"] for model in evaluation.models] == ["base", shown_as]
    assert evaluation.models[0]["source"] == "tiny" and evaluation.trained["versus_base"]["ties"] == 6
    assert evaluation.path.parent == folder / "eval" and evaluation.figure_path.read_bytes().startswith(b"\x89PNG")


def test_a_whole_model_is_compared_with_the_base_that_is_known(demo_data, tmp_path):
    said = []
    save_whole_model(tmp_path / "model")
    quick = QUICK | {"data": str(demo_data), "echo": said.append}
    alone = evaluate(tmp_path / "model", **quick)
    assert alone.base is None and alone.line().startswith("model 0.") and "evaluated alone" in alone.results["notes"][0]
    assert said[0] == alone.results["notes"][0]
    assert evaluate(tmp_path / "model", base_model="tiny", **quick).trained["versus_base"]["difference"] == 0

    run = new_run(tmp_path, demo_data, run_id="full", use_lora=False)
    save_whole_model(run.path / "checkpoint-5")
    for target in (run.path, run.path / "checkpoint-5"):
        evaluation = evaluate(target, **QUICK)
        assert [model["name"] for model in evaluation.models] == ["base", "checkpoint-5"]
        assert evaluation.trained["versus_base"]["difference"] == 0


def test_it_says_what_is_not_as_asked(run, demo_data, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    lines = (demo_data / "eval.jsonl").read_text().splitlines()[:3]
    (few / "eval.jsonl").write_text("\n".join(lines) + "\n")
    (few / "train.jsonl").write_text(lines[0] + "\n")
    config = json.loads((run.path / "config.json").read_text())
    moved = Path(shutil.copytree(run.path, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoint-*0")))
    (moved / "config.json").write_text(json.dumps(config | {"settings": config["settings"] | {"data": str(few)}}))
    evaluation = evaluate(moved, **QUICK)
    assert evaluation.results["n"] == 3 and evaluation.path.name.startswith("n3_")
    changed, fewer = evaluation.results["notes"]
    assert "not what run moved was trained on" in changed and "3 prompts, fewer than n=6" in fewer


def test_errors_say_what_to_do(run, demo_data, tmp_path):
    started = new_run(tmp_path, demo_data, run_id="started")
    with pytest.raises(RunError, match=r"run started has no checkpoint yet \(queued, step 0 of 60.*train it first"):
        evaluate(started, **QUICK)
    with pytest.raises(RunError, match=r"no run lorra .*started"):
        evaluate("lorra", runs_dir=tmp_path, **QUICK)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"no model in .*adapter_config\.json.* it holds notes\.txt"):
        evaluate(tmp_path / "folder", **QUICK)
    with pytest.raises(ConfigError, match=r"no eval\.jsonl in .*grpo-kit prepare"):
        evaluate(run, data=str(tmp_path / "folder"), **QUICK)
    with pytest.raises(ConfigError, match="Did you mean temperature"):
        evaluate(run, temprature=0.5)
    with pytest.raises(RunError, match=r"no evaluation .*nothing\.json"):
        Evaluation.load(run.path / "nothing.json")

    wider = Path(shutil.copytree(run.path / "checkpoint-5", tmp_path / "wider"))
    adapter = json.loads((wider / "adapter_config.json").read_text())
    (wider / "adapter_config.json").write_text(json.dumps(adapter | {"r": 8}))
    with pytest.raises(ConfigError, match=r"does not fit .*base_model"):
        evaluate(wider, data=str(demo_data), **QUICK)
    (wider / "adapter_config.json").write_text(json.dumps(adapter | {"base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="names no base model"):
        evaluate(wider, data=str(demo_data), **QUICK)


def test_the_interval_is_the_binomials_where_that_is_known():
    """Resamples of 0s and 1s have Binomial(n, p) ones, so the bootstrap's quantiles are known exactly."""
    n, ones = 60, 6  # whose distribution has no step near the quantiles
    p = ones / n
    distribution = np.cumsum([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
    low, high = (np.searchsorted(distribution, quantile) / n for quantile in (0.025, 0.975))
    values = np.array([1.0] * ones + [0.0] * (n - ones))
    assert bootstrap_interval(values, seed=0) == [low, high] == bootstrap_interval(values, seed=1)


def test_unjudged_answers_are_left_out_in_pairs():
    base = [Verdict(score) for score in (0.2, None, 0.4, 0.5, 0.0)]
    trained = [Verdict(score) for score in (0.6, 0.9, None, 0.5, 0.8)]
    versus = compare(base, trained, seed=0)
    assert (versus["pairs"], versus["wins"], versus["ties"], versus["losses"]) == (3, 2, 1, 0)
    assert versus["difference"] == pytest.approx((0.4 + 0.0 + 0.8) / 3) and versus["win_rate"] == pytest.approx(2.5 / 3)

    verdicts = [
        Verdict(0.2, criteria={"acts": 0.2}),
        Verdict(None, "no connection"),
        Verdict(0.6, criteria={"acts": 1.0}),
    ]
    numbers = describe("base", ["one", "one two three", "one two"], verdicts, seed=0)
    assert numbers["mean"] == pytest.approx(0.4) and numbers["stdev"] == pytest.approx(math.sqrt(0.08))
    assert (numbers["judged"], numbers["unjudged"], numbers["words"]) == (2, 1, 2)
    assert numbers["criteria"] == {"acts": pytest.approx(0.6)}
    with pytest.raises(RunError, match=r"none of base's answers.*no connection"):
        describe("base", ["one"], verdicts[1:2], seed=0)
    with pytest.raises(RunError, match="can't be compared"):
        compare(base[:2], [Verdict(None), Verdict(0.3)], seed=0)
