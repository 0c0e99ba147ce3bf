"""Sweeps: grids, what is checked before, runs side by side that fail, are killed and gone on with, budgets, results."""

import doctest
import json
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from helpers import STANDIN, start, wait_until
from judge_server import JudgeServer, Reply, judge
from modal_server import ModalServer

import grpo_kit as kit
from grpo_kit import plots
from grpo_kit.backends.modal import launch as launching
from grpo_kit.costs.memory import Device
from grpo_kit.sweeps import costs, grid
from grpo_kit.sweeps.notebooks import notebook_folder
from grpo_kit.sweeps.plan import as_evaluated
from grpo_kit.sweeps.run import PlannedRun

SHORT = {"max_steps": 1, "save_steps": 1, "canaries": "off"}
EVALUATION = {"n": 8, "second_judge": None}
QUICK = """
import json, time
from pathlib import Path
if x == fails_at:
    raise KeyError("x of this run")
if waits_for and x != 1:
    Path(f"{waits_for}.{x}").touch()
    while not Path(waits_for).exists():
        time.sleep(0.1)
Path(result_file).write_text(json.dumps({"score": x + 0.1 * seed, "words": "many"}))
"""


# 03 and 04 without what they show, which takes most of a kernel's time.
TRAIN = """
from pathlib import Path
import grpo_kit as kit
from grpo_kit.utils.files import write_json
own = {name: globals()[name] for name in kit.TrainConfig.names() if globals().get(name) is not None}
run = kit.train.remote(**own | other_settings, runs_dir=runs_dir)
write_json(Path(result_file), {"run": run.id} | run.status)
"""
EVALUATE = """
from pathlib import Path
import grpo_kit as kit
from grpo_kit.utils.files import write_json
settings = {"n": n, "temperature": temperature, "judge": judge, "second_judge": second_judge, "seed": seed}
write_json(Path(result_file), kit.evaluate.remote(kit.Run(run, runs_dir), **settings).result())
"""


def written(path: Path, parameters: str, code: str) -> Path:
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """Somebody's own notebook, which takes a second."""
    parameters = 'x = 0\nseed = 0\nfails_at = None\nwaits_for = ""\nresult_file = None'
    return written(tmp_path_factory.mktemp("own") / "quick.ipynb", parameters, QUICK)


def parameters(name: str) -> str:
    cells = json.loads((notebook_folder() / f"{name}.ipynb").read_text())["cells"]
    return next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))


@pytest.fixture
def lean_03(tmp_path) -> Path:
    """Somebody's own 03, that only trains."""
    return written(tmp_path / "03_lean.ipynb", parameters("03_launch_training"), TRAIN)


@pytest.fixture
def lean(lean_03, tmp_path, monkeypatch) -> Path:
    """That, and a 04 that only evaluates."""
    four = written(tmp_path / "04_lean.ipynb", parameters("04_evaluate_checkpoints"), EVALUATE)
    monkeypatch.setattr("grpo_kit.sweeps.plan.EVALUATING", four)
    return lean_03


def state_of(folder: Path) -> str:
    record = folder / "sweep_run.json"
    return json.loads(record.read_text())["state"] if record.exists() else "none"


