"""What several test files share: data prepared once, and a trained run made once."""

import os
from pathlib import Path

import pytest

# One thread: as quick at the tiny model's size, and steadier beside other processes. Before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files that take a minute or more come last, the longest of them first.
LONG = """
    test_processes test_modal_runs test_sweeps test_browser test_modal_shell test_resume test_gemini_training test_ahead
    test_memory test_modal_server test_notebooks test_doctor test_spawn test_budget test_troubles test_training
""".split()
SGD = Path(__file__).parents[1].parent / "shared" / "data" / "sgd"


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
    """A run of 20 steps on the demo's data: long enough to learn something, short enough for a test."""
    from grpo_kit import train

    return train(data=str(demo_data), max_steps=20, save_steps=10, runs_dir=tmp_path_factory.mktemp("runs"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else -1)
