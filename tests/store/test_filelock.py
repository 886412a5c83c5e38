"""One holder at a time, also where the kernel's lock does not reach."""

from __future__ import annotations

import os
import time
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