def test_a_grid_is_what_its_doctests_show():
    done = doctest.testmod(grid)
    assert done.attempted > 5 and not done.failed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: [1], a: [2]}", 'found duplicate key "a"'),
        ("{a: [1], zip: {a: [1], b: [2]}}", "names a more than once"),
        ("{zip: {a: [1, 2], b: [3]}}", "differ in length: a 2, b 1"),
        (
            "{random: {n: 2, of: {a: {log_uniform: [0, 1]}}}}",
            "a can't be drawn from .*Use a list, .* with low above 0, {log_uniform",
        ),
        ("{a: []}", "empty list"),
        ("{a: [}", "is not YAML"),
        ("nowhere.yaml", "can't be read"),
    ],
)
def test_what_is_no_grid_is_said_in_words(text, message):
    with pytest.raises(kit.ConfigError, match=message):
        grid.expand(grid.read_grid(text))


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, demo_data):
    names = {"learning_rat": [1e-3], "run_id": ["a", "b"], "evaluation": {"second_juge": None}}
    with pytest.raises(kit.ConfigError) as caught:
        kit.sweep("03_launch_training", names, tmp_path / "out")
    assert str(caught.value).splitlines() == [
        "learning_rat is not a parameter of 03_launch_training. Did you mean learning_rate?",
        "run_id is set by the sweep itself: leave it out",
        "evaluation: second_juge is not a parameter of 04_evaluate_checkpoints. Did you mean second_judge?",
    ]
    with pytest.raises(
        kit.ConfigError, match=r"wholly_unknown is not a parameter.*takes: model_name, .*, and kit.TrainC"
    ):
        kit.sweep("03_launch_training", {"wholly_unknown": [1]}, tmp_path / "out")
    values = {"learning_rate": [1e-3, 2]}
    with pytest.raises(kit.ConfigError, match="learning_rate=2: should be less than or equal to 1"):
        kit.sweep("03_launch_training", values, tmp_path / "out")
    with pytest.raises(kit.ConfigError, match="n=0: should be"):
        kit.sweep("03_launch_training", {"seed": [1], "evaluation": {"n": 0}}, tmp_path / "out")
    batches = {"per_device_train_batch_size": [32], "gradient_accumulation_steps": [1], "num_generations": [8, 5]}
    with pytest.raises(kit.ConfigError, match="not a multiple of num_generations=5"):
        kit.sweep("03_launch_training", batches, tmp_path / "out")
    with pytest.raises(kit.ConfigError, match=r"no notebook 06_other.*05_sweep"):
        kit.sweep("06_other", {"x": [1]}, tmp_path / "out")
    with pytest.raises(kit.ConfigError, match="no price"):
        config = {"gemini_model": "gemini-9", "seed": [1, 2]}
        kit.sweep("03_launch_training", config, tmp_path / "out", budget=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": [0.2, 1.0]}, r"temperature differs .* add evaluation: {temperature: 0.2}"),
        ({"judge": ["offline", "reference"], "seed": 1}, r"judge differs .* add evaluation: {judge: offline}"),
        ({"backend": "modall"}, "backend='modall' is not a backend"),
        ({"evaluation": 5, "seed": [1]}, "evaluation: 5 is not settings of 04"),
        ({"evaluation": ["n"], "seed": [1]}, r"evaluation: \['n'\] is not settings of 04"),
        ({"other_settings": {"lora_r": 4}}, "other_settings is set by the sweep itself"),
        ({"evaluation": {"simulated_usr": "openai"}, "seed": [1]}, r"evaluation: .* Did you mean simulated_user\?"),
        ({"evaluation": {"other_settings": {}}, "seed": [1]}, "evaluation: other_settings is set by the sweep itself"),
        ({"evaluation": {"simulated_user": "openai"}, "seed": [1]}, "simulated_user=openai is for environment=user"),
        ({"config_file": "nowhere.json"}, "config_file=nowhere.json can't be read: .*No such file.* Name a file"),
    ],
)
def test_values_that_can_not_work_or_not_be_compared(settings, message, tmp_path):
    with pytest.raises(kit.ConfigError, match=message):
        kit.Sweep("03", settings, tmp_path / "out")


def test_a_user_that_only_the_evaluation_asks_is_paid_for_and_asked(tmp_path):
    asked = {"simulated_user": "openai", "simulated_user_model": "gpt-5-mini"}
    user = {"model_name": "tiny-agent", "environment": "user", "evaluation": {"n": 16}}

    def quoted(**settings):
        sweep = kit.Sweep("03", {**user, "seed": 1, **settings}, tmp_path / "out", "local")
        found = sweep.quote()
        return round(found.usd[1], 6), found.minutes[1]

    nothing, both = quoted(), quoted(**asked)
    alone = quoted(evaluation={"n": 16, **asked})
    trained = quoted(**asked, evaluation={"n": 16, "simulated_user": "rules"})
    elsewhere = quoted(environment="replay", evaluation={"n": 16, "environment": "user", **asked})
    assert nothing[0] == 0 < alone[0] < trained[0] and both[0] == pytest.approx(alone[0] + trained[0])
    assert elsewhere[0] == alone[0] and alone[1] > nothing[1], "what it says takes time too"
    for environment in ("replay", "user"):
        agent = kit.TrainConfig(model_name="tiny-agent", environment=environment)
        assert as_evaluated(agent, kit.EvalConfig()) == agent, "or no earlier run would be like it"
    stage = kit.Sweep("03", {**user, "seed": 1, "evaluation": {"n": 16, **asked}}, tmp_path / "out").runs[0].stages[1]
    assert stage.parameters["other_settings"] == asked and stage.parameters["n"] == 16


