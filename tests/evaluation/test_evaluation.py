"""Shows that evaluation is fair and paired, that its numbers are right, and that its errors say what to do."""

import asyncio
import io
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

from grpo_kit import evaluate
from grpo_kit.backends.run import Run
from grpo_kit.cli.label import label_answers
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Sample, fingerprint, read_samples
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.evaluation.interpret import Trend, kind_of_turn
from grpo_kit.evaluation.result import BASE, Evaluation, write_evaluation
from grpo_kit.evaluation.statistics import Answered, compare, describe
from grpo_kit.judges.base import Verdict, make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.judges.labels import LabelFile
from grpo_kit.models.load import load_model, load_tokenizer
from grpo_kit.plots import breakdown, evaluation_figure, length_against_score
from grpo_kit.runs.writer import open_run
from grpo_kit.utils.environment import version_of
from grpo_kit.utils.statistics import bootstrap_interval

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
    assert said[0] == alone.results["notes"][0] and re.match(r"6 answers to make and judge: \d+", said[1])
    assert evaluate(tmp_path / "model", base_model="tiny", **quick).trained["versus_base"]["difference"] == 0

    run = new_run(tmp_path, demo_data, run_id="full", use_lora=False)
    save_whole_model(run.path / "checkpoint-5")
    for target in (run.path, run.path / "checkpoint-5"):
        evaluation = evaluate(target, **QUICK)
        assert [model["name"] for model in evaluation.models] == ["base", "checkpoint-5"]
        assert evaluation.trained["versus_base"]["difference"] == 0


def test_it_says_who_generated(run, evaluation):
    assert evaluation.results["engine"] == "transformers"
    if version_of("vllm") is None:
        with pytest.raises(ConfigError, match="use_vllm=True, and vllm is not installed here"):
            evaluate(run, use_vllm=True, **QUICK)


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


@pytest.mark.parametrize("base", [True, False])
def test_one_prompt_has_no_interval_and_few_are_said_to_be_few(run, evaluation, tmp_path, base):
    target = run if base else save_alone(tmp_path / "alone")
    alone = evaluate(target, **QUICK | {"n": 1, "data": run.config.data})
    assert alone.line().endswith("(no interval: one prompt) (n=1)") and "nan" not in alone.line()
    assert alone.summary()[["low", "high", "stdev"]].isna().all(axis=None)
    (few,) = [text for text in alone.warnings() if text.startswith("Few prompts")]
    assert "is judged on 1, which says nothing of others" in few and "tells nothing" in alone.best()["why"]
    assert "1 answers are too few" in str(alone.length_trends()[alone.trained["name"]])
    assert alone.by_act()[["low", "high"]].isna().all(axis=None)
    for figure in (evaluation_figure(alone), breakdown(alone), length_against_score(alone)):
        figure.savefig(io.BytesIO())
    assert Evaluation.load(alone.path).result()["line"] == alone.line()
    assert "judged on 6, whose interval is too narrow" in " ".join(evaluation.warnings())


def save_alone(folder):
    """A whole model whose base nothing tells."""
    save_whole_model(folder)
    return folder


def test_errors_say_what_to_do(run, demo_data, tmp_path):
    started = new_run(tmp_path, demo_data, run_id="started")
    with pytest.raises(RunError, match=r"run started has no checkpoint yet \(queued, step 0 of 40.*Train it first"):
        evaluate(started, **QUICK)
    with pytest.raises(RunError, match=r"no run lorra .*started"):
        evaluate("lorra", runs_dir=tmp_path, **QUICK)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"no model in .*adapter_config\.json"):
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
    numbers = describe("base", {"base": Answered(["one", "one two three", "one two"], verdicts)}, seed=0)
    assert numbers["mean"] == pytest.approx(0.4) and numbers["stdev"] == pytest.approx(math.sqrt(0.08))
    assert (numbers["judged"], numbers["unjudged"], numbers["words"]) == (2, 1, 2)
    assert numbers["criteria"] == {"acts": pytest.approx(0.6)}
    with pytest.raises(RunError, match=r"none of base's answers.*no connection"):
        describe("base", {"base": Answered(["one"], verdicts[1:2])}, seed=0)
    with pytest.raises(RunError, match="can't be compared"):
        compare(base[:2], [Verdict(None), Verdict(0.3)], seed=0)


def judged(judge_name: str, samples: list[Sample], answers: list[str]) -> list[Verdict]:
    return run_async(judge_batch(make_judge(judge_name), None, samples, answers)).verdicts


