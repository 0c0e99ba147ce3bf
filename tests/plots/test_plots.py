"""Shows that the figures draw what the files hold, at any stage of a run, and that their words do not collide."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas
import pytest
from figures import assert_readable
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from grpo_kit.backends.run import Run
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Sample
from grpo_kit.evaluation.result import BASE, Evaluation, write_evaluation
from grpo_kit.evaluation.statistics import Answered, describe
from grpo_kit.judges.base import Verdict
from grpo_kit.plots.data import data_overview
from grpo_kit.plots.evaluation import breakdown, evaluation_figure, length_against_score
from grpo_kit.plots.runs import compare_runs, learning_curve, names_of
from grpo_kit.plots.sweeps import best_so_far, setting_effects
from grpo_kit.runs.writer import open_run
from grpo_kit.widgets.curves import Curves

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


def new_evaluation(
    folder: Path,
    scores: dict[str, list[float | None]],
    second: dict[str, list[float]] | None = None,
    services: list[str] | None = None,
) -> Evaluation:
    n = len(next(iter(scores.values())))
    about = [{"services": [name]} for name in services] if services else [{}] * n
    samples = [Sample(id=str(i), prompt="Hello", ground_truth="Hi", **about[i]) for i in range(n)]
    answers, models, answered = ["Hi " * (1 + i % 7) for i in range(n)], [], {}
    for name in scores:
        by_judge = [
            [Verdict(score, criteria={"acts": 0.5, "length": 1.0}) for score in given[name]]
            for given in (scores, second)
            if given
        ]
        answered[name] = Answered(answers, *by_judge)
        models.append({"name": name, **describe(name, answered, 0)})
        if second:
            models[-1]["second"] = describe(name, answered, 0, "second")
    results = {"models": models, "judge": {"name": "offline"}, "second_judge": {"name": "reference"}}
    return write_evaluation(folder / "made.json", results, samples, answered, evaluation_figure)


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
    assert [line.get_label() for line in lines[:2]] == ["seed 1, learning rate 0.1", "seed 2, learning rate 0.01"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 8
    same = compare_runs([runs[0], runs[0]]).axes[0].get_lines()
    assert [line.get_label() for line in same] == ["run1", "run1"]
    assert same[0].get_linestyle() != same[1].get_linestyle(), "each is seen where they lie on each other"
    twins = names_of([runs[0], runs[0], runs[1]])
    assert twins[0] == twins[1] == "run1: seed 1, learning rate 0.1" and twins[2].startswith("run2: seed 2")


def test_figures_are_read_on_a_dark_page_and_files_stay_white(tmp_path):
    figure = learning_curve(new_run(tmp_path, "one"))
    shown, saved = tmp_path / "shown.png", tmp_path / "saved.png"
    shown.write_bytes(figure._repr_png_())
    figure.savefig(saved)
    assert list(imread(shown)[0, 0]) == [1, 1, 1, 0] and list(imread(saved)[0, 0]) == [1, 1, 1, 1]
    colours = {text.get_color() for text in figure.findobj(Text) if text.get_text()}
    for grey in map(to_rgb, colours):
        for page in ("#ffffff", "#111111"):
            dark, light = sorted([luminance(grey), luminance(to_rgb(page))])
            assert (light + 0.05) / (dark + 0.05) > 4


def luminance(colour) -> float:
    """As WCAG defines it."""
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_curves_are_sent_once_and_then_only_their_new_steps(tmp_path, monkeypatch):
    run, sent = new_run(tmp_path, "one", steps=20), []
    curves = Curves([run])
    monkeypatch.setattr(curves, "send", lambda said, buffers: sent.append((said, *map(len, buffers))))
    curves.observe(lambda change: sent.append(change["name"]), ["runs", "panels"])
    (shown,) = curves.runs
    a_step, lines = 4 * len(shown["columns"]), (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert len(shown["rows"]) == 20 * a_step
    assert [panel["title"] for panel in curves.panels][:2] == ["reward (mean of a step's completions)", "loss"]
    assert not [panel for panel in curves.panels if "KL" in panel["title"]], "there is none"
    (run.path / "metrics.jsonl").write_text("".join([*lines, lines[-1].replace('"step": 20', '"step": 21')]))
    curves.show([run])
    assert sent == [({"run": 0, "after": 20 * a_step}, a_step)]
    assert len(curves.runs[0]["rows"]) == 21 * a_step, "for a page that is loaded anew"
    (run.path / "metrics.jsonl").write_text("".join(lines[:5]))  # resumed from step 5
    curves.show([run])
    assert sent[1:] == ["runs"] and len(curves.runs[0]["rows"]) == 5 * a_step


def test_a_point_of_compared_curves_is_a_step_of_a_run(tmp_path):
    runs, points = [new_run(tmp_path, f"run{seed}", seed=seed) for seed in (1, 2)], []
    curves = Curves(runs, lambda *point: points.append(point))
    reward = curves.panels[0]["lines"]
    assert [line["label"] for line in reward] == ["seed 1", "seed 2"] and reward[0]["dash"] != reward[1]["dash"]
    curves.picked = [1, 12.0]  # as the browser says it
    curves.picked = []
    assert points == [(runs[1], 12), (None, None)]
    assert "data:image/png;base64" in curves.still()
    curves.show([])
    assert curves.panels == [] and curves.still() == ""


def test_evaluation_figure_says_the_result_and_counts_the_prompts(tmp_path):
    scores = {BASE: [0.1, 0.5, None, 0.2] * 8, "checkpoint-20": [0.5] * 32, "checkpoint-100": [0.9, 0.5, 0.9, 0.1] * 8}
    evaluation = new_evaluation(tmp_path, scores)
    figure = evaluation_figure(evaluation)
    assert_readable(figure)
    assert figure.get_suptitle() == f"checkpoint-100: {evaluation.line()}"
    line = panel(figure, "mean score").containers[0].lines[0]
    assert list(line.get_xdata()) == [20, 100] and list(line.get_ydata()) == pytest.approx([0.5, 0.6])
    legend = panel(figure, "checkpoint-100 minus base").get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["worse: 8", "equal: 8", "better: 8"]
    assert evaluation.figure_path.read_bytes().startswith(b"\x89PNG")


def test_evaluation_figure_of_a_model_without_a_base(tmp_path):
    figure = evaluation_figure(new_evaluation(tmp_path, {"a_model_with_quite_a_long_name": [0.1, 0.9, None]}))
    assert_readable(figure)
    assert sum(bar.get_height() for bar in panel(figure, "scores").patches) == 2


def test_the_second_judge_has_its_own_lines(tmp_path):
    rng = np.random.default_rng(0)
    for checkpoints in (1, 3, 12):
        names = [BASE, *(f"checkpoint-{20 * step}" for step in range(1, checkpoints + 1))]
        scores = {name: rng.uniform(0, 1, 20).tolist() for name in names}
        second = {name: rng.uniform(0, 0.5, 20).tolist() for name in names}
        evaluation = new_evaluation(tmp_path, scores, second)
        figure = evaluation_figure(evaluation)
        assert_readable(figure)
        first, held_out = (c.lines[0] for c in panel(figure, "mean score by offline").containers)
        assert held_out.get_linestyle() == "--" and held_out.get_linewidth() < first.get_linewidth()
        assert list(held_out.get_ydata()) == pytest.approx([np.mean(second[name]) for name in names[1:]])


def test_breakdown_and_lengths_draw_the_tables(tmp_path):
    rng = np.random.default_rng(0)
    scores = {name: rng.uniform(0, 1, 40).tolist() for name in (BASE, "checkpoint-20")}
    evaluation = new_evaluation(tmp_path, scores, services=["Hotels_1"] * 30 + ["Flights_1", "Ride_1"] * 5)
    figure = breakdown(evaluation)
    assert_readable(figure)
    services = panel(figure, "by service (prompts, hollow: few)")
    labels = [label.get_text() for label in services.get_yticklabels()]
    assert sorted(labels) == ["Flights_1 (5)", "Hotels_1 (30)", "Ride_1 (5)"]
    hollow = [line for line in services.get_lines() if line.get_marker() == "o" and line.get_mfc() == "white"]
    assert len(hollow) == 2
    figure = length_against_score(evaluation)
    assert_readable(figure)
    _, trained = figure.axes[0].get_lines()
    assert list(trained.get_ydata()) == scores["checkpoint-20"] and trained.get_label().startswith("checkpoint-20: ")
    for figure in (breakdown, length_against_score):
        assert_readable(figure(new_evaluation(tmp_path, {"alone": [0.1, 0.9, None]})))


def test_data_overview_draws_lengths_beside_their_limits_and_counts_where_there_are_any():
    lengths = {
        "prompt": (list(range(10, 110)), "max_prompt_length", 100),
        "reply": ([3, 4, 4], "max_completion_length", 8),
    }
    chats = data_overview("3 samples", lengths, {})
    assert_readable(chats)
    [limit] = panel(chats, "prompt").get_lines()
    assert limit.get_label() == "max_prompt_length=100, 9 longer" and limit.get_xdata()[0] == 100
    assert sum(bar.get_height() for bar in panel(chats, "reply").patches) == 3 and len(chats.axes) == 2
    figure = data_overview("3 samples", lengths, {"samples per service": {f"Service_{i}": i for i in range(1, 46)}})
    assert_readable(figure)
    labels = [label.get_text() for label in panel(figure, "samples per service").get_yticklabels()]
    assert labels[0] == "Service_45" and labels[-1] == "25 others"
    assert panel(figure, "samples per service").patches[-1].get_width() == sum(range(1, 26))


class Grid:
    """A sweep's tables: the score follows the learning rate, a little the rank, and not the judge."""

    settings: ClassVar = ["learning_rate", "judge", "lora_r"]

    def results(self) -> pandas.DataFrame:
        rows = list(product([1e-5 * 1.7**i for i in range(12)], ["offline", None], [4, 8], [1, 2]))
        table = pandas.DataFrame(rows, columns=[*self.settings, "seed"])
        score = table["learning_rate"].rank(pct=True) + table["lora_r"] / 40
        about = {"state": "complete", "base": 0.1, "usd": None, "seconds": 60.0, "ended": table.index}
        return table.assign(trained=score, **about)

    def pooled(self, score: str) -> pandas.DataFrame:
        return self.results().groupby(self.settings, dropna=False)[score].mean().reset_index()


def test_effects_and_costs_of_a_sweep_are_drawn():
    figure = setting_effects(Grid())
    assert_readable(figure)
    assert [axes.get_xlabel() for axes in figure.axes] == Grid.settings
    assert figure.axes[0].get_xscale() == "log"
    axes = best_so_far(Grid()).axes[0]
    assert "minutes" in axes.get_xlabel() and axes.get_lines()[0].get_xdata()[-1] == 96
    assert axes.get_lines()[1].get_ydata()[-1] == Grid().results()["trained"].max()


def test_figures_need_neither_torch_nor_pyplot():
    check = "import grpo_kit.plots.runs, sys; print({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "set()"
