"""Several processes that train together, here on the CPU by gloo: the same learning, one directory, one end for all."""

import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
from helpers import wait_for_step, wait_until
from judge_server import A_CALL, KEY, JudgeServer, error, judge

import grpo_kit as kit
from grpo_kit import ConfigError, Run, RunError, RunStopped
from grpo_kit.config.gpus import GPUS, modal_usd_per_hour
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import earlier_runs
from grpo_kit.runs.resume import config_to_resume


def here(demo_data, runs_dir, run_id, **settings):
    """24 completions a step, three groups, whatever the number of processes."""
    count = settings.get("num_processes", 1)
    sizes = {"per_device_train_batch_size": 24 // count, "gradient_accumulation_steps": 1}
    settings = sizes | {"max_steps": 4, "save_steps": 2} | settings
    return kit.train(data=str(demo_data), runs_dir=runs_dir, run_id=run_id, **settings)


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes that train, found by their environment."""
    found = []
    for child in process.children(recursive=True):
        try:
            environment = child.environ()
        except (psutil.Error, OSError):
            continue
        if "RANK" in environment:
            found.append(child)
    return sorted(found, key=lambda child: child.create_time())


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_processes": 2, "gpu": "H100"}, "Use gpu=H100:2"),
        ({"num_processes": 2, "gpu": "H100:4"}, "Use gpu=H100:2"),
        ({"gpu": "H100:9"}, "from 2 to 8"),
        ({"gpu": "A10:8"}, "from 2 to 4"),
        ({"fsdp": True}, "among processes, and num_processes=1"),
        (
            {"num_processes": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
            "x num_processes=3 makes 6",
        ),
        (
            {
                "num_processes": 2,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 1,
                "judge": "gemini",
                "judge_mode": "group",
            },
            "each process judges 4 completions",
        ),
    ],
)
def test_what_does_not_go_together_is_said(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


def test_a_gpu_is_written_as_modal_writes_it_and_costs_as_many():
    several = TrainConfig(model_name="google/gemma-2-2b-it", gpu="A100-80GB:4")
    assert several.num_processes == 4 and several.completions_per_step == 4 * several.completions_per_process
    assert TrainConfig(num_processes=4, gpu="A100-80GB:4").gpu == "A100-80GB:4"
    assert TrainConfig(num_processes=2).gpu == "A10:2"
    one = several.replace(gpu="A100-80GB")
    more = modal_usd_per_hour(several.gpu, 0) - modal_usd_per_hour(one.gpu, 0)
    assert more == pytest.approx(3 * GPUS["A100-80GB"]["usd_per_hour"])
    quote = kit.quote(several, backend="modal", ask=False)
    assert quote.config.completions_per_step == 32 and "by 4 processes" in str(quote) and "A100-80GB:4" in quote.where
    assert all(gpu.endswith(":4") for gpu in quote.fits)


JUDGED = {"judge": "gemini", "judge_max_in_flight": 3, "canaries": "off"}


@pytest.fixture(scope="module")
def ended(demo_data, runs_dir):
    """Two runs of all weights that ended before their 4 steps were made, and their reward. The judge fails the first,
    whose two processes have the weights whole; the reward itself the second, whose two share them out. `ended.calls`
    are the first one's calls, `ended.most_in_flight` how many of them were under way at once."""

    def reward(completions, trainer_state, **_):
        step = str(trainer_state.global_step + 1)
        if step == os.environ["OUTAGE_IN"]:
            outage.touch()
        if step == os.environ["FAILS_IN"] and os.environ.get("RANK") == "1":
            raise KeyError("this reward's own trouble")
        return [0.0] * len(completions)

    def answer(request):
        if outage.exists():
            return error(400, "not today", "INVALID_ARGUMENT")
        answered.append(request)
        return judge(request)

    outage, answered = runs_dir / "outage", []
    settings = {"num_processes": 2, "use_lora": False, "rewards": [reward], **JUDGED}
    with JudgeServer(answer) as server, pytest.MonkeyPatch.context() as patch:
        environment = {"GOOGLE_GEMINI_BASE_URL": server.url, "GEMINI_API_KEY": KEY, "OUTAGE_IN": "4", "FAILS_IN": ""}
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(RunStopped, match=r"judgements by gemini failed, .* checkpoint-3 is saved"):
            here(demo_data, runs_dir, "moved", fsdp=False, failure_window=4, **settings)
        reward.calls, reward.most_in_flight = len(answered), server.most_in_flight
        outage.unlink()
        patch.setenv("OUTAGE_IN", "")
        patch.setenv("FAILS_IN", "3")
        with pytest.raises(RunError, match=r"KeyError: .this reward's own trouble"):
            here(demo_data, runs_dir, "shared", fsdp=True, **settings)
        patch.setenv("FAILS_IN", "")
        yield reward


def test_two_processes_answer_the_same_prompts_as_one_and_all_their_calls_are_counted(
    ended, demo_data, runs_dir, gemini
):
    alone = here(demo_data, runs_dir, "by_1", max_steps=3, save_steps=3, use_lora=False, rewards=[ended], **JUDGED)
    run = Run("moved", runs_dir)
    rows, others = run.completions(), alone.completions()
    asked = [table.groupby("step")["sample_id"].agg(sorted).tolist() for table in (rows, others)]
    assert asked[0] == asked[1], "each step has the same prompts, whoever answers them"
    # Group arithmetic counts all processes: what is compared with each other sums to nothing in every group.
    assert rows.groupby(["step", "sample_id"])["advantage"].sum().abs().max() < 1e-3
    assert rows["advantage"].abs().max() > 0.1
    saved = sorted(path.name for path in run.checkpoints[-1].glob("rng_state*"))
    assert saved == [f"rng_state_{n}.pth" for n in range(2)]
    assert 48 < run.metrics()["judge/gemini/calls"].sum() <= ended.calls and ended.most_in_flight <= 3
    assert run.status["usd"] == pytest.approx(ended.calls * A_CALL)
    assert len(json.loads((run.path / "config.json").read_text())["judges"]) == 1


@pytest.mark.wide
def test_any_number_of_processes_learns_the_same(demo_data, runs_dir):
    runs = [here(demo_data, runs_dir, f"of_{n}", num_processes=n, max_steps=6, save_steps=6) for n in (1, 2)]
    gains = [kit.evaluate.local(run, n=24, echo=lambda text: None).trained["versus_base"] for run in runs]
    low, high = gains[0]["interval"]
    assert low < gains[1]["difference"] < high


def test_what_fails_in_one_of_them_ends_all_with_its_words(ended, runs_dir):
    assert Run("moved", runs_dir).status["state"] == "stopped"
    shared = Run("shared", runs_dir)
    assert shared.status["state"] == "failed" and [path.name for path in shared.checkpoints] == ["checkpoint-2"]
    assert "raise KeyError(" in (shared.path / "train.log").read_text(), "the reward's own line"


def test_it_goes_on_with_another_number_of_processes(ended, runs_dir):
    with pytest.raises(ConfigError, match=r"can't share the 24 completions .* num_processes=1, 2, 3, 4, 6, 8"):
        kit.train(run_id="moved", runs_dir=runs_dir, num_processes=5, rewards=[ended])
    run = kit.train(run_id="moved", runs_dir=runs_dir, num_processes=1, rewards=[ended])
    assert run.metrics()["step"].tolist() == [1, 2, 3, 4] and len(run.completions()) == 4 * 24
    assert run.status["resumed"]
    assert earlier_runs(runs_dir)[0].id == "moved" and earlier_runs(runs_dir)[0].is_resumed
    assert run.config.num_processes == 1 and run.config.completions_per_step == 24


@pytest.mark.wide
def test_what_is_learnt_is_the_same_where_the_weights_are_shared_out(ended, runs_dir):
    whole, shared = Run("moved", runs_dir), Run("shared", runs_dir)
    assert (whole.status["fsdp"], shared.status["fsdp"]) == (False, True)
    pairs = zip(whole.metrics()["loss"][:2], shared.metrics()["loss"][:2], strict=True)
    assert all(ours == pytest.approx(theirs, abs=1e-5) for ours, theirs in pairs)
    assert whole.completions()["completion"][:48].tolist() == shared.completions()["completion"][:48].tolist()
    # As where "auto" decided it, on GPUs: it stays as it is, whatever "auto" would say now.
    for run in (whole, shared):
        settings = run.about["settings"] | {"fsdp": "auto"}
        (run.path / "config.json").write_text(json.dumps(run.about | {"settings": settings}))
        decided = config_to_resume(run, TrainConfig(run_id=run.id, num_processes=3))
        assert decided.fsdp is run.status["fsdp"] and decided.replace().fsdp is run.status["fsdp"]
    with pytest.raises(ConfigError, match="splits the weights among processes, and num_processes=1"):
        kit.train(run_id="shared", runs_dir=runs_dir, num_processes=1, rewards=[ended])
    run = kit.train(run_id="shared", runs_dir=runs_dir, num_processes=3, rewards=[ended])
    assert run.metrics()["step"].tolist() == [1, 2, 3, 4] and run.status["fsdp"]
    assert kit.evaluate.local(run, n=8, echo=lambda text: None).models[-1]["name"] == "checkpoint-4"


def test_they_end_together_and_the_run_goes_on(standin, demo_data, runs_dir, tmp_path, monkeypatch, webhook):
    monkeypatch.setenv("GRPO_KIT_BACKEND", "local")
    monkeypatch.setenv("STANDIN_HOLD", "3")
    sizes = {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 1}
    settings = sizes | {"num_processes": 2, "max_steps": 500, "save_steps": 2, "notify": "TEAM_URL"}
    monkeypatch.setenv("TEAM_URL", webhook.url)
    run = kit.train.spawn(data=str(demo_data), runs_dir=runs_dir, run_id="ended", **settings)

    # One of a run in the background is killed, as for want of memory.
    wait_for_step(run, 3)
    ranks = ranks_of(psutil.Process(run.worker["pid"]))
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGKILL)
    with pytest.raises(RunError, match=r"of 2: Signal 9 \(SIGKILL\)"):
        run.watch()
    assert not any(rank.is_running() for rank in ranks) and run.status["state"] == "failed"
    assert "failed at step 3 of 500: RunError: process 2 of 2: Signal 9" in webhook.wait_for("ended")
    # The run is killed, all of it.
    monkeypatch.setenv("STANDIN_HOLD", "4")
    run.resume()
    wait_for_step(run, 4)
    config = (run.path / "config.json").read_text()
    with pytest.raises(RunError, match=r"^run ended is being trained by another process; watch it"):
        kit.train(run_id="ended", runs_dir=runs_dir, num_processes=1, max_usd=3)
    assert (run.path / "config.json").read_text() == config, "what is refused changes nothing"
    family = psutil.Process(run.worker["pid"]).children(recursive=True)
    run.kill()
    psutil.wait_procs(family, timeout=300)
    assert len(family) >= 3 and not any(each.is_running() for each in family) and run.status["state"] == "killed"
    # Interrupted, as in a notebook: only the launching process is told, and all end in good order.
    monkeypatch.setenv("STANDIN_HOLD", "6")
    code = "import sys, grpo_kit as kit; kit.train(run_id='ended', runs_dir=sys.argv[1])"
    with (tmp_path / "output").open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", code, str(runs_dir)], stdout=file, stderr=file)
    wait_until(lambda: process.poll() is not None or (run.path / "checkpoint-6").exists())
    ranks = ranks_of(psutil.Process(process.pid))
    process.send_signal(signal.SIGINT)
    process.wait()
    said = (tmp_path / "output").read_text()
    assert "KeyboardInterrupt" in said and "To resume: grpo-kit train" in said, said
    assert not re.search(r"[WE]\d{4} \d\d:", said), f"torch's own log: {said}"
    assert not any(rank.is_running() for rank in ranks)
    assert run.status["state"] == "stopped" and "interrupted" in run.status["reason"]
    assert run.metrics()["step"].tolist() == [1, 2, 3, 4, 5, 6], "each step once, whatever ended it"
    assert webhook.lines[1:] == ["ended stopped at step 6 of 500: interrupted; run_id ended resumes it"]


