"""The results folder: nothing half written, nothing lost, nothing measured twice."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.errors import DiskFull, ResultsError, RunError
from ratematch.measure.loadrun import LoadRun
from ratematch.plan.load import Concurrency
from ratematch.store.files import replacing, reserve, write_aside, write_json, write_text
from ratematch.store.folder import ExperimentFolder, Results
from tests.support.invented import FIGURES, GEN, LAPTOP, PAIR, experiment


def finish(folder: ExperimentFolder, load: Concurrency) -> None:
    folder.load_folder(load).mkdir(parents=True, exist_ok=True)
    folder.finish_load(load, LoadRun(launch="1"), FIGURES)


@pytest.mark.parametrize("stage_deployment", [("ifb", None), ("gen", GEN), ("e2e", PAIR)])
def test_experiments_come_back_as_they_went(tmp_path: Path, stage_deployment: tuple[str, object]) -> None:
    stage, deployment = stage_deployment
    asked = experiment(stage=stage, **({"deployment": deployment} if deployment else {}))  # type: ignore[arg-type]
    folder = Results(tmp_path).add(asked, LAPTOP)
    assert folder.read() == asked
    assert folder.read().id == asked.id


def test_a_load_counts_once_its_loadrun_is_there(tmp_path: Path) -> None:
    folder = Results(tmp_path).add(experiment(), LAPTOP)
    first, second = folder.read().loads
    assert folder.missing() == (first, second)
    folder.load_folder(first).mkdir(parents=True)
    (folder.load_folder(first) / "records.parquet").write_bytes(b"half")
    assert folder.missing() == (first, second), "records without loadrun.json are not a measurement"
    finish(folder, first)  # type: ignore[arg-type]
    assert folder.missing() == (second,)
    assert [stored.load for stored in folder.loads()] == [first]
    assert folder.loads()[0].measurement == FIGURES


def test_a_longer_ladder_keeps_what_was_measured(tmp_path: Path) -> None:
    results = Results(tmp_path)
    folder = results.add(experiment(), LAPTOP)
    for load in folder.read().loads:
        finish(folder, load)  # type: ignore[arg-type]
    folder.mark_done()
    assert folder.state() == "done"
    extra = Concurrency(16, 32, 4)
    longer = replace(experiment(), loads=(*experiment().loads, extra))
    assert results.add(longer, LAPTOP).path == folder.path
    assert folder.missing() == (extra,)
    assert folder.state() == "pending"


def test_measuring_anew_moves_the_old_figures_aside(tmp_path: Path) -> None:
    folder = Results(tmp_path).add(experiment(), LAPTOP)
    load = folder.read().loads[0]
    for _ in range(2):
        finish(folder, load)  # type: ignore[arg-type]
        folder.set_aside(load)
    assert folder.missing() == folder.read().loads
    kept = sorted(path.name for path in (folder.path / "replaced").iterdir())
    assert kept == [f"{load.label}.1", f"{load.label}.2"]
    assert all((folder.path / "replaced" / name / "measurement.json").exists() for name in kept)


def test_launches_never_share_a_folder(tmp_path: Path) -> None:
    folder = Results(tmp_path).add(experiment(), LAPTOP)
    assert [folder.new_launch().name for _ in range(11)][-1] == "11"
    last = folder.last_launch()
    assert last is not None and last.name == "11", "numbers, not names, decide which is last"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = Results(tmp_path).add(experiment(), LAPTOP)
    assert not folder.held()
    with folder.lock():
        assert folder.held()
        assert folder.holder() == os.getpid()
        assert folder.state() == "running"
        with pytest.raises(RunError, match=f"pid {os.getpid()}"), folder.lock():
            pass
    assert not folder.held()
    assert folder.state() == "pending"


def test_states_tell_failed_from_interrupted(tmp_path: Path) -> None:
    folder = Results(tmp_path).add(experiment(), LAPTOP)
    launch = folder.new_launch()
    assert folder.state() == "interrupted", "a launch without an outcome was killed"
    write_json(launch / "outcome.json", {"ok": False, "error": "boom", "interrupted": False, "seconds": 36.0})
    assert folder.state() == "failed"
    assert folder.gpu_hours() == pytest.approx(4 * 36 / 3600)
    write_json(
        folder.new_launch() / "outcome.json", {"ok": False, "error": "x", "interrupted": True, "seconds": 36.0}
    )
    assert folder.state() == "interrupted"
    assert folder.gpu_hours() == pytest.approx(2 * 4 * 36 / 3600), "every launch costs"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"x\.json: the disk is full"):
        write_text(file, "new")
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"], "nothing is left lying about"


def test_a_full_disk_is_named_with_the_file_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system names no file where a write fails, and a person should know it."""

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as failed:
        write_aside(tmp_path / "new" / "page.html", b"x")
    assert failed.value.filename == str(tmp_path / "new" / "page.html")


