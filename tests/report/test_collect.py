"""What a report gathers from a results folder: failures, loads left out, doubts of loads, provenance."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratematch.analysis import analyze
from ratematch.report import collect
from ratematch.store.folder import Results
from tests.support.invented import AGG, experiment

SAMPLE = Path(__file__).parents[2] / "results" / "sample"
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "mine", ignore=shutil.ignore_patterns("report")))


def edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def make(folder: Path) -> tuple[str, dict[str, Any]]:
    """The page and the data of its charts."""
    results = Results.open(folder)
    inputs = analyze.read_inputs(results)
    page = collect.make_report(results, inputs, analyze.analyze_inputs(inputs), "ratematch report mine")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return page, json.loads(data)


def test_a_load_that_is_not_valid_is_a_cross_with_its_reasons_and_a_warning(folder: Path) -> None:
    load = next(folder.glob("e2e-*-ctx1xDEP4-gen1xTEP4-mtp3-*/loads/c58-*"))
    edit(load / "measurement.json", lambda m: m.update(valid=False, reasons=[f"{EVIL}: 3 requests failed"]))
    page, data = make(folder)
    (cross,) = [p for p in data["workloads"][0]["points"] if p["kind"] == "invalid"]
    assert not cross["valid"] and cross["remarks"] == f"{EVIL}: 3 requests failed" and "c58" in cross["label"]
    assert "66 of 67 loads valid" in page and EVIL not in page
    assert "left out: e2e-1024-64-ctx1xDEP4-gen1xTEP4-mtp3 c58" in page


def test_what_failed_and_what_is_missing_come_first_among_the_warnings(folder: Path) -> None:
    failed = next(folder.glob("ifb-*-agg1xDEP4-mtp0-*"))
    (failed / "DONE").unlink()
    edit(next(failed.glob("launch/*/outcome.json")), lambda o: o.update(ok=False, error="agg-0 ended: out of memory"))
    results = Results.open(folder)
    inputs = analyze.read_inputs(results)
    warnings = collect.collect_warnings(analyze.analyze_inputs(inputs), inputs, results.now())
    assert re.match(r"ifb-1024-64-agg1xDEP4-mtp0-\w+ failed: agg-0 ended: out of memory", warnings[0])


def test_doubts_that_differ_only_in_their_numbers_are_told_once() -> None:
    results = Results.open(SAMPLE)
    inputs = analyze.read_inputs(results)
    every = [warning for row in inputs.measured for warning in row.measurement.warnings]
    late = [warning for warning in every if warning.startswith("the client sent late")]
    warnings = collect.collect_warnings(analyze.analyze_inputs(inputs), inputs, results.now())
    assert sum("the client sent late" in text for text in warnings) == 1
    assert any(text.startswith(f"{len(late)} loads, such as ") for text in warnings)


def test_provenance_names_versions_machines_times_and_cost() -> None:
    results = Results.open(SAMPLE)
    facts = collect.collect_provenance(results.now())
    assert facts["servers said"] == "1.2.0+emulated" and facts["figures are"] == "emulated"
    assert re.fullmatch(r"2026-\d\d-\d\d \d\d:\d\d to 2026-\d\d-\d\d \d\d:\d\d UTC", facts["measured"])
    assert facts["experiments, launches, loads"] == "19, 19, 67" and facts["GPU-hours"].startswith("0.67")
    assert "imported from" not in facts
    assert facts["IFB servers' options"] == "stream_interval 4"


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"options": {}}, "derived alone"),
        (
            {"options": {"attention_dp_config": {"enable_balance": True, "timeout_iters": 60}, "x": None, "y": {}}},
            "attention_dp_config.enable_balance true, attention_dp_config.timeout_iters 60, x null, y {}",
        ),
        ({"options": {}, "config": {"max_batch_size": 4}}, "a file of the user's own"),
    ],
)
def test_a_report_says_what_the_baseline_was_run_with(group: dict[str, Any], words: str) -> None:
    """Plain or balanced, whole prompts or chunks: the gain over it is worth no more than it is."""
    assert AGG.agg is not None
    deployment = replace(AGG, agg=replace(AGG.agg, **group))
    assert collect.describe_options(experiment("ifb", deployment)) == words