def test_runs_of_a_notebook_that_writes_a_folder_have_one_each(tmp_path):
    run = kit.Sweep("01", {"eval_fraction": [0.1, 0.2]}, tmp_path / "out").runs[1]
    assert Path(run.stages[0].parameters["out"]).parent == run.folder


def test_the_grid_goes_before_a_file_and_a_file_before_the_notebooks_own_settings(tmp_path):
    best = tmp_path / "best.json"
    best.write_text(json.dumps({"learning_rate": 0.5, "lora_r": 4, "max_steps": 3, "lora_alpha": 3}))
    sweep = kit.Sweep("03", {"config_file": str(best), "learning_rate": [1e-4, 1e-3]}, tmp_path / "out")
    assert [run.config.learning_rate for run in sweep.runs] == [1e-4, 1e-3]
    assert all(run.config.lora_r == 4 and run.config.max_steps == 3 for run in sweep.runs)
    given = sweep.runs[0].stages[0].parameters
    assert given["other_settings"] == {"lora_alpha": 3}
    assert (given["learning_rate"], given["lora_r"], given["max_steps"]) == (1e-4, 4, 3) and not given["config_file"]

    own = json.loads((notebook_folder() / "03_launch_training.ipynb").read_text())
    cell = next(cell for cell in own["cells"] if "parameters" in cell["metadata"].get("tags", []))
    text = "".join(cell["source"]).replace("max_steps = None", "max_steps = 2")
    cell["source"] = text.replace("other_settings = {}", 'other_settings = {"save_steps": 2, "lora_r": 2}')
    (tmp_path / "my_03.ipynb").write_text(json.dumps(own))
    run = kit.Sweep(tmp_path / "my_03.ipynb", {"lora_alpha": [8], "seed": [1]}, tmp_path / "out").runs[0]
    assert (run.config.max_steps, run.config.save_steps, run.config.lora_r, run.config.lora_alpha) == (2, 2, 2, 8)
    assert run.stages[0].parameters["other_settings"] == {"save_steps": 2, "lora_r": 2, "lora_alpha": 8}


def made(out: Path, settings: dict, gain, state: str = "complete") -> kit.Sweep:
    """A sweep whose runs left behind what real ones do; `gain` gives what each prompt gained."""
    sweep = kit.Sweep("03", settings, out, backend="local")
    for run in sweep.runs:
        base = {f"turn {i}": 0.3 for i in range(40)}
        trained = {name: 0.3 + gain(run.settings, i) for i, name in enumerate(base)}
        mean = sum(trained.values()) / 40
        versus = {"difference": mean - 0.3, "interval": [mean - 0.4, mean - 0.2]}
        model = {"mean": mean, "interval": [mean - 0.1, mean + 0.1], "versus_base": versus, "second": None}
        run.folder.mkdir(parents=True, exist_ok=True)
        evaluated = {"base": model | {"mean": 0.3}, "trained": model, "scores": {"base": base, "trained": trained}}
        (run.folder / "evaluation.json").write_text(json.dumps(evaluated))
        (run.folder / "result.json").write_text(
            json.dumps({"state": "complete", "step": 9, "max_steps": 9, "reward": mean, "usd": 0.0})
        )
        run.write(state=state, finished={stage.name: stage.key for stage in run.stages})
    return sweep


def test_how_sure_the_best_is(tmp_path):
    def gain(settings, i):
        sure = 0.3 if settings["num_generations"] == 8 else 0.1
        return sure + 0.01 * settings["seed"] + (0.2 if i % 2 else -0.05) * (settings["learning_rate"] == 1e-3)

    settings = {"learning_rate": [1e-3, 1e-4], "num_generations": [4, 8], "seed": [1, 2, 3]}
    sweep = made(tmp_path / "out", settings, gain)
    pooled = sweep.pooled()
    assert pooled[["learning_rate", "num_generations"]].values.tolist()[0] == [1e-3, 8]
    top = pooled.iloc[0]
    assert top["difference_low"] < top["difference"] < top["difference_high"] and top["runs"] == 3
    rest = pooled.iloc[1]  # where every prompt gains as much, no prompt is another's chance
    assert rest["difference_low"] == pytest.approx(rest["difference"]) == pytest.approx(rest["difference_high"])
    why = sweep.best()["why"]
    assert "on the same 40 prompts, and each of its runs is below all of the best. Chosen among 4 settings" in why

    even = made(tmp_path / "even", settings, lambda s, i: 0.2 if (i + s["num_generations"]) % 3 else -0.2)
    assert "on the same 40 prompts, which chance can explain" in even.best()["why"]
    one = made(tmp_path / "one", settings | {"seed": 1}, gain)
    assert "with one run of each, so another seed may change the order" in one.best()["why"]
    own = made(tmp_path / "own", {"max_completion_length": [16, 32], "seed": [1, 2]}, lambda s, i: 0.01 * s["seed"])
    assert "scored under its own max_completion_length" in own.best()["why"]


