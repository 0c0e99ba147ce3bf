"""The notebooks in JupyterLab and a real browser, clicked and typed in as a person would.

Pictures of what was seen are kept in test-artifacts/: look at them.
"""

import json
import re
import shutil
import sys
import threading

import nbformat
import papermill
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import ROOT, wait_until
from judge_server import JudgeServer, says
from jupyter_lab import CHROMIUM, SECONDS, SIZE, Lab, jupyter_lab
from playwright.sync_api import Locator, expect

import grpo_kit as kit
from grpo_kit.backends.run import Run, runs_under_way
from grpo_kit.data.samples import read_samples
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.judges.labels import LabelFile
from grpo_kit.runs.directory import checkpoint_step

sys.path.insert(0, str(ROOT / "notebooks"))
from build import KERNEL, read_text_notebook

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here; apt-get install chromium brings it")
expect.set_options(timeout=SECONDS * 1000)


# Two judges, who differ more and more on twelve answers to six prompts.
LABELLING = """
from grpo_kit import widgets
from grpo_kit.data.samples import read_samples

samples = list(read_samples("{data}/eval.jsonl"))[:6]
answers = {{sample.id: [sample.ground_truth, f"Well, {{sample.ground_truth}}"] for sample in samples}}
keys = [(name, text) for name, texts in answers.items() for text in texts]
scores = {{"offline": {{key: i / 11 for i, key in enumerate(keys)}}, "other": {{key: 0.5 for key in keys}}}}
panel = widgets.labels(samples, answers, scores=scores, labeller="Ann")
panel
"""

# The judge reads the rubric: what share of its words does the reply have?
REWARD_LAB = """
from grpo_kit import JudgeConfig, widgets

config = JudgeConfig(judge_model="gpt-5-mini", judge_base_url="{url}/v1", judge_input_price=1, judge_output_price=2)
answers = {{"demo_00000:1": ["Which day would you like?"]}}
lab = widgets.reward_lab("{data}", "openai", config, answers, out="lab")
lab
"""


def judges_by_the_rubric(request):
    rubric = set(re.findall(r"\w+", re.search(r"<criteria (\w+)>\n(.*?)\n</", request.prompt, re.DOTALL)[2].lower()))
    said = set(re.findall(r"\w+", request.replies[0].lower()))
    share = len(rubric & said) / len(rubric)
    strict = 0.5 if "Be stricter." in request.prompt else 1
    return says(json.dumps({"analysis": f"Has {share:.0%} of it.", "criteria": [], "score": share * strict}))


@pytest.fixture(scope="module")
def server():
    with JudgeServer(judges_by_the_rubric) as server:
        yield server


@pytest.fixture(scope="module")
def opened(tmp_path_factory, demo_data, trained, server):
    """JupyterLab on a folder with the notebooks, not yet executed, and a trained run."""
    folder = tmp_path_factory.mktemp("lab") / "work"
    shutil.copytree(trained.path, folder / "runs" / trained.id)
    parameters = {
        "02_prototype_rewards": {"data": str(demo_data), "n": 8, "repeats": 2},
        "03_launch_training": {"data": str(demo_data), "max_steps": 2_000},
        "04_evaluate_checkpoints": {"n": 16},
    }
    for name, values in parameters.items():
        path = folder / f"{name}.ipynb"
        nbformat.write(read_text_notebook(ROOT / "notebooks" / f"{name}.py"), path)
        papermill.execute_notebook(path, path, parameters=values, prepare_only=True)
    panels = {
        "labels": LABELLING.format(data=demo_data),
        "reward_lab": REWARD_LAB.format(url=server.url, data=demo_data),
    }
    for name, source in panels.items():
        cells = [nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), folder / f"{name}.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"STANDIN": "trainer", "STANDIN_SECONDS": "0.5"}.items():
            patch.setenv(name, value)
        with jupyter_lab(folder, tmp_path_factory.mktemp("jupyter")) as lab:
            yield lab


@pytest.fixture
def lab(opened, request):
    yield opened
    for run in runs_under_way(opened.folder / "runs"):  # however the test ended
        run.kill()
    opened.screenshot(f"{request.node.name.split('_')[1]}-end")
    opened.close()


def assert_nothing_failed(lab: Lab) -> None:
    cells = lab.cells()
    assert not [cell.text for cell in cells if cell.failed]
    assert all(cell.count for cell in cells if cell.is_code)


