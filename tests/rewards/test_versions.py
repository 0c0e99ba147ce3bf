"""A reward's versions: what is edited is what is scored, its errors say where, and what is saved trains."""

import asyncio
import html
import re
import threading

import pytest

import grpo_kit as kit
from grpo_kit import ConfigError, JudgeConfig, RunError, widgets
from grpo_kit.data.samples import Act, Sample, read_samples
from grpo_kit.models.generate import Answer
from grpo_kit.rewards.functions import RewardFailed
from grpo_kit.rewards.versions import Bench, Version, acts_in, acts_text

ACTS = [Act("Hotels_1", "OFFER", "name", ("Sipan, Oslo", "Alma"), ("sipan",)), Act("Hotels_1", "REQUEST", "day")]
ASKED = [{"role": "user", "content": "Find me a quiet room."}]
TURN = Sample("1", ASKED, "Which day?", "1", services=["Hotels_1"], acts=ACTS)
CHAT = Sample("2", ASKED, "Your quiet room is booked. Goodbye!", "2", rubric="say that it is booked")
KEPT = {
    "cache.sqlite",
    "rewards.cache.sqlite",
    "rewards.cache.sqlite-wal",
    "rewards.cache.sqlite-shm",
    "versions.jsonl",
}
PYTHON = """
WORD = "day"
def asks(completions, **_):
    return [float(WORD in each[-1]["content"]) for each in completions]
"""
ENDLESS = """
def loops(completions):
    try:
        open("{began}", "w")
        while True:
            pass
    finally:
        open("{ended}", "w")
"""


def text(widget) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", widget.value)).split())


def score(lab) -> str:
    """Scores, and returns what is shown."""
    lab.press("ctrl+enter")
    return text(lab.results)


def test_acts_are_read_as_they_are_written_and_else_the_line_is_said():
    assert acts_text(ACTS) == "OFFER name = Sipan, Oslo | Alma\nREQUEST day"
    edited = acts_in(f"{acts_text(ACTS)}\n\n INFORM price = $ 20\nGOODBYE", TURN)
    assert edited == [*ACTS, Act("Hotels_1", "INFORM", "price", ("$ 20",)), Act("Hotels_1", "GOODBYE")]
    with pytest.raises(ConfigError, match=r"line 2 of the acts is not an act: REQEST city\. Did you mean REQUEST\?"):
        acts_in("GOODBYE\nREQEST city", TURN)
    with pytest.raises(
        ConfigError, match=r"not an act: OFFER name =\. An act is written as OFFER name = Sipan \| Alma"
    ):
        acts_in("OFFER name =", TURN)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:\n    pass", r"SyntaxError: invalid syntax \(reward.py, line 1\): def f\(:"),
        ("import os\nimport nowhere", r"No module named 'nowhere' \(reward.py, line 2\): import nowhere"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(reward.py, line 2\): sys.exit\(3\)"),
        ("worth = 1", "reward.py defines no function"),
        ("def f(completions, day):\n    return []", "reward `f` asks for `day`"),
        ("def f(completions):\n    return [\n        1 / 0]", r"reward `f` raised ZeroDivision.*line 3\): 1 / 0"),
        ("def f(completions):\n    return 3", "reward `f` gave 3 for the whole batch"),
    ],
)
def test_errors_in_a_persons_python_say_the_line(source, said):
    bench = Bench("offline", JudgeConfig(), None)
    with pytest.raises((ConfigError, RewardFailed), match=said):
        bench.score(Version("", "Which day?", "", "", source), TURN, ["Hello."])


