"""Files with the field names that other tools write: units converted, missing fields reported, origin kept."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.analysis.analyze import analyze_inputs, read_inputs, remeasure
from ratematch.cli import main
from ratematch.errors import UserError
from ratematch.exchange.results.detect import read_foreign
from ratematch.exchange.results.export import export_results
from ratematch.exchange.results.foreign import Hints, parse_servers
from ratematch.exchange.results.ingest import import_results
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Rate
from ratematch.store.files import read_json
from ratematch.store.folder import Results

from .foreign_files import (
    AIC_AGG,
    AIC_DISAGG,
    AIPERF_SUMMARY,
    INFERENCEX_AGG,
    INFERENCEX_DISAGG,
    SA_BENCH,
    TRTLLM_SERVING,
    VLLM,
    aiperf_line,
    write_aiperf_lines,
)

SAMPLE = Path(__file__).parents[2] / "results" / "sample"
SAID = Hints(
    model="deepseek-r1", gpu="gb200", engine="trtllm-serve/1.2", agg=parse_servers("DEP8"), mtp=3, emulated=False
)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def call(*argv: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in argv], catch_exceptions=False)


def stored(into: Path) -> list[Measured]:
    return Results(into).measured()


def put(tmp_path: Path, file: Path, given: Hints = SAID, **options: Any) -> Measured:
    """Import one file and read its one load back from the store."""
    imported, skipped = import_results([file], given, tmp_path / "in", **options)
    assert not skipped and len(imported) == 1
    return stored(tmp_path / "in")[-1]


def test_aiperf_records_become_our_records_and_are_judged_by_our_rules(tmp_path: Path) -> None:
    file = write_aiperf_lines(tmp_path / "profile_export.jsonl")
    write(tmp_path / "profile_export_aiperf.json", AIPERF_SUMMARY)
    row = put(tmp_path, file)
    figures = row.measurement
    assert row.load == Concurrency(2, 60, warmup=2), "the load is in the summary beside the records"
    assert figures.window is not None and figures.valid, figures.reasons
    assert figures.ttft_ms is not None and figures.ttft_ms.mean == pytest.approx(100.0)
    assert figures.tpot_ms is not None and figures.tpot_ms.mean == pytest.approx(10.0)
    assert figures.tok_s_user == pytest.approx(100.0)
    assert figures.req_s == pytest.approx(2 / 1.1, rel=0.02), "two slots, 1.1 s a request"
    assert figures.send_lag_ms is None, "not in the file, so not zero"
    assert any("imported from AIPerf" in warning for warning in figures.warnings)
    assert row.experiment.model == "deepseek-r1" and row.experiment.stage == "ifb"


def test_failed_and_cancelled_requests_of_aiperf_stay_failures(tmp_path: Path) -> None:
    lines = [aiperf_line(k) for k in range(40)]
    lines[3] = aiperf_line(3, error={"code": 500, "type": "InternalServerError", "message": "boom"})
    lines[5]["metadata"] |= {"was_cancelled": True, "cancellation_time_ns": 1}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    ((load,), _) = read_foreign(write(tmp_path / "profile_export.jsonl", text))
    outcomes = {record.seq: (record.outcome, record.status, record.error) for record in load.records}
    assert outcomes[3] == ("http_error", 500, "boom") and outcomes[5][0] == "cancelled"
    row = put(tmp_path, tmp_path / "profile_export.jsonl", Hints(**{**SAID.__dict__, "concurrency": 2}))
    assert row.measurement.num_failed == 2 and not row.measurement.valid


def test_units_of_aiperf_are_read_not_assumed(tmp_path: Path) -> None:
    ((load,), _) = read_foreign(write(tmp_path / "s.json", AIPERF_SUMMARY))
    assert load.figures is not None and load.figures.ttft_ms is not None
    assert load.figures.ttft_ms.mean == pytest.approx(100.0), "0.1 sec"
    assert load.figures.ttft_ms.p99 == pytest.approx(104.9) and load.figures.ttft_ms.p999 is None
    strange = {**AIPERF_SUMMARY, "time_to_first_token": {"unit": "fortnights", "avg": 1}}
    with pytest.raises(UserError, match="unit 'fortnights'"):
        read_foreign(write(tmp_path / "t.json", strange))


@pytest.mark.parametrize(
    ("content", "load"), [(TRTLLM_SERVING, Concurrency(64, 512)), (SA_BENCH, Concurrency(64, 512))]
)
def test_benchmark_serving_of_trtllm_and_sa_bench(tmp_path: Path, content: dict[str, Any], load: Concurrency) -> None:
    row = put(tmp_path, write(tmp_path / "result.json", content))
    figures = row.measurement
    assert row.load == load and figures.valid
    assert (figures.req_s, figures.tok_s, figures.isl_mean, figures.osl_mean) == (5.12, 1310.72, 8192, 256)
    assert figures.ttft_ms is not None and (figures.ttft_ms.mean, figures.ttft_ms.p99) == (2000.0, 4000.0)
    assert figures.acceptance_length == 2.4
    assert figures.in_flight == pytest.approx(5.12 * (2000 + 255 * 40) / 1000), "Little's law"
    assert any("whole run" in warning for warning in figures.warnings)
    messages = [warning for warning in figures.warnings if warning.startswith("not in the file")]
    assert messages and "mean_e2el_ms" in messages[0]


def test_a_percentile_that_is_not_in_the_file_is_not_judged_by_but_told(tmp_path: Path) -> None:
    put(tmp_path, write(tmp_path / "result.json", TRTLLM_SERVING))
    inputs = read_inputs(Results(tmp_path / "in"), Question(ttft_ms=5000, percentile=90))
    (workload,) = analyze_inputs(inputs).workloads
    assert workload.ifb == () and "no TTFT at percentile 90" in workload.left_out[0][2][0]
    inputs = read_inputs(Results(tmp_path / "in"), Question(ttft_ms=5000, percentile=99))
    (workload,) = analyze_inputs(inputs).workloads
    assert len(workload.ifb) == 1
    (measurement,) = (tmp_path / "in").glob("*/loads/*/measurement.json")
    assert read_json(measurement)["ttft_ms"]["p90"] is None


def test_vllm_with_a_rate_and_failures(tmp_path: Path) -> None:
    row = put(tmp_path, write(tmp_path / "result.json", VLLM))
    assert row.load == Rate(4.0, 512) and row.measurement.num_failed == 12
    assert not row.measurement.valid and "12 of 512 requests failed" in row.measurement.reasons


def test_inferencex_rows_are_in_seconds_and_per_gpu(tmp_path: Path) -> None:
    given = Hints(emulated=False)
    row = put(tmp_path, write(tmp_path / "agg.json", INFERENCEX_DISAGG), given)
    figures, deployment = row.measurement, row.experiment.deployment
    assert deployment.label == "ctx2xDEP4-gen1xDEP8-mtp0" and row.experiment.gpu == "gb200"
    assert row.experiment.engine.name == "dynamo-trt" and row.experiment.model == "deepseek-r1"
    assert figures.ttft_ms is not None and figures.ttft_ms.mean == pytest.approx(1588.0)
    assert figures.tok_s_user == pytest.approx(50.0)
    assert figures.tok_s == pytest.approx(12.8 * 921.6), "output tokens are over decode GPUs only"
    assert figures.req_s == pytest.approx(12.8), "256 in flight / 20 s"
    assert figures.valid and figures.num_requests == 0
    assert any("how many requests there were" in warning for warning in figures.warnings)
    assert (figures.isl_mean, figures.osl_mean) == (pytest.approx(7372.8), pytest.approx(921.6))


def test_what_an_inferencex_row_does_not_tell_is_asked_for_not_guessed(tmp_path: Path) -> None:
    file = write(tmp_path / "agg.json", [INFERENCEX_AGG, {**INFERENCEX_AGG, "conc": 32, "spec_decoding": "none"}])
    imported, skipped = import_results([file], Hints(emulated=False), tmp_path / "in")
    assert len(imported) == 1 and "draft tokens (--mtp" in skipped[0].why and "row 1" in skipped[0].source
    imported, skipped = import_results([file], Hints(emulated=False, mtp=3), tmp_path / "in2")
    assert len(imported) == 2 and not skipped
    wrong = {**INFERENCEX_DISAGG, "num_decode_gpu": 16}
    with pytest.raises(UserError, match="num_decode_gpu is 16, and the layout makes 8"):
        read_foreign(write(tmp_path / "wrong.json", wrong))


def test_nothing_that_nobody_said_is_guessed(tmp_path: Path) -> None:
    file = write_aiperf_lines(tmp_path / "profile_export.jsonl")
    result = call("import", "results", file, "--into", tmp_path / "in")
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    for part in ("--model", "--gpu", "--engine", "--real or --emulated", "--concurrency", "--agg", "--mtp"):
        assert part in result.stderr
    assert not (tmp_path / "in").exists() or not stored(tmp_path / "in")


def test_origin_stays_and_tools_are_mixed_only_on_demand(tmp_path: Path) -> None:
    put(tmp_path, write(tmp_path / "result.json", TRTLLM_SERVING))
    run = read_json(next((tmp_path / "in").glob("*/loads/*/loadrun.json")))
    assert run["origin"]["tool"] == "benchmark_serving" and run["origin"]["file"] == "result.json"
    assert len(run["origin"]["sha256"]) == 64 and "mean_e2el_ms" in run["origin"]["missing"]
    summary = write(tmp_path / "profile_export_aiperf.json", AIPERF_SUMMARY)
    with pytest.raises(UserError, match=r"holds loads of benchmark_serving; .* --mix"):
        import_results([summary], SAID, tmp_path / "in")
    import_results([summary], SAID, tmp_path / "in", mix=True)
    notes = [n for w in analyze_inputs(read_inputs(Results(tmp_path / "in"))).workloads for n in w.notes]
    assert any("1 of 2 loads are imported from AIPerf" in note for note in notes)
    assert any("1 of 2 loads are imported from benchmark_serving" in note for note in notes)


def test_what_no_analysis_could_read_together_is_not_put_together(tmp_path: Path) -> None:
    put(tmp_path, write(tmp_path / "result.json", TRTLLM_SERVING))
    for given, messages in (
        ({"emulated": True}, "figures emulated, and .* holds real"),
        ({"gpu": "h200"}, "GPU h200, and .* holds gb200"),
        ({"engine": "vllm/0.24"}, "engine vllm 0.24, and .* holds trtllm-serve 1.2"),
        ({"model": "qwen3-235b-a22b"}, "model qwen3-235b-a22b, and .* holds deepseek-r1"),
    ):
        with pytest.raises(UserError, match=messages):
            import_results([tmp_path / "result.json"], Hints(**{**SAID.__dict__, **given}), tmp_path / "in")


def test_importing_again_changes_nothing_and_another_file_of_the_same_load_is_a_repeat(tmp_path: Path) -> None:
    file = write(tmp_path / "result.json", TRTLLM_SERVING)
    put(tmp_path, file)
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    put(tmp_path, file)
    assert {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()} == before
    put(tmp_path, write(tmp_path / "other.json", {**TRTLLM_SERVING, "output_throughput": 1300.0}))
    assert sorted(row.load.repeat for row in stored(tmp_path / "in")) == [0, 1]
    assert remeasure(Results(tmp_path / "in")) == 0, "figures of another tool are not computed anew"


def test_aiconfigurator_becomes_a_rate_table_that_matches(tmp_path: Path) -> None:
    file, table = write(tmp_path / "pareto.csv", AIC_DISAGG), tmp_path / "rates.csv"
    agg = write(tmp_path / "agg.csv", AIC_AGG)
    result = call("import", "results", file, agg, "-o", table)
    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert [row["role"] for row in rows] == ["ctx", "gen", "gen", "ifb"], "one ctx server, though two rows have it"
    ctx, gen, _, ifb = rows
    assert (ctx["label"], ctx["gpus"], float(ctx["req_s"]), float(ctx["ttft_ms"])) == ("DEP8", "8", 3.92, 3672.0)
    assert (gen["label"], gen["gpus"], float(gen["concurrency"])) == ("DEP8", "8", 208.0)
    assert float(gen["tok_s"]) == pytest.approx(18.3 * 256)
    assert (ifb["gpus"], float(ifb["tok_s"]), float(ifb["tpot_ms"])) == ("8", 1024.0, 40.0)
    assert {row["predicted"] for row in rows} == {"true"} and {row["origin"] for row in rows} == {"AIConfigurator"}
    matched = call("match", table, "--max-gpus", "32", "--json")
    assert matched.exit_code == 0, matched.stderr
    into = call("import", "results", file, "--into", tmp_path / "in")
    assert into.exit_code == 1 and "predicted, not measured" in into.stderr


def test_predicted_and_measured_rates_never_share_a_table(tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    serving = write(tmp_path / "result.json", {**TRTLLM_SERVING, "model_id": "deepseek-ai/DeepSeek-R1"})
    aic = write(tmp_path / "pareto.csv", AIC_DISAGG)
    given = ("--agg", "TEP8", "--mtp", "3", "--gpu", "h200", "--real")
    assert call("import", "results", serving, aic, "-o", table, *given).exit_code == 0
    matched = call("match", table)
    assert matched.exit_code == 1 and "never share a front" in matched.stderr


def test_a_file_of_no_known_tool_says_which_are_known(tmp_path: Path) -> None:
    for name, content in (("x.json", {"a": 1}), ("y.json", "{"), ("z.csv", "a,b\n1,2\n"), ("w.jsonl", "{}\n")):
        with pytest.raises(
            UserError, match=r"none of the tools|not valid JSON|no columns of AIConfigurator|no record of"
        ):
            read_foreign(write(tmp_path / name, content))
    with pytest.raises(UserError, match="cannot be read"):
        read_foreign(tmp_path / "nothing.json")
    bad = {**TRTLLM_SERVING, "mean_ttft_ms": "fast"}
    with pytest.raises(UserError, match="mean_ttft_ms is 'fast', not a number"):
        read_foreign(write(tmp_path / "bad.json", bad))


def _key(experiment: Experiment) -> tuple[str, str]:
    return experiment.deployment.label, experiment.workload.label


def test_round_trip_through_aiperf_gives_the_same_figures(tmp_path: Path) -> None:
    results = Results(SAMPLE)
    written, _ = export_results(results, "aiperf", tmp_path / "out")
    files = [path for path in written if path.suffix == ".jsonl" and "ifb-" in str(path)]
    (one,) = [path for path in files if "TEP4-mtp3" in str(path) and "/c12-" in str(path)]
    given = Hints(gpu="gb200", engine="trtllm-serve/1.2", agg=parse_servers("TEP4"), mtp=3)
    again = put(tmp_path, one, given)
    (own,) = [
        row
        for row in results.measured()
        if row.load == again.load and row.experiment.deployment.label == again.experiment.deployment.label
    ]
    for name in ("num_ok", "tok_s", "req_s", "tok_s_user", "in_flight", "little", "osl_mean", "isl_mean"):
        assert getattr(again.measurement, name) == pytest.approx(getattr(own.measurement, name), rel=1e-6), name
    assert again.measurement.itl_ms is not None and own.measurement.itl_ms is not None
    assert again.measurement.itl_ms.p99 == pytest.approx(own.measurement.itl_ms.p99, rel=1e-6)
    assert again.experiment.emulated, "the exported file says that it is emulated"


def test_round_trip_through_benchmark_serving_gives_the_figures_of_the_whole_run(tmp_path: Path) -> None:
    results = Results(SAMPLE)
    written, _ = export_results(results, "benchmark-serving", tmp_path / "out")
    (one,) = [path for path in written if "ifb-" in str(path) and "TEP4-mtp3" in str(path) and "c12-" in path.name]
    again = put(tmp_path, one, Hints(gpu="gb200", engine="trtllm-serve/1.2", agg=parse_servers("TEP4"), mtp=3))
    (own,) = [
        r
        for r in results.measured()
        if r.experiment.stage == "ifb"
        and _key(r.experiment) == ("agg1xTEP4-mtp3", "1024/64")
        and r.load.label.startswith("c12-")
    ]
    assert again.measurement.tok_s == pytest.approx(own.measurement.tok_s_run)
    assert again.measurement.req_s == pytest.approx(own.measurement.req_s_run)
    assert again.experiment.emulated


def test_round_trip_through_inferencex_keeps_layout_and_rates(tmp_path: Path) -> None:
    results = Results(SAMPLE)
    written, _ = export_results(results, "inferencex", tmp_path / "out")
    imported, skipped = import_results(written, Hints(), tmp_path / "in")
    assert not skipped and len(imported) == len(written)
    own = {
        (_key(r.experiment), r.load.concurrency): r
        for r in results.measured()
        if r.experiment.stage in ("ifb", "e2e")
    }  # type: ignore[union-attr]
    again = {(_key(r.experiment), r.load.concurrency): r for r in stored(tmp_path / "in")}  # type: ignore[union-attr]
    assert set(again) == set(own)
    for key, row in again.items():
        assert row.experiment.engine == own[key].experiment.engine and row.experiment.emulated
        assert row.measurement.tok_s == pytest.approx(own[key].measurement.tok_s)
        assert row.measurement.tok_s_user == pytest.approx(own[key].measurement.tok_s_user)
        ttft, before = row.measurement.ttft_ms, own[key].measurement.ttft_ms
        assert ttft is not None and before is not None and ttft.p99 == pytest.approx(before.p99)


def test_csv_has_a_row_a_load_and_a_row_a_request(tmp_path: Path) -> None:
    loads, requests = export_results(Results(SAMPLE), "csv", tmp_path)[0]
    rows = list(csv.DictReader(loads.read_text("utf-8").splitlines()))
    assert len(rows) == len(Results(SAMPLE).measured()) and {row["emulated"] for row in rows} == {"True"}
    assert len(requests.read_text("utf-8").splitlines()) == 1 + sum(int(row["num_requests"]) for row in rows)