def test_a_sweep_that_was_moved_is_as_done_as_before_and_half_a_sweep_is_no_result(tmp_path):
    settings = {"learning_rate": [1e-3, 1e-4]}
    sweep = made(tmp_path / "out", settings, lambda settings, i: 0.1)
    sweep.write()
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = kit.Sweep("03", settings, tmp_path / "moved", backend="local")
    assert [run.record["state"] for run in moved.runs] == ["complete"] * 2 and not moved.quote().quotes
    columns = moved.results().columns.tolist()
    assert columns[:3] == ["run", "learning_rate", "state"] and columns[-4:] == ["seconds", "usd", "ended", "error"]
    half = made(tmp_path / "half", settings, lambda settings, i: 0.1, state="failed")
    half.runs[0].write(error="KeyError: 'x'", finished={})
    half.runs[1].write(finished={half.runs[1].stages[0].name: half.runs[1].stages[0].key})
    assert "trained" not in half.results() and "KeyError" in half.summary()
    with pytest.raises(kit.RunError, match="has a trained yet"):
        half.best()
    quote = half.quote()
    assert [each.training is None for each in quote.quotes] == [False, True], "the other only has to be evaluated"


def test_what_was_made_of_other_files_is_left_and_made_again(tmp_path, demo_data):
    best, data = tmp_path / "best.json", tmp_path / "data"
    best.write_text(json.dumps({"lora_r": 4}))
    shutil.copytree(demo_data, data)
    settings = {"config_file": str(best), "data": str(data), "seed": [1]}

    def left() -> tuple[str, bool | None]:
        """The run's name, and whether it is to be trained; None where nothing is left to do."""
        sweep = kit.Sweep("03", settings, tmp_path / "out", backend="local")
        quotes = sweep.quote().quotes
        return sweep.runs[0].name, bool(quotes[0].training) if quotes else None

    made(tmp_path / "out", settings, lambda settings, i: 0.1)
    best.write_text(json.dumps({"lora_r": 4, "max_usd": 5}))
    assert left() == ("run", None), "which changes no score"
    with (data / "eval.jsonl").open("a") as file:
        file.write("\n")
    assert left() == ("run", False)
    best.write_text(json.dumps({"lora_r": 8}))
    name, is_trained = left()
    assert name.startswith("run-") and is_trained
    made(tmp_path / "out", settings, lambda settings, i: 0.1)
    assert left() == (name, None)
    with (data / "train.jsonl").open("a") as file:
        file.write("\n")
    assert left()[0] not in ("run", name) and left()[1]
    assert (tmp_path / "out" / "run" / "result.json").exists(), "what was there is left"


