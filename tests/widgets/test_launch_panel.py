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
    monkeypatch.setattr(sys.modules["grpo_kit.widgets.launch_panel"], "DOUBLE_CLICK_SECONDS", 0)
    return widgets.launch_panel(kit.TrainConfig(max_steps=20), runs_dir=tmp_path)


def code_of(panel) -> str:
    return next(line for line in panel._quote.value.split("<div") if "kit.TrainConfig(" in line)


def told(panel) -> str:
    """The problems and cautions beside the settings."""
    rows = [getattr(row, "children", [row])[0] for row in panel._problems.children]
    return "".join(row.value for row in rows)


def apply_button(panel):
    return panel._problems.children[0].children[1]


def test_every_setting_has_one_control_with_its_help_and_shows_what_it_is(panel):
    helps, (laid_out, _) = panel.children[0].helps, panel.children[1].children
    first, folded = laid_out.children
    laid_out = [control for group in (first, *folded.children) for control in group.children]
    assert sorted(control.description for control in laid_out) == sorted(kit.TrainConfig.model_fields)
    assert sorted(panel.controls) == sorted(kit.TrainConfig.model_fields) and len(folded.children) == 9
    assert helps == {name: field.description for name, field in kit.TrainConfig.model_fields.items()}
    kinds = {"learning_rate": "SelectionSlider", "num_generations": "IntSlider", "loss_type": "Dropdown"}
    kinds |= {"reward_funcs": "Several", "report_to": "Several"}
    assert {name: type(panel.controls[name]).__name__ for name in kinds} == kinds
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
    assert "Did you mean epsilon_high?" in told(panel) and panel.launch_button.disabled


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
    assert "num_generations" in told(panel) and "not a multiple" in told(panel)
    assert panel.launch_button.disabled
    with pytest.raises(kit.ConfigError):
        _ = panel.config
    assert "1 prompts with 8 completions" in panel._quote.value and "grpo-kit-old" in panel._quote._dom_classes, (
        "the last quote stays"
    )
    apply = apply_button(panel)
    assert apply.tooltip == "Set per_device_train_batch_size=9 gradient_accumulation_steps=1"
    apply.click()
    assert panel.config.completions_per_step == 9 and panel.controls["per_device_train_batch_size"].value == "9"
    assert not panel.launch_button.disabled and not panel._problems.children
    panel.controls["top_p"].value = "a lot"
    assert "top_p=&#x27;a lot&#x27;: should be a valid number" in told(panel)


def test_launch_is_off_where_it_would_be_refused_and_a_caution_has_its_fix_too(panel):
    panel.controls["judge"].value = "gemini"
    assert "GEMINI_API_KEY is not set" in told(panel) and panel.launch_button.disabled
    assert not panel.probe_button.disabled
    apply_button(panel).click()  # judge=offline
    assert not panel.launch_button.disabled and panel.controls["judge"].value == "offline"
    panel.controls["max_steps"].value = 9
    assert "save_steps=20 is more than max_steps=9" in told(panel) and not panel.launch_button.disabled
    apply_button(panel).click()
    assert panel.config.save_steps == 4 and told(panel) == ""


def test_rewards_are_ticked_and_what_has_no_effect_is_hidden(panel):
    def hidden() -> set[str]:
        return {name for name, control in panel.controls.items() if control.layout.display == "none"}

    assert {"gpu", "timeout", "use_vllm", "judge_timeout", "max_usd", "sft_batch_size"} <= hidden()
    panel.controls["reward_funcs"].ticks["format"].value = True
    panel.controls["reward_funcs"].weights["format"].value = 0.25
    panel.controls["report_to"].ticks["trackio"].value = True
    assert panel.config.reward_funcs == {"format": 0.25} and panel.config.report_to == ["trackio"]
    shown = widgets.launch_panel(panel.config).controls["reward_funcs"]
    assert shown.ticks["format"].value and shown.weights["format"].value == 0.25 and not shown.ticks["length"].value
    panel.controls["reward_funcs"].ticks["format"].value = False
    assert "reward_funcs" not in panel.config.given
    panel.controls["judge"].value = "gemini"
    panel.controls["sft_steps"].value = 5
    assert not {"judge_timeout", "max_usd", "sft_batch_size"} & hidden()
    panel.controls["use_lora"].value = False
    assert "lora_r" in hidden() and "use_vllm" in hidden()


def test_what_the_quote_meets_is_said_too(panel, tmp_path):
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "config.json").write_text('{"schema_version": 9, "settings": {"max_steps": 20}}')
    panel.controls["run_id"].value = "newer"
    assert "a newer version of the kit" in told(panel)
    (tmp_path / "odd" / "train.jsonl").mkdir(parents=True)
    panel.controls["data"].value = str(tmp_path / "odd")
    assert "IsADirectoryError" in told(panel) and panel.launch_button.disabled


def test_values_beyond_a_slider_are_kept(tmp_path):
    config = kit.TrainConfig(max_steps=5000, temperature=3.0, learning_rate=0.123)
    panel = widgets.launch_panel(config, runs_dir=tmp_path)
    assert panel.config == config and panel.controls["max_steps"].value == 5000


