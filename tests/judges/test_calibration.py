"""Shows that calibration finds what is wrong with a judge, and nothing where nothing is, and that notebook 02 runs."""

import json
import math
import sys
from itertools import count
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from helpers import ROOT
from judge_server import JudgeServer, judge, says

from grpo_kit import ConfigError, prototype
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import Verdict, make_judge
from grpo_kit.judges.batch import run_async
from grpo_kit.judges.cache import RewardCache
from grpo_kit.judges.calibration import (
    Estimate,
    agreement,
    cohens_kappa,
    judge_and_price,
    length_bias,
    padding_gain,
    position_bias,
    self_consistency,
    spearman,
    weighted_kappa,
)
from grpo_kit.judges.labels import Label
from grpo_kit.plots.judges import intervals, score_dots
from grpo_kit.preflight.known_answers import RIGHT, WRONG
from grpo_kit.sweeps.notebooks import PAPERMILL

sys.path.insert(0, str(ROOT / "notebooks"))
from build import read_text_notebook

KEY = "planted-key-4711"
SAMPLES = [
    Sample(id=f"s{i}", prompt=[{"role": "user", "content": f"Book, please, {i}"}], ground_truth=f"Table for {i}?")
    for i in range(12)
]
GROUPS = [(sample, [f"answer {letter}" for letter in "abcdefgh"]) for sample in SAMPLES]


class SomeJudge:
    """Scores by a rule of (answer, place in the group); the places are a rotation by `repeat`."""

    name, version, usage, samples = "some", "1", None, 1

    def __init__(self, rule, compares: bool = False):
        self.rule, self.compares = rule, compares

    def check(self) -> None:
        pass

    def order(self, sample: Sample, answers, repeat: int) -> list[int]:
        turn = (repeat * 3 + int(sample.id[1:])) % len(answers)
        return [*range(turn, len(answers)), *range(turn)]

    async def judge(self, sample: Sample, answers, repeat: int = 0) -> list[Verdict]:
        order = self.order(sample, answers, repeat)
        return [Verdict(self.rule(text, order.index(i))) for i, text in enumerate(answers)]


@pytest.fixture
def server(monkeypatch):
    with JudgeServer() as server:
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        yield server


def test_statistics_of_known_answer():
    # Cohen's own kind of table: 20 both yes, 5 yes/no, 10 no/yes, 15 both no: (0.7 - 0.5) / (1 - 0.5).
    one = np.array([True] * 25 + [False] * 25)[None]
    other = np.array([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)[None]
    assert cohens_kappa(one, other) == pytest.approx([0.4])
    # 3 of 4 alike, and 5 / 16 by chance: 1/2 * 1/4 + 1/4 * 1/4 + 1/4 * 1/2.
    assert cohens_kappa(np.array([[-1, -1, 0, 1]]), np.array([[-1, 1, 0, 1]])) == pytest.approx([7 / 11])
    # Mean squares: (0 + 1 + 0 + 4) / 4 of the differences, 60 / 16 of those of each from each.
    assert weighted_kappa(np.array([[0, 1, 3, 4]]), np.array([[0, 2, 3, 2]])) == pytest.approx([1 - 5 / 15])
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5, squares 4.5 and 5.
    assert spearman(np.array([[1, 2, 2, 9]]), np.array([[0, 5, 4, 7]])) == pytest.approx([4.5 / math.sqrt(4.5 * 5)])

    labels, scores = [1, 1, 1, 0, 0, 0, 0, 1], [0.9, 0.8, 0.3, 0.1, 0.2, None, 0.6, 0.5]
    found = agreement(labels, scores, seed=0)
    assert (found.answers, found.left_out, found.problem) == (7, 1, "")
    assert found.accuracy.value == pytest.approx(5 / 7) and found.constant.value == pytest.approx(4 / 7)
    assert found.gain.value == pytest.approx(1 / 7) and found.gain.low < 0 < found.gain.high
    assert found.kappa.value == pytest.approx((5 / 7 - 25 / 49) / (1 - 25 / 49))
    assert found.spearman.low < found.spearman.value < found.spearman.high
    assert found == agreement(labels, scores, seed=0)


def test_a_judge_that_knows_is_told_from_one_that_guesses():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80).astype(float)
    knows, guesses = agreement(labels, np.abs(labels - 0.2), seed=0), agreement(labels, rng.random(80), seed=0)
    assert str(knows.kappa) == "1.00 [1.00, 1.00]" and knows.gain.low > 0.2
    assert guesses.spearman.low < 0 < guesses.spearman.high and guesses.kappa.low < 0 < guesses.kappa.high


