"""Ctrl-C reaches every process of a terminal: what simulations are forked from says nothing of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing import forkserver
from pathlib import Path

from ratematch.campaign.jobs.simulated import SimulatedJob
from ratematch.store.folder import ExperimentFolder


def blocked(pid: int) -> set[int]:
    """Numbers of the signals that a process blocks."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    mask = int(next(line for line in lines if line.startswith("SigBlk:")).split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_the_server_that_simulations_are_forked_from_is_deaf_to_ctrl_c_from_its_first_instant(tmp_path: Path) -> None:
    """It was interrupted while it imported, and printed where; the controller hears it as ever."""
    job = SimulatedJob(ExperimentFolder(tmp_path / "nothing"))
    try:
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        assert signal.SIGINT in blocked(server)
        assert signal.SIGINT not in blocked(os.getpid())
        assert multiprocessing.get_start_method(allow_none=True) != "forkserver", "nothing global is changed"
    finally:
        job.cancel()
