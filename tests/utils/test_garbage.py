"""Python's garbage collector while libraries load, in processes of their own: what is frozen stays so for all tests."""

import gc
import subprocess
import sys
import threading

from grpo_kit.utils.garbage import without_collector

CODE = """
import gc, sys, types
from grpo_kit.utils.garbage import loading_libraries

class Ring:
    gone = 0
    def __init__(self): self.me = self
    def __del__(self): Ring.gone += 1

def load(name):
    with loading_libraries():
        assert not gc.isenabled()
        sys.modules[name] = types.ModuleType(name)
        return Ring()

try:
    with loading_libraries():
        raise ImportError
except ImportError:
    assert gc.isenabled() and not gc.get_freeze_count()
sys.modules["ipykernel"] = types.ModuleType("ipykernel")
ours = load("ours")
assert not gc.get_freeze_count(), "not in a notebook"
del sys.modules["ipykernel"]
libraries = load("transformers")
assert gc.isenabled() and gc.get_freeze_count() > 1000
model = load("model")
del ours, libraries, model
gc.collect()
print(Ring.gone)
"""
LOADED = """
import gc
from grpo_kit.models.load import load_tokenizer
load_tokenizer("tiny")
assert gc.isenabled()
print(gc.get_freeze_count() > 100_000)
"""


def said_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_loaded_is_never_looked_at_again_and_a_model_can_still_be_freed():
    assert said_by(CODE) == "1"  # of three: the libraries stay, and what was there with them
    assert said_by(LOADED) == "True"


def test_it_is_on_again_afterwards_and_stays_off_where_it_was():
    def use() -> None:
        for _ in range(5_000):
            with without_collector():
                pass

    with without_collector():
        assert not gc.isenabled()
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
