"""Where senders meet: in use as long as one of them lives, and cleared away by the next load when none does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ratematch.loadgen.meeting import meet, remove_left


def make_old(folder: Path) -> None:
    long_ago = time.time() - 3600
    os.utime(folder / "lock", (long_ago, long_ago))


def test_a_folder_lasts_as_long_as_a_sender(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with meet() as (folder, lock):
        make_old(folder)
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(lock,)) as sender:
            os.close(lock)  # as if the load itself had been killed
            remove_left(tmp_path)
            assert folder.is_dir(), "a sender may still write there"
            assert sender.stdin is not None
            sender.stdin.close()
            sender.wait()
        remove_left(tmp_path)
        assert not folder.exists()
        folder.mkdir()
        os.dup2(os.open(os.devnull, os.O_RDONLY), lock)
    assert list(tmp_path.iterdir()) == []


def test_young_folders_and_those_of_others_stay(tmp_path: Path) -> None:
    for name in ("ratematch-load-young", "ratematch-load-old", "something-else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        if "young" not in name:
            make_old(tmp_path / name)
    (tmp_path / "ratematch-load-older-version").mkdir()
    remove_left(tmp_path)
    left = {folder.name for folder in tmp_path.iterdir()}
    assert left == {"ratematch-load-young", "something-else", "ratematch-load-older-version"}
