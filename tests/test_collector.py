"""Python's garbage collector while libraries load, in a process of its own: what is frozen stays so for all tests."""

import subprocess
import sys

CODE = """
import gc, sys, types
from grpo_kit.collector import loading_libraries

class Ring:
    gone = 0
    def __init__(self): self.me = self
    def __del__(self): Ring.gone += 1

try:
    with loading_libraries():
        raise ImportError
except ImportError:
    assert gc.isenabled() and not gc.get_freeze_count()
with loading_libraries():
    assert not gc.isenabled()
    sys.modules["transformers"] = types.ModuleType("transformers")
    libraries = Ring()
assert gc.isenabled() and gc.get_freeze_count() > 1000
model = Ring()
with loading_libraries():
    more = Ring()
del libraries, model, more
gc.collect()
print(Ring.gone)
"""


def test_what_is_loaded_is_never_looked_at_again_and_a_model_can_still_be_freed():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr
