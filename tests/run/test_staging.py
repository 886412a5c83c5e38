"""Copies of weights on a node's own disk: whole or not used, within their limit, gone when nobody needs them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ratematch.plan.cluster import StageWeights
from ratematch.run import staging
from ratematch.run.staging import Copy, Ended, Refused, beside
from tests.support.processes import wait_until


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint as the hub's cache has it: some files are links, one lies in a folder."""
    folder = tmp_path / "models" / "r1"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model-00001.safetensors").write_bytes(os.urandom(300_000))
    (tmp_path / "blob").write_bytes(os.urandom(200_000))
    (folder / "model-00002.safetensors").symlink_to(tmp_path / "blob")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder


def folder_of(source: Path, disk: Path) -> Path:
    """The folder around the copy of ``source``."""
    return Path(StageWeights(str(disk)).copy_of(str(source))).parent


class Job:
    """A process of a job that holds a copy, as a thread of this one."""

    def __init__(self, source: Path, disk: Path, limit_b: int = 0, keep: bool = False):
        self.said: list[tuple[str, str]] = []
        self.path = folder_of(source, disk)
        self.error: Exception | None = None
        self._copy = Copy(source, self.path / source.name, limit_b, keep)
        self._copy.report = lambda word, text="": self.said.append((word, text))  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._hold)
        self._thread.start()

    def _hold(self) -> None:
        try:
            self._copy.hold()
        except (Refused, Ended, OSError) as error:
            self.error = error

    def words(self) -> list[str]:
        return [word for word, _ in self.said]

    def wait_ready(self) -> Job:
        wait_until(lambda: "ready" in self.words() or not self._thread.is_alive(), "a copy")
        assert self.error is None, self.error
        return self

    def end(self) -> Job:
        self._copy.ended.set()
        return self.join()

    def join(self) -> Job:
        """Wait for one that ends by itself."""
        self._thread.join()
        return self


@contextlib.contextmanager
def holding(*arguments: object, **options: object) -> Iterator[Job]:
    job = Job(*arguments, **options)  # type: ignore[arg-type]
    try:
        yield job.wait_ready()
    finally:
        job.end()


def content(folder: Path) -> dict[str, bytes]:
    folder = folder / "r1" if (folder / "r1").is_dir() else folder
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def names(disk: Path) -> set[str]:
    return {file.name for file in disk.iterdir()} - {"room.lock"}


