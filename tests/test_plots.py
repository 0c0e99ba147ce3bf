"""Shows that the figures draw what the files hold, at any stage of a run, and that their words do not collide."""

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from grpo_kit.comparison import BASE, Evaluation, compare, describe, write_evaluation
from grpo_kit.config import TrainConfig
from grpo_kit.demo import TRACES
from grpo_kit.judges import Verdict
from grpo_kit.plots import compare_runs, data_overview, evaluation_figure, learning_curve
from grpo_kit.runs import Run
from grpo_kit.samples import Sample
from grpo_kit.traces import prepare
from grpo_kit.writing import open_run

STEPS = 40


def new_run(folder: Path, run_id: str, steps: int = STEPS, kl: float | None = None, **settings) -> Run:
    run = open_run(
        TrainConfig(run_id=run_id, **settings),
        {"rewards": ["offline"], "data": {"folder": "", "fingerprint": ""}},
        folder,
    )
    rng = np.random.default_rng(0)
    rows = [
        {
            "step": step,
            "reward": None if step == 3 else round(step / STEPS, 3),  # nothing was judged in one step
            "reward_std": 0.3,
            "loss": rng.normal(),
            "completions/mean_length": rng.uniform(10, 12),
            "entropy": 1 / step,
            "frac_reward_zero_std": 0.25,
            "seconds/generating": 0.2,
            "seconds/judging": 0.01,
            "seconds/updating": 0.4,
        }
        | ({} if kl is None else {"kl": kl})
        for step in range(1, steps + 1)
    ]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def new_evaluation(folder: Path, scores: dict[str, list[float | None]]) -> Evaluation:
    samples = [Sample(id=str(i), prompt="Hello", ground_truth="Hi") for i in range(len(next(iter(scores.values()))))]
    verdicts = {name: [Verdict(score) for score in given] for name, given in scores.items()}
    answers = {name: ["Hi"] * len(samples) for name in scores}
    models = [
        {
            "name": name,
            **describe(name, answers[name], verdicts[name], seed=0),
            "versus_base": compare(verdicts[BASE], given, seed=0) if BASE in scores and name != BASE else None,
        }
        for name, given in verdicts.items()
    ]
    return write_evaluation(folder / "made.json", {"models": models}, samples, answers, verdicts)


def assert_readable(figure: Figure) -> None:
    """All words lie within the figure, and no panel's title or legend lies on another's or on an axis' name."""
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    boxes = []
    for axes in figure.axes:
        words = [axes._left_title, axes.xaxis.label, axes.yaxis.label, axes.get_legend(), *axes.texts]
        boxes += [(word, word.get_window_extent()) for word in words if word is not None and word.get_visible()]
    boxes = [(word, box) for word, box in boxes if box.width > 0]
    boxes += [(word, word.get_window_extent()) for word in [figure._suptitle, *figure.legends] if word is not None]
    for word, box in boxes:
        assert page.containsx(box.x0) and page.containsx(box.x1), word
        assert page.containsy(box.y0) and page.containsy(box.y1), word
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)
    assert figure._repr_png_().startswith(b"\x89PNG")


def panel(figure: Figure, title: str):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))


def test_learning_curve_draws_the_steps_and_their_running_mean(tmp_path):
    figure = learning_curve(new_run(tmp_path, "one"))
    assert_readable(figure)
    each, mean = panel(figure, "reward").get_lines()
    assert list(each.get_xdata()) == list(range(1, STEPS + 1)) and np.isnan(each.get_ydata()[2])
    assert mean.get_label() == "mean of the last 4 steps"
    assert mean.get_ydata()[-1] == pytest.approx(np.mean([37, 38, 39, 40]) / STEPS)
    low, high = panel(figure, "reward").collections[0].get_datalim(figure.axes[0].transData).intervaly
    assert low == 0 and high == 1  # a judge's scores go no further than that
    assert panel(figure, "groups with no spread").get_lines()[0].get_ydata()[0] == 25
    assert not any("KL" in axes.get_title(loc="left") for axes in figure.axes)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_learning_curve_of_a_run_that_has_just_begun(tmp_path, steps):
    assert_readable(learning_curve(new_run(tmp_path, "young", steps=steps)))


def test_learning_curve_has_the_kl_where_there_is_one(tmp_path):
    figure = learning_curve(new_run(tmp_path, "kl", kl=0.02, beta=0.1))
    assert_readable(figure)
    assert panel(figure, "KL").get_lines()[0].get_ydata()[0] == 0.02


def test_compared_runs_are_told_apart_by_what_differs(tmp_path):
    runs = [new_run(tmp_path, f"run{i}", seed=i, learning_rate=10.0**-i, steps=STEPS - i) for i in range(1, 9)]
    figure = compare_runs(runs)
    assert_readable(figure)
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines[:2]] == ["seed=1, learning_rate=0.1", "seed=2, learning_rate=0.01"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 8
    same = compare_runs([runs[0], runs[0]]).axes[0].get_lines()
    assert [line.get_label() for line in same] == ["run1", "run1"]


def test_evaluation_figure_says_the_result_and_counts_the_prompts(tmp_path):
    scores = {BASE: [0.1, 0.5, None, 0.2] * 8, "checkpoint-20": [0.5] * 32, "checkpoint-100": [0.9, 0.5, 0.9, 0.1] * 8}
    evaluation = new_evaluation(tmp_path, scores)
    figure = evaluation_figure(evaluation)
    assert_readable(figure)
    assert figure.get_suptitle() == evaluation.line()
    line = panel(figure, "mean score").containers[0].lines[0]
    assert list(line.get_xdata()) == [20, 100] and list(line.get_ydata()) == pytest.approx([0.5, 0.6])
    legend = panel(figure, "checkpoint-100 less base").get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["worse: 8", "equal: 8", "better: 8"]
    assert evaluation.figure_path.read_bytes().startswith(b"\x89PNG")


def test_evaluation_figure_of_a_model_without_a_base(tmp_path):
    figure = evaluation_figure(new_evaluation(tmp_path, {"a_model_with_quite_a_long_name": [0.1, 0.9, None]}))
    assert_readable(figure)
    assert sum(bar.get_height() for bar in panel(figure, "scores").patches) == 2


def test_data_overview_draws_the_card(tmp_path):
    card = prepare(TRACES, tmp_path / "demo")
    assert_readable(data_overview(card))
    chats = data_overview(card | {"samples_per_service": {}, "acts": {}})
    assert_readable(chats)
    assert panel(chats, "dialogue acts").get_title(loc="left").endswith("not annotated")
    many = card | {"samples_per_service": {f"Service_{i}": i for i in range(1, 46)}}
    figure = data_overview(many)
    assert_readable(figure)
    labels = [label.get_text() for label in panel(figure, "samples per service").get_yticklabels()]
    assert labels[0] == "Service_45" and labels[-1] == "25 others"
    assert panel(figure, "samples per service").patches[-1].get_width() == sum(range(1, 26))


def test_figures_need_neither_torch_nor_pyplot():
    check = "import grpo_kit.plots, sys; print({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "set()"