def planted(folder: Path, scores: dict, second_scores: dict, **answers: str) -> Evaluation:
    """An evaluation in which the judges gave these scores, written by the kit's own functions."""
    n = len(scores[BASE])
    samples = [Sample(id=str(i), prompt="Hello", ground_truth="Hi", services=["Hotels_1"]) for i in range(n)]
    models, answered = [], {}
    for name in scores:
        said = [answers.get(name, "Good day to you")] * n
        by_judge = [[Verdict(score, "because") for score in given[name]] for given in (scores, second_scores) if given]
        answered[name] = Answered(said, *by_judge)
        models.append({"name": name, **describe(name, answered, 0)})
        if second_scores:
            models[-1]["second"] = describe(name, answered, 0, "second")
    results = {
        "target": "planted",
        "n": n,
        "judge": {"name": "offline", "trained_with": True},
        "second_judge": {"name": "reference", "trained_with": False} if second_scores else None,
        "models": models,
    }
    return write_evaluation(folder / "planted.json", results, samples, answered, evaluation_figure)


def noisy(mean: float, seed: int, n: int = 60) -> list[float]:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, n), 0, 1).tolist()


def test_the_reference_judge_is_the_f1_of_words():
    sample = Sample(id="1", prompt="Book a table.", ground_truth="The table is booked at 7 pm, for 2 people.")
    answers = [sample.ground_truth, "it IS booked: table for two", "Hello!", "", "booked booked booked"]
    same, some, nothing, empty, again = judged("reference", [sample] * 5, answers)
    assert same.score == 1 and same.criteria == {"precision": 1, "recall": 1}
    assert some.criteria == {"precision": pytest.approx(4 / 6, abs=1e-4), "recall": pytest.approx(4 / 9, abs=1e-4)}
    assert some.score == pytest.approx(2 * 4 / (6 + 9), abs=1e-4) and "lacks 'at', '7', 'pm'" in some.reason
    assert (nothing.score, empty.score) == (0, 0)
    assert again.score == pytest.approx(2 * 1 / (3 + 9), abs=1e-4), "a word counts as often as the reference has it"
    assert judged("reference", [Sample(id="2", prompt="Hi", ground_truth="…")], ["Hi"])[0].score is None
    chinese = Sample(id="3", prompt="有茶吗？", ground_truth="有的，您要几份？")
    no, near = judged("reference", [chinese] * 2, ["没。", "有，您要几杯？"])
    assert no.score == 0 and near.criteria == {
        "precision": pytest.approx(4 / 5),
        "recall": pytest.approx(4 / 6, abs=1e-4),
    }
    assert judged("reference", [Sample(id="4", prompt="?", ground_truth="がぎ हिन्दी")], ["かき हन्द"])[0].score == 0


@pytest.mark.parametrize(
    ("right", "answer", "score"),
    [
        ("7", "3 + 4 makes 7.", 1),
        ("7", "7 apples, not 8", 0),
        ("7", "seven", 0),
        ("1,234", "It is $1234.00", 1),
        ("$.50", "0.5", 1),
        ("-3", "It is −3.", 1),
        ("5", "3-5", 1),
        ("5", "room-5", 1),
        ("-$5", "-5", 1),
        ("+5", "5.0", 1),
        ("1e5", "It is 100,000.", 1),
        ("0.5", "The answer is 1/2.", 1),
        ("2", "1/2", 0),
        ("Paris", " paris.\n", 1),
        ("Paris", "Paris or Rome", 0),
        ("", "7", None),
    ],
)
def test_the_exact_judge_compares_the_final_answer(right, answer, score):
    assert judged("exact", [Sample(id="1", prompt="?", ground_truth=right)], [answer])[0].score == score
    explained = Sample(id="2", prompt="?", ground_truth="A long way to it", columns={"final_answer": right})
    assert judged("exact", [explained], [answer])[0].score == (score or 0), "an empty cell is no right answer"


def test_the_second_judge_scores_the_same_answers(run, evaluation):
    assert (evaluation.judge, evaluation.second_judge) == ("offline", "reference")
    about = evaluation.results["judge"], evaluation.results["second_judge"]
    assert [judge["trained_with"] for judge in about] == [True, False]
    samples, table = evaluation.samples(), evaluation.judges().set_index(["model", "judge"])
    held_out = {s.id: s for s in read_samples(Path(evaluation.results["data"]["file"]))}
    again = judged("reference", [held_out[i] for i in samples["id"]], list(samples["checkpoint-20"]))
    assert list(samples["checkpoint-20 second score"]) == [verdict.score for verdict in again]
    second = table.loc["checkpoint-20", "reference"]
    assert second["mean"] == pytest.approx(samples["checkpoint-20 second score"].mean())
    assert second["difference"] == pytest.approx(samples["second_difference"].mean())
    with sqlite3.connect(run.path / "rewards.cache.sqlite") as cache:
        kept = dict(cache.execute("select judge, count(*) from judgements group by judge"))
    assert kept["reference"] == kept["offline"] > 0

    alone = evaluate(run, second_judge=None, **QUICK)
    assert alone.second_judge is None and alone.path != evaluation.path and set(alone.judges()["judge"]) == {"offline"}
    assert alone.models[-1]["mean"] == evaluation.models[-1]["mean"] and "disagreement" not in alone.samples()
    other = evaluate(run, judge="reference", second_judge="offline", **QUICK)
    assert other.trained["mean"] == pytest.approx(second["mean"])
    assert "the run was trained with offline" in other.results["notes"][0]
    with pytest.raises(ConfigError, match="first judge too"):
        evaluate(run, judge="offline", second_judge="offline", **QUICK)