def test_an_edit_is_scored_explained_kept_and_trains(standin, demo_data, tmp_path):
    out = tmp_path / "lab"
    lab = widgets.reward_lab(demo_data, answers=lambda sample: [Answer("Which day?")], out=out, interactive=True)
    assert "by dialogue acts" in text(lab.reads) and "does not read the rubric: edit those two" in text(lab.reads)
    assert "the reply in the trace I found 6. I suggest Avalanche in Station. 1.00" in score(lab)
    lab.fields["acts"].value += "\nREQ_MORE"
    lab.fields["reference"].value += " Is there anything else?"
    assert "Not scored yet: reference, acts edited." in text(lab.state)
    shown = score(lab)
    assert "before: 1: as in the data 1.00" in shown and "after: 2: reference, acts edited 0.75 −0.25" in shown
    assert "asks what else: no" in shown and "acts 1.00 → 0.75; 9 others 1.00" in shown
    assert "this judge is free" in text(lab.state)

    lab.fields["rubric"].value, edited = "ask what else", lab._sample
    lab.fields["reward"].value = PYTHON
    lab.press("j")
    assert lab._sample is not edited and lab.fields["reward"].value == PYTHON
    config, rewards = lab.config, lab.rewards
    first, *others = read_samples(out / "data" / "train.jsonl")
    assert first.rubric == "ask what else" and first.acts[-1].act == "REQ_MORE" and first.id == edited.id
    assert others == list(read_samples(demo_data / "train.jsonl"))[1:] and (out / "data" / "eval.jsonl").exists()
    run = kit.train(config.replace(max_steps=1), rewards=rewards, run_id="of_lab", runs_dir=tmp_path / "runs")
    assert run.about["rewards"] == ["offline", "asks"] and run.config.data == str(out / "data")
    names = {"kit": kit}
    exec(lab.code.replace("kit.train(config, rewards=", "rewards = (").replace("\nimport grpo_kit as kit", ""), names)
    assert names["rewards"][0]([[{"content": "Which day?"}]]) == [1.0] and names["config"] == config

    again = widgets.reward_lab(demo_data, out=out, interactive=True)  # in another kernel
    assert again.rubric == "ask what else" and len(again.version.options) == 3
    again.press("b")
    assert "after: 2: reference, acts edited 0.75" in text(again.results) and again.rubric == edited.rubric
    again.press("s")
    assert "kit.train(config" in text(again.message) and lab._trials is not again._trials
    assert next(iter(read_samples(out / "data" / "train.jsonl"))).rubric == edited.rubric
    kept = (out / "versions.jsonl").read_bytes()
    lab.press("k")
    lab.fields["rubric"].value = "of the first panel"
    lab.press("s")
    assert "another panel has written to" in text(lab.message) and lab.rubric == "of the first panel"
    assert (out / "versions.jsonl").read_bytes() == kept


def test_scores_come_in_the_order_they_were_asked_for_and_a_stop_ends_an_endless_loop(tmp_path):
    go_on = threading.Event()
    lab = widgets.reward_lab([CHAT], answers=lambda _: go_on.wait() and ["Booked."], out=tmp_path, interactive=True)

    async def ask(typed: str, python: str = "") -> None:
        lab.typed.value, lab.fields["reward"].value = typed, python
        lab.press("ctrl+enter")
        assert text(lab.state) == "Scoring …"
        await asyncio.sleep(0.05)

    async def all_scored() -> None:
        while lab._scoring:
            await asyncio.sleep(0.01)

    async def use() -> None:
        await ask("The first.")
        await ask("The second, while the first is scored.")
        lab.fields["rubric"].value = "edited meanwhile"
        assert lab.config.data == str(tmp_path / "data")  # which writes to the file of versions
        go_on.set()
        await all_scored()
        *_, scored, edited = lab._trials.of(CHAT)
        assert scored.answers["typed here"].startswith("The second") and scored.answers["the model’s answer 1"]
        assert edited.version.rubric == lab.rubric and not edited.scored and not text(lab.message)

        began, ended = tmp_path / "began", tmp_path / "ended"
        go_on.clear()
        await ask("Stopped before its Python has begun.", ENDLESS.format(began=began, ended=ended))
        lab.press("x")
        await all_scored()
        go_on.set()
        await asyncio.sleep(0.2)
        assert text(lab.state) == "Stopped." and not began.exists()
        await ask("The third.", ENDLESS.format(began=began, ended=ended))
        await ask("The fourth, which waits.")
        while not began.exists():
            await asyncio.sleep(0.01)
        lab.press("x")
        await all_scored()
        while not ended.exists():
            await asyncio.sleep(0.01)
        assert text(lab.state) == "Stopped."
        await ask("The fifth.", PYTHON)
        await all_scored()
        assert "The fifth." in text(lab.results) and "Python 0.00" in text(lab.results)

    asyncio.run(use())


def test_a_stop_gives_up_a_judge_that_does_not_answer(gemini, tmp_path):
    hangs, at_once = threading.Event(), gemini.reply
    gemini.reply = lambda request: (hangs.wait(), at_once(request))[1]
    lab = widgets.reward_lab([CHAT], "gemini", out=tmp_path, interactive=True)

    async def use() -> None:
        lab.press("ctrl+enter")
        while not gemini.requests:
            await asyncio.sleep(0.01)
        lab.press("x")
        while lab._scoring:
            await asyncio.sleep(0.01)

    asyncio.run(use())
    assert text(lab.state) == "Stopped." and not text(lab.results)
    hangs.set()
    assert "the reply in the trace" in score(lab)