# Texts and boxes of panels that are cut, or have a scroll bar; tables and long prompts are to be scrolled.
IS_CUT = """() => [...document.querySelectorAll(":is(.grpo-kit-helped, .grpo-kit-live) :not(input)")].filter(each => {
    if (each.closest(".grpo-kit-table, [tabindex]:not([role])")) return false;
    const look = getComputedStyle(each), [wide, high] = [each.scrollWidth, each.scrollHeight];
    const cuts = look.display !== "inline" && (look.overflowX !== "visible" || look.overflowY !== "visible");
    return cuts && each.clientWidth && (wide > each.clientWidth + 1 || high > each.clientHeight + 1);
}).map(each => each.outerHTML.slice(0, 200))"""
NO_HELP = """() => [...document.querySelectorAll(".grpo-kit-helped :is(input, select, button, [role=slider])")]
    .filter(each => !each.title).map(each => each.outerHTML)"""


def assert_is_accessible(lab: Lab, part: str) -> None:
    found = Axe().run(lab.page, context=part).response["violations"]
    assert not [(each["id"], each["nodes"]) for each in found if each["impact"] in ("serious", "critical")]


def test_02_scores_again_after_an_edit_in_its_panel_and_data_are_searched(lab, demo_data):
    lab.open("02_prototype_rewards.ipynb")
    lab.run_all()
    assert_nothing_failed(lab)
    assert lab.cells()[-2].figures
    lab.show(lab.find("widgets.reward_lab("))
    panel = lab.notebook.locator(".grpo-kit-keys", has=lab.page.locator(".grpo-kit-results"))
    results, acts = panel.locator(".grpo-kit-results"), panel.get_by_placeholder("REQUEST city")
    acts.press("Control+Enter")
    expect(results).to_contain_text("the model’s answer 2")
    panel.locator("textarea").nth(1).fill("I found 6. I suggest Avalanche in Station. Is there anything else?")
    acts.fill(f"{acts.input_value()}\nREQ_MORE")
    acts.press("Control+Enter")
    expect(results).to_contain_text(re.compile("before: 1: as in the data1.00.*after: 2: reference, acts edited0.75"))
    expect(results).to_contain_text("asks what else: no")
    lab.screenshot("02-panel")

    *_, wanted = read_samples(demo_data / "train.jsonl")
    browsing = lab.add_cell(f"from grpo_kit import widgets\nwidgets.data({str(demo_data)!r})")
    page = lab.notebook.locator(".widget-html-content", has_text="(train.jsonl, line ")
    expect(page).to_be_visible()
    expect(page).not_to_contain_text(f"{wanted.id} (")
    search = lab.notebook.get_by_placeholder("find in any text, Enter").last
    search.fill(wanted.id)
    search.press("Enter")
    expect(page).to_contain_text(f"{wanted.id} (train.jsonl, line ")
    expect(page).to_contain_text(wanted.ground_truth)
    search.fill("")
    search.press("Enter")
    service = lab.notebook.locator(".widget-dropdown", has_text="service").last.locator("select")
    service.select_option("Hotels_1")
    files = [demo_data / name for name in ("train.jsonl", "eval.jsonl")]
    hotels = sum("Hotels_1" in sample.services for file in files for sample in read_samples(file))
    expect(lab.notebook.get_by_text(f"1 / 200 (of {hotels})")).to_be_visible()
    service.blur()  # else Control+s is the control's
    lab.show(browsing)
    lab.screenshot("02-data")


def test_labels_are_given_by_keyboard_past_a_reload_and_judges_agree_with_them(lab):
    lab.open("labels.ipynb")
    lab.run_all()
    assert_nothing_failed(lab)
    file, number_of_cells = LabelFile(lab.folder / "labels.csv"), len(lab.cells())
    panel = lab.notebook.locator(".grpo-kit-keys")
    page, count, agreed = (panel.locator(f".grpo-kit-{name}") for name in ("page", "count", "agreement"))

    def press(keys: str, labelled: int, of: int = 12) -> None:
        """Presses the keys, and waits after each for another answer."""
        for key in keys:
            shown = page.inner_text()
            lab.page.keyboard.press(key)
            expect(page).not_to_have_text(shown, use_inner_text=True)
        expect(count).to_contain_text(f"{labelled} of {of} labelled")

    count.click()
    press("5142", 4)
    lab.page.keyboard.press("x")  # would cut the cell
    lab.page.keyboard.press("n")
    lab.page.keyboard.type("as it was said: 5")
    lab.page.keyboard.press("Enter")
    press("3", 5)
    lab.screenshot("labels")

    lab.save()
    lab.reload()
    expect(count).to_contain_text("5 of 12 labelled")
    count.click()
    press("2su", 6)
    press("4513", 10)
    rows = file.read()
    assert [row.label for row in rows] == [5, 1, 4, 2, 3, 2, 4, 5, 1, 3]
    assert [row.note for row in rows] == [*[""] * 4, "as it was said: 5", *[""] * 5]
    assert {row.labeller for row in rows} == {"Ann"} and len({row.question for row in rows}) == 10
    expect(agreed).to_contain_text(re.compile(r"offline\s*10\s*-?\d\.\d\d \["))

    panel.get_by_role("button", name="choose a or b").click()
    expect(count).to_contain_text("0 of 6 labelled")
    press("atb", 3, 6)
    lab.screenshot("labels-choices")
    assert [row.preference for row in file.read()[10:]] == ["a", "tie", "b"]
    assert len(lab.cells()) == number_of_cells, "JupyterLab hears no a and no x from the panel"


