"""The report of a run: it opens from a file in a real browser, is browsed by keyboard, and nothing that a model wrote
runs in it; page and card hold no secret and no home, and the commands in them make the run again."""

import json
import shlex
import shutil
from pathlib import Path

import mistune
import pytest
from axe_playwright_python.sync_playwright import Axe
from jupyter_lab import ARTIFACTS, CHROMIUM, FLAGS
from playwright.sync_api import expect, sync_playwright
from ruamel.yaml import YAML

import grpo_kit as kit
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError
from grpo_kit.evaluation.result import main_evaluation
from grpo_kit.judges.labels import Label, LabelFile

HOSTILE = """</script><img src=x onerror="ran = 1"><script>ran = 1</script><!--<script>
[click](javascript:ran=1) <a href="javascript:ran=1">here</a>
```
<svg onload="ran = 1"> | a cell | {{ 7 * 7 }}"""
CONTROLS = "\x1b[2J\x00\u202e\x9b2J"  # what a terminal would act on, and what turns the order of letters


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """A copy of the run with an evaluation, of which one answer and its reason are hostile, and people's labels."""
    folder = tmp_path_factory.mktemp("report")
    run = kit.Run(shutil.copytree(trained.path, folder / "runs" / trained.id))
    path = kit.evaluate(run, n=8).samples_path
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    told = rows[0]["answers"]["checkpoint-20"]
    told |= {"answer": CONTROLS + HOSTILE, "reason": f"It says {HOSTILE}", "score": 0.0}
    rows[0]["answers"]["base"]["score"] = 1.0  # so that it is the biggest loss, which the card shows
    rows[0]["prompt"][-1]["content"] += HOSTILE
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    others = {"endpoint": {"n": 64, "endpoint": {}}, "casual": {"n": 2}}  # neither speaks for the run
    for name, other in others.items():
        about = json.loads(path.with_name(path.name.replace(".samples.jsonl", ".json")).read_text())
        path.with_name(f"{name}.json").write_text(json.dumps(about | other | {"made": "2999-01-01T00:00:00+00:00"}))
        shutil.copy(path, path.with_name(f"{name}.samples.jsonl"))
    for i, row in enumerate(rows):
        answer = row["answers"]["checkpoint-20"]["answer"]
        LabelFile(folder / "labels.csv").save(Label(row["id"], answer, label=1 + i % 5, labeller="Ann Smith"))
    return run, folder / "labels.csv"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here; apt-get install chromium brings it")
def test_it_opens_from_a_file_and_is_browsed_by_keyboard_and_nothing_in_it_runs(evaluated, tmp_path):
    run, labels = evaluated
    address, said, asked = kit.report(run, tmp_path / "out", labels).as_uri(), [], []
    ARTIFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, chromium_sandbox=False)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        place, sample = page.locator("#place"), page.locator("#sample")
        expect(place).to_have_text("1 of 8")
        page.keyboard.press("j")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("k")
        expect(place).to_have_text("2 of 8")
        page.keyboard.press("/")
        page.keyboard.type("onerror")
        expect(place).to_have_text("1 of 1")
        expect(sample.locator(".answer.base")).to_contain_text("1.00")
        assert HOSTILE in sample.locator(".answer").last.inner_text(), "every letter of it is shown"
        page.screenshot(path=ARTIFACTS / "report-hostile.png", full_page=True)
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
        page.keyboard.press("Escape")
        page.locator("#show").select_option("worse than base")
        expect(sample).to_contain_text("javascript:ran=1")
        assert page.evaluate("typeof ran") == "undefined"
        assert not page.locator("img[src=x], svg[onload], a[href^=javascript]").count()
        assert [url for url in asked if not url.startswith("data:")] == [address] and not said

        faults = Axe().run(page).response["violations"]
        assert not [fault for fault in faults if fault["impact"] in ("serious", "critical")], faults
        for width in (400, 1000, 1400):
            page.set_viewport_size({"width": width, "height": 1000})
            assert page.evaluate("document.documentElement.scrollWidth") == width, "the page as a whole does not scroll"
            page.screenshot(path=ARTIFACTS / f"report-{width}.png", full_page=True)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"
        page.wait_for_function(IN_THE_DARK)  # a browser takes a moment to choose
        faults = Axe().run(page).response["violations"]
        assert not [fault for fault in faults if fault["impact"] in ("serious", "critical")], faults
        page.screenshot(path=ARTIFACTS / "report-dark.png", full_page=True)
        browser.close()


