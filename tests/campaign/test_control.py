"""What a person is told of a sweep that is stopped from another terminal."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from ratematch.campaign import control
from ratematch.plan.cluster import Cluster
from ratematch.plan.workload import Workload
from ratematch.run.reserve import LOCKS, reserve
from ratematch.show.views.status import print_status, status_to_json
from ratematch.store import filelock, layout
from ratematch.store.folder import Results
from tests.support.invented import AGG, experiment

CLUSTER = Cluster("local", "h200", gpus_per_node=2, nodes=1)


def test_cancel_names_what_stopped_and_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path)
    with_controller = results.add(experiment("ifb", AGG), CLUSTER)
    on_its_own = results.add(experiment("ifb", AGG, Workload(128, 8)), CLUSTER)
    kills: list[int] = []
    with contextlib.ExitStack() as alone, contextlib.ExitStack() as together:
        together.enter_context(filelock.hold(tmp_path / layout.CONTROLLER_LOCK, "{}"))
        together.enter_context(with_controller.lock())
        alone.enter_context(on_its_own.lock())

        def kill(pid: int, number: int) -> None:
            assert (pid, number) == (os.getpid(), signal.SIGTERM)
            kills.append(pid)
            together.close()

        monkeypatch.setattr(os, "kill", kill)
        lines = control.cancel_sweep(results, None)
    assert len(kills) == 2
    assert lines[0].startswith("controller (pid ") and lines[0].endswith(": stopped")
    total = len(with_controller.read().loads)
    assert lines[1:] == [
        f"{with_controller.path.name} (0 of {total} loads measured): stopped with its controller",
        f"{on_its_own.path.name} (0 of {total} loads measured): process {os.getpid()} was asked to stop",
    ]
    assert control.cancel_sweep(results, None) == []


def test_status_says_who_holds_which_gpu_while_a_sweep_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCKS, str(tmp_path / "locks"))
    results = Results(tmp_path / "results")
    folder = results.add(experiment("ifb", AGG, emulated=False), CLUSTER)
    assert control.describe_gpus(results) == []
    with folder.lock(), reserve(1, 2, lambda held: True) as reserved:
        assert reserved.presence is not None
        reserved.presence.take_turn("starting", "a", lambda others: True)
        assert control.describe_gpus(results) == ["GPU 0 of this machine: a, starting", "GPU 1 of this machine: free"]
        console = Console(width=200, record=True, file=io.StringIO())
        print_status(status_to_json(results, on_this_machine=control.describe_gpus(results)), console)
        assert "GPU 0 of this machine: a, starting" in console.export_text()
    assert control.describe_gpus(results) == []
