"""The local Modal server behaves as Modal does towards the real library and the real command, and hides the project."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from helpers import ROOT
from modal_server import HOME, ModalServer

TOY = """
import os, signal, subprocess, sys, time
from pathlib import Path
import modal
import toykit

app = modal.App("toy")
image = modal.Image.debian_slim().pip_install("numpy").env({"FROM_IMAGE": "a b"}).add_local_python_source("toykit")
disk = modal.Volume.from_name("disk", create_if_missing=True)
marks = modal.Dict.from_name("marks", create_if_missing=True)

@app.function(image=image, volumes={"/disk": disk}, timeout=60)
def act(code, *args):
    scope = dict(globals(), args=args)
    exec(code, scope)
    return scope.get("result")

@app.function(image=image)
def fail(message):
    print("about to fail")
    raise ValueError(message)  # the line to blame

@app.local_entrypoint()
def main(code: str):
    print("returned", act.remote(code))
"""

BARE = """
import grpo_kit, modal
app = modal.App("bare")

@app.function(image=modal.Image.debian_slim())
def version():
    return grpo_kit.__file__

@app.local_entrypoint()
def main():
    version.remote()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "toy.py").write_text(TOY)
    (folder / "bare.py").write_text(BARE)
    (folder / "toykit").mkdir()
    (folder / "toykit" / "__init__.py").write_text("NAME = 'toykit'\n")
    (folder / "toykit" / "data.txt").write_text("not Python, so not uploaded\n")
    return folder


@pytest.fixture(scope="module")
def server(project, tmp_path_factory):
    secrets = {"key": {"API_KEY": "s3cret"}}
    with ModalServer(tmp_path_factory.mktemp("modal") / "server", secrets, {"FROM_TEST": "1"}) as server:
        command(server, project, "modal", "deploy", "toy.py")
        with server.in_this_process():
            yield server