def test_rewardlab_scores_before_and_after_an_edit_and_keeps_what_was_saved_past_a_reload(lab, server):
    lab.open("reward_lab.ipynb")
    lab.run_all()
    assert_nothing_failed(lab)
    panel = lab.notebook.locator(".grpo-kit-keys")
    results, state, message = (panel.locator(f".grpo-kit-{name}") for name in ("results", "state", "message"))
    rubric = panel.get_by_placeholder("What a good reply must do")
    expect(panel.locator(".widget-html-content", has_text="it reads the rubric and the prompt")).to_be_visible()
    panel.get_by_placeholder("An answer of your own").fill("I suggest Avalanche.")
    lab.button("Score").click()
    expect(state).to_contain_text("It cost 10 calls, 1,250 tokens, $0.0015")
    own = rubric.input_value()
    assert own.startswith("offer: the name is Avalanche") and "canary: rubric echo" in results.inner_text()

    # Scored by keyboard, while the kernel does something else.
    go_on, at_once = threading.Event(), server.reply
    server.reply = lambda request: (go_on.wait(), at_once(request))[1]
    rubric.fill("I suggest a film")
    rubric.press("Control+Enter")
    expect(state).to_contain_text("Scoring …")
    other = lab.add_cell("import time; time.sleep(2); 1 + 1")
    lab.wait_for_cell(other)
    assert lab.cells()[other].text == "2" and "Scoring" in state.inner_text()
    go_on.set()
    expect(results).to_contain_text("after: 2: rubric edited")
    expect(results).to_contain_text("before: 1: as in the data")
    expect(state).to_contain_text("It cost 11 calls")
    trace = results.inner_text().partition("the model’s answer 1")[0]
    assert re.search(r"as in the data\s+0\.\d\d.*rubric edited\s+0\.50\s+[+−]0\.\d\d", trace, re.DOTALL), trace
    lab.show(0)
    lab.screenshot("rewardlab")

    prompt = panel.locator("textarea").nth(2)
    prompt.fill(f"{prompt.input_value()}\nBe stricter.")
    python = panel.get_by_placeholder("def polite")
    python.fill("def endless(completions):\n    while True:\n        pass")
    python.press("Control+Enter")
    expect(state).to_contain_text("Scoring …")
    lab.button("Stop").click()
    expect(state).to_contain_text("Stopped.")
    python.fill("def films(completions, **_):\n    return [float('film' in each[-1]['text']) for each in completions]")
    python.press("Control+Enter")
    expect(message).to_contain_text("KeyError: 'text' (reward.py, line 2): return [float(")
    python.fill(python.input_value().replace("'text'", "'content'"))
    lab.button("Score").click()  # scores what is on the screen, though the text's own message may come later
    expect(results).to_contain_text("prompt, reward edited")
    expect(results).to_contain_text("Python 0.00")
    python.press("Escape")
    lab.page.keyboard.press("s")
    expect(message).to_contain_text("kit.train(config, rewards=[runpy.run_path('lab/reward.py')['films']])")
    saved = next(iter(read_samples(lab.folder / "lab" / "data" / "train.jsonl")))
    assert saved.rubric == "I suggest a film" and (lab.folder / "lab" / "data" / "eval.jsonl").exists()
    assert (lab.folder / "lab" / "prompt.txt").read_text().endswith("Be stricter.")

    asked = len(server.requests)
    lab.save()
    lab.reload()
    expect(results).to_contain_text("prompt, reward edited")
    expect(rubric).to_have_value("I suggest a film")
    panel.locator(".grpo-kit-keys-help").click()
    for _ in range(4):  # past the one that failed and the one that was stopped
        lab.page.keyboard.press("b")
    expect(results).not_to_contain_text("after: ")
    expect(rubric).to_have_value(own)
    lab.page.set_viewport_size({"width": 800, "height": 1800})
    lab.page.keyboard.press("f")
    expect(results).to_contain_text("after: 2: rubric edited")
    lab.show(0)
    lab.screenshot("rewardlab-narrow")
    lab.page.set_viewport_size(SIZE)
    assert len(server.requests) == asked and len(lab.cells()) == 2


