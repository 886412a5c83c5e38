"""One holder at a time, also where the kernel's lock does not reach."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratematch.errors import RunError
from ratematch.store import filelock


def test_held_while_it_is_held_and_no_longer(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with filelock.hold(lock, "held by {}"):
        assert filelock.is_held(lock)
        with pytest.raises(RunError, match=f"held by pid {os.getpid()} on"), filelock.hold(lock, "held by {}"):
            pass
    assert not filelock.is_held(lock)


def test_a_holder_on_another_machine_counts_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("elsewhere 12 77")
    assert filelock.is_held(lock)
    with pytest.raises(RunError, match="pid 12 on elsewhere, Slurm job 77"), filelock.hold(lock, "{}"):
        pass
    old = time.time() - 2 * filelock.FRESH_S
    os.utime(lock, (old, old))
    assert not filelock.is_held(lock)
    with filelock.hold(lock, "{}"):
        assert filelock.is_held(lock)


def test_our_own_job_started_anew_on_another_node_takes_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    lock.write_text("elsewhere 12 77")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with filelock.hold(lock, "{}"):
        assert filelock.is_held(lock)


def test_a_holder_whose_job_is_over_is_forgotten(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("elsewhere 12 77")
    filelock.forget(lock, "78")
    assert filelock.is_held(lock)
    filelock.forget(lock, "77")
    assert not filelock.is_held(lock)


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@pytest.fixture(params=NO_LOCKS, ids=lambda number: errno.errorcode[number])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file system that has no locks."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: fail(request.param))
        yield


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def ended() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.usefixtures("without_locks")
def test_where_there_are_no_locks_one_at_a_time_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    with filelock.hold(lock, "held by {}"):
        assert filelock.is_held(lock)
        with pytest.raises(RunError, match=f"held by pid {os.getpid()} on"), filelock.hold(lock, "held by {}"):
            pass
        assert filelock.is_held(lock), "who was refused has taken nothing away"
        monkeypatch.undo()  # a process that has locks after all, as on another mount of the same folder
        assert filelock.is_held(lock)
        with pytest.raises(RunError, match=f"held by pid {os.getpid()} on"), filelock.hold(lock, "held by {}"):
            pass
    assert not filelock.is_held(lock)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize("job", ["-", "77"])
def test_where_there_are_no_locks_what_was_killed_holds_nothing(tmp_path: Path, job: str) -> None:
    lock = tmp_path / "lock"
    with filelock.hold(lock, "{}"):
        host = lock.read_text().split()[0]
    for file in (lock, tmp_path / "lock.claim"):
        file.write_text(f"{host} {ended()} {job}")
    assert not filelock.is_held(lock)
    with filelock.hold(lock, "{}"):
        assert filelock.is_held(lock)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


@pytest.mark.usefixtures("without_locks")
def test_where_there_are_no_locks_a_number_that_another_process_has_now_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, claim = tmp_path / "lock", tmp_path / "lock.claim"
    with filelock.hold(lock, "{}"):
        host = lock.read_text().split()[0]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        claim.write_text(f"{host} {other.pid} -")
        assert filelock.is_held(lock), "touched a moment ago"
        with monkeypatch.context() as patch:  # a disk that hangs for a while takes no touches
            patch.setattr(filelock, "FRESH_S", 0.0)
            assert filelock.is_held(lock), "it lived at the last sign of life"
        before_it_began = time.time() - 2 * filelock.FRESH_S
        os.utime(claim, (before_it_began, before_it_began))
        assert not filelock.is_held(lock)
        other.communicate(b"\n")


@pytest.mark.usefixtures("without_locks")
def test_where_there_are_no_locks_other_machines_count_while_they_give_signs_of_life(tmp_path: Path) -> None:
    lock, claim = tmp_path / "lock", tmp_path / "lock.claim"
    lock.touch()
    claim.write_text("elsewhere 12 77")
    with pytest.raises(RunError, match="pid 12 on elsewhere, Slurm job 77"), filelock.hold(lock, "{}"):
        pass
    filelock.forget(lock, "78")
    assert filelock.is_held(lock)
    filelock.forget(lock, "77")
    assert not filelock.is_held(lock) and not claim.exists()
    claim.write_text("")  # made, and not written yet
    with pytest.raises(RunError, match="unknown"), filelock.hold(lock, "{}"):
        pass
    old = time.time() - 2 * filelock.FRESH_S
    os.utime(claim, (old, old))
    with filelock.hold(lock, "{}"):
        assert filelock.is_held(lock)


@pytest.mark.usefixtures("without_locks")
def test_where_there_are_no_locks_one_of_many_takes_what_a_dead_one_left(tmp_path: Path) -> None:
    lock, claim = tmp_path / "lock", tmp_path / "lock.claim"
    lock.touch()
    claim.write_text("elsewhere 12 -")
    os.utime(claim, (0, 0))
    got, begin = [], threading.Barrier(6)

    def try_it(number: int) -> None:
        begin.wait()
        with contextlib.suppress(RunError), filelock.hold(lock, "{}"):
            got.append(number)
            begin.wait()  # nobody lets go before all have tried
            return
        begin.wait()

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_file_system_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: fail(number))
    with pytest.raises(RunError, match="lock: cannot be locked"), filelock.hold(tmp_path / "lock", "held by {}"):
        pass


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_held_means_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    monkeypatch.setattr(fcntl, "flock", lambda *_: fail(number))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert filelock.is_held(lock)
    with pytest.raises(RunError, match="held by unknown"), filelock.hold(lock, "held by {}"):
        pass
