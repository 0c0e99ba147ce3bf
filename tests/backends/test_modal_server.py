"""The local Modal server behaves as Modal does towards the real library and the real command, and hides the project."""

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from helpers import ROOT, wait_until
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
    done = subprocess.run([program, *map(str, args)], cwd=folder, env=env, capture_output=True, text=True)
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


@pytest.mark.wide
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


def test_a_time_out_kills_the_container_and_is_retried_as_asked(server, act):
    import modal

    code = """
enough, name = args
marks[name] = marks.get(name, 0) + 1
Path("/disk/unsaved").write_text("not committed")
print("ready")
if marks[name] < enough: time.sleep(600)
result = marks[name], os.path.exists("/disk/unsaved")
"""
    with pytest.raises(modal.exception.FunctionTimeoutError):
        act.with_options(timeout=1).remote(code, 9, "tried once")
    container = server.containers[-1]
    server.wait_for(lambda: container.ended)
    assert container.exit_reason == "timed out" and not (server.volume("disk") / "unsaved").exists()
    retries = modal.Retries(max_retries=1, initial_delay=0.0)
    call = act.with_options(timeout=600, retries=retries).spawn(code, 2, "tried twice")
    server.run_out_of_time(worker_of(server, call))
    assert call.get() == (2, True)


def test_a_failure_is_retried_as_asked(act):
    import modal

    code = """
marks["failed"] = marks.get("failed", 0) + 1
if marks["failed"] < 2: raise ValueError("not yet")
result = marks.pop("failed")
"""
    stubborn = act.with_options(retries=modal.Retries(max_retries=1, initial_delay=0.0))
    assert stubborn.spawn(code).get() == 2


def test_a_crash_or_a_kill_starts_the_same_input_again(server, act):
    code = """
print("ready")
marks["lives"] = marks.get("lives", 0) + 1
if marks["lives"] == 1: os._exit(3)
if marks["lives"] == 2:
    Path("/disk/kept").write_text("committed")
    disk.commit()
    Path("/disk/lost").write_text("not committed")
    sleeper = subprocess.Popen(["sleep", "600"])
    print("dirty")
    sleeper.wait()
result = marks.pop("lives"), Path("/disk/kept").exists(), Path("/disk/lost").exists()
"""
    call = act.spawn(code)
    server.wait_for(lambda: "dirty" in server.logs(call=call.object_id))
    container = worker_of(server, call)
    processes = container.processes()
    server.kill(container)
    assert len(processes) == 2 and not any(map(alive, processes))
    assert call.get() == (3, True, False)
    assert "exit code: 3" in server.logs("toy") and container.exit_reason == "killed"


def test_preemption_interrupts_commits_and_starts_the_same_input_again(server, act):
    code = """
if Path("/disk/halfway").exists():
    result = Path("/disk/halfway").read_text()
else:
    try:
        print("ready")
        time.sleep(600)
    except KeyboardInterrupt:
        Path("/disk/halfway").write_text("step 7")
        raise
"""
    call = act.spawn(code)
    container = worker_of(server, call)
    server.preempt(container, grace=300)
    assert container.exit_reason == "preempted"
    assert call.get() == "step 7"  # written in the grace period, committed at exit


def test_a_call_is_cancelled(server, act):
    import modal

    call = act.spawn("print('ready'); time.sleep(600)")
    container = worker_of(server, call)
    call.cancel(terminate_containers=True)
    with pytest.raises(modal.exception.RemoteError):
        call.get()
    server.wait_for(lambda: container.ended)
    assert container.exit_reason == "cancelled"


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
    blind, error, sighted = call.get()
    assert (blind, sighted) == (False, True)
    assert "open files preventing the operation" in error and "mine/a is open" in error
    assert (committed / "mine" / "a").read_text() == "1" and not (committed / "theirs").exists()


def test_files_go_up_and_down(server, tmp_path):
    import modal

    big = tmp_path / "big"
    big.write_bytes(os.urandom(20_000_000) + bytes(1000))
    volume = modal.Volume.from_name("files", create_if_missing=True)
    for force in (False, True):
        with volume.batch_upload(force=force) as batch:
            batch.put_file(big, "/here/big")
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(big, "/here/big")
    assert b"".join(volume.read_file("here/big")) == big.read_bytes()
    assert sorted(e.path for e in volume.listdir("/", recursive=True)) == ["here", "here/big"]
    with pytest.raises(FileNotFoundError):
        list(volume.read_file("absent"))
    volume.remove_file("here", recursive=True)
    assert list(volume.listdir("/")) == []


def test_large_arguments_and_results(act):
    sent = os.urandom(5_000_000)
    assert act.remote("result = args[0][::-1]", sent) == sent[::-1]
    assert act.spawn("result = args[0][::-1]", sent).get() == sent[::-1]


def test_four_calls_at_once_and_one_winner_in_a_dict(act):
    code = """
won = marks.put("lock", args[0], skip_if_exists=True)
marks[f"here {args[0]}"] = True
while not all(f"here {n}" in marks for n in range(4)): time.sleep(0.05)
result = won
"""
    calls = [act.spawn(code, number) for number in range(4)]
    assert sorted(call.get() for call in calls) == [False, False, False, True]


@pytest.mark.wide
def test_containers_do_not_outlive_a_server_that_is_killed(project, tmp_path):
    code = f"""
import subprocess, sys, os
sys.path.insert(0, {str(ROOT / "tests")!r})
from modal_server import ModalServer
server = ModalServer({str(tmp_path / "server")!r}).__enter__()
with server.in_this_process():
    program = os.path.join(os.path.dirname(sys.executable), "modal")
    subprocess.run([program, "deploy", "toy.py"], check=True, capture_output=True)
    import modal
    call = modal.Function.from_name("toy", "act").spawn("print('ready'); time.sleep(600)")
    server.wait_for(lambda: "ready" in server.logs() and server.containers[0].processes())
    print(server.containers[0].processes(), flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    (pid,) = [int(number) for number in re.findall(r"\d+", done.stdout)]
    wait_until(lambda: not alive(pid))
