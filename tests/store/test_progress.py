"""``progress.json`` as a value, and what a view makes of files of other versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ratematch.store.files import to_text, write_json
from ratematch.store.folder import ExperimentFolder
from ratematch.store.progress import Measuring, RunProgress, Starting, Waiting, from_json, to_json

KINDS: list[tuple[RunProgress, dict[str, Any]]] = [
    (Starting(1.5), {"phase": "starting", "waiting": [], "time": 1.5}),
    (
        Starting(2.0, (Waiting("gen-0", "connection refused", 3.0, "loading weights"),)),
        {
            "phase": "starting",
            "waiting": [
                {"name": "gen-0", "why": "connection refused", "seconds": 3.0, "last_line": "loading weights"}
            ],
            "time": 2.0,
        },
    ),
    (
        Measuring(3.0, "c4-n8", 1, 2, "warmup", 8, 5, 1, 4, 321.5, 23.5),
        {
            "phase": "measuring",
            "load": "c4-n8",
            "load_number": 1,
            "loads": 2,
            "time": 3.0,
            "part": "warmup",
            "total": 8,
            "done": 5,
            "failed": 1,
            "in_flight": 4,
            "tok_s": 321.5,
            "ttft_ms": 23.5,
        },
    ),
]


@pytest.mark.parametrize(("progress", "content"), KINDS)
def test_each_phase_has_its_keys_and_comes_back(
    progress: RunProgress, content: dict[str, Any], tmp_path: Path
) -> None:
    assert to_text(to_json(progress)) == to_text(content)
    folder = ExperimentFolder(tmp_path)
    assert folder.progress() is None
    folder.write_progress(progress)
    assert folder.progress() == progress


@pytest.mark.parametrize("content", [{}, {"phase": "resting"}, {"phase": "measuring", "load": 3}])
def test_what_another_version_reports_is_no_progress(content: dict[str, Any], tmp_path: Path) -> None:
    assert from_json(content) is None
    write_json(tmp_path / "progress.json", content)
    assert ExperimentFolder(tmp_path).progress() is None