# Each figure is the one with colours of its own for the dark.
IN_THE_DARK = """() => [...document.querySelectorAll("picture")].every(each =>
    each.querySelector("img").currentSrc === each.querySelector("source").srcset)"""


def test_the_card_is_for_the_hub_and_shows_what_a_model_wrote_as_text(evaluated, tmp_path):
    run, labels = evaluated
    page = kit.report(run, tmp_path, labels)
    card = page.with_name("model_card.md").read_text()
    for text in (page.read_text(), card):
        assert not [each for each in ("\x1b", "\x00", "\x9b", "\u202e", "\\u001b", "\\u0000") if each in text]
    assert "endpoint: base " in page.read_text() and "casual: base " in page.read_text(), "in a line each"
    front, _, text = card.removeprefix("---\n").partition("\n---\n")
    fields = YAML(typ="safe").load(front)
    assert fields["library_name"] == "peft" and {"grpo", "trl"} <= set(fields["tags"])
    assert "base_model" not in fields, "the hub has no model called tiny"
    html = mistune.create_markdown(escape=False, plugins=["table"])(text)
    assert "&lt;img src=x" in html
    assert all(word not in html for word in ("<img", "<script", "<svg", 'href="javascript'))
    evaluation = main_evaluation(run.evaluations())
    assert f"**{evaluation.line()}".partition(" [")[0] in text and "8 held-out prompts" in text
    assert ("**Warning:** No sure gain" in text) == (evaluation.trained["versus_base"]["interval"][0] <= 0)
    assert "| reference (second judge) (fewer than 10: intervals are too narrow) | scores | 8 |" in text
    assert "Ann" not in card, "people are numbered"


def test_secrets_and_homes_stay_out_and_the_commands_make_the_run_again(evaluated, tmp_path, monkeypatch, trained):
    run = kit.Run(shutil.copytree(evaluated[0].path, tmp_path / "runs" / "first"))
    home = tmp_path / "home" / "ann"
    monkeypatch.setenv("HOME", str(home))
    settings = {
        "judge": {"openai": 0.7, "offline": 1.0},
        "judge_model": "qwen3:14b",
        "judge_base_url": "https://judge.example:8000/v1?key=sk-secret",
        "notify": "TEAM_URL",
        "data": f"{home}/data",
        "num_generations": 16,
        "trl": {"epsilon_high": 0.28, "vllm_server_base_url": "http://ann:sk-secret@10.0.0.1/x"},
        "reward_funcs": {"length": 0.25},
    }
    about = run.about
    about["settings"] |= settings
    about["data"]["folder"] = settings["data"]
    (run.path / "config.json").write_text(json.dumps(about))

    out = kit.report(run, tmp_path / "out").parent
    for written in ("index.html", "model_card.md"):
        text = (out / written).read_text()
        assert "judge.example:8000" in text and "~/data" in text
        assert [word for word in ("sk-secret", "TEAM_URL", "10.0.0.1/x", str(home)) if word in text] == []

    from grpo_kit.backends.report.settings import commands

    train, evaluate = (shlex.split(line)[3:] for line in commands(run, main_evaluation(run.evaluations()))[-3:-1])
    again = TrainConfig.from_text(flags(train[1:]) | {"run_id": trained.id, "notify": "TEAM_URL"})
    assert again == run.config
    assert EvalConfig.from_text(flags(evaluate)).given == {"n": 8}


def flags(words: list[str]) -> dict[str, str]:
    return {
        name.removeprefix("--").replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)
    }


def test_what_is_missing_is_named_with_what_makes_it(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = kit.Run(shutil.copytree(trained.path, tmp_path / "runs" / "first"))
    shutil.rmtree(run.path / "eval", ignore_errors=True)
    (run.path / "metrics.jsonl").unlink()
    page = kit.report("first")
    assert page == Path("reports/first/index.html")
    text = page.read_text()
    assert "grpo-kit eval first" in text and "has made no step" in text and "widgets.labels(" in text
    assert "not evaluated yet" in page.with_name("model_card.md").read_text()
    with pytest.raises(ConfigError, match=r"nobody\.csv can't be read"):
        kit.evaluate(run, n=2)
        kit.report("first", labels="nobody.csv")
