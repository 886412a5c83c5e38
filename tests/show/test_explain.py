"""`plan --explain`: every key once, shared ones apart; the full space in `plan`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from ratematch.cli import main
from ratematch.plan.setting import Explained, Setting
from ratematch.show.views.explain import explained_to_json, print_explained

SHARED = Setting("dtype", "fp8", "alike on both")
TWO = (
    Explained("gen DEP4 64/8", (SHARED, Setting("max_batch_size", 4, "8 / 2 ranks"))),
    Explained("gen DEP8 64/8", (SHARED, Setting("max_batch_size", 2, "8 / 4 ranks", given=True))),
    Explained("ctx DEP4 64/8", (SHARED,)),
)


def test_what_servers_share_is_told_once_and_what_differs_for_each() -> None:
    console = Console(file=io.StringIO(), width=160)
    print_explained(TWO, console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    shared, own = output.split("told to gen DEP4 64/8")
    assert "told to every gen server" in shared and shared.count("alike on both") == 1
    assert "8 / 2 ranks" in own and "8 / 4 ranks" in own.split("told to gen DEP8 64/8")[1]
    assert own.count("alike on both") == 1, "the one ctx server"


@pytest.mark.parametrize("workloads", [("64/8",), ("64/8", "128/8")])
def test_variables_are_set_for_every_process(workloads: tuple[str, ...]) -> None:
    console = Console(file=io.StringIO(), width=160)
    quiet = (Setting("TELEMETRY", "0", "sends from servers that are measured"),)
    print_explained([Explained(f"environment {workload}", quiet) for workload in workloads], console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert output.count("set for every process") == output.count("TELEMETRY") == 1 and "told to" not in output


def test_json_has_each_in_full() -> None:
    first, second, _ = explained_to_json(TWO)
    assert first["servers"] == "gen DEP4 64/8"
    assert [setting["key"] for setting in second["settings"]] == ["dtype", "max_batch_size"]
    assert second["settings"][1]["given"] is True


def test_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    output = CliRunner().invoke(main, ["plan", "quickstart", "--explain", "--json"], catch_exceptions=False)
    plan = json.loads(output.stdout)
    roles = {each["servers"].split()[0] for each in plan["settings"]}
    assert roles == {"ctx", "gen", "agg", "orchestrator"}
    assert all(setting["why"] for each in plan["settings"] for setting in each["settings"])
    assert "settings" not in json.loads(CliRunner().invoke(main, ["plan", "quickstart", "--json"]).stdout)
    for row in plan["space"]:
        assert row["combinations"] == row["run"] + row["left_out"]
    assert {row["stage"]: row["combinations"] for row in plan["space"]}["gen"] == 4, "TEP4 and DEP4, mtp 0 and 1"
    assert next(row for row in plan["space"] if row["stage"] == "gen")["left_out"] == 1, "what the file excludes"
    people = CliRunner().invoke(main, ["plan", "quickstart", "--explain"]).stdout
    assert "told to every gen server" in people and "space" in people