def test_04_shows_the_figure_and_ends_with_the_comparison(lab, trained):
    lab.open("04_evaluate_checkpoints.ipynb")
    lab.run_all()
    assert_nothing_failed(lab)
    cells = lab.cells()
    lab.show(next(number for number, cell in enumerate(cells) if cell.figures))
    lab.screenshot("04-figures")
    assert sum(len(cell.figures) for cell in cells) >= 2
    assert re.search(
        r"^base 0\.\d+ trained 0\.\d+ difference [+-]0\.\d+ \[.*\] \(n=16\)$", cells[-1].text, re.MULTILINE
    )
    [file] = (lab.folder / "runs" / trained.id / "eval").glob("n16*[0-9].json")
    assert Evaluation.load(file).chosen() in cells[-1].text
    box, said = lab.notebook.get_by_placeholder("Say something, Enter"), lab.notebook.locator(".widget-html-content")
    lab.show(lab.find("widgets.talk("))
    for text in ("I need a room in Paris.", "On Friday."):
        box.fill(text)
        box.press("Enter")
        expect(said.filter(has_text=text)).not_to_contain_text("is answering")
        expect(said.filter(has_text=text)).to_contain_text(re.compile(f"{re.escape(text)}\\s*assistant"))
    expect(said.filter(has_text="On Friday.")).to_contain_text("I need a room in Paris.")
    lab.screenshot("04-talk")


def use_the_hub(lab: Lab, hub: Locator, trained: Run, hidden: Locator) -> None:
    """Selects, compares, clones and deletes runs in the table of them, `hub`."""
    folder, cells = lab.folder / "runs", len(lab.cells())
    lab.show(lab.find("widgets.runs("))
    expect(hidden).to_be_hidden()  # the browser has remembered it
    shutil.copytree(folder / trained.id, folder / "other")
    other, first = (lab.page.get_by_label(f"select {name}", exact=True) for name in ("other", trained.id))
    hub.get_by_role("searchbox").fill("reward>=much")
    expect(hub.get_by_role("status").first).to_contain_text("not understood: reward>=much")
    hub.get_by_role("searchbox").fill("state:complete reward>=0.1")
    expect(hub.locator("tbody tr:visible")).to_have_count(2)  # the copy came by itself
    hub.locator("tr", has=other).get_by_text("complete").click()
    other.press("ArrowDown")
    if not first.evaluate("tick => tick === document.activeElement"):
        other.press("ArrowUp")
    first.press("x")  # would cut the cell
    first.press("Space")
    expect(hub.get_by_role("status")).to_have_text("2 of 3 shown, 2 selected")
    for name in ("other", trained.id):
        expect(hub.locator(".grpo-kit-curves .legend").first).to_contain_text(name)
    hub.get_by_role("button", name="reward").click()
    expect(hub.get_by_role("columnheader", name="reward")).to_have_attribute("aria-sort", "descending")
    lab.screenshot("03-hub")
    assert not lab.page.evaluate(IS_CUT)
    assert_is_accessible(lab, ".grpo-kit-hub")

    hub.get_by_role("tab", name="Side by side").click()
    expect(hub.locator("th:visible", has_text=re.compile("^other: "))).to_be_visible()
    expect(hub.locator("th:visible", has_text=re.compile(f"^{trained.id}: "))).to_be_visible()
    lab.screenshot("03-side-by-side")
    assert_is_accessible(lab, ".grpo-kit-hub")

    hub.locator("tr", has=other).get_by_text("complete").click()
    hub.get_by_role("button", name="Clone into panel").click()
    expect(hub.locator(".grpo-kit-quote")).to_contain_text("max_steps=20")
    assert_is_accessible(lab, ".grpo-kit-hub")
    lab.screenshot("03-cloned")
    hub.get_by_role("button", name="Delete", exact=True).click()
    expect(hub.get_by_text("Delete other for good?")).to_be_visible()
    assert (folder / "other").exists()
    hub.get_by_role("button", name="Delete for good").click()
    expect(other).to_have_count(0)
    assert not (folder / "other").exists() and len(lab.cells()) == cells


