"""``loadrun.json`` as a value: nothing of it is lost or added on the way in and out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.loadrun import (
    EmulatorTime,
    GpuMeans,
    GpuSummary,
    Import,
    LoadRun,
    Simulation,
    TelemetrySummary,
    WarmedPrompts,
    Warming,
    from_json,
    to_json,
)
from ratematch.measure.serverlog import LogSpan
from ratematch.measure.servermetrics import StageTimes
from ratematch.store.files import to_text

CLIENT = ClientHealth(0.3, 1.5, 2.0, 4, 3.9, 0, 10.0, None, True, "uvloop", 2, 0.1, 1.0)
CLIENT_JSON = {
    "cpu_share": 0.3,
    "loop_lag_p99_ms": 1.5,
    "loop_lag_max_ms": 2.0,
    "max_in_flight": 4,
    "mean_in_flight": 3.9,
    "late_sends": 0,
    "late_ms": 10.0,
    "send_lag_p99_ms": None,
    "at_transport": True,
    "event_loop": "uvloop",
    "processes": 2,
    "decode_cpu_s": 0.1,
    "kernel_stamped": 1.0,
}
SENT = LoadRun(
    launch="1",
    mode="e2e",
    start_ns=5,
    end_ns=9,
    wall_start_ns=1_000_000_005,
    sent=20,
    notes=("GPU 0 is not sampled",),
    client=CLIENT,
)
SENT_JSON: dict[str, Any] = {
    "launch": "1",
    "mode": "e2e",
    "emulated": False,
    "simulated": False,
    "start_ns": 5,
    "end_ns": 9,
    "wall_start_ns": 1_000_000_005,
    "sent": 20,
    "failed": 0,
    "aborted": None,
    "ended_early": None,
    "notes": ["GPU 0 is not sampled"],
    "client": CLIENT_JSON,
    "telemetry": {"iterations": 0, "perf_records": 0, "acceptance_length": None, "problems": {}},
}
KINDS: dict[str, tuple[LoadRun, dict[str, Any]]] = {
    "without a window": (SENT, SENT_JSON | {"log": {}}),
    "emulated": (
        replace(SENT, origin="emulated", emulator={"gen.0": EmulatorTime(2.0, 0.1, 0.0)}),
        SENT_JSON
        | {"emulated": True, "log": {}, "emulator": {"gen.0": {"busy_s": 2.0, "late_s": 0.1, "lost_s": 0.0}}},
    ),
    "with all that servers report": (
        replace(
            SENT,
            failed=1,
            cause="a reason",
            remedy="a way out",
            telemetry=TelemetrySummary(7, 9, 1.8, {"gen-0": "/metrics: timed out"}, {"gen-0": {"iterations": 7.0}}),
            log={"gen-0": LogSpan(8.5, 250, 4, 8.6)},
            connections=Warming(32, 1, 0.5, ("HTTP 500",)),
            warmed=WarmedPrompts(4, 0, 0.2, (), 0.9, None),
            gpus=GpuSummary({"0": GpuMeans(700.0, None, 99.0)}, 700.0, 0.5),
            prometheus={"http://10.0.0.1:8000/metrics": {"samples": 3, "requests_total": 4.0}},
            stages=StageTimes(10, 0.1, 0.2, 0.3, 0.1, 0.1, 0.4, 0.0),
        ),
        SENT_JSON
        | {
            "failed": 1,
            "cause": "a reason",
            "remedy": "a way out",
            "telemetry": {
                "iterations": 7,
                "perf_records": 9,
                "acceptance_length": 1.8,
                "problems": {"gen-0": "/metrics: timed out"},
                "window": {"gen-0": {"iterations": 7.0}},
            },
            "log": {"gen-0": {"step_ms": 8.5, "iterations": 250, "in_flight": 4, "mean_step_ms": 8.6}},
            "connections": {"requests": 32, "failed": 1, "seconds": 0.5, "errors": ["HTTP 500"]},
            "warmed": {
                "prompts": 4,
                "expected": 0.9,
                "failed": 0,
                "seconds": 0.2,
                "errors": [],
                "hit_rate": None,
            },
            "gpus": {
                "gpus": {"0": {"power_w": 700.0, "sm_mhz": None, "utilisation": 99.0}},
                "power_w": 700.0,
                "joules_per_output_token": 0.5,
            },
            "prometheus": {"http://10.0.0.1:8000/metrics": {"samples": 3, "requests_total": 4.0}},
            "stages": {
                "num": 10,
                "ctx_queue_s": 0.1,
                "prefill_s": 0.2,
                "kv_transfer_s": 0.3,
                "kv_post_s": 0.1,
                "gen_queue_s": 0.1,
                "decode_s": 0.4,
                "kv_posting": 0.0,
                "kv_b": None,
                "kv_descriptors": None,
                "kv_expired": 0,
            },
        },
    ),
    "in a window in which servers reported nothing": (
        replace(SENT, telemetry=TelemetrySummary(window={})),
        SENT_JSON
        | {"telemetry": SENT_JSON["telemetry"] | {"window": {}}, "log": {}}
        | {"gpus": None, "prometheus": None, "stages": None},
    ),
    "simulated": (
        replace(SENT, origin="simulated", simulation=Simulation(0.2)),
        SENT_JSON | {"emulated": True, "simulated": True, "simulation": {"wall_s": 0.2}},
    ),
    "imported figures": (
        LoadRun(origin="emulated", imported=Import("inferencex", "rows.json", "row 2", "ab", ("E2EL",))),
        {
            "emulated": True,
            "origin": {
                "tool": "inferencex",
                "file": "rows.json",
                "row": "row 2",
                "sha256": "ab",
                "missing": ["E2EL"],
            },
        },
    ),
    "imported requests": (
        LoadRun(start_ns=7, wall_start_ns=7, imported=Import("aiperf", "a.jsonl", None, "cd")),
        {
            "emulated": False,
            "start_ns": 7,
            "wall_start_ns": 7,
            "origin": {"tool": "aiperf", "file": "a.jsonl", "row": None, "sha256": "cd", "missing": []},
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_load_has_its_keys_and_comes_back(kind: str) -> None:
    run, content = KINDS[kind]
    assert to_text(to_json(run)) == to_text(content)
    assert from_json(content) == run
    assert from_json(json.loads(json.dumps({"load": {"kind": "concurrency"}, **content}))) == run


def test_keys_that_an_earlier_version_did_not_write_have_defaults_and_are_not_added() -> None:
    old = {key: value for key, value in SENT_JSON.items() if key not in ("simulated", "notes", "telemetry")}
    old["client"] = {key: value for key, value in CLIENT_JSON.items() if key != "processes"}
    run = from_json(old)
    assert run.client is not None and run.client.processes == 1
    assert run.notes == () and run.telemetry == TelemetrySummary() and run.log == {}
    assert to_json(run) == old


def test_keys_of_a_later_version_are_ignored() -> None:
    assert from_json(SENT_JSON | {"log": {}, "weather": "fine", "absent": ["x"]}) == SENT


@pytest.mark.parametrize("broken", [{"client": {"cpu_share": 1.0}}, {"sent": "many"}, {"log": []}])
def test_content_of_another_shape_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        from_json(SENT_JSON | broken)
