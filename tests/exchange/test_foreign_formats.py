"""Whose file it is, by its content, and what is in it: forms of the tools that came after the first."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main
from ratematch.errors import UserError
from ratematch.exchange.results.detect import read_foreign
from ratematch.exchange.results.foreign import ForeignLoad, Hints, parse_servers
from ratematch.exchange.results.ingest import import_results
from ratematch.store.folder import Results

from .foreign_files import AIPERF_SUMMARY, aiperf_line
from .foreign_runs import DASHBOARD_HEAD, api_row, dashboard_line, inferencex_run, serving_run, sglang_run

GIVEN = Hints(model="m", gpu="h200", engine="vllm/0.24", agg=parse_servers("TP2"), mtp=0, emulated=False)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def call(*argv: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in argv], catch_exceptions=False)


def read(path: Path, content: str) -> list[ForeignLoad]:
    return read_foreign(write(path, content))[0]


# --------------------------------------------------------------------------------------- files of several results

RUNS = [serving_run(c, 40 * c) for c in (4, 8, 16)]
SEVERAL = {
    "appended": "\n".join(json.dumps(run) for run in RUNS),
    "written out": "\n".join(json.dumps(run, indent=2) for run in RUNS) + "\n",
    "without a line between": "".join(json.dumps(run) for run in RUNS),
    "a list": json.dumps(RUNS),
    "a list of lists": json.dumps([[run] for run in RUNS]),
    "lists": "\n".join(json.dumps([run]) for run in RUNS),
}


@pytest.mark.parametrize("name", ["bench.json", "bench.jsonl", "results.txt"])
@pytest.mark.parametrize("form", SEVERAL)
def test_a_file_of_several_results_gives_a_row_for_each(tmp_path: Path, form: str, name: str) -> None:
    loads = read(tmp_path / name, SEVERAL[form])
    assert [load.hints.concurrency for load in loads] == [4, 8, 16]
    assert [load.row for load in loads] == ["row 1", "row 2", "row 3"]
    imported, skipped = import_results([tmp_path / name], GIVEN, tmp_path / "in")
    assert len(imported) == 3 and not skipped and all(load.valid for load in imported)
    again, _ = import_results([tmp_path / name], GIVEN, tmp_path / "in")
    assert [load.folder for load in again] == [load.folder for load in imported], "known again by file and row"


def test_one_faulty_result_of_several_is_told_and_the_others_stay(tmp_path: Path) -> None:
    faulty = {**RUNS[1], "mean_ttft_ms": "fast"}
    file = write(tmp_path / "bench.json", "\n".join(json.dumps(run) for run in (RUNS[0], faulty, {"x": 1}, RUNS[2])))
    imported, skipped = import_results([file], GIVEN, tmp_path / "in")
    assert len(imported) == 2
    assert [load.source.rsplit(": ", 1)[-1] for load in skipped] == ["row 2", "row 3"]
    assert "mean_ttft_ms is 'fast', not a number" in skipped[0].why and "none of the tools" in skipped[1].why
    cut = write(tmp_path / "cut.json", "\n".join(json.dumps(run) for run in RUNS)[:-20])
    with pytest.raises(UserError, match=r"cut\.json:3: not valid JSON"):
        read_foreign(cut)


def test_one_unreadable_file_of_several_is_told_and_the_others_stay(tmp_path: Path) -> None:
    good = [write(tmp_path / f"c{run['max_concurrency']}.json", json.dumps(run)) for run in RUNS]
    bad = [
        write(tmp_path / name, text) for name, text in (("cut.json", "{"), ("a.csv", "a,b\n"), ("odd.json", "[1]"))
    ]
    imported, skipped = import_results([*bad, *good], GIVEN, tmp_path / "in")
    assert len(imported) == 3 and [Path(load.source).name for load in skipped] == ["cut.json", "a.csv", "odd.json"]
    given = ("--agg", "TP2", "--mtp", "0", "--gpu", "h200", "--real")
    table = call("import", "results", *good, *bad, "-o", tmp_path / "rates.csv", *given)
    assert table.exit_code == 0 and table.stderr.count("left out: ") == 3
    none = call("import", "results", *bad, "--into", tmp_path / "none", *given)
    assert none.exit_code == 1 and "nothing was imported" in none.stderr and not (tmp_path / "none").exists()


def test_rows_of_several_gpus_in_one_file_are_not_put_together(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.json", json.dumps([inferencex_run(), inferencex_run(64, hw="h200-nv")]))
    imported, skipped = import_results([file], Hints(emulated=False), tmp_path / "in")
    assert len(imported) == 1 and "GPU h200, and" in skipped[0].why and "holds b200" in skipped[0].why


# -------------------------------------------------------------------------------------------------------- SGLang


@pytest.mark.parametrize("name", ["bench.jsonl", "bench.json", "profile_export.jsonl"])
def test_sglang_is_known_by_what_it_writes_and_not_by_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    text = "\n".join(json.dumps(sglang_run(c, 10 * c)) for c in (32, 64)) + "\n"
    loads = read(tmp_path / name, text)
    assert [(load.tool, load.hints.concurrency) for load in loads] == [
        ("benchmark_serving", 32),
        ("benchmark_serving", 64),
    ]
    figures = loads[0].figures
    assert figures is not None and figures.valid, figures
    assert figures.e2el_ms is not None and figures.e2el_ms.mean == pytest.approx(200 + 255 * 14)
    assert loads[0].hints.request_rate is None, "Infinity is a closed loop"
    assert loads[0].hints.model == "acme/north-8b" and "mean_e2el_ms" not in loads[0].missing


def test_records_of_aiperf_are_known_under_any_name(tmp_path: Path) -> None:
    text = "".join(json.dumps(aiperf_line(k)) + "\n" for k in range(40))
    (load,) = read(tmp_path / "run_17.jsonl", text)
    assert load.tool == "AIPerf" and len(load.records) == 40
    # A line separator of Unicode inside a text ends no line.
    odd = json.dumps(aiperf_line(0, error={"code": 500, "message": "a\u2028b"}), ensure_ascii=False) + "\n" + text
    (load,) = read(tmp_path / "odd.jsonl", odd)
    assert len(load.records) == 41 and load.records[0].error == "a\u2028b"


# ---------------------------------------------------------------------------------------------------- InferenceX


def test_rows_of_the_public_api_are_rows(tmp_path: Path) -> None:
    rows = [api_row(), api_row(conc=64, spec_method="mtp"), api_row(num_prefill_gpu=8, num_decode_gpu=8)]
    loads = read(tmp_path / "benchmarks.json", json.dumps(rows))
    assert [load.tool for load in loads] == ["InferenceX"] * 3
    first = loads[0]
    assert first.hints.gpu == "b200" and first.hints.mtp == 0 and first.hints.concurrency == 128
    assert first.hints.agg == parse_servers("DEP8"), "0 workers is how the API has an aggregated server"
    assert first.figures is not None and first.figures.valid and first.figures.osl_mean == pytest.approx(921.6)
    assert first.figures.tpot_ms is not None and first.figures.tpot_ms.mean == pytest.approx(15.0)
    assert loads[1].hints.mtp is None and loads[1].drafted
    assert read(tmp_path / "one.json", json.dumps(api_row()))[0].hints == first.hints


def test_a_disaggregated_row_of_the_api_has_its_servers(tmp_path: Path) -> None:
    req_s = 128 / (0.4 + 920.6 * 0.015)
    changes: dict[str, Any] = {
        "disagg": True, "is_multinode": True, "prefill_tp": 4, "prefill_ep": 4, "prefill_num_workers": 2,
        "decode_num_workers": 1, "num_prefill_gpu": 8, "num_decode_gpu": 8,
    }  # fmt: skip
    row = api_row(**changes)
    row["metrics"] |= {"tput_per_gpu": req_s * 1843.2 / 16}
    (load,) = read(tmp_path / "row.json", json.dumps([row]))
    assert (load.hints.ctx, load.hints.gen) == (parse_servers("2xDEP4"), parse_servers("DEP8"))
    assert load.figures is not None and load.figures.tok_s == pytest.approx(req_s * 921.6)


@pytest.mark.parametrize(
    ("hw", "gpu"),
    [
        ("cluster:h100-dgxc", "h100"),
        ("runner:b200-nv_2", "b200"),
        ("h200-nb_0", "h200"),
        ("gb200", "gb200"),
        ("GB300-nvl72", "gb300"),
        ("b200-multinode-slurm", "b200"),
        ("dgxc-h200", "h200"),
        ("mi355x-amds", "mi355x"),
    ],
)
def test_the_gpu_is_found_in_the_name_of_the_runner(tmp_path: Path, hw: str, gpu: str) -> None:
    (load,) = read(tmp_path / "row.json", json.dumps(inferencex_run(hw=hw)))
    assert load.hints.gpu == gpu


@pytest.mark.parametrize("per_second", [1.0, 1000.0])
def test_the_csv_of_the_dashboard_is_read_in_the_unit_that_it_has(tmp_path: Path, per_second: float) -> None:
    text = DASHBOARD_HEAD + dashboard_line(per_second)
    (load,) = read(tmp_path / "export.csv", text)
    figures = load.figures
    assert load.tool == "InferenceX" and figures is not None and figures.valid, figures
    assert figures.tpot_ms is not None and figures.tpot_ms.mean == pytest.approx(15.0)
    assert figures.ttft_ms is not None and figures.ttft_ms.mean == pytest.approx(400.0)
    assert load.hints.agg == parse_servers("DEP8") and load.hints.gpu == "b200"
    made = call("import", "results", tmp_path / "export.csv", "-o", tmp_path / "rates.csv", "--real")
    assert made.exit_code == 0, made.stderr
    (row,) = csv.DictReader((tmp_path / "rates.csv").read_text("utf-8").splitlines())
    assert float(row["tok_s"]) == pytest.approx(128 / (0.4 + 920.6 * 0.015) * 921.6)
    assert call("match", tmp_path / "rates.csv").exit_code == 0


def test_a_figure_that_the_dashboard_has_not_is_unknown_and_not_0(tmp_path: Path) -> None:
    (load,) = read(tmp_path / "export.csv", DASHBOARD_HEAD + dashboard_line(ttft=0.0))
    assert load.figures is not None and load.figures.ttft_ms is None and "mean_ttft" in load.missing


def test_a_disaggregated_line_of_the_dashboard_needs_its_servers_and_counts_their_gpus(tmp_path: Path) -> None:
    file = write(tmp_path / "export.csv", DASHBOARD_HEAD + dashboard_line(apart=True))
    table = call("import", "results", file, "-o", tmp_path / "rates.csv")
    assert table.exit_code == 1 and "disaggregated deployment" in table.stderr and "--into" in table.stderr
    common = ("import", "results", file, "--into", tmp_path / "in", "--real", "--gen", "DEP16", "--ctx")
    wrong = call(*common, "1xDEP4")
    assert wrong.exit_code == 1 and "the file has 8 prefill GPUs, and --ctx 4" in wrong.stderr
    right = call(*common, "2xDEP4")
    assert right.exit_code == 0, right.stderr
    (row,) = Results(tmp_path / "in").measured()
    assert row.measurement.valid and row.experiment.deployment.gpus == 24
    assert row.measurement.tok_s == pytest.approx(128 / (0.4 + 920.6 * 0.015) * 921.6)


def test_times_of_which_no_unit_is_told_are_refused(tmp_path: Path) -> None:
    line = dashboard_line().replace(",66.7,", ",5.0,")
    with pytest.raises(UserError, match="fit neither s nor ms"):
        read_foreign(write(tmp_path / "a.csv", DASHBOARD_HEAD + line))
    with pytest.raises(UserError, match="whether its times are s or ms"):
        read_foreign(write(tmp_path / "b.csv", DASHBOARD_HEAD + dashboard_line().replace(",66.7,", ",,")))
    loads = read(tmp_path / "c.csv", DASHBOARD_HEAD + line + dashboard_line())
    assert [bool(load.refused) for load in loads] == [True, False], "of several the others stay"


# -------------------------------------------------------------------------------------------------------- AIPerf


def newer_summary(**phase: Any) -> dict[str, Any]:
    """A summary of AIPerf 2.0: schema 1.5, with its configuration as it resolved it."""
    kept = {key: value for key, value in AIPERF_SUMMARY.items() if key != "input_config"}
    measured = {"name": "profiling", "kind": "profiling", "type": "concurrency", "concurrency": 2, "requests": 60}
    return {
        "schema_version": "1.5",
        "aiperf_version": "2.0.0",
        **kept,
        "time_to_first_token": {**AIPERF_SUMMARY["time_to_first_token"], "count": 60, "sum": 6.0},
        "input_config": {
            "models": {"strategy": "round_robin", "items": [{"name": "deepseek-ai/DeepSeek-R1"}]},
            "endpoint": {"urls": ["http://h:8000"], "type": "chat", "streaming": True},
            "phases": [
                {"name": "warmup", "kind": "warmup", "type": "concurrency", "concurrency": 7},
                measured | phase,
            ],
        },
        "run_info": {"trial": 0, "variation_values": {}},
        "runtime_submission_invalid_reasons": [],
    }


def test_a_summary_of_aiperf_2_says_its_model_and_its_load(tmp_path: Path) -> None:
    (load,) = read(tmp_path / "profile_export_aiperf.json", json.dumps(newer_summary()))
    assert (load.hints.model, load.hints.concurrency) == ("deepseek-ai/DeepSeek-R1", 2)
    assert load.figures is not None and load.figures.valid
    (load,) = read(tmp_path / "s.json", json.dumps(newer_summary(type="poisson", rate=1.8, concurrency=50)))
    assert (load.hints.concurrency, load.hints.request_rate) == (None, 1.8), "its concurrency is a limit"
    for odd in ({"type": "fixed_schedule", "concurrency": 50}, {"type": "poisson", "rate": {"points": []}}):
        (load,) = read(tmp_path / "s.json", json.dumps(newer_summary(**odd)))
        assert (load.hints.concurrency, load.hints.request_rate) == (None, None), "neither is its load"
    records = "".join(json.dumps(aiperf_line(k)) + "\n" for k in range(40))
    (load,) = read(tmp_path / "profile_export.jsonl", records)
    assert (load.hints.model, load.hints.concurrency) == ("deepseek-ai/DeepSeek-R1", 2), "from the summary beside it"


def test_the_load_of_several_phases_together_is_asked_for(tmp_path: Path) -> None:
    content = newer_summary()
    content["input_config"]["phases"] += [{"name": "more", "kind": "profiling", "concurrency": 9}]
    (load,) = read(tmp_path / "s.json", json.dumps(content))
    assert load.hints.concurrency is None
    assert load.figures is not None and any("2 profiling phases" in text for text in load.figures.warnings)


def test_the_aggregate_of_several_runs_is_not_taken_for_one(tmp_path: Path) -> None:
    interval = {"mean": 1.8, "std": 0.1, "ci_low": 1.7, "ci_high": 1.9, "unit": "requests/sec"}
    for content in ({"request_throughput": interval}, {"metrics": {"request_throughput": interval}}):
        with pytest.raises(UserError, match="AIPerf's figures over several runs"):
            read_foreign(write(tmp_path / "profile_export_aiperf_aggregate.json", json.dumps(content)))


def test_the_acceptance_that_aiperf_counted_is_read(tmp_path: Path) -> None:
    content = newer_summary() | {"spec_decode_acceptance_length": {"unit": "ratio", "avg": 2.4}}
    (load,) = read(tmp_path / "s.json", json.dumps(content))
    assert load.figures is not None and load.figures.acceptance_length == 2.4 and load.drafted
