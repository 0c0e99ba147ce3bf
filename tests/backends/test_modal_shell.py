"""Lines typed in a shell, the guide's own among them: the real `modal` and `grpo-kit` commands, against a local
server that speaks Modal's protocol, with a Gemini and a Hugging Face hub of the same kind."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, STANDIN, wait_until
from hub_server import LET_IN, TINY, HubServer, Repository
from judge_server import JudgeServer
from modal_server import HOME, ModalServer
from safetensors import safe_open

from grpo_kit import Run

GUIDE = (
    'modal run grpo_kit/app.py::train --model-name "google/gemma-2-2b-it" --gemini-model "gemini-1.5-pro-latest" '
    "--max-steps 100 --learning-rate 5e-6 --per-device-train-batch-size 1 --num-generations 2 --use-lora true "
    "--lora-r 16 --lora-alpha 32"
)
PRESENT = GUIDE.replace("gemini-1.5-pro-latest", "gemini-3.5-flash").replace("--max-steps 100", "--max-steps 1")
MAKE_SECRET = "modal secret create --force gemini-secret GEMINI_API_KEY="


class Shell:
    """A shell in an empty folder that has the kit's source, as a clone of the repository has it."""

    def __init__(self, folder: Path, server: ModalServer):
        self.folder, self.server = folder, server
        # Links, so that what is run is this source; modal follows them to the files.
        (folder / "grpo_kit").symlink_to(ROOT / "grpo_kit")
        programs = str(Path(sys.executable).parent)
        self.own = {**server.environment, "PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "120"}

    def start(self, line: str, **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "-c", line],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if name != "GEMINI_API_KEY"} | self.own | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, line: str, code: int = 0, **env: str) -> str:
        process = self.start(line, **env)
        try:
            output, _ = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == code, f"{line}\n{output}\n{self.server.logs()}"
        assert "Traceback" not in output
        return output

    def gpus_asked_for(self) -> list[str]:
        return [c.gpu for c in self.server.containers if c.gpu]


@pytest.fixture(scope="module")
def gemini():
    with JudgeServer() as server:
        yield server


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        server.models["google/gemma-2-2b-it"] = Repository(TINY, let_in={LET_IN})
        yield server


@pytest.fixture(scope="module")
def shell(tmp_path_factory, gemini, hub):
    env = {"GOOGLE_GEMINI_BASE_URL": gemini.url, "HF_ENDPOINT": hub.url, "STANDIN": "1"}
    folder = tmp_path_factory.mktemp("modal") / "server"
    with ModalServer(folder, container_env=env, installed=STANDIN) as server:
        server.scaledown = 60  # as on Modal
        yield Shell(tmp_path_factory.mktemp("shell"), server)


@pytest.fixture(autouse=True)
def no_secrets_unless_made(shell):
    shell.server.secrets.clear()


def run_id_in(output: str) -> str:
    return re.search(r"Run (\S+) on Modal", output)[1]


def test_the_first_remote_run_needs_no_data_no_secret_and_no_setting(shell, standin):
    (shell.folder / "settings.yaml").write_text("max_steps: 9\nsave_steps: 3")
    output = shell.run("modal run grpo_kit/app.py --config settings.yaml --max-steps 3")
    run_id = run_id_in(output)
    assert "trains on the kit's own samples" in output and "Step 3/3" in output
    assert f"Run {run_id} is complete: volume grpo-checkpoints, runs/{run_id}" in output
    container = [c for c in shell.server.containers if c.function_name == "train"][-1]
    assert (container.gpu, container.memory, container.timeout, container.retries) == ("A10", 32768, 7200, 3)
    assert [c.secrets for c in shell.server.containers] == [[]] * len(shell.server.containers)

    # The lines that the run itself names.
    assert f"runs/{run_id}" in shell.run("modal volume ls grpo-checkpoints runs")
    fetch = next(line for line in output.splitlines() if line.startswith("Its files: ")).removeprefix("Its files: ")
    assert fetch == f"mkdir -p local_models && modal volume get grpo-checkpoints runs/{run_id} ./local_models"
    shell.run(fetch)
    run = Run(shell.folder / "local_models" / run_id)
    assert run.metrics()["step"].tolist() == [1, 2, 3] and run.checkpoints[-1].name == "checkpoint-3"
    line = shell.run(f"grpo-kit eval --model-path ./local_models/{run_id} --n 8").splitlines()[-1]
    assert re.match(r"base \d\.\d\d trained \d\.\d\d difference", line)

    table = shell.run("grpo-kit runs")
    assert re.search(rf"{run_id} +modal +complete +3/3", table)
    line = shell.run(f"grpo-kit eval {run_id} --n 8", GRPO_KIT_BACKEND="modal").splitlines()[-1]
    assert re.match(r"base \d\.\d\d trained \d\.\d\d difference", line)
    assert "Step 3/3" in shell.run(f"grpo-kit logs {run_id}")
    shell.run(f"grpo-kit download {run_id} models/first && grpo-kit delete {run_id} --yes")
    assert Run(shell.folder / "models/first").checkpoints[-1].name == "checkpoint-3"
    assert f"no run {run_id} under runs or on Modal's volume" in shell.run(f"grpo-kit watch {run_id}", code=2)


