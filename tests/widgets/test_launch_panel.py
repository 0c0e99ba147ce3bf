"""The launch panel without a browser: controls from settings, quote and code from controls. Launching from it is tested
in a browser and on Modal."""

import sys

import ipywidgets
import pandas
import psutil
import pytest
from helpers import ROOT, wait_until

import grpo_kit as kit
from grpo_kit import widgets
from grpo_kit.widgets.monitor import newest_html


@pytest.fixture
def panel(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_KIT_BACKEND", "local")
    return widgets.launch_panel(kit.TrainConfig(max_steps=20), runs_dir=tmp_path)


def code_of(panel) -> str:
    return next(line for line in panel._quote.value.split("<div") if "kit.TrainConfig(" in line)


def test_every_setting_has_one_control_with_its_help_and_shows_what_it_is(panel):
    first, folded = panel.children[0].children[0].children
    laid_out = [control for group in (first, *folded.children) for control in group.children]
    assert sorted(control.description for control in laid_out) == sorted(kit.TrainConfig.model_fields)
    assert sorted(panel.controls) == sorted(kit.TrainConfig.model_fields) and len(folded.children) == 8
    for name, control in panel.controls.items():
        assert control.tooltip == kit.TrainConfig.model_fields[name].description
    kinds = {name: type(panel.controls[name]).__name__ for name in ("learning_rate", "num_generations", "loss_type")}
    assert kinds == {"learning_rate": "SelectionSlider", "num_generations": "IntSlider", "loss_type": "Dropdown"}
    assert panel.config == kit.TrainConfig(max_steps=20) and panel.config.given == {"max_steps": 20}


def test_what_is_clicked_comes_back_as_code_and_changes_the_quote(panel):
    before = panel._quote.value
    panel.controls["num_generations"].value = 16
    panel.controls["use_lora"].value = False
    panel.controls["judge"].value = "gemini=0.7,offline=0.3"
    panel.controls["save_total_limit"].value = "2"
    assert panel._quote.value != before and "num_generations=16" in code_of(panel)
    clicked = {"num_generations": 16, "use_lora": False, "judge": {"gemini": 0.7, "offline": 0.3}}
    assert panel.config == kit.TrainConfig(max_steps=20, save_total_limit=2, **clicked)
    assert eval(repr(panel.config), {"TrainConfig": kit.TrainConfig}) == panel.config
    panel.controls["save_total_limit"].value = "none"
    assert panel.config.save_total_limit is None and "save_total_limit" in panel.config.given
    for name in ("save_total_limit", "judge"):
        panel.controls[name].value = " "
    panel.controls["per_device_train_batch_size"].value = "16"
    panel.controls["per_device_train_batch_size"].value = ""
    assert panel.config.given == {"max_steps": 20, "num_generations": 16, "use_lora": False}
    assert panel.controls["per_device_train_batch_size"].value == "32"  # the recipe's


def test_a_step_stays_as_large_and_fields_of_trl_are_text(panel):
    panel.controls["per_device_train_batch_size"].value = "4"
    assert panel.controls["gradient_accumulation_steps"].value == "8"
    assert "gradient_accumulation_steps=8 follows, as the recipe&#x27;s step has 32" in panel._quote.value
    panel.controls["trl"].value = "epsilon_high=1.0"
    panel.controls["loss_type"].value = "sapo"
    assert "trl={&#x27;epsilon_high&#x27;: 1.0}" in code_of(panel)
    shown = widgets.launch_panel(panel.config).controls["trl"]
    assert shown.value == '{"epsilon_high": 1.0}' and kit.TrainConfig(trl=shown.value).trl == panel.config.trl
    panel.controls["trl"].value = "epsilon_hgh=1"
    assert "Did you mean epsilon_high?" in panel._quote.value and panel.launch_button.disabled


def test_another_model_brings_its_recipe_and_leaves_what_was_asked_for(panel):
    panel.controls["learning_rate"].value = 0.003
    panel.controls["model_name"].value = "google/gemma-2-2b-it"
    shown = {name: panel.controls[name].value for name in ("max_completion_length", "learning_rate", "max_steps")}
    assert shown == {"max_completion_length": 128, "learning_rate": 0.003, "max_steps": 20}
    assert panel.config == kit.TrainConfig(model_name="google/gemma-2-2b-it", learning_rate=0.003, max_steps=20)


def test_what_cannot_work_is_said_in_words_and_refused(panel):
    for name, value in {"per_device_train_batch_size": "8", "gradient_accumulation_steps": "1"}.items():
        panel.controls[name].value = value
    panel.controls["num_generations"].value = 3
    assert "num_generations" in panel._quote.value and "not a multiple" in panel._quote.value
    assert panel.launch_button.disabled
    with pytest.raises(kit.ConfigError):
        _ = panel.config
    panel.controls["num_generations"].value = 4
    assert not panel.launch_button.disabled
    panel.controls["top_p"].value = "a lot"
    assert "top_p=&#x27;a lot&#x27;: should be a valid number" in panel._quote.value


def test_what_the_quote_meets_is_said_too(panel, tmp_path):
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "config.json").write_text('{"schema_version": 9, "settings": {"max_steps": 20}}')
    panel.controls["run_id"].value = "newer"
    assert "a newer version of the kit" in panel._quote.value
    (tmp_path / "odd" / "train.jsonl").mkdir(parents=True)
    panel.controls["data"].value = str(tmp_path / "odd")
    assert "IsADirectoryError" in panel._quote.value and panel.launch_button.disabled


