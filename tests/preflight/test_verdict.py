"""Whether a run will learn: a bicycle shop, by command as a new user would, and each reason by itself."""

import json
from pathlib import Path

import pytest
import rubric_judge
from helpers import ROOT, shell
from judge_server import KEY, JudgeServer

import grpo_kit as kit
from grpo_kit.training.diagnostics import diagnose
from grpo_kit.training.probe import Probe

SHOP = ROOT / "tests" / "data" / "bicycle_shop.jsonl"
TINY = "red: tiny knows only the demo's words, and does not know "
WORDS = "only word overlap with the reply in the trace is rewarded, as it has no dialogue acts"


def test_a_bicycle_shop_with_the_tiny_model_is_told_the_truth_at_every_place(tmp_path):
    def say(*words: object) -> str:
        return shell(tmp_path, *words, HOME=str(tmp_path / "home"))

    prepared = say("prepare", SHOP, "--eval-fraction", "0.3")
    assert "Will it learn? Amber" in prepared and WORDS in prepared and "tiny" not in prepared
    assert "grpo-kit prepare … --rubric gemini" in prepared, "what would change it"

    quoted = say("train", "--dry-run")
    assert "learns   Red" in quoted and TINY in quoted and f"amber: {WORDS}" in quoted
    assert "data     data/processed: " in quoted and "prepared from data/bicycle_shop.jsonl, no rubric" in quoted
    assert "epochs of the data" in quoted
    assert "the demo's," not in quoted and "no probe was made of the model: `grpo-kit doctor --probe`" in quoted

    well = say("doctor", "--probe")
    cost, probed = well.index("A probe: 8 prompts, 64 completions of tiny"), well.index("64 answers of tiny")
    assert cost < probed < well.index("Will it learn? Red") and "nothing to judge" in well
    assert "of groups without spread" in well and "of completions cut" in well and well.count("answered: ") == 3
    assert well.splitlines()[-1] == "This run can start, but it would learn nothing: see above"

    trained = say("train", "--run-id", "shop", "--max-steps", "2", "--save-steps", "1", "--sft-steps", "0")
    assert trained.index("Will it learn? Red") < trained.index("Step 1/2") and TINY in trained
    assert "probe: 64 answers of tiny to 8 prompts: scores 0.00 to " in trained, "doctor's is known"
    run = kit.Run("shop", tmp_path / "runs")
    (sign,) = diagnose(run.metrics(), run.config)
    assert sign.what.startswith("No answer earns anything") and "sft_steps=20" in sign.fix

    evaluated = say("eval", "shop", "--n", "12")
    assert "Near nothing: offline scores base 0.0" in evaluated
    assert "The second judge is of the first one's kind" in evaluated
    assert "so none is worth taking" in kit.Evaluation.load(next(run.path.glob("eval/*.json"))).best()["why"]


def test_rubrics_that_a_judge_wrote_are_what_it_goes_by(tmp_path):
    with JudgeServer(rubric_judge.reply) as server:
        asked = ("--judge-model", "gpt-5-mini", "--judge-base-url", f"{server.url}/v1")
        said = shell(tmp_path, "prepare", SHOP, "--rubric", "openai", *asked, OPENAI_API_KEY=KEY)
        assert "57 written, 0 from the cache, 0 failed" in said and KEY not in said
        assert "Will it learn? Green" in said and "judged by openai: all by a rubric" in said


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shop") / "prepared"
    kit.prepare(SHOP, out, eval_fraction=0.3)
    return out


def verdict(shop: Path, **settings) -> str:
    return str(kit.will_it_learn(kit.TrainConfig(data=str(shop), **settings)))


