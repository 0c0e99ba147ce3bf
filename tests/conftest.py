"""Fixtures of several test files: data prepared once, trained runs made once, and what holds for the whole suite.

Files that take long come last, the longest first; --shuffle-files SEED has files run in another order. Whatever a test
starts carries this run's mark in its environment, and what still runs at the end fails the run.
"""

import gc
import importlib
import importlib.util
import os
import random
import shutil
import signal
import sys
import uuid
from collections import Counter
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from helpers import SGD, STANDIN, wait_until
from judge_server import KEY, JudgeServer
from webhook_server import WebhookServer

# Files of ten seconds or more, which `make test-quick` leaves out; the longest first.
LONG = """
    test_browser test_modal_runs test_modal_shell test_notebooks test_processes test_sweeps test_report
    test_modal_server test_serving test_spawn test_resume test_alarms test_gemini_training test_doctor
    test_rollouts_ahead test_calibration test_memory test_verdict test_failures test_run_folders test_four_bits
    test_gpu_benchmark test_each_family test_thinking test_training test_evaluation test_difficulty test_budget
    test_agent_training test_publish
""".split()
MARK = "GRPO_KIT_TEST_SESSION"
IS_MAIN = MARK not in os.environ  # not a worker of pytest-xdist, nor tests that a test runs

LEFT = pytest.StashKey[list[str]]()

sys.modules.setdefault("rfc3987_syntax", None)  # as grpo_kit/sweeps/notebooks.py says
gc.disable()  # until all tests are imported, torch with them, as the kit itself does while it loads libraries

# One thread: as quick at the tiny model's size, and steadier beside other processes. Before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Every process that is started imports quick_imports from there; the stand-ins only where a test asks for them.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(STANDIN), os.environ.get("PYTHONPATH")]))
sys.path.append(str(STANDIN))
for name in ("quick_imports", "slow_threads"):
    importlib.import_module(name)
# A shell's background processes ignore interrupts, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sgd() -> Path:
    """Real dialogues, which the project does not ship."""
    if not SGD.exists():
        pytest.skip(f"no Schema-Guided Dialogue files at {SGD}")
    return SGD


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """The demo's dialogues, prepared."""
    from grpo_kit import prepare
    from grpo_kit.data import demo

    out = tmp_path_factory.mktemp("data") / "demo"
    prepare(demo.TRACES, out, eval_fraction=demo.EVAL_FRACTION)
    return out


@pytest.fixture
def few(tmp_path, demo_data) -> Path:
    """So few of them that an epoch has two steps."""
    folder = tmp_path / "few"
    folder.mkdir()
    lines = (demo_data / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:9]))
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, demo_data):
    """A run of 20 steps on the demo's data: long enough to learn something, short enough for a test. One worker trains
    it, and each has a copy. A test that evaluates or changes it does that to a copy of its own."""
    from grpo_kit import Run, train

    own = tmp_path_factory.getbasetemp()
    made = (own if IS_MAIN else own.parent) / "trained"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            train(data=str(demo_data), max_steps=20, save_steps=10, run_id="grpo_20", runs_dir=made)
    return Run(shutil.copytree(made / "grpo_20", tmp_path_factory.mktemp("runs") / "grpo_20"))


@pytest.fixture
def gemini(monkeypatch):
    """Gemini on loopback, with a key in the environment."""
    monkeypatch.setattr("grpo_kit.judges.chat.client.FIRST_WAIT", 0.01)
    with JudgeServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        yield server


@pytest.fixture
def webhook(monkeypatch):
    """A webhook on loopback, with its URL in TEAM_URL."""
    with WebhookServer() as server:
        monkeypatch.setenv("TEAM_URL", server.url)
        yield server


@pytest.fixture
def standin(monkeypatch):
    """Has runs trained by the trainer in standin/, which needs no torch, and evaluated by models that need none: in
    every process that is started. Where this one trains, by that trainer too."""
    monkeypatch.setenv("STANDIN", "1")
    monkeypatch.syspath_prepend(STANDIN)
    spec = importlib.util.spec_from_file_location("grpo_kit.training.grpo", STANDIN / "standin_trainer.py")
    trainer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trainer)
    monkeypatch.setitem(sys.modules, spec.name, trainer)
    monkeypatch.setattr("grpo_kit.backends.watch.POLL_SECONDS", 0.2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle-files", type=int, help="run the files in an order that this seed draws")
    parser.addoption("--wide", action="store_true", help="try all cases, and print a table of the faults among them")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: in a file of ten seconds or more")
    config.addinivalue_line("markers", "vllm: needs vLLM's build for CPUs, which `make test-vllm` installs")
    config.addinivalue_line(
        "markers", "fault(kind, times=1): a row of `make faults`, and how many faults the test makes"
    )
    config.addinivalue_line("markers", "wide: what another test nearly shows too, at a price; run with --wide alone")
    config.addinivalue_line("markers", "cases(some, all): parametrizes `case` by all with --wide, else by a drawn few")
    os.environ.setdefault(MARK, str(uuid.uuid4()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for some, cases in (mark.args for mark in metafunc.definition.iter_markers("cases")):
        drawn = cases if metafunc.config.getoption("--wide") else random.Random(1).sample(cases, some)
        metafunc.parametrize("case", drawn, ids=str)


@pytest.fixture(autouse=True)
def _counted(request, record_property) -> None:
    if mark := request.node.get_closest_marker("fault"):
        record_property("fault", (mark.args[0], mark.kwargs.get("times", 1)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in LONG:
            item.add_marker("long")
        if item.get_closest_marker("wide") and not config.getoption("--wide"):
            item.add_marker(pytest.mark.skip(reason="`make test-wide` runs it"))
    order = {stem: place for place, stem in enumerate(LONG)}
    if (seed := config.getoption("--shuffle-files")) is not None:
        stems = sorted({item.path.stem for item in items})
        order = dict(zip(stems, random.Random(seed).sample(range(len(stems)), len(stems)), strict=True))
    items.sort(key=lambda item: order.get(item.path.stem, -1))


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends what tests left running, and fails the run for it."""
    if not IS_MAIN:
        return

    def left() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _is_marked(process)]

    resource_tracker._resource_tracker._stop()  # this process's own, where it has tests run without workers
    try:
        wait_until(lambda: not left(), seconds=20)  # what was ended may take a moment
    except AssertionError:
        session.config.stash[LEFT] = [f"{process.pid} {' '.join(process.cmdline())}" for process in left()]
        session.exitstatus = 1
        for process in left():
            process.kill()


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.getoption("--wide"):
        _print_table(terminalreporter)
    if lines := config.stash.get(LEFT, []):
        terminalreporter.section("left running by tests, and killed", red=True)
        terminalreporter.write_line("\n".join(lines))


def _print_table(reporter) -> None:
    """Of each kind of fault, how many were made and how many came out as they should."""
    made, survived = Counter(), Counter()
    for outcome in ("passed", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            for kind, times in (value for name, value in report.user_properties if name == "fault"):
                made[kind] += times
                survived[kind] += times if outcome == "passed" else 0
    reporter.section("faults")
    for kind in made:
        reporter.write_line(f"| {kind} | {made[kind]} | {survived[kind]} |")


def _is_marked(process: psutil.Process) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(MARK) == os.environ[MARK]
    except psutil.Error:
        return False
