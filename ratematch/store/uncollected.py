"""Reading, measuring and ending without garbage collection of what stays."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection within. For reading what is kept: nothing of it is garbage, and looking through all of it
    again and again takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@functools.cache
def end_uncollected() -> None:
    """No garbage collection when this process ends. Python would look through all that is still there, which takes a
    fifth of all that a short command or a short job computes, and gives back memory that goes back anyway."""
    atexit.register(gc.freeze)


@functools.cache
def freeze_loaded() -> None:
    """What this process has loaded by now is not looked through for garbage any more: modules stay, and a driver has
    garbage collected before the clock of each load starts, which takes as long as there are objects (30 ms)."""
    gc.freeze()
