"""Shows that the table of runs and the browser of samples show and choose what they say, with no browser."""

import html
import json
import re
import shutil

import ipywidgets
import pytest
from figures import assert_readable
from modal_server import ModalServer

from grpo_kit import TrainConfig, evaluate, prepare, prepared, runs, train, widgets
from grpo_kit.backends.modal.storage import VolumeStorage
from grpo_kit.backends.run import Run
from grpo_kit.errors import RunError
from grpo_kit.plots.runs import compare_runs
from grpo_kit.runs.writer import open_run
from grpo_kit.widgets import tables as browsing
from grpo_kit.widgets.parts import shows_errors

MARKUP = "<b>bold</b> & <script>alert(1)</script>\n\nsecond line"


def brief(completions, **_):
    return [1 / (1 + len(completion[-1]["content"].split())) for completion in completions]


@pytest.fixture(scope="module")
def runs_dir(trained, tmp_path_factory):
    """An evaluated run, one with two rewards and markup in its texts, and one that has not begun."""
    folder = tmp_path_factory.mktemp("tables") / "runs"
    data = trained.config.data
    evaluate(trained.download(folder / trained.id), n=16)
    second = train(
        data=data,
        max_steps=6,
        save_steps=6,
        seed=1,
        learning_rate=1e-3,
        rewards=[brief],
        run_id="second",
        runs_dir=folder,
    )
    rows = [json.loads(line) for line in (second.path / "completions.jsonl").read_text().splitlines()]
    rows[-1] |= {"completion": MARKUP, "rewards": {"offline": None, "brief": 0.5}, "reason": "judge failed: <html>"}
    (second.path / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {name: value for name, value in trained.about.items() if name != "settings"}
    open_run(TrainConfig(run_id="waiting", max_steps=60), about, folder)
    return folder


def shown(view) -> str:
    """The page's text as a reader sees it."""
    return html.unescape(re.sub(r"<[^>]+>", "\n", view.page.value))


def listed(table) -> list[str]:
    return [label.split("\xa0")[0] for label, _ in table.list.options]


def test_runs_are_sorted_filtered_and_selected(runs_dir, trained):
    table = widgets.runs(runs_dir)
    rows = runs(runs_dir)
    assert listed(table) == list(rows["run"])[::-1]  # newest first
    assert {run.id for run in table.selected} == {trained.id, "second", "waiting"}
    heading = html.unescape(re.sub("<.*?>", "", table.header.value)).removeprefix("  ")
    assert {len(label) for label, _ in table.list.options} == {len(heading)}  # columns lie below headings
    for column in ("reward", "step", "learning_rate", "run"):
        for ascending in (False, True):
            table.sort.value, table.descending.value = column, not ascending
            key = (lambda steps: steps.str.split("/").str[0].astype(int)) if column == "step" else None
            expected = rows.sort_values(column, ascending=ascending, key=key)
            assert listed(table) == list(expected["run"]), (column, ascending)

    table.clear_button.click()
    assert table.selected == [] and table.image.layout.display == "none"
    table.find.value = "TINY second"
    assert listed(table) == ["second"]
    table.list.value = table.list.options[0][1:]
    one = bytes(table.image.value)
    table.find.value = rows.set_index("run").loc["waiting", "state"]
    assert sorted(listed(table)) == ["second", "waiting"]  # what is selected stays
    assert [run.id for run in table.selected] == ["second"]
    table.list.value = [key for _, key in table.list.options]
    assert one.startswith(b"\x89PNG") and bytes(table.image.value) != one
    table.refresh_button.click()
    assert {run.id for run in table.selected} == {"second", "waiting"} and not table.message.value


def test_runs_that_are_not_there_or_are_broken_are_said(runs_dir, tmp_path):
    empty = widgets.runs(tmp_path / "none")
    assert "No runs under" in empty.note.value and not empty.message.value and empty.selected == []

    broken = shutil.copytree(runs_dir, tmp_path / "runs")
    (broken / "waiting" / "status.json").write_text("{")
    table = widgets.runs(broken)
    assert "status.json can't be read" in html.unescape(table.note.value) and len(table.table) == 3
    (broken / "second" / "config.json").write_text("{}")
    table.list.value = ()
    table.list.value = tuple(row for _, row in table.list.options)
    assert "no run" in table.message.value
    table.refresh_button.click()
    table.clear_button.click()
    table.list.value = table.list.options[0][1:]
    assert not table.message.value  # it goes when the same thing succeeds


def test_compared_runs_are_named_by_what_sets_them_apart(runs_dir, trained):
    found = {name: Run(name, runs_dir) for name in (trained.id, "second", "waiting")}
    figure = compare_runs(list(found.values()))
    assert_readable(figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1].startswith("seed=1, max_steps=6, learning_rate=0.001") and "rewards=offline + brief" in labels[1]
    assert labels[2].startswith("seed=42, max_steps=60") and "/" not in "".join(labels)
    with pytest.raises(RunError, match="no run to compare"):
        compare_runs([])


def test_groups_of_completions_are_browsed(runs_dir):
    run = Run("second", runs_dir)
    view = widgets.samples(run).groups
    table = run.completions()
    last = table[table["step"] == 6]
    assert view.step.value == 6 and len(view.choice.options) == last["sample_id"].nunique()

    sums = last["rewards"].map(lambda scores: sum(score for score in scores.values() if score is not None))
    means = sums.groupby(last["sample_id"]).mean()
    view.sort.value = "worst on average"
    labels = [label.split()[:3] for label, _ in view.choice.options]
    assert labels == [["step", "6:", f"{mean:.2f}"] for mean in means.sort_values()]
    best = sums[last["sample_id"] == means.idxmin()].sort_values(ascending=False)
    assert re.findall(r"<b>(.*?)</b>", view.page.value) == [f"{score:.2f}" for score in best]  # best first
    view.next.click()
    assert view.choice.value == 1 and view.position.value.startswith("2 /")

    view.step.value = view.step.options[0][1]  # any
    view.sort.value = "rewards disagree most"
    spreads = table["rewards"].map(lambda s: abs(s["offline"] - s["brief"]) if s["offline"] is not None else 0)
    assert view.choice.options[0][0].split()[2] == f"{spreads.max():.2f}"
    view.find.value = "SECOND LINE"
    assert len(view.choice.options) == 1 and MARKUP in shown(view) and "judge failed: <html>" in shown(view)
    assert "<script>" not in view.page.value and "white-space: pre-wrap" in view.page.value
    assert table["prompt"].iloc[-1][-1]["content"] in shown(view)
    view.find.value = "in no text at all"
    assert view.choice.options == () and view.next.disabled and "Nothing here" in shown(view)


def test_answers_of_base_and_trained_model_are_browsed(runs_dir, trained):
    browser = widgets.samples(Run(trained.id, runs_dir))
    view = browser.answers
    [evaluation] = browsing.evaluations(browser.run)
    samples = evaluation.samples()
    assert view.checkpoint.value == evaluation.trained["name"] and view.sort.value == "biggest gain"
    view.checkpoint.value = "checkpoint-20"
    gains = samples["checkpoint-20 score"] - samples["base score"]
    row = samples.loc[gains.idxmax()]
    for text in ("base", "checkpoint-20", "base reason", "checkpoint-20 reason", "ground_truth"):
        assert row[text] in shown(view)
    assert f"gain {gains.max():+.2f}" in shown(view) and view.previous.disabled

    view.checkpoint.value = "checkpoint-10"
    view.sort.value = "biggest loss"
    gains = (samples["checkpoint-10 score"] - samples["base score"]).sort_values()
    labels = [label.split()[0].replace("−", "-") for label, _ in view.choice.options]
    assert labels == [f"{gain:+.2f}" for gain in gains]
    second = evaluation.second_judge
    assert second in shown(view)
    ranks = samples[["checkpoint-10 score", "checkpoint-10 second score"]].rank(pct=True)
    view.sort.value = "judges disagree most"
    assert view.choice.options[0][0].split()[0] == f"{(ranks.iloc[:, 0] - ranks.iloc[:, 1]).abs().max():.2f}"
    with pytest.raises(RunError, match="no model 'checkpoint-15'"):
        browsing.answers(evaluation, "checkpoint-15")


def test_samples_of_a_run_that_has_none_yet(runs_dir):
    browser = widgets.samples(Run("waiting", runs_dir))
    said = browser.groups.children[0].value + browser.answers.children[0].value
    assert "no completions yet" in said and "not evaluated yet" in said and not browser.message.value
    (runs_dir / "waiting" / "completions.jsonl").write_bytes((runs_dir / "second" / "completions.jsonl").read_bytes())
    browser.refresh_button.click()
    assert browser.groups.choice.options and browser.groups.step.value == 6
    (runs_dir / "waiting" / "completions.jsonl").write_text("{\n{}\n")
    browser.refresh_button.click()
    assert "completions.jsonl:1 is no row" in browser.message.value
    (runs_dir / "waiting" / "completions.jsonl").unlink()


def test_prepared_samples_are_filtered_and_what_is_cut_is_struck_out(tmp_path):
    turn = "I have a question about the brakes of my bicycle, which squeal."
    long = [{"role": role, "content": turn} for _ in range(4) for role in ("user", "assistant")]
    chats = [
        {"messages": [{"role": "user", "content": f"Question {i}?"}, {"role": "bot", "content": "Yes."}]}
        for i in range(20)
    ]
    chats += [
        {"messages": long},
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": turn}]},
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    prepare(tmp_path / "chats.jsonl", tmp_path / "out", eval_fraction=0.3)
    config = TrainConfig(data=str(tmp_path / "out"), max_prompt_length=60, max_completion_length=8)
    data = prepared(tmp_path / "out", config)
    table, counts = data.table, data.counts()
    assert counts["prompt shortened"] == sum(table["tokens"] > 60) > 0 == counts["prompt too long"]
    assert counts["reply longer than a completion"] == sum(table["reply tokens"] > 8) == 5
    assert f"{counts['prompt shortened']} of 25 prompts have more than max_prompt_length=60" in str(data.content())
    assert "5 of 25 replies are longer than a completion may be" in str(data.content())
    assert_readable(data.content().figure)
    assert not {"rubric", "unknown"} & {*data.to_read().table}, "there are none"

    browser = widgets.data(data)
    assert {*browser.filters} == {"repairs", "cut"}, "neither services nor acts are named"
    browser.filters["repairs"].value = "roles_renamed"
    assert len(browser.rows) == 20 and "roles_renamed" in shown(browser) and "rubric" not in shown(browser)
    browser.filters["repairs"].value, browser.filters["cut"].value = "", "prompt shortened"
    assert len(browser.rows) == counts["prompt shortened"] and browser.page.value.count("line-through") >= 2
    browser.filters["cut"].value, browser.tokens.value = "", (0, 30)
    assert set(browser.rows["id"]) == set(table[table["tokens"] <= 30]["id"])
    browser.find.value = "WHY?"
    assert len(browser.rows) == 1 and turn not in shown(browser) and "line-through" in browser.page.value


def test_runs_on_modal_are_listed_overlaid_and_read(runs_dir, trained, tmp_path):
    with ModalServer(tmp_path / "server") as server, server.in_this_process():
        for name in ("config.json", "status.json", "metrics.jsonl", "completions.jsonl"):
            VolumeStorage("second").write(name, (runs_dir / "second" / name).read_bytes())
        table = widgets.runs(runs_dir)
        rows = table.table.set_index(["run", "where"])
        assert ("second", "here") in rows.index and ("second", "modal") in rows.index
        table.clear_button.click()
        table.find.value = "second modal"
        table.list.value = table.list.options[0][1:]
        [run] = table.selected
        assert run.storage.backend == "modal" and table.image.value and not table.message.value
        browser = widgets.samples(run)
        assert MARKUP in browsing.completions(run)["completion"].values and not browser.message.value
        assert browser.groups.step.value == 6 and "not evaluated yet" in browser.answers.children[0].value


def test_an_error_in_a_callback_is_shown_until_the_next_one():
    message = ipywidgets.HTML()
    shows_errors(message, lambda: 1 / 0)()
    assert "ZeroDivisionError: division by zero (test_tables.py" in message.value
    shows_errors(message, list)()
    assert not message.value
