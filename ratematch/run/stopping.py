"""How a driver learns that it is to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ratematch.errors import RunError


class Interrupted(RunError):
    """The person or the scheduler asked the run to stop."""


class Stop(threading.Event):
    """Asked to stop; ``signal``: by which signal."""

    signal: str | None = None


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """An event that SIGTERM, SIGINT, SIGHUP and SIGUSR2 set, so that servers are always stopped in order.

    submitit's own SIGTERM handler only logs, and on SIGUSR2, with which Slurm warns of the time limit, it would raise
    in the middle of an event loop, as a terminal's Ctrl-C would.

    The handler only writes to a pipe, and a thread that reads it sets the event: an event's lock is not reentrant, so
    a handler that came while the main thread was inside ``set`` or ``wait`` (two signals in a row) waited for itself.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reading, writing = os.pipe()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = stop.signal or signal.Signals(number).name
        os.write(writing, b"!")

    def listen() -> None:
        while os.read(reading, 1):
            stop.set()

    listener = threading.Thread(target=listen, name="stop signals", daemon=True)
    listener.start()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        listener.join()
        os.close(reading)
