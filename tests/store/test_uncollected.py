"""What a process has loaded is looked through for garbage no more, and what comes later is."""

from __future__ import annotations

import subprocess
import sys

FROZEN = """\
import gc
from ratematch.store.uncollected import freeze_loaded
freeze_loaded()
frozen = gc.get_freeze_count()
later = [[] for _ in range(1000)]
freeze_loaded()
print(frozen > 1000, gc.get_freeze_count() <= frozen, sum(map(gc.is_tracked, later)))
"""


def test_what_is_loaded_is_frozen_once_and_nothing_later() -> None:
    done = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True True 1000\n", done.stderr