def watch_stop_and_resume_in_the_hub(lab: Lab, hub: Locator, run: Run) -> None:
    """Of `run`, which is under way, by the buttons below the table of runs."""
    lab.show(lab.find("widgets.runs("))
    verbs, row = hub.locator(".widget-hbox").first, hub.locator("tr", has=lab.page.get_by_label(f"select {run.id}"))
    stop, resume = (verbs.get_by_role("button", name=name, exact=True) for name in ("Stop", "Resume"))
    hub.get_by_role("searchbox").fill("")
    row.get_by_text("running").click()
    verbs.get_by_role("button", name="Watch", exact=True).click()
    curves = hub.locator(".grpo-kit-curves:visible")
    expect(curves).not_to_have_attribute("data-step", "-Infinity")
    shown = curves.get_attribute("data-step")
    expect(curves).not_to_have_attribute("data-step", shown)
    assert int(curves.get_attribute("data-step")) > int(shown), "it is live"
    assert_is_accessible(lab, ".grpo-kit-hub")
    lab.screenshot("03-hub-watch")

    expect(resume).to_be_disabled()
    stop.click()
    expect(row).to_contain_text("stopped")  # by itself, and so below
    assert run.status["state"] == "stopped"
    expect(stop).to_be_disabled()
    stopped = run.status["step"]
    resume.click()
    expect(hub.locator(".widget-html", has_text=f"{run.id}: goes on from the last checkpoint.")).to_be_visible()
    expect(row).to_contain_text("running")
    wait_until(lambda: int(curves.get_attribute("data-step")) > stopped)
    lab.screenshot("03-hub-resumed")