def command(server, folder: Path, program: str, *args, check=True, **kwargs) -> subprocess.CompletedProcess:
    program = str(Path(sys.executable).parent / program)
    env = {**os.environ, **server.environment, "GEMINI_API_KEY": "of this machine"}
    done = subprocess.run([program, *map(str, args)], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def act(server):
    import modal

    return modal.Function.from_name("toy", "act")


def worker_of(server, call):
    """The container that works on a call now, once it has printed "ready"."""
    server.wait_for(lambda: "ready" in server.logs(call=call.object_id))
    return next(c for c in server.containers if c.input and c.input.call.call_id == call.object_id)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_modal_run_shows_output_and_stops_what_it_started(server, project):
    code = "print('from inside', args); print('warned', file=sys.stderr); result = 6 * 7"
    out = command(server, project, "modal", "run", "toy.py", "--code", code).stdout
    assert "from inside ()" in out and "warned" in out and "returned 42" in out
    app = next(reversed(server.apps.values()))
    assert not server.running(app) and "from inside" in server.logs(app.app_id)
    assert "from inside" in command(server, project, "modal", "app", "logs", app.app_id).stdout
    assert "toy" in command(server, project, "modal", "app", "list").stdout


def test_a_container_sees_what_was_uploaded_and_nothing_else(act):
    code = """
import importlib.util
result = dict(os.environ), os.getcwd(), importlib.util.find_spec("grpo_kit"), toykit.__file__, sorted(os.listdir("/"))
result += (os.listdir(os.path.expanduser("~/toykit")), os.path.exists(args[0]), os.path.realpath("/disk"))
"""
    env, cwd, kit, toykit, top, uploaded, project_is_there, disk = act.remote(code, __file__)
    assert (cwd, kit, toykit, project_is_there) == (HOME, None, f"{HOME}/toykit/__init__.py", False)
    assert {"root", "tmp", "usr", "disk"} <= set(top) and "data.txt" not in uploaded
    assert disk.startswith("/__modal/volumes/vo-")
    assert (env["FROM_IMAGE"], env["FROM_TEST"], env["HOME"]) == ("a b", "1", HOME)
    assert not {"MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "GEMINI_API_KEY", "API_KEY"} & env.keys()


def test_source_that_was_not_uploaded_is_missing_even_if_installed_here(server, project):
    import grpo_kit  # it is installed here, and in editable mode

    assert Path(grpo_kit.__file__).is_relative_to(ROOT)
    failed = command(server, project, "modal", "run", "bare.py", check=False)
    assert failed.returncode and "ModuleNotFoundError: No module named 'grpo_kit'" in failed.stdout + failed.stderr


def test_a_remote_exception_arrives_with_its_traceback():
    import modal

    with pytest.raises(ValueError, match="oh no") as error:
        modal.Function.from_name("toy", "fail").remote("oh no")
    assert f"{HOME}/toy.py" in "".join(traceback.format_tb(error.value.__traceback__))


def test_a_call_is_picked_up_by_another_process(server, act):
    call = act.spawn("time.sleep(0.5); result = 'later'")
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    code = f"import modal; print(modal.FunctionCall.from_id({call.object_id!r}).get(timeout=20))"
    assert command(server, Path.cwd(), "python", "-c", code).stdout == "later\n"


def test_options_reach_the_container(server, act):
    import modal

    changed = act.with_options(
        gpu="H100:2", memory=65536, timeout=99, retries=3, secrets=[modal.Secret.from_name("key")]
    )
    assert changed.remote("result = os.environ['API_KEY']") == "s3cret"
    container = server.containers[-1]
    assert (container.gpu, container.memory, container.timeout, container.retries) == ("H100:2", 65536, 99, 3)
    assert (container.secrets, container.volumes, container.function_name) == (["key"], {"/disk": "disk"}, "act")
    assert server.asked("FunctionBindParams")[-1].function_options.timeout_secs == 99
    server.secrets["key"]["API_KEY"] = "new"
    server.wait_for(lambda: container.ended)
    assert changed.remote("result = os.environ['API_KEY']") == "new"


def test_what_is_not_there_is_refused(server, act):
    import modal

    with pytest.raises(modal.exception.NotFoundError, match="Secret 'nothing' not found"):
        act.with_options(secrets=[modal.Secret.from_name("nothing")]).remote("")
    with pytest.raises(modal.exception.NotFoundError):
        modal.Function.from_name("toy", "nothing").remote()
    with pytest.raises(modal.exception.InvalidError, match="GPU"):
        act.with_options(gpu="A11").remote("")
    with pytest.raises(modal.exception.NotFoundError):
        modal.Volume.from_name("nothing").listdir("/")
    with pytest.raises(modal.exception.Error, match="does not implement"):
        modal.Queue.from_name("nothing", create_if_missing=True).put(1)
    assert server.asked("QueueGetOrCreate")


def test_a_wrong_token_is_refused(server, project):
    assert "test-workspace" in command(server, project, "modal", "token", "info").stdout
    server.accepts_tokens = False
    try:
        failed = command(server, project, "modal", "volume", "list", check=False)
    finally:
        server.accepts_tokens = True
    assert failed.returncode and "Token validation failed" in failed.stdout + failed.stderr


def test_a_time_out_kills_the_container_and_is_retried_as_asked(server, act):
    import modal

    code = """
print("ready")
marks["tried"] = marks.get("tried", 0) + 1
Path("/disk/unsaved").write_text("not committed")
if marks["tried"] < args[0]: time.sleep(60)
result = marks.pop("tried"), os.path.exists("/disk/unsaved")
"""
    with pytest.raises(modal.exception.FunctionTimeoutError):
        act.with_options(timeout=1).remote(code, 9)
    container = server.containers[-1]
    server.wait_for(lambda: container.ended)
    assert container.exit_reason == "timed out" and not (server.volume("disk") / "unsaved").exists()
    retries = modal.Retries(max_retries=1, initial_delay=0.0)
    assert act.with_options(timeout=2, retries=retries).spawn(code, 3).get(timeout=30) == (3, True)


@pytest.mark.parametrize("how", ["spawn", "remote"])
def test_a_failure_is_retried_as_asked(act, how):
    import modal

    code = """
marks["failed"] = marks.get("failed", 0) + 1
if marks["failed"] < 2: raise ValueError("not yet")
result = marks.pop("failed")
"""
    stubborn = act.with_options(retries=modal.Retries(max_retries=1, initial_delay=0.0))
    assert (stubborn.remote(code) if how == "remote" else stubborn.spawn(code).get(timeout=20)) == 2


def test_a_crash_or_a_kill_starts_the_same_input_again(server, act):
    code = """
print("ready")
marks["lives"] = marks.get("lives", 0) + 1
if marks["lives"] == 1: os._exit(3)
if marks["lives"] == 2:
    Path("/disk/kept").write_text("committed")
    disk.commit()
    Path("/disk/lost").write_text("not committed")
    print("dirty")
    subprocess.run(["sleep", "60"])
result = marks.pop("lives"), Path("/disk/kept").exists(), Path("/disk/lost").exists()
"""
    call = act.spawn(code)
    server.wait_for(lambda: "dirty" in server.logs(call=call.object_id))
    container = worker_of(server, call)
    processes = container.processes()
    server.kill(container)
    assert len(processes) == 2 and not any(map(alive, processes))
    assert call.get(timeout=20) == (3, True, False)
    assert "exit code: 3" in server.logs("toy") and container.exit_reason == "killed"


def test_an_ephemeral_app_gives_up_on_a_container_that_keeps_crashing(server, project):
    failed = command(server, project, "modal", "run", "toy.py", "--code", "os._exit(9)", check=False)
    assert failed.returncode and "crashed 3 times" in failed.stdout + failed.stderr


def test_preemption_interrupts_commits_and_starts_the_same_input_again(server, act):
    code = """
print("ready")
if Path("/disk/halfway").exists():
    result = Path("/disk/halfway").read_text()
else:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        Path("/disk/halfway").write_text("step 7")
        raise
"""
    call = act.spawn(code)
    container = worker_of(server, call)
    server.preempt(container, grace=20)
    assert container.exit_reason == "preempted"
    assert call.get(timeout=20) == "step 7"  # written in the grace period, committed at exit


@pytest.mark.parametrize("terminate", [True, False])
def test_a_call_is_cancelled(server, act, terminate):
    import modal

    call = act.spawn("print('ready'); time.sleep(60)")
    container = worker_of(server, call)
    call.cancel(terminate_containers=terminate)
    with pytest.raises(modal.exception.RemoteError):
        call.get(timeout=5)
    if terminate:
        server.wait_for(lambda: container.ended, timeout=5)
        assert container.exit_reason == "cancelled"
    else:
        server.wait_for(lambda: "Successfully canceled" in server.logs("toy"), timeout=10)
        assert act.remote("result = os.environ['MODAL_TASK_ID']") == container.task_id  # it lives on


def test_each_container_has_its_own_view_of_a_volume(server, act):
    code = """
Path("/disk/mine").mkdir(); Path("/disk/mine/a").write_text("1")
print("ready")
while "go" not in marks: time.sleep(0.05)
seen = [os.path.exists("/disk/theirs")]
with open("/disk/mine/a") as file:
    try:
        disk.reload()
    except RuntimeError as error:
        seen.append(str(error))
disk.reload()
seen.append(os.path.exists("/disk/theirs"))
os.unlink("/disk/theirs")
disk.commit()
result = seen
"""
    committed = server.volume("disk")
    call = act.spawn(code)
    first = worker_of(server, call)
    assert not (committed / "mine").exists()
    other = act.with_options(memory=256)  # a variant of its own, so a container of its own
    assert other.remote("result = os.path.exists('/disk/mine'); Path('/disk/theirs').write_text('2')") is False
    server.wait_for(lambda: server.containers[-1].ended)
    assert (committed / "theirs").read_text() == "2" and not first.ended  # committed when the container ended
    other.remote("marks['go'] = True")
    blind, error, sighted = call.get(timeout=20)
    assert (blind, sighted) == (False, True)
    assert "open files preventing the operation" in error and "mine/a is open" in error
    assert (committed / "mine" / "a").read_text() == "1" and not (committed / "theirs").exists()


def test_files_go_up_and_down_from_the_command_line(server, project, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(os.urandom(20_000_000))
    command(server, project, "modal", "volume", "create", "cli")
    command(server, project, "modal", "volume", "put", "cli", big, "runs/one/big")
    again = command(server, project, "modal", "volume", "put", "cli", big, "runs/one/big", check=False)
    assert again.returncode and "already exists" in again.stdout + again.stderr
    assert command(server, project, "modal", "volume", "ls", "cli", "runs/one").stdout.split() == ["runs/one/big"]
    command(server, project, "modal", "volume", "get", "cli", "runs/one", tmp_path)
    digest = hashlib.sha256(big.read_bytes()).digest()
    assert hashlib.sha256((tmp_path / "one" / "big").read_bytes()).digest() == digest
    command(server, project, "modal", "volume", "rm", "cli", "runs", "-r")
    assert not list(server.volume("cli").iterdir())


@pytest.mark.parametrize("version", [1, 2])
def test_files_go_up_and_down_from_python(server, tmp_path, version):
    import modal

    name, big = f"files{version}", tmp_path / "big"
    big.write_bytes(os.urandom(20_000_000) + bytes(1000))
    volume = modal.Volume.from_name(name, create_if_missing=True, version=version)
    for force in (False, True):
        with volume.batch_upload(force=force) as batch:
            batch.put_file(big, "/here/big")
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(big, "/here/big")
    assert b"".join(volume.read_file("here/big")) == big.read_bytes()
    assert sorted(e.path for e in volume.listdir("/", recursive=True)) == ["here", "here/big"]
    assert name in {known.name for known in modal.Volume.objects.list()}
    (server.volume(name) / "put.txt").write_text("by the test")
    assert b"".join(volume.read_file("put.txt")) == b"by the test"
    with pytest.raises(FileNotFoundError):
        list(volume.read_file("absent"))
    volume.remove_file("here", recursive=True)
    assert [e.path for e in volume.listdir("/")] == ["put.txt"]


def test_large_arguments_and_results(act):
    sent = os.urandom(5_000_000)
    assert act.remote("result = args[0][::-1]", sent) == sent[::-1]
    assert act.spawn("result = args[0][::-1]", sent).get(timeout=20) == sent[::-1]


def test_four_calls_at_once_and_one_winner_in_a_dict(act):
    code = """
won = marks.put("lock", args[0], skip_if_exists=True)
marks[f"here {args[0]}"] = True
while not all(f"here {n}" in marks for n in range(4)): time.sleep(0.05)
result = won
"""
    calls = [act.spawn(code, number) for number in range(4)]
    assert sorted(call.get(timeout=40) for call in calls) == [False, False, False, True]


def test_ctrl_c_of_modal_run_interrupts_the_container(server, project):
    code = """
print("ready", flush=True)
try:
    time.sleep(60)
finally:
    Path("/disk/ended").write_text("in order")
"""
    program = str(Path(sys.executable).parent / "modal")
    before = len(server.apps)
    running = subprocess.Popen(
        [program, "run", "toy.py", "--code", code],
        cwd=project,
        env={**os.environ, **server.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        server.wait_for(lambda: len(server.apps) > before)
        app = next(reversed(server.apps.values()))
        server.wait_for(lambda: "ready" in server.logs(app.app_id))
        os.killpg(running.pid, signal.SIGINT)
        out, _ = running.communicate(timeout=20)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert "terminate your Modal app" in out and not server.running(app)
    assert (server.volume("disk") / "ended").read_text() == "in order"


# When the server is killed itself, only the containers' main processes are sure to go with it.
@pytest.mark.parametrize(("end", "work"), [("close", "subprocess.run(['sleep', '60'])"), ("SIGKILL", "time.sleep(60)")])
def test_nothing_outlives_the_server(project, tmp_path, end, work):
    count = 2 if end == "close" else 1
    code = f"""
import subprocess, sys, os, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from modal_server import ModalServer
server = ModalServer({str(tmp_path / "server")!r}).__enter__()
with server.in_this_process():
    program = os.path.join(os.path.dirname(sys.executable), "modal")
    subprocess.run([program, "deploy", "toy.py"], check=True, capture_output=True)
    import modal
    call = modal.Function.from_name("toy", "act").spawn("print('ready'); {work}")
    server.wait_for(lambda: "ready" in server.logs())
    server.wait_for(lambda: len(server.containers[0].processes()) == {count})
    print(server.containers[0].processes(), flush=True)
    if {end!r} == "SIGKILL": os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=60)
    pids = [int(number) for number in re.findall(r"\d+", done.stdout)]
    assert len(pids) == count, done.stderr
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))
