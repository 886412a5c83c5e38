"""A server that is up asks what to measure next, so that it is not started again for what is only known later.

The controller opens an experiment (``open.json``) when it sends it. A driver whose loads are done then writes
``asks.json`` and waits: until ``experiment.json`` has a further load, or the experiment is closed. It does not wait
for a controller that is gone. Both sides only write their own file, aside and renamed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from threading import Event

from ratematch.plan.load import Load
from ratematch.store import filelock, layout
from ratematch.store.files import read_json, write_json
from ratematch.store.folder import ExperimentFolder

CHECK_S = 0.05
ALONE_S = 3.0
"""How long a driver waits with no controller about: one that is started again needs a moment."""
ANSWER_S = 300.0
"""The longest that GPUs may wait for an answer, whatever the reason."""


def open_for_more(folder: ExperimentFolder, further: int) -> None:
    """More loads may follow, about ``further`` of them."""
    write_json(folder.path / layout.OPEN, {"further": further})


def close(folder: ExperimentFolder) -> None:
    (folder.path / layout.OPEN).unlink(missing_ok=True)


def is_open(folder: ExperimentFolder) -> bool:
    return (folder.path / layout.OPEN).exists()


def num_further(folder: ExperimentFolder) -> int:
    """Loads that are likely to follow those of the experiment: the time of a job allows for them."""
    file = folder.path / layout.OPEN
    return int(read_json(file)["further"]) if file.exists() else 0


def is_asking(folder: ExperimentFolder) -> bool:
    """Does its driver wait for an answer?"""
    file = folder.path / layout.ASKS
    if not (is_open(folder) and file.exists()) or _missing(folder):
        return False
    measured: list[str] = read_json(file)["measured"]
    return measured == [load.label for load in folder.read().loads]


def loads_while_open(folder: ExperimentFolder, loads: Sequence[Load], stop: Event | None = None) -> Iterator[Load]:
    """``loads``, and then every further one that the controller adds while the experiment is open."""
    waiting: Sequence[Load] = loads
    while waiting:
        yield from waiting
        waiting = _wait_for_more(folder, stop or Event())


def _wait_for_more(folder: ExperimentFolder, stop: Event) -> Sequence[Load]:
    if not is_open(folder):
        return ()
    write_json(folder.path / layout.ASKS, {"measured": [load.label for load in folder.read().loads]})
    begin = controller_seen = checked = time.monotonic()
    while is_open(folder) and not stop.is_set():
        if missing := _missing(folder):
            return missing
        now = time.monotonic()
        if now - checked > ALONE_S / 6:
            checked = now
            if filelock.is_held(folder.path.parent / layout.CONTROLLER_LOCK):
                controller_seen = now
        if now - controller_seen > ALONE_S or now - begin > ANSWER_S:
            return ()
        time.sleep(CHECK_S)
    return _missing(folder)


def _missing(folder: ExperimentFolder) -> Sequence[Load]:
    """What is to be measured on the servers that are up: breakdown loads have a launch of their own."""
    return tuple(load for load in folder.missing() if not load.breakdown)