def test_reward_hacking_is_said_and_an_honest_gain_is_not(tmp_path):
    up = {BASE: noisy(0.3, 0), "checkpoint-10": noisy(0.5, 1), "checkpoint-20": noisy(0.7, 2)}
    flat = {BASE: noisy(0.4, 3), "checkpoint-10": noisy(0.4, 4), "checkpoint-20": noisy(0.4, 3)}
    down = {BASE: noisy(0.4, 3), "checkpoint-10": noisy(0.5, 4), "checkpoint-20": noisy(0.2, 5)}
    assert planted(tmp_path, up, up).warnings() == [] == planted(tmp_path, up, {}).warnings()
    (hacked,) = planted(tmp_path, up, down).warnings()
    assert hacked.startswith("The judges disagree at checkpoint-20: at checkpoint-20 offline sees a gain of +0.4")
    assert "reference a loss, -0.2" in hacked and "looks like reward hacking" in hacked
    (doubtful,) = planted(tmp_path, up, flat).warnings()
    assert "may be reward hacking" in doubtful and "2 of 2 checkpoints" in doubtful
    (unsure,) = planted(tmp_path, flat, down).warnings()
    assert unsure.startswith("No sure gain: +0.00 [+0.00, +0.00] of checkpoint-20 over the base may be chance")
    results = planted(tmp_path, up, down).results
    results["judge"]["trained_with"] = False
    assert "hacking" not in Evaluation(tmp_path / "planted.json", results).warnings()[0]


def test_scores_near_nothing_and_a_second_judge_of_the_first_ones_kind_are_said(tmp_path):
    nothing = {BASE: [0.0] * 60, "checkpoint-20": [0.0, 0.02] * 30}
    evaluation = planted(tmp_path, nothing, nothing)
    (told,) = evaluation.warnings()
    assert told.startswith("Near nothing: offline scores base 0.000, checkpoint-20 0.010 of 1") and "sft_steps" in told
    assert evaluation.best()["name"] == BASE and "none is worth taking" in evaluation.best()["why"]
    up = {BASE: noisy(0.3, 0), "checkpoint-20": noisy(0.7, 2)}
    results = planted(tmp_path, up, up).results
    for judge in ("judge", "second_judge"):
        results[judge]["by_words"] = True
    (told,) = Evaluation(tmp_path / "planted.json", results).warnings()
    assert told.startswith("The second judge is of the first one's kind") and "--second-judge gemini" in told


def test_answers_that_run_away_or_are_not_judged_are_said(tmp_path):
    scores = {BASE: noisy(0.3, 0), "checkpoint-20": [None] * 20 + noisy(0.3, 1, n=40)}
    unsure, long, unjudged = planted(tmp_path, scores, {}, **{"checkpoint-20": "so " * 9}).warnings()
    assert unsure.startswith("No sure gain") and "checkpoint-20 writes 9 words on average, the base 4" in long
    assert "offline gave 20 of checkpoint-20's 60 answers no score" in unjudged


def test_the_best_is_the_earliest_within_a_standard_error_that_the_second_judge_does_not_reject(tmp_path):
    base, rising = noisy(0.3, 0), np.array(noisy(0.5, 1))
    wobble = np.random.default_rng(9).normal(0, 0.1, 60)
    scores = {
        BASE: base,
        "checkpoint-10": (rising - 0.1).tolist(),  # behind by more than the error of the pairs
        "checkpoint-20": rising.tolist(),
        "checkpoint-30": (rising + wobble - wobble.mean() + 0.005).tolist(),  # ahead, by less than it
        "checkpoint-40": (rising + 0.3).tolist(),
    }
    held = {name: base for name in scores}
    worst = held | {"checkpoint-40": [score - 0.2 for score in base]}
    assert planted(tmp_path, scores, held).best()["name"] == "checkpoint-40"
    chosen = planted(tmp_path, scores, worst)
    best = chosen.best()
    assert best["name"] == "checkpoint-20" and "reference finds checkpoint-40 worse" in best["why"]
    assert "of the highest, checkpoint-30" in best["why"] and "0.005 behind" in best["why"]
    # Line, figure, tables and result speak of that one, and say that it was chosen.
    gain = chosen.samples()["checkpoint-20 score"] - chosen.samples()["base score"]
    assert f"trained {rising.mean():.2f} difference {gain.mean():+.2f} " in chosen.line()
    assert chosen.samples()["difference"].tolist() == gain.tolist()
    assert evaluation_figure(chosen).get_suptitle() == f"checkpoint-20: {chosen.line()}"
    summary = chosen.summary().set_index("model")
    assert list(summary.index[summary["chosen"] != ""]) == ["checkpoint-20"]
    assert chosen.result()["trained"]["name"] == chosen.result()["best"]["name"] == "checkpoint-20"
    assert chosen.chosen().startswith("checkpoint-20: ") and "chosen of 4 on the same prompts" in chosen.chosen()
    nothing = planted(tmp_path, {BASE: base, "checkpoint-10": base}, {})
    assert nothing.best()["name"] == BASE and "gained nothing" in nothing.best()["why"]
    assert nothing.chosen().startswith(
        "checkpoint-10: the newest, compared with the base model, which is what the rule"
    )
    result = nothing.result()
    assert json.loads(json.dumps(result)) == result and result["best"]["name"] == BASE
    assert result["second_judge"] is None and result["evaluation"] == "planted.json"