def with_fields(shop: Path, out: Path, **fields) -> Path:
    out.mkdir()
    rows = [json.loads(line) | fields for line in (shop / "train.jsonl").read_text().splitlines()]
    (out / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return out


def test_which_judge_the_data_allows(shop, tmp_path, monkeypatch, demo_data):
    model = {"model_name": "SmolLM2-135M-Instruct"}
    with_rubric = with_fields(shop, tmp_path / "rubrics", rubric="says what it costs")
    told = verdict(with_rubric, judge="gemini", **model)
    assert "? Green" in told and "all with a rubric" in told and "judged by gemini: all by a rubric" in told
    assert "Use a judge that reads the rubrics" in verdict(with_rubric, **model)
    assert "all without a rubric, beside the reply" in verdict(shop, judge="gemini", **model)
    assert "? Green" in verdict(demo_data) and "all by dialogue acts" in verdict(demo_data)
    up = verdict(shop, judge="offline>gemini", **model)
    assert "? Amber" in up and "word overlap with the reply in the trace tells which answers go up the ladder" in up
    up = verdict(demo_data, judge="offline>gemini")
    assert "all by dialogue acts, and by the next judge where it is unsure" in up
    both = verdict(demo_data, judge="offline=0.5,reference=0.5")
    assert "judged by offline, reference: all by dialogue acts" in both

    nothing = verdict(with_fields(shop, tmp_path / "empty", ground_truth="…"), **model)
    assert "? Red" in nothing and "can judge nothing here" in nothing and "all without a reference" in nothing
    assert "? Amber" in verdict(tmp_path / "nowhere", **model), "it raises nothing"
    monkeypatch.chdir(tmp_path)
    assert "the demo's, as there is no data/processed/train.jsonl" in str(kit.will_it_learn())
    assert "the demo's, as" not in verdict(shop)


def probed(*groups: list[float | None], cut: bool = False) -> Probe:
    rows = [
        {
            "sample_id": str(i),
            "asked": "?",
            "answers": ["."] * len(scores),
            "scores": scores,
            "reasons": [""] * len(scores),
            "cut": [cut] * len(scores),
        }
        for i, scores in enumerate(groups)
    ]
    return Probe("SmolLM2-135M-Instruct", "offline", rows)


@pytest.mark.parametrize(
    ("probe", "level", "said"),
    [
        (probed([0.0, 0.01], [0.02, 0.0]), "Red", "the best of 4 scores 0.020"),
        (probed([0.5, 0.5], [0.3, 0.31]), "Red", "no group of SmolLM2-135M-Instruct's answers differs enough"),
        (probed([1.0, 1.0], [1.0, 0.98]), "Red", "Bring harder prompts"),
        (probed([None, None]), "Red", "offline scored none of 2 answers"),
        (probed(*[[0.5, 0.5]] * 7, [0.1, 0.5]), "Amber", "only 12% of 8 groups"),
        (probed([0.1, 0.5], [0.2, 0.9], cut=True), "Amber", "100% of SmolLM2-135M-Instruct's completions are cut"),
        (probed([0.1, 0.5], [0.2, 0.9]), "Green", "scores 0.10 to 0.90"),
    ],
)
def test_what_a_probe_tells(demo_data, monkeypatch, probe, level, said):
    monkeypatch.setattr("grpo_kit.preflight.verdict.known_probe", lambda *_: probe)
    told = verdict(demo_data, model_name="SmolLM2-135M-Instruct")
    assert f"Will it learn? {level}" in told and said in told


def test_a_warm_start_may_change_what_an_untrained_model_earns(demo_data, monkeypatch):
    monkeypatch.setattr("grpo_kit.preflight.verdict.known_probe", lambda *_: probed([0.0, 0.0]))
    told = verdict(demo_data, model_name="SmolLM2-135M-Instruct", sft_steps=20)
    assert "? Amber" in told and "before its warm start" in told


def test_a_probe_is_kept_by_all_that_it_depends_on(demo_data, tmp_path, monkeypatch):
    monkeypatch.setattr("grpo_kit.training.probe.CACHE", tmp_path)
    config, said = kit.TrainConfig(data=str(demo_data), max_completion_length=4), []
    first = kit.probe(config, echo=said.append)
    assert len(said) == 1 and first.answers == 64 and first.cut > 0.5
    assert kit.probe(config, max_steps=7, learning_rate=1e-3, echo=said.append).rows == first.rows and len(said) == 1
    assert f"probe: {first.line()}" in str(kit.will_it_learn(config))
    assert kit.probe(config, judge="reference", echo=said.append).scores != first.scores and len(said) == 2
    assert kit.probe(config, seed=1, echo=said.append).rows[0] != first.rows[0] and len(said) == 3
