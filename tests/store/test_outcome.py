"""``outcome.json`` as a value: nothing of it is lost or added on the way in and out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratematch.errors import ResultsError
from ratematch.store.files import to_text
from ratematch.store.folder import ExperimentFolder
from ratematch.store.outcome import Outcome, from_json, to_json

DONE = Outcome(
    ok=True, measured=2, seconds=9.0, began=1e9, starting_s=3.0, measuring_s=5.0, held_s=9.5, gpus=8, job="12"
)
DONE_JSON: dict[str, Any] = {
    "ok": True,
    "error": None,
    "interrupted": False,
    "measured": 2,
    "seconds": 9.0,
    "began": 1e9,
    "starting_s": 3.0,
    "measuring_s": 5.0,
    "held_s": 9.5,
    "gpus": 8,
    "job": "12",
}
KINDS: dict[str, tuple[Outcome, dict[str, Any]]] = {
    "done": (DONE, DONE_JSON),
    "failed": (
        replace(DONE, ok=False, error="gen-0 ended", kind="ServerDied", cause="memory"),
        DONE_JSON
        | {"ok": False, "error": "gen-0 ended", "kind": "ServerDied"}
        | {"cause": "memory", "remedy": None, "reference": None},
    ),
    "interrupted": (
        replace(DONE, ok=False, error="stopped", interrupted=True, signal="SIGTERM"),
        DONE_JSON | {"ok": False, "error": "stopped", "interrupted": True, "signal": "SIGTERM"},
    ),
    "simulated": (replace(DONE, simulated=True, job=None), DONE_JSON | {"simulated": True, "job": None}),
    "simulation that failed": (
        replace(DONE, simulated=True, ok=False, error="no model", kind="UserError"),
        DONE_JSON | {"simulated": True, "ok": False, "error": "no model", "kind": "UserError"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_end_has_its_keys_and_comes_back(kind: str) -> None:
    outcome, content = KINDS[kind]
    assert to_text(to_json(outcome)) == to_text(content)
    assert from_json(content) == outcome


def test_keys_that_an_earlier_version_did_not_write_have_defaults_and_are_not_added() -> None:
    old = {"ok": False, "error": "boom", "interrupted": False, "seconds": 36.0}
    outcome = from_json(old)
    assert outcome.held_s == 36.0 and outcome.gpus is None and outcome.measured == 0
    assert to_json(outcome) == old


def test_a_damaged_outcome_is_named(tmp_path: Path) -> None:
    launch = tmp_path / "launch" / "1"
    launch.mkdir(parents=True)
    (launch / "outcome.json").write_text('{"ok": "yes"}')
    with pytest.raises(ResultsError, match=r"outcome\.json: not what this version writes there"):
        ExperimentFolder(tmp_path).outcomes()