def test_03_launches_a_run_watches_it_past_a_reload_stops_and_resumes_it(lab, trained):
    lab.open("03_launch_training.ipynb")
    lab.run_all()
    assert_nothing_failed(lab)
    launching = lab.find("widgets.launch_panel(")
    lab.show(launching)
    for width in (1000, 1900, 1400):
        lab.page.set_viewport_size({"width": width, "height": 1000})
        for fold in lab.notebook.locator(".jupyter-widget-Collapse-header").all():
            fold.press("Enter")
            expect(fold).to_have_attribute("aria-expanded", "true")
            assert not lab.page.evaluate(IS_CUT)
        lab.screenshot(f"03-panel-{width}")
        fold.press("Space")
    assert not lab.page.evaluate(NO_HELP)
    lab.show(launching)

    quote, generations = lab.notebook.locator(".grpo-kit-quote"), lab.slider("num_generations")
    expect(quote).to_contain_text("4 prompts with 8 completions")
    generations.focus()
    generations.press("ArrowRight")
    expect(quote).to_contain_text("4 prompts with 9 completions")
    for _ in range(7):
        generations.press("ArrowRight")
    expect(generations).to_have_attribute("aria-valuenow", "16.0")
    expect(quote).to_contain_text("2 prompts with 16 completions")

    panel = lab.notebook.locator(".grpo-kit-helped").first
    message, progress = panel.locator(".grpo-kit-message"), panel.locator(".grpo-kit-progress")
    lab.button("Launch").dblclick()
    expect(progress).to_contain_text(re.compile(r"step 0/2000 · [a-zA-Z ]+, \d+ s"))
    picture = lab.next_picture(launching)
    expect(lab.button("Launch")).to_be_in_viewport()
    expect(panel.locator(".grpo-kit-curves")).to_be_in_viewport()
    lab.screenshot("03-live")
    assert_is_accessible(lab, ".grpo-kit-helped")
    (run_id,) = set(kit.runs(lab.folder / "runs")["run"]) - {trained.id}
    run = Run(run_id, lab.folder / "runs")
    assert run.config.num_generations == 16 and run.config.max_steps == 2_000
    lab.button("Launch").dblclick()
    expect(message).to_contain_text(f"Run {run_id} is under way: this would be one more\nClick Launch again")

    # The panel goes on while the kernel is busy with another cell, which ends only when it is told to.
    busy = lab.add_cell("import time\nwhile not Path('enough').exists():\n    time.sleep(0.1)")
    lab.next_picture(launching, picture)
    assert lab.is_running(busy)
    (lab.folder / "enough").touch()
    lab.wait_for_cell(busy)

    hub = lab.notebook.locator(".grpo-kit-hub")
    seed = hub.get_by_role("columnheader", name="seed")
    lab.show(lab.find("widgets.runs("))
    hub.get_by_text("Columns").click()
    hub.get_by_label("seed").click()
    expect(seed).to_be_hidden()
    hub.get_by_label("seed").blur()  # else Control+s is the box's

    lab.save()
    lab.reload()
    lab.show(launching)
    lab.next_picture(launching, lab.next_picture(launching))
    lab.screenshot("03-reloaded")

    lab.button("Stop").first.click()
    expect(message).to_contain_text("is stopped")
    lab.screenshot("03-stopped")
    stopped = run.status
    assert stopped["state"] == "stopped" and 0 < stopped["step"] < 2_000
    assert checkpoint_step(run.checkpoints[-1]) == stopped["step"]

    # A point of the curve is pointed at, and clicked: its step's completions open.
    curves = lab.notebook.locator(".grpo-kit-curves").first
    reward, tip = curves.locator(".plot").first, curves.locator(".tip")
    reward.hover(position={"x": 300, "y": 90})
    expect(tip).to_contain_text(re.compile(rf"{run_id}, step [\d,]+.*mean: 0\.\d", re.DOTALL))
    step = re.search(r"step ([\d,]+)", tip.inner_text())[1].replace(",", "")
    reward.click(position={"x": 300, "y": 90})
    opened = lab.notebook.locator(".widget-html-content", has_text=re.compile(r"Step [\d,]+: click its point again"))
    expect(opened).to_contain_text(f"Step {step}: ")
    expect(opened.get_by_text("Step")).to_be_in_viewport()
    lab.screenshot("03-clicked")
    curves.locator(".plot").first.press("ArrowRight")
    curves.locator(".plot").first.press("Enter")
    expect(opened).to_contain_text(f"Step {int(step) + 1}: ")
    lab.theme("JupyterLab Dark")
    colour, page = curves.locator(".plot text").first.evaluate(
        "text => [getComputedStyle(text).fill, getComputedStyle(document.body).getPropertyValue('--jp-layout-color0')]"
    )
    assert colour.startswith("rgba(255, 255, 255") and page == "#111", "light on dark"
    lab.screenshot("03-dark")
    lab.page.set_viewport_size({"width": 1000, "height": 1000})
    for name, text in {"hub": "widgets.runs(", "samples": "widgets.samples(", "result": "savefig("}.items():
        lab.show(lab.find(text))
        lab.screenshot(f"03-dark-{name}")
    lab.page.set_viewport_size({"width": 1400, "height": 1000})
    lab.theme("JupyterLab Light")

    # The sections below have filled in by themselves; run again they are plain, which a saved notebook keeps.
    shown = {"samples": "widgets.samples(", "result": "savefig("}
    for name, text in shown.items():
        lab.show(lab.find(text))
        lab.screenshot(f"03-{name}")
    expect(lab.notebook.get_by_text(f"runs/{run.id}/learning_curve.png")).to_be_visible()
    assert json.loads((run.path / "result.json").read_text())["settings"]["num_generations"] == 16
    lab.run_from(lab.find("widgets.runs("))
    assert_nothing_failed(lab)
    assert "learning_curve.png" in lab.cells()[lab.find(shown["result"])].text

    use_the_hub(lab, hub, trained, seed)
    lab.show(launching)
    picture = lab.next_picture(launching)
    lab.button("Resume").first.click()
    while run.status["step"] == stopped["step"]:
        picture = lab.next_picture(launching, picture)
    assert run.status["state"] == "running"

    watch_stop_and_resume_in_the_hub(lab, hub, run)
    expect(message).to_contain_text(f"Run {run_id} goes on")  # in the panel that launched it too
    expect(lab.button("Stop").first).to_be_enabled()
    lab.restart_kernel()
    expect(panel.get_by_role("status").first).to_contain_text("The kernel is gone: run this cell again.")
    lab.show(launching)
    lab.screenshot("03-kernel-gone")
    for number, cell in enumerate(lab.cells()[: launching + 1]):
        if cell.is_code:  # the parameters too
            lab.run(number)
    lab.button(f"Watch {run_id}").click()
    picture = lab.next_picture(launching)
    lab.next_picture(launching, picture)
    lab.screenshot("03-another-kernel")
    lab.button("Stop").first.click()
    expect(message).to_contain_text("is stopped")
