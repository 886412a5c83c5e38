"""Signals that ask a driver to stop, from a process that sends far too many of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

DRIVER = """
import time
from ratematch.run.stopping import stop_on_signal

with stop_on_signal() as stop:
    print("up", flush=True)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        stop.wait(0)
    assert stop.wait(5)
    print(stop.signal, flush=True)
"""


def test_a_flood_of_signals_stops_a_driver_and_does_not_lock_it() -> None:
    """A handler that takes a lock waits for itself when it comes while the main thread, or it, holds that lock."""
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        try:
            assert driver.stdout.readline() == "up\n"
            end = time.monotonic() + 1.5
            with contextlib.suppress(ProcessLookupError):
                while time.monotonic() < end:
                    os.kill(driver.pid, signal.SIGTERM)
            out, err = driver.communicate(timeout=20)
        finally:
            driver.kill()
    assert (driver.returncode, out) == (0, "SIGTERM\n"), err