@pytest.mark.wide
def test_a_failure_stops_no_other_run_and_what_is_done_is_not_done_again(quick, tmp_path, capsys):
    settings = {"x": [1, 2, 3], "seed": [0, 1], "fails_at": 2}
    sweep = kit.sweep(quick, settings, tmp_path / "out", jobs=3)
    table = kit.sweep_results(tmp_path / "out").set_index("run")
    assert table["state"].tolist() == ["complete"] * 2 + ["failed"] * 2 + ["complete"] * 2
    assert table.loc["x-2_seed-1", "error"] == "KeyError: 'x of this run'" and "words" not in table
    assert "An Exception was encountered" in (tmp_path / "out" / "x-2_seed-0" / "quick.ipynb").read_text()
    assert "x-2_seed-0: failed: KeyError: 'x of this run'" in capsys.readouterr().out
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 7

    pooled = sweep.pooled("score")
    assert pooled["x"].tolist() == [3, 1] and pooled["runs"].tolist() == [2, 2]
    assert pooled["mean"].tolist() == pytest.approx([3.05, 1.05]) and pooled["low"].tolist() == [3, 1]
    best = sweep.best("score")
    assert best["settings"] == {"x": 3} and "each of its runs is below all of the best" in best["why"]
    with pytest.raises(kit.RunError, match=r"no run .* has a trained yet. Choose one of: .*score"):
        sweep.best()

    ended = table["ended"].to_dict()
    more = settings | {"x": [1, 4], "fails_at": None}  # other settings, though of the same name
    again = kit.sweep(quick, settings | {"x": [1, 3]}, tmp_path / "out")
    assert "runs     4, 2 at a time; 4 are done" in capsys.readouterr().out
    assert all(ended[row.run] == row.ended for row in again.results().itertuples())
    wider = kit.sweep(quick, more, tmp_path / "out", jobs=4).results()
    assert wider["state"].tolist() == ["complete"] * 4 and table.index[0] not in wider["run"].tolist()
    for figure in (plots.setting_effects, plots.best_so_far):
        figure(again, "score").savefig(tmp_path / "figure.png")


def test_an_interrupt_ends_what_is_under_way_and_says_how_to_go_on(quick, tmp_path):
    gate, out = tmp_path / "gate", tmp_path / "out"
    words = (quick, json.dumps({"x": [1, 2, 3], "waits_for": str(gate)}), "--out", out, "-j", "2")
    process = start("sweep", *words)
    wait_until(
        lambda: (
            process.poll() is not None or (state_of(out / "x-1") == "complete" and state_of(out / "x-3") == "running")
        )
    )
    with pytest.raises(kit.RunError, match="another process is running the sweep"):
        kit.Sweep.load(out).run()
    wait_until(lambda: all(Path(f"{gate}.{x}").exists() for x in (2, 3)), "both kernels in their cell")
    kernels = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130 and "The same command resumes them" in said and "Traceback" not in said
    assert not any(kernel.is_running() for kernel in kernels)
    assert [state_of(out / f"x-{x}") for x in (1, 2, 3)] == ["complete", "stopped", "stopped"]
    gate.touch()
    process = start("sweep", *words)
    said, _ = process.communicate()
    assert process.returncode == 0 and "1 are done" in said and "3 complete" in said, said


@pytest.mark.wide
def test_halving_stops_those_that_are_behind_and_leaves_them(standin, lean, tmp_path, demo_data, monkeypatch):
    monkeypatch.setenv("STANDIN_HOLD", "4")
    settings = {"learning_rate": [3e-3, 1e-7], "data": str(demo_data), "canaries": "off", "max_steps": 12}
    settings |= {"save_steps": 12, "evaluation": EVALUATION}
    first = kit.Sweep(lean, settings, tmp_path / "out").runs[0].folder
    first.mkdir(parents=True)
    (first / "go").touch()  # while the other waits to be stopped
    sweep = kit.sweep(lean, settings, tmp_path / "out", jobs=1, halving=4)
    table = sweep.results().set_index("learning_rate")
    assert table["state"].to_dict() == {3e-3: "complete", 1e-7: "pruned"}
    assert "is not in the better half" in table.loc[1e-7, "error"] and table["trained"].notna().tolist() == [
        True,
        False,
    ]
    stopped = kit.Run(table.loc[1e-7, "run"], tmp_path / "out").status["step"]
    assert stopped == 5
    again = kit.sweep(lean, settings, tmp_path / "out", halving=4)
    assert again.results()["state"].tolist() == ["complete", "pruned"] and not again.quote(halving=4).quotes
    assert len(again.quote().quotes) == 1, "without halving it would be gone on with"
    with pytest.raises(kit.ConfigError, match="rewards of runs with another data can't be compared"):
        kit.Sweep("03", {"data": ["a", "b"]}, tmp_path / "other").run(halving=2)