def test_intervals_are_drawn_and_what_is_not_defined_is_written():
    panels = {"one": {"a": Estimate(-0.2, -0.4, 0.1), "b": Estimate()}, "two": {"c": Estimate(0.5, 0.25, 0.75)}}
    one, two = (figure := intervals(panels)).axes
    figure.draw_without_rendering()
    assert [text.get_text() for text in one.texts] == ["-0.20", "not defined"]
    assert [label.get_text() for label in one.get_yticklabels()] == ["a", "b", "c"]
    assert [text.xy for text in two.texts] == [(0.5, 2)] and one.get_xlim() == two.get_xlim()
    assert one.get_xlim()[0] < -0.4 and one.get_xlim()[1] > 1
    (axes,) = score_dots({"a": {"x": [0.2, None], "y": [1.0]}, "b": {"y": [math.nan, 0.4]}}, ceiling=0.2).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.2], [1.0, 0.4], [0.2, 0.2]]


@pytest.mark.parametrize(
    ("labels", "scores", "undefined", "says"),
    [
        ([], [], "spearman weighted kappa accuracy constant gain", "0 answers with both"),
        ([1, 0, 1, 0], [0.5, 0.5, None, None], "spearman weighted kappa accuracy constant gain", "label at least 3"),
        ([1, 1, 1], [0.9, 0.2, 0.6], "spearman weighted kappa", "all 3 labels are 1: also label answers"),
        ([0.6, 0.9, 0.7], [0.9, 0.2, 0.6], "kappa", "all labels are on one side of 0.5"),
        ([1, 0, 1], [0.7, 0.7, 0.7], "spearman", "all 3 scores are 0.7"),
    ],
)
def test_what_is_not_defined_is_said(labels, scores, undefined, says):
    found = agreement(labels, scores, seed=0)
    estimates = ("spearman", "weighted", "kappa", "accuracy", "constant", "gain")
    assert " ".join(name for name in estimates if str(getattr(found, name)) == "not defined") == undefined
    assert says in found.problem


def test_position_bias_is_found_where_it_is():
    worth = {text: i / 10 for i, text in enumerate(GROUPS[0][1])}
    biased = SomeJudge(lambda text, place: worth[text] + 0.2 * (place < 4), compares=True)
    fair = SomeJudge(lambda text, _: worth[text], compares=True)
    found = run_async(position_bias(biased, None, GROUPS, repeats=4, seed=0))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    assert str(run_async(position_bias(fair, None, GROUPS, repeats=4, seed=0))) == "0.00 [0.00, 0.00]"
    alone = run_async(position_bias(fair, None, [(SAMPLES[0], ["answer a", "answer a"])], repeats=4, seed=0))
    assert str(alone) == "not defined"


def test_gemini_position_bias_is_found_through_its_own_shuffle(server, tmp_path):
    def likes_the_first(request):
        reply = judge(request)
        body = json.loads(reply.body.text)
        for entry in body["answers"]:
            entry["score"] = 0.9 if entry["answer"] <= len(body["answers"]) / 2 else 0.4
        return says(json.dumps(body))

    server.reply = likes_the_first
    gemini = make_judge("gemini", JudgeConfig(judge_mode="group"))
    cache = RewardCache(tmp_path / "cache.sqlite")
    for _ in range(2):  # the second time all comes from the cache
        found = run_async(position_bias(gemini, cache, GROUPS[:6], repeats=4, seed=0))
        assert (found.value, found.low) == pytest.approx((0.5, 0.5)) and len(server.requests) == 6 * 4