def test_room_is_held_before_a_load_and_given_back(tmp_path: Path) -> None:
    with reserve(tmp_path / "load", 1_000_000):
        assert (tmp_path / "load" / ".reserved").stat().st_size == 1_000_000
    assert not (tmp_path / "load" / ".reserved").exists()


def test_room_for_what_is_written_meanwhile_must_be_there_too(tmp_path: Path) -> None:
    with reserve(tmp_path / "load", 1_000_000, spare=3_000_000):
        assert (tmp_path / "load" / ".reserved").stat().st_size == 1_000_000
    with pytest.raises(DiskFull, match="the disk is full"), reserve(tmp_path / "other", 1_000_000, spare=1 << 60):
        pass
    assert list((tmp_path / "other").iterdir()) == []


def test_no_room_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="nothing measured so far is lost"), reserve(tmp_path, 1 << 60):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["", "{", '{"stage": "ifb"}', "[]"])
def test_damaged_files_are_named(tmp_path: Path, broken: str) -> None:
    folder = Results(tmp_path).add(experiment(), LAPTOP)
    (folder.path / "experiment.json").write_text(broken)
    with pytest.raises(ResultsError, match=r"experiment\.json"):
        folder.read()


def test_folders_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such results folder"):
        Results.open(tmp_path / "nowhere")
    with pytest.raises(ResultsError, match="holds no experiment"):
        Results.open(tmp_path)
    with pytest.raises(ResultsError, match=r"no experiment\.json"):
        ExperimentFolder(tmp_path).read()


def test_every_kind_of_file_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "x.csv"
    write_aside(file, b"old")
    with pytest.raises(KeyError), replacing(file) as aside:
        aside.write_bytes(b"half")
        raise KeyError
    assert file.read_bytes() == b"old"
    with replacing(file, sync=False) as aside:
        aside.write_bytes(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new" and [path.name for path in file.parent.iterdir()] == ["x.csv"]


def test_what_a_killed_process_was_writing_is_removed_by_the_next_holder(tmp_path: Path) -> None:
    folder = Results(tmp_path / "r").add(experiment(), LAPTOP)
    load = folder.path / "loads" / "c1"
    load.mkdir(parents=True)
    launch = folder.new_launch()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    dead = [
        folder.path / f".progress.json.{gone.pid}.tmp",
        load / f".records.parquet.{gone.pid}.tmp",
        load / ".reserved",
        launch / f".outcome.json.{gone.pid}.tmp",
    ]
    kept = [
        folder.path / f".progress.json.{os.getpid()}.tmp",
        folder.path / f".job.json.{gone.pid}.tmp",
        load / f".derived.json.{gone.pid}.tmp",
        load / ".notes",
    ]
    for path in (*dead, *kept):
        path.write_bytes(b"half")
    with folder.lock():
        assert [path for path in dead if path.exists()] == []
        assert all(path.exists() for path in kept), "others write these"