def test_values_beyond_a_slider_are_kept(tmp_path):
    config = kit.TrainConfig(max_steps=5000, temperature=3.0, learning_rate=0.123)
    panel = widgets.launch_panel(config, runs_dir=tmp_path)
    assert panel.config == config and panel.controls["max_steps"].value == 5000


def test_the_monitor_shows_a_run_that_is_over_and_what_can_be_done_with_it(trained):
    shown = widgets.monitor(trained.id, trained.path.parent)
    shown._follower.join()
    assert "step 20/20 · complete" in shown._progress.value and "is complete" in shown.message.value
    assert bytes(shown.figure.value).startswith(b"\x89PNG") and shown._newest.value.count("<tr>") == 5
    assert all(b.disabled for b in (shown.stop_button, shown.resume_button))
    shown.act("…", trained.stop)
    wait_until(lambda: "…" not in shown.message.value)
    assert "is complete already. There is nothing to stop" in shown.message.value


def test_a_run_is_watched_to_whatever_end_and_two_clicks_are_one(standin, panel, tmp_path, trained, monkeypatch):
    """num_iterations=2: every second step has no judgements, and no reward, of its own."""
    monkeypatch.setenv("STANDIN_HOLD", "4")
    monkeypatch.setattr(sys.modules["grpo_kit.widgets.monitor"], "PATIENCE_SECONDS", 1)
    panel.controls["num_iterations"].value = "2"
    panel.controls["max_steps"].value = 40
    panel.launch_button.click()
    panel.launch_button.click()
    shown = panel.monitor
    wait_until(lambda: panel.run and panel.run.status["step"] > 3)
    run = panel.run
    assert [folder.name for folder in tmp_path.iterdir()] == [run.id]
    psutil.Process(run.worker["pid"]).kill()
    with (run.path / "metrics.jsonl").open("a") as metrics:
        metrics.write("{broken\n{}\n")
    wait_until(lambda: not shown.resume_button.disabled)
    assert "lost" in shown._progress.value and "is not a row" in shown._signs.value
    (run.path / "metrics.jsonl").unlink()
    shown.resume_button.click()
    wait_until(lambda: shown._state == "running")
    shown.follow(trained)  # another run in its place, while the first goes on
    shown._follower.join()
    assert f"Run {trained.id} is complete" in shown.message.value and "20/20" in shown._progress.value
    run.kill()


def test_red_wants_a_second_click_and_a_probe_is_quoted_before_it_is_made(standin, panel, tmp_path, monkeypatch):
    monkeypatch.setattr("grpo_kit.training.probe.CACHE", tmp_path / "cache")
    kit.prepare(ROOT / "tests" / "data" / "bicycle_shop.jsonl", tmp_path / "shop", eval_fraction=0.3)
    assert "Green" in panel._quote.value and "the demo&#x27;s" in panel._quote.value
    panel.controls["data"].value = str(tmp_path / "shop")
    panel.controls["max_completion_length"].value = 8
    assert "tiny knows only the demo&#x27;s words" in panel._quote.value and "prepared from" in panel._quote.value

    said = panel.monitor.message
    panel.probe_button.click()
    assert "64 completions of tiny" in said.value and "Click Probe again" in said.value
    panel.probe_button.click()
    wait_until(lambda: "64 answers of tiny" in said.value)
    wait_until(lambda: not panel.probe_button.disabled)
    assert "probe: 64 answers of tiny to 8 prompts" in panel._quote.value

    panel.launch_button.click()
    assert "Will it learn? Red" in said.value and "Click Launch again" in said.value and panel.run is None
    panel.controls["max_steps"].value = 3
    panel.launch_button.click()
    assert "Click Launch again" in said.value and panel.run is None, "other settings are asked about anew"
    panel.launch_button.click()
    wait_until(lambda: panel.run and panel.run.status["state"] == "complete")
    panel.monitor._follower.join()


def test_what_a_model_wrote_is_no_markup():
    row = {"step": 1, "sample_id": "a", "prompt": "<b>hi</b>", "completion": "<img src=x>\nno", "advantage": 0.0}
    shown = newest_html(pandas.DataFrame([{**row, "rewards": {"<i>": None, "b": 1}, "reason": "<script>"}]))
    assert not any(tag in shown for tag in ("<b>", "<img", "<script", "<i>")) and "&lt;img src=x&gt;\nno" in shown
    assert isinstance(ipywidgets.HTML(shown), ipywidgets.HTML)