def test_a_sweep_of_three_one_of_which_fails_killed_and_gone_on_with(standin, lean_03, tmp_path, demo_data):
    out = tmp_path / "out"
    data = [str(demo_data), "nowhere", str(demo_data)]
    rates = [1e-3, 2e-3, 3e-3]
    (tmp_path / "grid.yaml").write_text(
        json.dumps({"zip": {"learning_rate": rates, "data": data}, **SHORT, "evaluation": EVALUATION})
    )
    words = (lean_03, tmp_path / "grid.yaml", "--out", out)

    def folders(state: str) -> list[Path]:
        return sorted(folder for folder in out.glob("*/") if state_of(folder) == state)

    process = start("sweep", *words, start_new_session=True)
    wait_until(lambda: process.poll() is not None or (folders("complete") and folders("running")))
    done = {folder: (folder / "04_evaluate_checkpoints.ipynb").stat().st_mtime_ns for folder in folders("complete")}
    started = {folder: (folder / "status.json").exists() for folder in folders("running")}
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(done) + len(folders("failed")) < 3

    process = start("sweep", *words)
    said, _ = process.communicate()
    assert process.returncode == 1, said
    assert f"{len(done)} are done" in said and "2 complete, 1 failed" in said
    assert re.search(r"data-nowhere failed: BadTrace: .*nowhere/train.jsonl: no such file", said)
    table = kit.sweep_results(out)
    assert table["state"].tolist() == ["complete", "failed", "complete"]
    finished = table[table["state"] == "complete"]
    assert finished[["base", "trained", "trained_low", "difference", "difference_high"]].notna().all(axis=None)
    assert finished["base"].nunique() == 1 and (finished["usd"] == 0).all()
    for folder, made in done.items():
        assert (folder / "04_evaluate_checkpoints.ipynb").stat().st_mtime_ns == made
    for folder in started:  # what was under way was not trained twice
        steps = kit.Run(folder).metrics()["step"].tolist()
        assert steps == [1]
    config = json.loads((out / "best.json").read_text())
    assert config["learning_rate"] in rates and "run_id" not in config
    assert kit.TrainConfig(**config).max_steps == 1


@pytest.mark.wide
def test_a_budget_is_kept_by_all_runs_together(standin, lean, tmp_path, demo_data, monkeypatch):
    def answer(request):
        reply = judge(request)
        tokens = {"promptTokenCount": 900, "candidatesTokenCount": 150, "totalTokenCount": 1050}
        return Reply(reply.body.to("gemini") | {"usageMetadata": tokens})

    a_call = (900 * 0.30 + 150 * 2.50) / 1e6
    settings = {"seed": [1, 2], "data": str(demo_data), "judge": "gemini", **SHORT}
    settings["evaluation"] = EVALUATION | {"judge": "offline"}
    with JudgeServer(answer) as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        monkeypatch.setenv("GEMINI_API_KEY", "key")
        budget = 1.5 * 32 * a_call
        sweep = kit.sweep(lean, settings, tmp_path / "out", jobs=1, budget=budget)
        assert sweep.results()["state"].tolist() == ["complete", "not run: budget"]
        spent = sweep.results()["usd"].sum()
        assert spent == pytest.approx(len(server.requests) * a_call) and budget / 2 < spent <= budget
        assert kit.Run("seed-1", tmp_path / "out").config.max_usd <= budget
        table = kit.sweep(lean, settings, tmp_path / "out", budget=2 * budget).results()
        assert table["state"].tolist() == ["complete"] * 2 and table["usd"].sum() <= 2 * budget
        assert table["usd"].sum() == pytest.approx(len(server.requests) * a_call)


def test_runs_under_way_can_not_pass_a_budget_together_and_a_resumed_one_may_spend_more(tmp_path, monkeypatch):
    spent: dict[str, float] = {}
    monkeypatch.setattr(PlannedRun, "usd", lambda run, status=None: spent.get(run.name, 0.0))
    monkeypatch.setattr(costs, "quote_of", lambda run: costs.RunQuote(run, None, None, (0.2, 0.4, 0.8), 0.1))
    first, second, third = kit.Sweep("03", {"seed": [1, 2, 3]}, tmp_path / "out", backend="local").runs
    pool = costs.BudgetPool(1.3, [first, second, third], jobs=2)
    assert pool.reserve(first) == pytest.approx(0.7), "and the rest of 0.8 is for its evaluation"
    assert pool.reserve(second) == pytest.approx(0.4), "0.5 are left"
    assert pool.reserve(third) is None
    spent[first.name] = 0.3
    pool.release(first)
    assert pool.reserve(first) == pytest.approx(0.7), "0.3 in all are spent, and 0.5 are left"


