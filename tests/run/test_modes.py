"""Real deployments of the emulator through ``run_experiment``: modes, warm-up, hangs, what is kept of them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratematch.analysis.rows import measured_in_detail
from ratematch.inputs.catalog import load_model
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup, Stage
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load, breakdown_loads
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.workload import Workload
from ratematch.run.experiment import run_experiment
from ratematch.show.views.status import status_to_json
from ratematch.store.folder import ExperimentFolder, Results, StoredLoad
from tests.support.invented import LAPTOP, experiment

pytestmark = pytest.mark.slow

CTX = ServerGroup("ctx", Parallelism(tp=4, ep=4, attention_dp=True), max_batch_size=16, max_num_tokens=8192)
GEN = ServerGroup("gen", Parallelism(tp=4, ep=4), max_batch_size=16, max_num_tokens=64)


def measured(
    at: Path, stage: Stage, deployment: Deployment, loads: tuple[Load, ...], workload: Workload, **profile: Any
) -> tuple[dict[str, Any], ExperimentFolder]:
    cluster: Cluster = replace(LAPTOP, command=("python3", "-m", "ratematch.emulator"), **profile)
    asked: Experiment = experiment(stage, deployment, workload, loads)
    folder = Results(at).add(asked, cluster)
    return run_experiment(folder.path), folder


@pytest.fixture(autouse=True)
def _python_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import sys

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def figures(folder: ExperimentFolder) -> dict[int, StoredLoad]:
    return {stored.load.concurrency: stored for stored in folder.loads() if isinstance(stored.load, Concurrency)}


def test_gen_only_starts_once_a_concurrency_and_agrees_with_gen_only_no_context(tmp_path: Path) -> None:
    workload, sizes = Workload(128, 64), (4, 8)
    fed_loads = tuple(Concurrency(size, 4 * size) for size in sizes)
    outcome, fed = measured(tmp_path / "fed", "gen", Deployment(CTX, GEN), fed_loads, workload)
    assert outcome["ok"], outcome
    assert outcome["measured"] == 2 and fed.done()
    assert [folder.name for folder in sorted((fed.path / "launch").iterdir())] == ["1", "2"]
    for number, size in enumerate(sizes, 1):
        assert figures(fed)[size].run.launch == str(number)
    assert fed.gpu_hours() == pytest.approx(8 * sum(row.held_s for row in fed.outcomes()) / 3600)

    loads = tuple(Concurrency(size, 4 * size, 2) for size in sizes)
    outcome, invented = measured(tmp_path / "alone", "gen", Deployment(gen=GEN), loads, workload)
    assert outcome["ok"], outcome
    for size in sizes:
        real, fake = figures(fed)[size].measurement, figures(invented)[size].measurement
        assert real.ttft_ms is None and fake.ttft_ms is not None
        assert real.tpot_ms is not None and fake.tpot_ms is not None
        assert real.tpot_ms.mean == pytest.approx(fake.tpot_ms.mean, rel=0.1)
        assert fake.tok_s_log == pytest.approx(fake.tok_s, rel=0.1), "a full batch: log and client agree"
        spans = figures(fed)[size].run.log
        assert spans["gen-0"].in_flight == size


def test_a_batch_that_never_fills_ends_with_the_cause(tmp_path: Path) -> None:
    """More in flight than the generation server has slots: the real one waits for ever, without a line."""
    deployment = Deployment(CTX, replace(GEN, max_batch_size=4))
    outcome, folder = measured(
        tmp_path, "gen", deployment, (Concurrency(8, 24),), Workload(128, 8), stall_minutes=2 / 60
    )
    assert not outcome["ok"]
    last = folder.outcome()
    assert last is not None
    assert last.kind == "Stalled" and "TLLM_BENCHMARK_REQ_QUEUES_SIZE" in (last.cause or "")
    assert "lower the concurrency" in (last.remedy or "")


@pytest.mark.parametrize(("fault", "told"), [("hang", "never ran"), ("stall=60s@3", "stopped iterating")])
def test_servers_that_stop_iterating_end_the_load_with_a_diagnosis(tmp_path: Path, fault: str, told: str) -> None:
    loads = (Concurrency(2, 4000),)
    group = ServerGroup("agg", Parallelism(tp=4, ep=4), max_batch_size=8, max_num_tokens=8192)
    outcome, folder = measured(
        tmp_path,
        "ifb",
        Deployment(agg=group),
        loads,
        Workload(64, 8),
        stall_minutes=2 / 60,
        environment={"RATEMATCH_EMULATED_FAULT": fault},
    )
    assert not outcome["ok"] and outcome["kind"] == "Stalled"
    assert "no server has run an iteration for 2 s while 2 requests are in flight" in outcome["error"]
    assert told in outcome["cause"]
    (row,) = status_to_json(Results(tmp_path))["experiments"]
    assert row["state"] == "failed" and row["cause"] == outcome["cause"] and row["remedy"]
    assert (folder.load_folder(loads[0]) / "partial-1" / "records.parquet").exists()


def test_a_stall_shorter_than_the_limit_is_waited_out(tmp_path: Path) -> None:
    group = ServerGroup("agg", Parallelism(tp=4, ep=4), max_batch_size=8, max_num_tokens=8192)
    outcome, _ = measured(
        tmp_path,
        "ifb",
        Deployment(agg=group),
        (Concurrency(2, 40),),
        Workload(64, 8),
        stall_minutes=4 / 60,
        environment={"RATEMATCH_EMULATED_FAULT": "stall=1s@0.6"},
    )
    assert outcome["ok"], outcome


def test_acceptance_is_measured_near_what_the_model_data_says(tmp_path: Path) -> None:
    """At the greatest depth; what each depth decodes a step is held to theory in tests/emulator/test_scheduler.py."""
    mtp = 3
    group = replace(GEN, mtp=mtp, max_num_tokens=16 * (mtp + 1))
    outcome, folder = measured(tmp_path, "gen", Deployment(gen=group), (Concurrency(16, 64, 4),), Workload(64, 96))
    assert outcome["ok"], outcome
    stored = figures(folder)[16]
    theory = 1 + sum(accumulate(load_model("deepseek-r1").mtp_acceptance[:mtp], mul))
    assert stored.measurement.acceptance_length == pytest.approx(theory, rel=0.04)
    assert stored.run.telemetry.acceptance_length == stored.measurement.acceptance_length


def test_end_to_end_opens_its_connections_first_and_keeps_what_the_servers_told(tmp_path: Path) -> None:
    loads = (Concurrency(2, 12, 1), Concurrency(4, 12, 1))
    outcome, folder = measured(tmp_path, "e2e", Deployment(CTX, GEN), loads, Workload(128, 8))
    assert outcome["ok"], outcome
    for stored in folder.loads():
        opened = stored.run.connections
        assert opened and (opened.requests, opened.failed) == (2 * 4 * 4, 0)
        iterations = pq.read_table(stored.folder / "iterations.parquet")
        assert set(iterations["server"].to_pylist()) == {"ctx-0", "gen-0"}
        with pa.CompressedInputStream(str(stored.folder / "perf_metrics.jsonl.zst"), "zstd") as file:
            lines = [json.loads(line) for line in file.read().splitlines()]
        assert len(lines) == 12 + 1, "this load's requests and its warm-up, none of the connections'"
        assert all(line["ctx_perf_metrics"] and line["gen_perf_metrics"] for line in lines)
    assert len(list((folder.path / "launch").iterdir())) == 1


def test_requests_that_fail_name_their_cause(tmp_path: Path) -> None:
    group = ServerGroup("agg", Parallelism(tp=4, ep=4), max_batch_size=8, max_num_tokens=32)
    outcome, folder = measured(tmp_path, "ifb", Deployment(agg=group), (Concurrency(2, 8),), Workload(64, 8))
    assert outcome["ok"], "a failed request is a record, not an exception"
    (stored,) = folder.loads()
    assert not stored.measurement.valid
    assert "longer than max_num_tokens" in (stored.run.cause or "")
    assert "chunked_prefill" in (stored.run.remedy or "")
    ((load,),) = (row["measured"] for row in status_to_json(Results(tmp_path))["experiments"])
    assert load["failed"] == 8 and load["cause"] == stored.run.cause


def test_a_release_without_perf_metrics_gives_the_same_breakdown(tmp_path: Path) -> None:
    workload, loads = Workload(512, 16), (Concurrency(4, 24, 1),)
    rows = {}
    for version in ("1.2", "main"):
        late = version == "main"
        cluster = replace(LAPTOP, command=("python3", "-m", "ratematch.emulator"))
        asked = experiment(
            "e2e", Deployment(CTX, GEN), workload, (*loads, *(breakdown_loads(loads) if late else ())), version
        )
        folder = Results(tmp_path / version).add(asked, cluster)
        outcome = run_experiment(folder.path)
        assert outcome["ok"], outcome
        plain, apart = (
            [stored for stored in folder.loads() if stored.load.breakdown is kind] for kind in (False, True)
        )
        assert {stored.run.telemetry.times_from for stored in plain} == {None if late else "route"}
        assert {stored.run.telemetry.times_from for stored in apart} == ({"files"} if late else set())
        assert all(("breakdown load" in (stored.run.telemetry.times_note or "")) == late for stored in plain)
        assert {stored.run.launch for stored in plain} == {"1"} and {s.run.launch for s in apart} <= {"2"}
        rows[version] = measured_in_detail(Results(tmp_path / version).now(), [])
    for old, new in zip(rows["1.2"], rows["main"], strict=True):
        assert old.load == new.load and not new.load.breakdown
        assert old.breakdown and new.breakdown, "each pressure has its own"
        for name in ("ctx_queue_s", "prefill_s", "kv_transfer_s", "gen_queue_s", "decode_s", "dispatch_s"):
            was, now = getattr(old.breakdown, name), getattr(new.breakdown, name)
            assert now == pytest.approx(was, rel=0.2, abs=0.02), name
