"""Progress of a load is written beside the load, not by it."""

from __future__ import annotations

import threading
from pathlib import Path

from ratematch.run.loadprogress import reporting_progress
from ratematch.store.folder import ExperimentFolder
from ratematch.store.progress import Measuring, RunProgress


class SlowFolder(ExperimentFolder):
    """On a file system that takes until it is let go."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.go = threading.Event()
        self.began = threading.Event()
        self.written: list[int] = []

    def write_progress(self, progress: RunProgress) -> None:
        self.began.set()
        assert self.go.wait(10) and isinstance(progress, Measuring)
        self.written.append(progress.done)


def done(count: int) -> Measuring:
    return Measuring(time=0.0, load="c4-n8", load_number=1, loads=1, part="load", total=64, done=count)


def test_reporting_does_not_wait_for_the_file_system_and_the_newest_word_is_the_last(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path)
    with reporting_progress(folder) as report:
        report(done(1))
        assert folder.began.wait(10)
        for count in range(2, 50):
            report(done(count))  # would wait for ever if it wrote
        assert folder.written == []
        folder.go.set()
    assert folder.written[0] == 1 and folder.written[-1] == 49
    assert len(folder.written) <= 3, "what is no longer news is not written"


def test_the_end_of_a_load_does_not_wait_for_ever_either(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path)
    with reporting_progress(folder) as report:
        report(done(1))
    assert folder.written == []
    folder.go.set()