def test_the_image_is_the_lock_files_and_nothing_of_this_machine(shell):
    shell.run("modal deploy grpo_kit/app.py")
    recipes = [message.image for message in shell.server.asked("ImageGetOrCreate")]
    commands = "\n".join(line for image in recipes for line in image.dockerfile_commands)
    contents = {file.filename for image in recipes for file in image.context_files}
    assert "uv pip install" in commands and any("requirements" in name for name in contents)
    sent = {file.data.decode() for image in recipes for file in image.context_files if "requirements" in file.filename}
    assert sent == {(ROOT / "requirements-gpu.lock").read_text()}
    assert "HF_HOME" in commands
    there = {name for message in shell.server.asked("MountGetOrCreate") for name in (f.filename for f in message.files)}
    data_files = [path for path in (ROOT / "grpo_kit").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {f"{HOME}/grpo_kit/{path.relative_to(ROOT / 'grpo_kit').as_posix()}" for path in data_files} <= there


def test_data_is_uploaded_and_read_back(shell, demo_data):
    missing = shell.run("modal run grpo_kit/app.py::upload_data", code=2)
    assert "error: no train.jsonl in data/processed. `grpo-kit prepare TRACES" in missing
    missing = shell.run("modal run grpo_kit/app.py --model-name google/gemma-2-2b-it --data other", code=2)
    assert "error: no train.jsonl for data='other' on the volume training-data" in missing

    shutil.copytree(demo_data, shell.folder / "data" / "processed")
    output = shell.run("modal run grpo_kit/app.py::upload_data")
    size = (demo_data / "train.jsonl").stat().st_size
    assert f"training-data:/train.jsonl: 1383 samples, {size} bytes, read back and compared" in output
    assert (shell.server.volume("training-data") / "eval.jsonl").read_bytes() == (demo_data / "eval.jsonl").read_bytes()
    with (shell.folder / "data/processed/train.jsonl").open("a") as file:
        file.write("{}\n")
    assert "train.jsonl:1384" in shell.run("modal run grpo_kit/app.py::upload_data", code=2)


def test_the_guides_troubles_each_have_an_answer_before_a_gpu_is_asked_for(shell, hub, demo_data):
    before = shell.gpus_asked_for()
    missing_key = shell.run(GUIDE, code=2)
    assert (
        "error: there is no Modal secret gemini-secret with GEMINI_API_KEY" in missing_key
        and MAKE_SECRET in missing_key
    )

    shell.server.secrets["gemini-secret"] = {"GEMINI_API_KEY": "AIza-planted"}
    shutil.rmtree(shell.server.volume("training-data"))
    shell.server.volume("training-data").mkdir()
    missing_data = shell.run(GUIDE, code=2)
    assert "error: no train.jsonl for data='data/processed' on the volume" in missing_data
    assert "modal run grpo_kit/app.py::upload_data" in missing_data

    shutil.copy(demo_data / "train.jsonl", shell.server.volume("training-data"))
    shell.server.secrets["huggingface-secret"] = {"HF_TOKEN": LET_IN}
    gone = shell.run(GUIDE, code=2)
    assert "gemini-1.5-pro-latest" in gone and "gemini-3.5-flash-lite" in gone
    assert shell.gpus_asked_for() == before

    output = shell.run(PRESENT)
    run = Run(shell.server.volume("grpo-checkpoints") / "runs" / run_id_in(output))
    asked = {"learning_rate": 5e-6, "per_device_train_batch_size": 1, "num_generations": 2, "lora_alpha": 32}
    assert {name: run.about["settings"][name] for name in asked} == asked and run.config.judge == {"gemini": 1.0}
    container = [c for c in shell.server.containers if c.function_name == "train"][-1]
    assert sorted(container.secrets) == ["gemini-secret", "huggingface-secret"]
    everything = output + gone + shell.server.logs() + (run.path / "train.log").read_text()
    assert "AIza-planted" not in everything and LET_IN not in everything


def test_settings_that_cannot_work_are_one_line(shell):
    assert "error: max_steps='abc': should be a valid integer" in shell.run(
        "modal run grpo_kit/app.py --max-steps abc", 2
    )
    assert "from 2 to 4" in shell.run("modal run grpo_kit/app.py --gpu A10:8 --num-generations 1", 2)


@pytest.mark.wide
def test_two_terminals_at_once_one_with_all_weights_and_ctrl_c_in_the_other(shell, monkeypatch):
    monkeypatch.setitem(shell.server.container_env, "STANDIN_HOLD", "4")
    first = shell.start("modal run grpo_kit/app.py --max-steps 60 --save-steps 2 --seed 1")
    second = shell.start("modal run grpo_kit/app.py --max-steps 2 --save-steps 2 --use-lora false")
    said = []
    try:
        while not said or "Step 4/60" not in said[-1]:
            said.append(first.stdout.readline())
            assert said[-1], "".join(said)
        os.killpg(first.pid, signal.SIGINT)
        rest, _ = first.communicate()
        output, _ = second.communicate()
    finally:
        for process in (first, second):
            process.kill()
    interrupted, complete = run_id_in("".join(said)), run_id_in(output)
    assert second.returncode == 0 and f"Run {complete} is complete" in output and interrupted != complete
    folder = shell.server.volume("grpo-checkpoints") / "runs" / complete
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert any(name.endswith("embed_tokens.weight") for name in weights.keys())  # noqa: SIM118
    assert not (folder / "adapter_config.json").exists()
    folder = shell.server.volume("grpo-checkpoints") / "runs" / interrupted
    wait_until(lambda: all(c.ended for c in shell.server.containers if c.function_name == "train"))
    assert first.returncode == 130 and f"modal run grpo_kit/app.py --run-id {interrupted} resumes it" in rest
    assert Run(folder).metrics()["step"].tolist() == [1, 2, 3, 4]
    resumed = shell.run(f"modal run grpo_kit/app.py --run-id {interrupted} --max-steps 61", 2)
    assert "was started with other settings: max_steps=61" in resumed