def test_length_bias_and_padding_are_found_where_they_are():
    texts = [" ".join(["word"] * length) for length in range(1, 13)] * 4
    assert length_bias(texts, [len(text) / 100 for text in texts], seed=0).low > 0.9
    fair = length_bias(texts, [0.2] * 12 + [0.9, None] * 12 + [0.5] * 12, seed=0)
    assert fair.low < 0 < fair.high and abs(fair.value) < 0.1
    assert str(length_bias(texts, [1.0] * 48, seed=0)) == "not defined"
    loves_talk, fair = SomeJudge(lambda text, _: min(1, len(text) / 200)), SomeJudge(lambda text, _: 0.8)
    assert run_async(padding_gain(loves_talk, None, SAMPLES, seed=0)).low > 0.3
    assert str(run_async(padding_gain(fair, None, SAMPLES, seed=0))) == "0.00 [0.00, 0.00]"


def test_self_consistency_of_a_gemini_that_wavers(server):
    calls = count()

    def wavers(request):
        steady = "steady" in request.replies[0]
        score = 0.8 if steady else (0.4, 0.6)[next(calls) % 2]
        return says(json.dumps({"analysis": "", "criteria": [], "score": score}))

    server.reply = wavers
    gemini = make_judge("gemini", JudgeConfig(judge_max_in_flight=1))
    answers = ["steady", "steady too", "wavers", "wavers too"]
    found = run_async(self_consistency(gemini, None, SAMPLES[:4], answers, repeats=4, seed=0))
    assert (found.answers, found.left_out) == (4, 0) and len(server.requests) == 16
    assert found.flips.value == 0.5
    assert found.deviation.value == pytest.approx(np.std([0.4, 0.6, 0.4, 0.6], ddof=1) / 2)

    server.reply = lambda request: says("no JSON")
    gone = make_judge("gemini", JudgeConfig(judge_max_retries=0))
    found = run_async(self_consistency(gone, None, SAMPLES[:2], answers[:2], repeats=2, seed=0))
    assert (found.answers, found.left_out, str(found.flips)) == (0, 2, "not defined")


def test_price_counts_what_was_paid_for(server, tmp_path):
    cache = RewardCache(tmp_path / "cache.sqlite")
    gemini = make_judge("gemini", JudgeConfig(judge_input_price=2.0, judge_output_price=8.0))
    answers = [f"answer {sample.id}" for sample in SAMPLES]
    run_async(judge_and_price(gemini, cache, SAMPLES[:6], answers[:6]))
    _, price = run_async(judge_and_price(gemini, cache, SAMPLES, answers))
    assert (price.judgements, price.tokens, price.note) == (6, 125, "")
    assert price.usd == pytest.approx(1000 * (100 * 2.0 + 25 * 8.0) / 1e6)
    _, again = run_async(judge_and_price(gemini, cache, SAMPLES, answers))
    assert (again.judgements, again.usd) == (0, None) and "cache" in again.note
    server.models.append("gemini-of-tomorrow")
    unknown = make_judge("gemini", JudgeConfig(gemini_model="gemini-of-tomorrow"))
    _, price = run_async(judge_and_price(unknown, None, SAMPLES, answers))
    assert price.usd is None and "judge_input_price" in price.note
    server.reply = lambda request: says("no JSON")
    failing = make_judge("gemini", JudgeConfig(judge_max_retries=0))
    _, price = run_async(judge_and_price(failing, None, SAMPLES[:2], answers[:2]))
    assert (price.judgements, price.usd, price.note) == (0, None, "all failed")
    _, price = run_async(judge_and_price(make_judge("offline"), None, SAMPLES, answers))
    assert (price.usd, price.note) == (0.0, "free")


def run_notebook(folder: Path, demo_data: Path, name: str, **parameters) -> tuple[str, list[str]]:
    """The executed notebook's JSON, and its outputs as text: parameters keep it small."""
    source, executed = folder / "source.ipynb", folder / f"{name}.ipynb"
    nbformat.write(read_text_notebook(ROOT / "notebooks" / "02_prototype_rewards.py"), source)
    values = {"data": str(demo_data), "out": str(folder / "out"), "n": 8, "repeats": 2, **parameters}
    papermill.execute_notebook(source, executed, parameters=values, **PAPERMILL)
    outputs = [o for cell in nbformat.read(executed, as_version=4).cells for o in cell.get("outputs", [])]
    text = "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 9
    return executed.read_text(), text


