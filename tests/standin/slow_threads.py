"""SLOW_THREADS=0.25 has each thing that a thread of a test shows in a widget take that many seconds.

A test that asserts before all of it is there then fails each time, and not only on a busy machine.
"""

import os
import threading
import time

if seconds := float(os.environ.get("SLOW_THREADS", 0)):
    from traitlets import TraitType

    at_once = TraitType.__set__

    def slowly(trait, widget, value) -> None:
        pause = 0 if threading.current_thread() is threading.main_thread() else seconds / 2
        time.sleep(pause)
        at_once(trait, widget, value)
        time.sleep(pause)

    TraitType.__set__ = slowly