def test_services_add_up_and_those_with_few_prompts_are_marked(evaluation, demo_data):
    table, samples = evaluation.services(), evaluation.samples()
    held_out = {sample.id: sample for sample in read_samples(demo_data / "eval.jsonl")}
    assert list(samples["services"]) == [" + ".join(held_out[i].services) for i in samples["id"]]
    assert table["n"].sum() == evaluation.trained["versus_base"]["pairs"] and table["few"].all()
    whole = evaluation.trained["versus_base"]["difference"]
    assert (table["difference"] * table["n"]).sum() / 6 == pytest.approx(whole)
    assert ((table["trained"] - table["base"]) - table["difference"]).abs().max() < 1e-12


def test_scores_by_class_of_act_add_up_and_an_evaluation_of_before_has_none(evaluation, demo_data, tmp_path):
    table, samples = evaluation.by_act(), evaluation.samples()
    held_out = {sample.id: sample for sample in read_samples(demo_data / "eval.jsonl")}
    acts = [{act.act for act in held_out[i].acts} for i in samples["id"]]
    requests = [("REQUEST" in each and "CONFIRM" not in each) for each in acts]
    assert (samples["act"] == "request").tolist() == requests and any(requests)
    assert table["n"].sum() == 6 and table.loc["request", "trained"] == pytest.approx(
        samples.loc[samples["act"] == "request", "checkpoint-20 score"].mean()
    )
    turns = {
        "offer": ["INFORM_COUNT", "OFFER"],
        "inform": ["INFORM", "NOTIFY_SUCCESS"],
        "request": ["OFFER_INTENT", "REQUEST"],
        "notify": ["NOTIFY_FAILURE", "REQ_MORE"],
        "other": ["THANK"],
        None: [],
    }
    assert {kind_of_turn(acts): acts for acts in turns.values()} == turns

    before = Path(shutil.copytree(evaluation.path.parent, tmp_path / "before"), evaluation.path.name)
    rows = [json.loads(line) for line in evaluation.samples_path.read_text().splitlines()]
    lines = [json.dumps({name: value for name, value in row.items() if name != "acts"}) + "\n" for row in rows]
    before.with_suffix(".samples.jsonl").write_text("".join(lines))
    assert Evaluation.load(before).by_act().empty and not Evaluation.load(before).services().empty


def test_longer_answers_that_score_higher_are_told_from_chance():
    assert str(Trend(0.5, 60)).startswith("longer answers score higher") and "lower" in str(Trend(-0.5, 60))
    assert "no clear trend" in str(Trend(0.5, 12)) and "no trend to see" in str(Trend(math.nan, 60))


def test_answers_are_labelled_in_a_terminal(run, evaluation, tmp_path, monkeypatch, capsys):
    typed, file = iter(["q", "4", "excellent", "1", "u", "2", "s", "q"]), tmp_path / "labels.csv"
    monkeypatch.setattr("builtins.input", lambda question: next(typed))
    label_answers(Run(run.path), file, choose=False, who="Ann")
    assert capsys.readouterr().out.endswith(f"\n0 labels are in {file}\n"), "no table of nothing"
    label_answers(Run(run.path), file, choose=False, who="Ann")
    assert [label.label for label in LabelFile(file).read()] == [4, 2, None]
    said = capsys.readouterr().out
    assert "1 of " in said and evaluation.models[-1]["name"] not in said.partition("2 labels are in")[0]
    assert "answers with both a label and a score" in said
    with pytest.raises(RunError, match=r"no evaluation here. `grpo-kit eval bare"):
        label_answers(Run(new_run(tmp_path, Path(run.config.data), run_id="bare").path), file, choose=False, who="Ann")
