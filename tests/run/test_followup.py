"""A driver asks for further loads, a controller answers: over files, and nobody waits for somebody who is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.plan.load import Concurrency, Load
from ratematch.run import followup
from ratematch.store import filelock
from ratematch.store.files import write_json
from ratematch.store.folder import ExperimentFolder, Results
from tests.support.invented import LAPTOP, experiment
from tests.support.processes import wait_until

FIRST, SECOND = Concurrency(1, 8), Concurrency(4, 16)


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    return Results(tmp_path).add(experiment(loads=(FIRST,)), LAPTOP)


class Driver:
    """Measures what it is given in a thread of its own, as a job does."""

    def __init__(self, folder: ExperimentFolder):
        self.measured: list[Load] = []
        self.stop = threading.Event()
        self._folder = folder
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for load in followup.loads_while_open(self._folder, (FIRST,), self.stop):
            at = self._folder.load_folder(load)
            at.mkdir(parents=True)
            self.measured.append(load)
            write_json(at / "loadrun.json", {})

    def ended(self) -> bool:
        self._thread.join(60)
        return not self._thread.is_alive()


@contextmanager
def controller(folder: ExperimentFolder) -> Iterator[None]:
    with filelock.hold(folder.path.parent / "controller.lock", "{}"):
        yield


def test_a_server_that_is_up_gets_further_loads_until_it_is_told_to_stop(folder: ExperimentFolder) -> None:
    followup.open_for_more(folder, 3)
    assert followup.num_further(folder) == 3
    with controller(folder):
        driver = Driver(folder)
        wait_until(lambda: followup.is_asking(folder), 30)
        Results(folder.path.parent).add(replace(folder.read(), loads=(FIRST, SECOND)), LAPTOP)
        assert not followup.is_asking(folder)
        wait_until(lambda: followup.is_asking(folder), 30)
        followup.close(folder)
        assert driver.ended()
    assert driver.measured == [FIRST, SECOND]
    assert followup.num_further(folder) == 0


def test_a_driver_that_was_not_promised_more_asks_for_nothing(folder: ExperimentFolder) -> None:
    with controller(folder):
        assert Driver(folder).ended()
    assert not followup.is_asking(folder)


def test_a_driver_does_not_wait_for_a_controller_that_is_gone(folder: ExperimentFolder) -> None:
    followup.open_for_more(folder, 1)
    driver = Driver(folder)
    assert driver.ended()
    assert driver.measured == [FIRST]


def test_a_driver_that_is_told_to_stop_asks_no_longer(folder: ExperimentFolder) -> None:
    followup.open_for_more(folder, 1)
    with controller(folder):
        driver = Driver(folder)
        wait_until(lambda: followup.is_asking(folder), 30)
        driver.stop.set()
        assert driver.ended()