def test_the_monitor_shows_a_run_that_is_over_and_what_can_be_done_with_it(trained):
    shown = widgets.monitor(trained.id, trained.path.parent)
    wait_until(lambda: shown._progress.value.endswith(f" · {trained.headline()}"), "as tables of runs have it")
    assert "step 20/20 · complete" in shown._progress.value and "is complete" in shown.message.value
    assert len(shown.curves.runs[0]["rows"]) == 4 * 20 * len(shown.curves.runs[0]["columns"])
    assert "Step 20, best and worst" in shown.newest.value and shown.newest.value.count("<tr>") == 5
    shown.curves.picked = [0, 3]
    assert "Step 3: click its point again" in shown.picked.value and shown.picked.value.count("<tr>") > 32
    shown.curves.picked = []
    assert not shown.picked.value and "Step 20, best" in shown.newest.value
    assert "20/20" in shown.still() and "data:image/png" in shown.still() and "<tr>" in shown.still()
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
    click(panel.launch_button)
    assert f"{run.id} is under way: this would be one more" in shown.message.value
    assert "Click Launch again" in shown.message.value and panel.run is run

    later = widgets.launch_panel(runs_dir=tmp_path)  # as after a restart of the kernel
    wait_until(lambda: later.under_way.children)
    count, watch = later.under_way.children
    assert count.value == "1 run under way:" and later.run is None
    watch.click()
    wait_until(lambda: "step 4/40" in later.monitor._progress.value and not later.under_way.children)

    ended = []
    panel.after(lambda run: [ended.append(run.id) or "It ended", ipywidgets.HTML("here")])
    psutil.Process(run.worker["pid"]).kill()
    with (run.path / "metrics.jsonl").open("a") as metrics:
        metrics.write("{broken\n{}\n")
    wait_until(lambda: not shown.resume_button.disabled and "is not a row" in shown._signs.value)
    assert "lost" in shown._progress.value
    (run.path / "metrics.jsonl").unlink()
    kit.Run(run.path).resume()  # elsewhere, as in the table of runs or a shell
    wait_until(lambda: not shown.stop_button.disabled)
    assert f"Run {run.id} goes on" in shown.message.value
    shown.follow(trained)  # another run in its place, while the first goes on
    ((place, _),) = shown._afterwards
    wait_until(lambda: trained.id in ended and "It ended" in place.children[0].value)
    assert f"Run {trained.id} is complete" in shown.message.value and "20/20" in shown._progress.value
    assert ended[-1] == trained.id and place.children[1].value == "here"
    later.monitor.follow(run)
    run.kill()
    wait_until(lambda: not later.monitor.resume_button.disabled)
    run.delete()
    wait_until(lambda: later.monitor.resume_button.disabled)
    assert f"Run {run.id} is deleted" in later.monitor.message.value


def test_red_wants_a_second_click_and_a_probe_is_quoted_before_it_is_made(standin, panel, tmp_path, monkeypatch):
    monkeypatch.setattr("grpo_kit.training.probe.CACHE", tmp_path / "cache")
    kit.prepare(ROOT / "tests" / "data" / "bicycle_shop.jsonl", tmp_path / "shop", eval_fraction=0.3)
    assert "Green" in panel._quote.value and "the demo&#x27;s" in panel._quote.value
    panel.controls["data"].value = str(tmp_path / "shop")
    panel.controls["max_completion_length"].value = 8
    assert "tiny knows only the demo&#x27;s words" in panel._quote.value and "prepared from" in panel._quote.value

    said = panel.monitor.message
    click(panel.probe_button)
    assert "64 completions of tiny" in said.value and "Click Probe again" in said.value
    panel.probe_button.click()
    wait_until(lambda: "64 answers of tiny" in said.value)
    wait_until(lambda: not panel.probe_button.disabled)
    assert "probe: 64 answers of tiny to 8 prompts" in panel._quote.value

    click(panel.launch_button)
    assert "Will it learn? Red" in said.value and "Click Launch again" in said.value and panel.run is None
    panel.controls["max_steps"].value = 3
    assert not said.value, "it was about other settings"
    click(panel.launch_button)
    assert "Click Launch again" in said.value and panel.run is None, "other settings are asked about anew"
    panel.launch_button.click()
    wait_until(lambda: panel.run and panel.run.status["state"] == "complete")
    wait_until(lambda: panel.run.headline() in panel.monitor._progress.value)


def click(button) -> None:
    """Clicks as soon as the button can be clicked, and waits for what is said to it."""
    wait_until(lambda: not button.disabled)
    button.click()
    wait_until(lambda: not button.disabled)


def test_what_a_model_wrote_is_no_markup():
    row = {"step": 1, "sample_id": "a", "prompt": "<b>hi</b>", "completion": "<img src=x>\nno", "advantage": 0.0}
    shown = newest_html(pandas.DataFrame([{**row, "rewards": {"<i>": None, "b": 1}, "reason": "<script>"}]))
    assert not any(tag in shown for tag in ("<b>", "<img", "<script", "<i>")) and "&lt;img src=x&gt;\nno" in shown
    assert isinstance(ipywidgets.HTML(shown), ipywidgets.HTML)