@pytest.mark.wide
def test_containers_at_once_on_modal(lean, tmp_path, demo_data, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRPO_KIT_BACKEND", "modal")
    monkeypatch.setattr(launching, "_deployed", None)  # another test's server may have had it deployed
    env = {"HF_HUB_OFFLINE": "1", "STANDIN": "1", "STANDIN_HOLD": "1"}
    with ModalServer(tmp_path / "server", container_env=env, installed=STANDIN) as server, server.in_this_process():
        kit.upload_data.remote(demo_data)
        settings = {"seed": [1, 2], **SHORT, "evaluation": EVALUATION}

        def training() -> list:
            return [c for c in server.containers if c.function_name == "train" and c.ended is None]

        with ThreadPoolExecutor() as pool:
            swept = pool.submit(kit.sweep, lean, settings, "out")
            wait_until(lambda: swept.done() or len(training()) == 2, "two containers at once")
            for container in training():
                runs = container.folder / "rootfs/tmp/grpo_kit/runs"
                (metrics,) = wait_until(lambda: list(runs.glob("*/metrics.jsonl")))  # noqa: B023
                metrics.with_name("go").touch()
            sweep = swept.result()
        table = sweep.results()
        assert table["state"].tolist() == ["complete"] * 2, table["error"].tolist()
        assert table["run"].tolist() == [f"out-seed-{seed}" for seed in (1, 2)]
        assert table["trained"].notna().all() and (table["usd"] > 0).all()
        assert len([container for container in server.containers if container.function_name == "train"]) == 2
        assert len(server.asked("AppPublish")) == 1, "deployed once, and not by each kernel"
        assert "can't be read" not in capsys.readouterr().out, "of runs that are yet to be made"


def test_05_shows_a_sweep_that_runs_inside_papermill(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parameters = {"notebook": str(quick), "grid": {"x": [1, 2], "fails_at": [7, 8]}, "out": "out", "score": "score"}
    text = notebook_folder() / "05_sweep.ipynb"
    executed = papermill.execute_notebook(str(text), "05.ipynb", parameters, kernel_name="python3", progress_bar=False)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    shown = " ".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert len(re.findall(r"complete", shown)) >= 8, "the live table, and the results"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert json.loads(Path("out/result.json").read_text())["best"]["settings"]["x"] == 2


def test_fields_of_trl_are_swept(tmp_path):
    text = "{trl: [{epsilon_high: 0.2}, {epsilon_high: 0.28, top_k: 9}], save_steps: 3, max_steps: 3}"
    runs = kit.Sweep("03_launch_training", text, tmp_path).runs
    assert [run.config.trl for run in runs] == [{"epsilon_high": 0.2}, {"epsilon_high": 0.28, "top_k": 9}]
    assert [run.name for run in runs] == ["trl--epsilon_high-0.2", "trl--epsilon_high-0.28-top_k-9"]
    assert runs[1].stages[0].parameters["other_settings"]["trl"] == {"epsilon_high": 0.28, "top_k": 9}
    with pytest.raises(kit.ConfigError, match="Did you mean epsilon_high"):
        kit.Sweep("03_launch_training", "{trl: {epsilon_hgh: 0.2}}", tmp_path)


def test_runs_that_do_not_fit_side_by_side_are_said(tmp_path, demo_data, monkeypatch):
    monkeypatch.setattr("grpo_kit.costs.memory._this_machine", lambda: Device(True, 2.5))
    settings = {"data": str(demo_data), "seed": [1, 2, 3], "bf16": True}
    quote = kit.Sweep("03", settings, tmp_path / "out", backend="local").quote
    needed = quote(jobs=1).quotes[0].training.memory_gib
    assert quote(jobs=1).crowded is None and 2.5 / 3 < needed < 2.5
    crowded = quote(jobs=3)
    assert f"3 runs at a time need up to {3 * needed:.1f} GiB of the GPU's 2.5" in str(crowded)
    assert f"--jobs {int(2.5 // needed)}" in crowded.crowded.fix


def test_a_run_that_stopped_before_its_first_step_says_why(tmp_path, demo_data, monkeypatch):
    status = {"state": "stopped", "step": 0, "max_steps": 40, "reason": "memory is full"}
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: None)
    monkeypatch.setattr(PlannedRun, "status", lambda run: status)
    table = kit.sweep("03", {"data": str(demo_data), "seed": [1]}, tmp_path / "out").results()
    assert table[["state", "error"]].to_numpy().tolist() == [["stopped", "memory is full"]]