def test_a_copy_is_whole_when_it_is_ready_and_gone_at_the_end(weights: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with holding(weights, disk) as job:
        assert content(job.path) == content(weights) and len(content(weights)) == 3
        assert not beside(job.path, "part").exists()
    assert names(disk) == set()


def test_what_is_kept_is_used_again_without_copying(weights: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with holding(weights, disk, keep=True) as job:
        marks = {file: file.stat().st_ino for file in job.path.rglob("*")}
    with holding(weights, disk, keep=True) as again:
        assert {file: file.stat().st_ino for file in again.path.rglob("*")} == marks
        assert again.words() == ["ready"]


def half_copied(job: Path, weights: Path) -> None:
    """As kill -9 leaves it."""
    part = beside(job, "part") / "r1"
    part.mkdir(parents=True)
    (part / "model-00001.safetensors").write_bytes(b"half")
    entries = staging.list_files(weights)
    beside(job, "json").write_text(json.dumps({"source": str(weights), "keep": False, "files": entries}))
    beside(job, "lock").touch()


def truncated(job: Path, weights: Path) -> None:
    half_copied(job, weights)
    beside(job, "part").rename(job)


def of_other_weights(job: Path, weights: Path) -> None:
    truncated(job, weights)
    (job / "r1" / "model-00001.safetensors").write_bytes((weights / "model-00001.safetensors").read_bytes())
    beside(job, "json").write_text("half a fi")


@pytest.mark.parametrize("state", [half_copied, truncated, of_other_weights])
def test_half_a_copy_is_never_used(weights: Path, tmp_path: Path, state: Callable[[Path, Path], None]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    state(folder_of(weights, disk), weights)
    with holding(weights, disk) as job:
        assert content(job.path) == content(weights)
    assert names(disk) == set()


def test_weights_that_changed_are_copied_anew(weights: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with holding(weights, disk, keep=True):
        pass
    (weights / "model-00001.safetensors").write_bytes(os.urandom(300_000))
    with holding(weights, disk, keep=True) as job:
        assert content(job.path) == content(weights)


def test_two_jobs_of_a_node_copy_once_and_the_last_removes(weights: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    first = Job(weights, disk).wait_ready()
    second = Job(weights, disk).wait_ready()
    assert "progress" not in second.words()
    first.end()
    assert content(second.path) == content(weights), "the other still reads it"
    second.end()
    assert names(disk) == set()


def test_jobs_that_find_no_copy_at_the_same_moment_all_get_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One makes it and keeps it to the end of its job, for which the others do not wait."""
    together, is_whole = threading.Barrier(3), Copy._is_whole
    looked = threading.local()

    def look(copy: Copy, entries: list[staging.Entry]) -> bool:
        whole = is_whole(copy, entries)
        if not getattr(looked, "once", False):
            looked.once = True
            together.wait(60)
        return whole

    monkeypatch.setattr(Copy, "_is_whole", look)
    disk = tmp_path / "disk"
    jobs = [Job(weights, disk) for _ in range(3)]
    for job in jobs:
        job.wait_ready()
    for job in jobs:
        job.end()
    assert names(disk) == set()


def test_a_second_job_waits_for_the_first_to_copy(weights: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    path = folder_of(weights, disk)
    with staging.open_lock(path) as file:
        staging.fcntl.flock(file, staging.fcntl.LOCK_EX)
        job = Job(weights, disk)
        wait_until(lambda: "waiting" in job.words(), "its report")
        assert not path.exists()
    job.wait_ready().end()


def other_weights(weights: Path, name: str, size_b: int) -> Path:
    folder = weights.parent / name
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(size_b))
    return folder


def test_more_than_the_limit_is_refused_with_the_figures(weights: Path, tmp_path: Path) -> None:
    job = Job(weights, tmp_path / "disk", limit_b=400_000).join()
    assert str(job.error) == f"the weights in {weights} are 0.5 MB, and the limit is 0.4 MB"
    assert names(tmp_path / "disk") == set()


def test_more_than_the_disk_has_free_is_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 100, 4096

    monkeypatch.setattr(staging.os, "statvfs", lambda path: Full)
    job = Job(weights, tmp_path / "disk").join()
    assert str(job.error) == f"the weights in {weights} are 0.5 MB, and {tmp_path}/disk has 0.4 MB free"


def test_what_was_used_longest_ago_makes_room(weights: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    others = [other_weights(weights, name, 300_000) for name in ("old", "older", "used")]
    paths = [folder_of(other, disk) for other in others]
    for other in others[:2]:
        with holding(other, disk, keep=True):
            pass
    os.utime(beside(paths[1], "json"), (1, 1))
    (disk / "mine.json").write_text("{}")
    with holding(others[2], disk, keep=True):
        with holding(weights, disk, limit_b=1_200_000, keep=True):
            assert [path.exists() for path in paths] == [True, False, True]
        refused = Job(other_weights(weights, "large", 900_000), disk, limit_b=1_000_000).join()
        assert "the limit is 1.0 MB, of which other jobs use 0.3 MB" in str(refused.error)
    assert (disk / "mine.json").exists(), "it is none of ours"


def test_what_a_killed_job_left_goes_with_the_next_copy(weights: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    other = other_weights(weights, "other", 1000)
    left = folder_of(other, disk)
    half_copied(left, other)
    with holding(weights, disk, keep=True) as job:
        pass
    assert names(disk) == {job.path.name, f"{job.path.name}.json", f"{job.path.name}.lock"}


@pytest.mark.parametrize("wrong", ["missing", "a file", "empty", "a pipe", "a broken link"])
def test_what_is_no_checkpoint_is_refused(weights: Path, tmp_path: Path, wrong: str) -> None:
    source = tmp_path / "source"
    match wrong:
        case "a file":
            source.write_text("")
        case "empty":
            source.mkdir()
        case "a pipe":
            source.mkdir()
            os.mkfifo(source / "x")
        case "a broken link":
            source.mkdir()
            (source / "x").symlink_to("nowhere")
    job = Job(source, tmp_path / "disk").join()
    assert isinstance(job.error, Refused) and str(source) in str(job.error)


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(copy: Copy, copied_b: int) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(Copy, "_count", fill)
    job = Job(weights, tmp_path / "disk").join()
    assert isinstance(job.error, OSError) and names(tmp_path / "disk") == set()


def test_the_script_says_when_it_is_ready_and_ends_with_its_input(weights: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    copy = StageWeights(str(disk)).copy_of(str(weights))
    argv = [sys.executable, "-I", staging.__file__, str(weights), copy, "0", "remove"]
    environment = {**os.environ, "SLURMD_NODENAME": "node7"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
    with subprocess.Popen(argv, **pipes) as process:  # type: ignore[call-overload]
        while not (line := process.stdout.readline()).startswith(b"ready"):
            assert line.startswith(b"progress node7 ")
        assert line == b"ready node7\n" and content(Path(copy)) == content(weights)
        process.send_signal(signal.SIGUSR2)  # Slurm's, to all steps before the time limit
        process.stdin.close()
    assert process.returncode == 0 and names(disk) == set()
    with subprocess.Popen([*argv[:-2], "100", "remove"], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.read().startswith(b"refused node7 the weights in ")
        assert process.wait() == staging.REFUSED