@pytest.mark.wide
def test_one_that_misses_its_interrupt_is_ended_all_the_same(standin, demo_data, runs_dir):
    code = """if True:
        import os, sys, time, grpo_kit as kit
        def deaf(completions, trainer_state, **_):
            while os.environ["RANK"] == "0" and trainer_state.global_step == 1:
                try:
                    time.sleep(60)
                except KeyboardInterrupt:  # as torch's imports may lose it
                    pass
            return [0.0] * len(completions)
        kit.train(data=sys.argv[1], runs_dir=sys.argv[2], run_id='deaf', num_processes=2, max_steps=4,
                  per_device_train_batch_size=12, gradient_accumulation_steps=1, rewards=[deaf])"""
    process = subprocess.Popen([sys.executable, "-c", code, str(demo_data), str(runs_dir)], stderr=subprocess.DEVNULL)
    wait_until(lambda: process.poll() is not None or (runs_dir / "deaf" / "metrics.jsonl").exists())
    ranks = ranks_of(psutil.Process(process.pid))
    process.send_signal(signal.SIGINT)
    process.wait()
    assert not any(rank.is_running() for rank in ranks)
    status = Run("deaf", runs_dir).status
    assert status["state"] == "stopped" and "interrupted" in status["reason"]


class Unloadable:
    """A reward that is pickled and can't be loaded again."""

    __name__ = "unloadable"

    def __call__(self, completions, **_):
        return [0.0] * len(completions)

    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.wide
def test_what_fails_before_the_first_step_is_said_too(demo_data, runs_dir):
    with pytest.raises(RunError, match=r"of 2: RunError: the reward functions can't be loaded .*ZeroDivisionError"):
        here(demo_data, runs_dir, "unloadable", num_processes=2, rewards=[Unloadable()])
