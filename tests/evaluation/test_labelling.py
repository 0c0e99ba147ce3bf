"""What people are asked: blind, where judges differ first; how far judges and people agree; and the panel, unseen."""

import json

import pytest

from grpo_kit import widgets
from grpo_kit.data.samples import Sample, to_lines
from grpo_kit.errors import ConfigError
from grpo_kit.evaluation.labelling import Labelling, next_item, progress
from grpo_kit.evaluation.result import write_evaluation
from grpo_kit.evaluation.statistics import Answered, describe
from grpo_kit.judges.base import Verdict
from grpo_kit.judges.labels import Label

SAMPLES = [Sample(f"s{i}", f"Question {i}?", f"Reply {i}.", rubric=f"say {i}") for i in range(6)]
BASE = [f"base {i}" for i in range(5)] + ["same"]
TRAINED = [f"<think>hm</think>trained {i}" for i in range(5)] + ["same"]


def judged(scores) -> list[Verdict]:
    return [Verdict(score) for score in scores]


@pytest.fixture
def evaluation(tmp_path):
    """Two judges alike but of "base 3" and "trained 1"; the second judged none of sample 4."""
    base = Answered(BASE, judged([0.1, 0.2, 0.3, 0.4, 0.1, 0.5]), judged([0.2, 0.3, 0.4, 0.9, None, 0.5]))
    trained = Answered(TRAINED, judged([0.6, 0.7, 0.8, 0.9, 1.0, 0.5]), judged([0.7, 0.1, 0.8, 0.85, None, 0.5]))
    answered = {"base": base, "checkpoint-20": trained}
    models = [
        {"name": name, "second": describe(name, answered, 0, "second")} | describe(name, answered, 0)
        for name in answered
    ]
    results = {"models": models, "judge": {"name": "offline"}, "second_judge": {"name": "reference"}}
    return write_evaluation(tmp_path / "eval.json", results, SAMPLES, answered)


@pytest.fixture
def labelling(evaluation, tmp_path) -> Labelling:
    (tmp_path / "eval.jsonl").write_bytes(to_lines(SAMPLES))
    return Labelling.of(tmp_path, evaluation)


def test_what_judges_differ_on_is_asked_first_in_an_order_of_its_own(labelling):
    items = labelling.items(choose=False)
    assert sorted(text for item in items for text in item.answers) == sorted({*BASE, *TRAINED})
    assert {text for item in items[:2] for text in item.answers} == {BASE[3], TRAINED[1]}
    assert {text for item in items[-2:] for text in item.answers} == {BASE[4], TRAINED[4]}
    assert items == labelling.items(choose=False) != labelling.items(choose=False, seed=1)


def test_pairs_are_asked_about_in_either_order_and_the_same_words_never(labelling):
    pairs = [item for seed in range(4) for item in labelling.items(choose=True, seed=seed)]
    assert len(pairs) == 20 and {item.sample.id for item in pairs} == {f"s{i}" for i in range(5)}
    assert {item.sample.id for item in labelling.items(choose=True)[:2]} == {"s1", "s3"}
    assert len({item.answers[0].startswith("base") for item in pairs}) == 2


def test_what_is_skipped_comes_again_last(labelling):
    items, labels = labelling.items(choose=False), []
    first = items[0]
    labels.append(Label(first.sample.id, first.answers[0], labeller="Ann"))
    for expected in items[1:]:
        assert next_item(items, labels, "Ann") == expected
        labels.append(Label(expected.sample.id, expected.answers[0], label=3, labeller="Ann"))
    assert next_item(items, labels, "Ann") == first == next_item(items, labels, "Bob")
    assert progress(items, labels, "Ann") == (10, 1) and progress(items, labels, "Bob") == (0, 0)
    assert (
        next_item(items, [*labels[1:], Label(first.sample.id, first.answers[0], label=1, labeller="Ann")], "Ann")
        is None
    )


def test_judges_agree_with_people_and_people_with_each_other(labelling):
    scores = [Label(f"s{i}", BASE[i], label=1 + i, labeller="Ann") for i in range(4)]
    scores += [Label(f"s{i}", BASE[i], label=3 + (i > 1), labeller="Bob") for i in range(1, 4)]
    found = labelling.agreement(scores, choose=False)
    assert list(found) == ["offline", "reference (second judge)", "Ann and Bob"]
    assert found["offline"].spearman.value == pytest.approx(1) and found["offline"].answers == 4
    assert found["Ann and Bob"].answers == 3 and found["Ann and Bob"].accuracy.value == pytest.approx(2 / 3)
    # Ann's 2, 3, 4 against Bob's 3, 4, 4: a mean square of 2/3 over 2/3 + 2/9 + 4/9.
    assert found["Ann and Bob"].weighted.value == pytest.approx(1 - (2 / 3) / (2 / 3 + 2 / 9 + 4 / 9))

    chosen = [Label(f"s{i}", BASE[i], TRAINED[i], preference="b", labeller="Ann") for i in range(4)]
    chosen += [Label("s3", TRAINED[3], BASE[3], preference="b", labeller=name) for name in ("Bob", "Cid")]
    found = labelling.agreement(chosen, choose=True)
    assert found["offline"].accuracy.value == 0.75 and found["reference (second judge)"].accuracy.value == 0.75
    assert found["reference (second judge)"].constant.value == 0.75
    assert found["Bob and Cid"].problem.startswith("1 choices with both answers")


def test_answers_need_their_samples(evaluation):
    with pytest.raises(ConfigError, match="1 of 6 samples with answers are not among the samples: 's5'"):
        Labelling.of(SAMPLES[:5], evaluation)


def test_the_panel_asks_without_saying_who_wrote_what_or_what_judges_said(evaluation, tmp_path, capsys):
    path = tmp_path / "labels.csv"
    panel = widgets.labels(SAMPLES, evaluation, path, labeller="Ann", interactive=True)
    assert not capsys.readouterr().out
    sent = []
    for key in "1243":
        sent.append(json.dumps([panel.keyboard.page, panel.keyboard.heard, panel.count.value]))
        panel.press(key)
    panel.press("a")  # means nothing now
    panel.note.value = "odd"
    panel.press("s")
    assert panel.count.value == "4 of 11 labelled, 1 skipped" and not panel.message.value
    assert [label.note for label in panel.file.read()] == [*[""] * 4, "odd"] and len(panel.labels) == 4
    assert not [text for text in sent if "checkpoint" in text or "offline" in text or "hm" in text]
    panel.press("u")
    assert panel.note.value == "odd" and panel.count.value == "4 of 11 labelled"

    panel.kind.value = True
    panel.press("t")
    assert panel.labels[-1].preference == "tie" and panel.labels[-1].other_answer
    again = widgets.labels(SAMPLES, evaluation, path, labeller="Ann", interactive=False)  # another kernel, in a batch
    said = capsys.readouterr().out
    assert f"5 labels in {path}, by Ann" in said and "reference (second judge)" in said
    assert again.count.value == "4 of 11 labelled"
    path.write_text("sample_id,answer,label\ns1,Hi,9\n")
    again.press("1")
    assert "labels.csv:2: " in again.message.value