def test_a_key_brings_what_is_typed_and_is_obeyed_on_the_kernels_thread_from_whichever_it_comes(tmp_path):
    async def use() -> None:
        lab = widgets.reward_lab([CHAT], out=tmp_path, interactive=True)
        said = {"key": "ctrl+enter", "number": 0, "note": "", "typed": [[3, PYTHON]]}
        await asyncio.to_thread(lab.keyboard._hear, said)  # a subshell's; the text's own message comes later
        while not lab.results.value:
            await asyncio.sleep(0.01)
        assert lab.fields["reward"].value == PYTHON and "Python 0.00" in text(lab.results)

    asyncio.run(use())


def test_an_act_that_turns_a_full_mark_to_nothing_is_explained(tmp_path):
    lab = widgets.reward_lab([CHAT], out=tmp_path, interactive=True)
    assert "by word overlap alone with the reference. It does not read the rubric" in text(lab.reads)
    lab.typed.value = "Your quiet room is booked."
    assert "typed here Your quiet room is booked. 0.86" in score(lab)
    lab.fields["acts"].value = "GOODBYE"
    assert "by dialogue acts" in text(lab.reads) and "Before the edit: " in text(lab.reads)
    shown = score(lab).partition("canary")[0]
    assert "acts 0.86 → 0.00" in shown and "it performs no act, and a sample with acts is judged by them alone" in shown
    lab.fields["acts"].value = "SING"
    assert "line 1 of the acts is not an act: SING" in (score(lab), text(lab.message))[1]


def test_nothing_is_saved_that_could_not_train_and_samples_without_a_folder_are(gemini, tmp_path):
    lab = widgets.reward_lab([CHAT, TURN], "gemini", answers={"2": "It is booked."}, out=tmp_path, interactive=True)
    assert "the model’s answer 1 It is booked." in score(lab)
    for name, bad, said in (
        ("prompt", "Judge", "the prompt lacks a placeholder"),
        ("reference", " ", "the reference is empty"),
        ("reward", "worth = 1", "reward.py defines no function"),
    ):
        kept, lab.fields[name].value = lab.fields[name].value, bad
        lab.press("s")
        assert said in text(lab.message) and {path.name for path in tmp_path.iterdir()} <= KEPT
        lab.fields[name].value = kept
    lab.fields["reward"].value = "import sys\ndef f(completions):\n    sys.exit(3)"
    score(lab)
    assert "SystemExit: 3" in text(lab.message) and not lab.buttons["ctrl+enter"].disabled
    lab.fields["reward"].value = ""
    assert lab.config.data == str(tmp_path / "data")
    assert list(read_samples(tmp_path / "data" / "train.jsonl")) == [CHAT, TURN]
    with pytest.raises(ConfigError, match="there are no samples"):
        widgets.reward_lab([], out=tmp_path)


def test_samples_are_found_by_service_act_and_text_and_in_a_batch_a_picture_stays(demo_data, tmp_path, capsys):
    lab = widgets.reward_lab(demo_data, out=tmp_path, interactive=True)
    lab.service.value, lab.act.value, lab.find.value = "Doctors_1", "GOODBYE", "thank"
    found = [lab._samples[place] for place in lab.rows["place"]]
    assert 0 < len(found) < len(lab._samples) and all(each.services == ["Doctors_1"] for each in found)
    assert all("GOODBYE" in [act.act for act in each.acts] and "thank" in str(each).lower() for each in found)
    lab.find.value = "nobody says this"
    assert "Nothing here holds that text" in lab.page.value and lab.buttons["ctrl+enter"].disabled
    batch = widgets.reward_lab(demo_data, out=tmp_path, interactive=False)
    assert "The reward panel is for JupyterLab: 1,383 samples" in capsys.readouterr().out
    assert "Not scored yet" in batch.still() and batch.rubric in batch.still()
    assert batch.config == kit.TrainConfig(data=str(demo_data), judge="offline")
    (tmp_path / "versions.jsonl").write_text("{}\n{}\n")
    with pytest.raises(RunError, match=r"versions\.jsonl:1 is not a row"):
        widgets.reward_lab(demo_data, out=tmp_path)
