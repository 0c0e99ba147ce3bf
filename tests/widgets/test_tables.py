"""Shows that the table of runs and the browser of samples show and choose what they say, with no browser."""

import html
import json
import re
import shutil
import threading

import ipywidgets
import pandas
import pytest
from figures import assert_readable
from helpers import wait_until
from modal_server import ModalServer

from grpo_kit import TrainConfig, evaluate, plots, prepare, prepared, train, widgets
from grpo_kit.backends.modal.storage import VolumeStorage
from grpo_kit.backends.run import Run
from grpo_kit.errors import RunError
from grpo_kit.plots.runs import compare_runs
from grpo_kit.runs.directory import now
from grpo_kit.runs.writer import open_run
from grpo_kit.widgets import tables as browsing
from grpo_kit.widgets.parts import Panel, shows_errors, text_html

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


def cells(table) -> list[list[str]]:
    """The rows of a hub's table as they are read."""
    rows = re.findall(r"<tr data-key.*?</tr>", table.list.html)
    return [[html.unescape(text) for text in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def test_runs_are_listed_as_they_go_on_and_those_selected_are_drawn(runs_dir, trained, tmp_path):
    folder = shutil.copytree(runs_dir, tmp_path / "runs")
    waiting = json.loads((folder / "waiting" / "status.json").read_text())
    (folder / "waiting" / "status.json").write_text(json.dumps(waiting | {"heartbeat": now()}))  # else it may be lost
    table = widgets.runs(folder)
    assert [row[0] for row in cells(table)] == ["waiting", "second", trained.id]  # newest first
    assert {run.id for run in table.selected} == {trained.id, "second", "waiting"} and table.watch_button.disabled
    steps = trained.metrics()["reward"].tail(3)
    reward = f"{steps.mean():.2f} ± {steps.std():.2f}"
    assert cells(table)[-1][2:5] == ["complete", "20/20", reward], "the curve's end, and not one step's noise"
    quoted = trained.status["quoted"]
    assert re.fullmatch(r".* \(.* to .*\)", cells(table)[-1][6]) and quoted["minutes_low"] < quoted["minutes"]
    assert [run.id for run in table.curves.shown] == ["waiting", "second", trained.id]
    table.curves.picked = [2, 20]
    assert "Step 20: click its point again" in table.picked.value

    table.list.ticked = ["here second"]
    assert [run.id for run in table.curves.shown] == ["second"] and not table.watch_button.disabled
    assert not table.picked.value and "data:image/png" in table.still()
    assert '<th scope="col" align="left">started' in table.list.html and ">started<" not in table.still()
    assert table.resume_button.disabled and table.stop_button.disabled and not table.delete_button.disabled
    table.list.ticked = ["here waiting"]
    assert table.resume_button.disabled and not table.stop_button.disabled and table.delete_button.disabled

    status = json.loads((folder / "second" / "status.json").read_text())
    (folder / "second" / "status.json").write_text(json.dumps(status | {"state": "stopped", "step": 5}))
    shutil.copytree(folder / "second", folder / "another")
    shutil.rmtree(folder / "waiting")
    names = {trained.id, "second", "another"}
    wait_until(lambda: {row[0] for row in cells(table)} == names and "Select runs" in table.picked.value)
    assert {tuple(row[2:4]) for row in cells(table)} == {("complete", "20/20"), ("stopped", "5/6")}
    wait_until(lambda: not table.message.value, "a run half copied, or half deleted, is an error until it's read again")
    assert table.selected == []


def test_a_run_is_cloned_into_a_panel_and_deleted_only_when_it_was_asked(runs_dir, trained, tmp_path):
    table = widgets.runs(shutil.copytree(runs_dir, tmp_path / "runs"))
    table.list.ticked = ["here second"]
    table.clone_button.click()
    config, given = table.selected[0].config, table.panel.config.given
    assert table.panel.config.replace(run_id="second") == config and "run_id" not in given
    assert given["learning_rate"] == 1e-3 and "num_generations" not in given, "the recipe fills in the rest"
    assert "Its own reward functions" in table.message.value
    table.from_its_end.value = True
    table.clone_button.click()
    assert table.panel.config.model_name == "second" and table.panel.config.max_steps == 6

    table.delete_button.click()
    assert "Delete second for good?" in table._question.value and table.asking.layout.display is None
    table.keep_button.click()
    assert table.asking.layout.display == "none" and len(table.table) == 3
    table.delete_button.click()
    table.sure_button.click()
    assert [row[0] for row in cells(table)] == ["waiting", trained.id] and not (tmp_path / "runs" / "second").exists()


def test_answers_of_several_runs_stand_side_by_side(runs_dir, trained, tmp_path):
    folder = shutil.copytree(runs_dir, tmp_path / "runs")
    other = trained.download(folder / "other")
    evaluation = shutil.copytree(folder / trained.id / "eval", other.path / "eval")
    [file] = evaluation.glob("*.samples.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    last = rows[-1]["answers"]["checkpoint-20"]
    last |= {"answer": "Nothing else.", "score": 1.0 - last["score"]}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))

    table = widgets.runs(folder)
    view = table.samples
    table.tabs.selected_index = 1
    table.list.ticked = [f"here {trained.id}", "here other"]
    assert view.names == ["base", f"{trained.id}: checkpoint-20", "other: checkpoint-20"]
    assert len(view.rows) == len(rows) - 1, "the prompts that both have answered"
    view.columns.children[0].value = False  # base
    assert view.rows["id"].iloc[0] == rows[-1]["id"] and rows[-1]["ground_truth"] in shown(view)
    view.least.value = 0.01
    assert view.rows["id"].tolist() == [rows[-1]["id"]] and "Nothing else." in shown(view)
    view.pin.value = True
    view.least.value = 0
    view.next.click()
    assert not view.pin.value and f"{rows[-1]['id']}, pinned" in shown(view) and view.rows["id"].iloc[1] in shown(view)

    table.list.ticked = [f"here {trained.id}", "here second"]  # which is not evaluated
    assert view.names == [f"{trained.id}: training", "second: training"]
    both = set(trained.completions()["sample_id"]) & set(Run("second", folder).completions()["sample_id"])
    assert set(view.table["id"]) == both
    table.list.ticked = ["here second"]
    assert "Select two runs" in view.children[0].value


def test_a_table_is_read_by_people(runs_dir, trained):
    [evaluation] = Run(trained.id, runs_dir).evaluations()
    told, last = str(plots.scores(evaluation)), evaluation.summary().iloc[-1]
    heads, base, *_, row = told.splitlines()
    assert re.split("  +", heads) == "model,chosen,mean [95%],difference [95%],words,not judged,wins".split(",")
    assert "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**last) in row and base.startswith("base   ")
    assert not any(word in told for word in ("_", "nan", "<NA>"))
    pooled = pandas.DataFrame([{"learning_rate": 5e-4, "sd": 0.1, "low": 0.25, "high": 0.5, "error": None}])
    pooled = str(plots.table(pooled, low="worst"))
    assert pooled.split() == "learning rate sd worst highest 0.0005 0.10 0.25 0.50".split()
    rewards = pandas.DataFrame({"rewards": [{"call": 1.0, "offline": None}], "reason": ["\x1b[2Jno\u202e"]})
    assert str(plots.table(rewards)).splitlines()[-1] == "call 1.00, offline none  no"
    assert text_html("\x1b[2Ja\u202eb\x00").endswith(">ab</div>")
    page = plots.table(pandas.DataFrame({"asked": [MARKUP * 9], "score": [0.5]}))._repr_html_()
    assert html.escape(MARKUP) in page and "<script>" not in page and page.count("<details>") == 1
    assert 'align="right" data-order="0.5"' in page


def test_runs_that_are_not_there_or_are_broken_are_said(runs_dir, tmp_path):
    empty = widgets.runs(tmp_path / "none")
    assert "No runs under" in empty.note.value and not empty.message.value and empty.selected == []

    broken = shutil.copytree(runs_dir, tmp_path / "runs")
    (broken / "waiting" / "status.json").write_text("{")
    table = widgets.runs(broken)
    assert "status.json can't be read" in html.unescape(table.note.value) and len(table.table) == 3
    (broken / "second" / "config.json").write_text("{}")
    table.list.ticked = []
    table.list.ticked = ["here second", "here waiting"]
    assert "config.json is missing" in table.message.value
    table.refresh_button.click()
    table.list.ticked = ["here waiting"]
    assert not table.message.value  # it goes when the same thing succeeds


def test_compared_runs_are_named_by_what_sets_them_apart(runs_dir, trained):
    found = {name: Run(name, runs_dir) for name in (trained.id, "second", "waiting")}
    figure = compare_runs(list(found.values()))
    assert_readable(figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1].startswith("seed 1, max steps 6, learning rate 0.001") and "rewards offline + brief" in labels[1]
    assert labels[2].startswith("seed 42, max steps 60") and "/" not in "".join(labels)
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
    browser = widgets.samples(trained.id, runs_dir)
    view = browser.answers
    [evaluation] = browser.run.evaluations()
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
    assert "completions.jsonl:1 is not a row" in browser.message.value
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
        table.list.ticked = ["modal second"]
        [run] = table.selected
        assert (
            run.storage.backend == "modal"
            and [each.id for each in table.curves.shown] == [run.id]
            and not table.message.value
        )
        browser = widgets.samples(run)
        assert MARKUP in browsing.completions(run)["completion"].values and not browser.message.value
        assert browser.groups.step.value == 6 and "not evaluated yet" in browser.answers.children[0].value


def test_an_error_in_a_callback_is_shown_until_the_next_one():
    message = ipywidgets.HTML()
    shows_errors(message, lambda: 1 / 0)()
    assert "ZeroDivisionError: division by zero (test_tables.py" in message.value
    shows_errors(message, list)()
    assert not message.value


def test_a_change_that_comes_while_another_thread_fills_is_not_lost():
    """JupyterLab tells of changes on several threads."""
    box, panel, seen = ipywidgets.Text(), Panel(), []
    panel.on_change([box], lambda: seen.append(box.value))
    with panel.filling():
        box.value = "by the code"
        typing = threading.Thread(target=lambda: setattr(box, "value", "typed"))
        typing.start()
        typing.join(0.1)
        assert not seen
    typing.join()
    assert seen == ["typed"]