@pytest.mark.wide
def test_the_notebook_with_a_key_compares_all_judges_and_never_pays_twice(server, standin, demo_data, tmp_path):
    content, text = run_notebook(tmp_path, demo_data, "first", judge="gemini group")
    for name in ("offline", "gemini absolute", "gemini group"):
        assert f"{name} passes" in text and f"{name}'s scores scatter by 0.00" in text
    assert "Gemini is left out" not in text and "STAND-IN LABELS" in text and "The replies to judge" in text
    assert "gemini absolute passes 3 of 8, all but" in text and "judgements, which cost: gemini group $0." in text
    assert "The reward panel is for JupyterLab" in text and KEY not in content
    asked = len(server.requests)
    assert asked > 100
    content, text = run_notebook(tmp_path, demo_data, "second", judge="gemini group")
    assert len(server.requests) == asked and "nothing paid" in text and KEY not in content


def test_without_a_key_gemini_is_left_out_and_labels_take_the_stand_ins_place(standin, demo_data, monkeypatch, capsys):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    study = prototype(demo_data, out=demo_data.with_name("labelled"), n=8, repeats=2)
    assert "Gemini is left out. To compare it too, set GEMINI_API_KEY" in capsys.readouterr().out and list(
        study.judges
    ) == ["offline"]
    right, wrong = study.samples[0:20:2], study.samples[1:20:2]
    labels = [Label(sample.id, sample.ground_truth, label=5, labeller="Ann") for sample in right]
    labels += [Label(one.id, other.ground_truth, label=1) for one, other in zip(wrong, right, strict=True)]
    said = study.agreement(labels).says
    assert said.startswith("20 answers that people scored. offline: Spearman 0.") and "STAND-IN" not in said


def test_a_prototype_says_what_its_numbers_say(server, standin, demo_data, tmp_path, capsys):
    def by_length(request):
        return says(json.dumps({"analysis": "", "criteria": [], "score": min(1, len(request.replies[0]) / 100)}))

    server.reply = by_length
    study = prototype(demo_data, "gemini", ["offline"], {"judge_max_retries": 0}, out=tmp_path, n=12, repeats=2)
    assert study.config.judge == {"gemini": 1.0} and list(study.judges) == ["gemini", "offline"]
    study.look()
    assert "\n\ngemini scores answers to this turn by a rubric.\n" in capsys.readouterr().out
    own, known = study.scores["gemini"], study.known_answers()
    above = np.mean([(a > b) + (a == b) / 2 for a, b in zip(own[RIGHT], own[WRONG], strict=True)])
    assert f"Of 12 turns gemini puts the trace's reply above another turn's in {above:.0%} [" in known.says
    assert f"{RIGHT} {np.mean(own[RIGHT]):.2f} [" in known.says and str(known) == known.says
    bias = study.biases()
    assert f"length: {RIGHT} (gemini) 0.9" in bias.says and "gained by padding (offline) -0." in bias.says
    assert "gained by padding (gemini) 0.6" in bias.says and "standing early" not in bias.table
    rewards = study.rewards([lambda completions, **_: [len(each[-1]["content"]) for each in completions], "length"])
    assert list(rewards.table.index) == ["<lambda>", "length"] and "; length 1" not in rewards.says
    server.reply = lambda request: says("no JSON")
    failing = prototype(demo_data, "gemini", ["offline"], {"judge_max_retries": 0}, out=tmp_path / "2", n=3, repeats=2)
    assert "gemini failed 12 times." in failing.compare().says and "in not defined" in failing.known_answers().says
    for finding in (failing.reasons(), failing.spread(), failing.consistency(), failing.agreement([]), failing.save()):
        assert "gemini" in finding.says or "tiny" in finding.says
    for name, said in {
        "gemini twice": "no mode 'twice'. Use absolute or group",
        "gemin": "should be one of offline, gemini",
    }.items():
        with pytest.raises(ConfigError, match=said):
            prototype(demo_data, name, out=tmp_path)
