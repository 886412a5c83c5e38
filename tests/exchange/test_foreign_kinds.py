"""Result files as clients of today and of earlier years write them: read right, or refused with a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.errors import UserError
from ratematch.exchange.results.detect import read_foreign
from ratematch.exchange.results.foreign import ForeignLoad, Hints, Servers, parse_servers
from ratematch.exchange.results.inferencex import make_row
from ratematch.exchange.results.ingest import import_results
from ratematch.exchange.results.rates import import_rates
from ratematch.measure.measurement import Measurement
from ratematch.plan.load import Rate
from ratematch.plan.parallelism import Parallelism
from ratematch.store.folder import Results
from ratematch.store.storedload import StoredLoad

from .foreign_files import AIPERF_SUMMARY, aiperf_line
from .foreign_runs import (
    AIC_CELL,
    AIC_CELL_HEAD,
    DASHBOARD_HEAD,
    dashboard_line,
    inferencex_run,
    serving_run,
    sglang_run,
)

GIVEN = Hints(model="m", gpu="h200", engine="vllm/0.24", agg=parse_servers("TP2"), mtp=0, emulated=False)


def put(tmp_path: Path, content: Any, given: Hints = GIVEN) -> StoredLoad:
    """The only load of a file, as it stands in a results folder."""
    file = tmp_path / "result.json"
    tmp_path.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    imported, skipped = import_results([file], given, tmp_path / "in")
    assert not skipped, skipped
    (load,) = imported
    return next(stored for stored in Results(tmp_path / "in").now().loads if stored.folder == load.folder)


def figures_of(tmp_path: Path, content: Any, given: Hints = GIVEN) -> Measurement:
    return put(tmp_path, content, given).measurement


def read(tmp_path: Path, content: Any, name: str = "result.json") -> ForeignLoad:
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    (load,) = read_foreign(file)[0]
    return load


def refusal(tmp_path: Path, content: Any, name: str = "result.json") -> str:
    with pytest.raises(UserError) as refused:
        read(tmp_path, content, name)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# -------------------------------------------------------------------------------------------- benchmark_serving


def test_failures_are_those_that_the_client_counted(tmp_path: Path) -> None:
    run = serving_run(8, 80)
    seconds = run["duration"]
    answered = {
        "completed": 79,
        "failed": 1,
        "total_output_tokens": 79 * 256,
        "output_throughput": 79 * 256 / seconds,
    }
    run |= {**answered, "request_throughput": 79 / seconds}
    for prompts in (80, None):
        figures = figures_of(tmp_path / str(prompts), {**run, "num_prompts": prompts})
        assert (figures.num_requests, figures.num_failed) == (80, 1) and not figures.valid


def test_a_data_set_with_fewer_prompts_than_were_asked_for_has_no_failures(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, {**serving_run(8, 80), "num_prompts": 1000})
    assert (figures.num_requests, figures.num_failed) == (80, 0) and figures.valid
    assert "1000 requests were asked for, and 80 were sent" in figures.warnings


def test_more_outcomes_than_requests_are_not_valid(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, {**serving_run(8, 80), "failed": 20})
    assert "80 answers and 20 failures to 80 requests: more than there were" in figures.reasons


def test_a_rate_that_was_ramped_up_is_of_no_one_load(tmp_path: Path) -> None:
    ramp = {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 20}
    figures = figures_of(tmp_path, {**serving_run(), **ramp})
    assert [text for text in figures.reasons if "ramped up from 1 to 20 requests/s" in text]


def test_bursts_are_no_poisson_process(tmp_path: Path) -> None:
    run = {**serving_run(None, 400), "request_rate": 2.1, "burstiness": 0.25}
    stored = put(tmp_path, run)
    assert stored.load == Rate(2.1, 400, "gamma", burstiness=0.25) and stored.measurement.valid
    assert put(tmp_path / "poisson", {**run, "burstiness": 1.0}).load == Rate(2.1, 400)


def test_no_more_can_be_served_than_arrives(tmp_path: Path) -> None:
    run = {**serving_run(None, 400), "request_rate": 1.0}
    figures = figures_of(tmp_path, run)
    assert figures.reasons == ("1 requests/s were asked for, 2.122 were served: more than can have arrived",)
    # A few requests, or bursts of them, may come much sooner than their rate says.
    few = {**serving_run(None, 40), "request_rate": 1.0}
    assert figures_of(tmp_path / "few", few).valid
    assert figures_of(tmp_path / "bursts", {**run, "burstiness": 0.01}).valid


def test_a_concurrency_of_0_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, {**serving_run(), "max_concurrency": 0}).hints.concurrency is None
    phases = {"phases": [{"kind": "profiling", "type": "concurrency", "concurrency": 0}], "models": ["m"]}
    for config in (phases, {"loadgen": {"concurrency": 0}}):
        assert read(tmp_path, {**AIPERF_SUMMARY, "input_config": config}).hints.concurrency is None


def test_a_key_of_another_client_is_not_judged(tmp_path: Path) -> None:
    """vLLM writes what ``--metadata`` names into its results."""
    assert figures_of(tmp_path, {**serving_run(), "concurrency": "high"}).valid
    assert not figures_of(tmp_path / "own", {**sglang_run(), "concurrency": 5.0}).valid


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e400", "null"])
def test_a_figure_that_is_no_number_is_said_to_be_missing(tmp_path: Path, text: str) -> None:
    content = json.dumps(serving_run()).replace('"mean_ttft_ms": 200.0', f'"mean_ttft_ms": {text}')
    assert read(tmp_path, content).missing == ("mean_ttft_ms",)


def test_answers_take_time(tmp_path: Path) -> None:
    assert "80 answers in 0 s" in figures_of(tmp_path, {**serving_run(), "duration": 0}).reasons


def test_a_decimal_comma_is_named(tmp_path: Path) -> None:
    assert "'200,5', not a number (write a decimal point)" in refusal(
        tmp_path, {**serving_run(), "mean_ttft_ms": "200,5"}
    )


# --------------------------------------------------------------------------------------------- AIPerf, GenAI-Perf


def genai_perf(config: dict[str, Any]) -> dict[str, Any]:
    """A summary of GenAI-Perf: AIPerf's metrics, its own configuration, no count of failures."""
    own = ("input_config", "error_request_count", "error_summary")
    return {**{key: value for key, value in AIPERF_SUMMARY.items() if key not in own}, "input_config": config}


CONFIGS: dict[str, dict[str, Any]] = {
    "0.0.13": {"model_names": ["acme/x"], "endpoint": {}, "perf_analyzer": {"stimulus": {"concurrency": 16}}},
    "0.0.8": {"model": ["acme/x"], "formatted_model_name": "acme_x", "endpoint": "v1/chat/completions",
              "concurrency": 16, "request_rate": None},
    "older": {"model": "acme/x", "endpoint": "v1/chat/completions", "concurrency": 16},
    "no endpoint": {"model": ["acme/x"], "formatted_model_name": "x", "endpoint": None, "concurrency": 16},
}  # fmt: skip


@pytest.mark.parametrize("version", CONFIGS)
def test_genai_perf_says_its_model_and_its_load(tmp_path: Path, version: str) -> None:
    load = read(tmp_path, genai_perf(CONFIGS[version]))
    assert (load.hints.model, load.hints.concurrency, load.hints.request_rate) == ("acme/x", 16, None)


def test_a_rate_of_genai_perf_is_one(tmp_path: Path) -> None:
    config = {"model_names": ["x"], "perf_analyzer": {"stimulus": {"request_rate": 4.0}}}
    assert read(tmp_path, genai_perf(config)).hints.request_rate == 4.0


def test_a_summary_that_counts_no_requests_had_some(tmp_path: Path) -> None:
    content = {key: value for key, value in AIPERF_SUMMARY.items() if key != "request_count"}
    figures = read(tmp_path, content).figures
    assert figures is not None and "no request was answered" not in figures.reasons
    assert "the file does not tell how many requests there were" in figures.warnings


def older_tags(metrics: dict[str, Any]) -> dict[str, Any]:
    names = {"time_to_first_token": "ttft", "time_to_second_token": "ttst"}
    return {names.get(tag, tag): value for tag, value in metrics.items()}


def test_summaries_of_before_october_2025_are_read(tmp_path: Path) -> None:
    config = {
        key: value for key, value in AIPERF_SUMMARY.items() if not (isinstance(value, dict) and "unit" in value)
    }
    metrics = {key: value for key, value in AIPERF_SUMMARY.items() if key not in config}
    older = read(tmp_path, {**config, "records": older_tags(metrics)}, "older.json")
    today = read(tmp_path, AIPERF_SUMMARY, "today.json")
    assert older.figures == today.figures and older.hints == today.hints and older.missing == today.missing


def test_records_of_before_october_2025_are_read(tmp_path: Path) -> None:
    lines = [aiperf_line(k) for k in range(40)]
    today = read(tmp_path, "\n".join(json.dumps(line) for line in lines), "today.jsonl")
    older = [{**line, "metrics": older_tags(line["metrics"])} for line in lines]
    assert read(tmp_path, "\n".join(json.dumps(line) for line in older), "older.jsonl").records == today.records


# --------------------------------------------------------------------------------------------------- InferenceX


REQ_S = 128 / (0.4 + 920.6 * 0.015)


def multinode_run(**changes: Any) -> dict[str, Any]:
    """A disaggregated row: two DEP4 for prefill, a TP8 for decode."""
    row = {key: value for key, value in inferencex_run().items() if key not in ("tp", "ep", "dp_attention")}
    for role, tp, ep, workers in (("prefill", 4, 4, 2), ("decode", 8, 1, 1)):
        ways = {"tp": tp, "pp": 1, "dcp_size": 1, "pcp_size": 1, "ep": ep, "num_workers": workers}
        row |= {f"{role}_{key}": value for key, value in ways.items()} | {f"num_{role}_gpu": 8}
    row |= {"prefill_dp_attention": "true", "decode_dp_attention": "false", "disagg": True, "is_multinode": True}
    rates = {"tput": REQ_S * 1843.2 / 16, "output_tput": REQ_S * 921.6 / 8, "input_tput": REQ_S * 921.6 / 8}
    return {**row, **{f"{name}_per_gpu": rate for name, rate in rates.items()}, **changes}


def test_decode_context_parallelism_adds_no_gpus(tmp_path: Path) -> None:
    row = inferencex_run(ep=1, dp_attention="false", pp=1, dcp_size=8, pcp_size=1)
    load = read(tmp_path, row)
    assert load.hints.agg == Servers(Parallelism(tp=8), 1, 8) and load.hints.agg.gpus == 8
    assert load.figures is not None and load.figures.valid
    assert load.figures.tok_s == pytest.approx(REQ_S * 921.6)
    apart = read(tmp_path, multinode_run(decode_dcp_size=8))
    assert apart.hints.gen == Servers(Parallelism(tp=8), 1, 8) and apart.gen_gpus == 8


def test_prefill_context_parallelism_does(tmp_path: Path) -> None:
    load = read(tmp_path, inferencex_run(tp=4, ep=1, dp_attention="false", pcp_size=2))
    assert load.hints.agg == Servers(Parallelism(tp=4, cp=2)) and load.hints.agg.gpus == 8


def test_rows_that_differ_in_it_are_no_repeats(tmp_path: Path) -> None:
    rows = [inferencex_run(ep=1, dp_attention="false", dcp_size=ways) for ways in (1, 8)]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    imported, _ = import_results([file], Hints(emulated=False), tmp_path / "in")
    experiments = [stored.experiment for stored in Results(tmp_path / "in").now().experiments]
    assert len(imported) == len(experiments) == 2
    assert {experiment.deployment.label for experiment in experiments} == {"agg1xTP8-mtp0", "agg1xTP8+dcp8-mtp0"}
    assert [row.label for row in import_rates([file], Hints(emulated=False), None)[0]] == ["TP8", "TP8+dcp8"]
    for stored in Results(tmp_path / "in").now().experiments:
        written = make_row(stored.experiment, stored.loads[0].load, stored.loads[0].measurement)
        assert written is not None and written["dcp_size"] == (
            8 if "+dcp8" in stored.experiment.deployment.label else 1
        )


def test_an_aggregated_server_over_several_nodes_stands_as_prefill(tmp_path: Path) -> None:
    layout = {"prefill_tp": 16, "prefill_ep": 16, "prefill_num_workers": 1, "num_prefill_gpu": 16}
    layout |= {"decode_tp": 0, "decode_ep": 0, "decode_num_workers": 0, "num_decode_gpu": 0, "disagg": False}
    rates = {f"{way}tput_per_gpu": REQ_S * tokens / 16 for way, tokens in (("", 1843.2), ("output_", 921.6))}
    load = read(tmp_path, multinode_run(**layout, **rates, input_tput_per_gpu=REQ_S * 921.6 / 16))
    assert load.hints.agg == parse_servers("DEP16") and load.figures is not None
    assert load.figures.valid and load.figures.tok_s == pytest.approx(REQ_S * 921.6)
    assert "num_prefill_gpu is 8, and the layout makes 16" in refusal(
        tmp_path, multinode_run(**{**layout, "num_prefill_gpu": 8}, **rates)
    )


def test_gpus_of_two_kinds_are_no_deployment_of_one(tmp_path: Path) -> None:
    said = refusal(tmp_path, multinode_run(prefill_hw="h100-x_1", decode_hw="h200-y"))
    assert "prefill on h100 and decode on h200" in said
    assert read(tmp_path, multinode_run(prefill_hw="b200-x_1", decode_hw="b200")).hints.gpu == "b200"


# ---------------------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize(("separator", "called"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
@pytest.mark.parametrize("table", [DASHBOARD_HEAD + dashboard_line(), AIC_CELL_HEAD + AIC_CELL])
def test_another_separator_is_named(tmp_path: Path, table: str, separator: str, called: str) -> None:
    said = refusal(tmp_path, table.replace(",", separator), "table.csv")
    assert said.endswith(f"columns are separated by {called}; save it with commas and decimal points")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line.rstrip("\n") + ",9,9\n",
        lambda line: ",".join(line.split(",")[:9]),
        lambda line: line.replace("fp8", "fp8, dense").replace("vl-30b", "vl,30b"),
    ],
)
@pytest.mark.parametrize(("head", "line"), [(DASHBOARD_HEAD, dashboard_line()), (AIC_CELL_HEAD, AIC_CELL)])
def test_cells_under_another_column_are_not_read(
    tmp_path: Path, head: str, line: str, spoil: Callable[[str], str]
) -> None:
    assert "cells under" in refusal(tmp_path, head + spoil(line), "table.csv")
    (tmp_path / "both.csv").write_text(head + line.rstrip("\n") + ",\n" + spoil(line), encoding="utf-8")
    loads, rows = read_foreign(tmp_path / "both.csv")
    assert [bool(load.refused) for load in loads] == ([True] if rows else [False, True])


# ---------------------------------------------------------------------------------------------- what is none of them


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"metadata": {"request_start_ns": 1}, "payload": {}, "responses": [], "error": None},
            "AIPerf's raw requests",
        ),
        ({"metadata": {"request_start_ns": 1}, "payload": {}, "request_headers": {}}, "profile_export.jsonl beside"),
        ({"timeslices": [{"timeslice_index": 0}], "input_config": {}}, "by time slice"),
        ({"benchmark_type": "sa-bench", "config": {}, "runs": []}, "import the results_*.json"),
        (
            {"hw": "b200", "conc": 8, "scenario_type": "agentic-coding", "request_metrics": {}},
            "of no one ISL and OSL",
        ),
        ({"engine": {}, "request_info": {}, "performance": {}}, "trtllm-bench"),
        ({"avg_latency": 1.0, "latencies": [1.0], "percentiles": {}}, "vllm bench latency"),
        ({"elapsed_time": 1.0, "num_requests": 5, "requests_per_second": 5.0}, "vllm bench throughput"),
        ({"batch_size": 4, "input_len": 5, "overall_throughput": 1.0}, "bench_one_batch"),
        ("", "is empty"),
        (" \n\n", "is empty"),
    ],
)
def test_what_is_near_a_result_is_named(tmp_path: Path, content: Any, said: str) -> None:
    assert said in refusal(tmp_path, content if isinstance(content, str) else json.dumps(content) + "\n")


def test_context_servers_have_an_osl_of_1(tmp_path: Path) -> None:
    run = {**serving_run(8, 80, osl=1), "mean_tpot_ms": 0.0, "mean_itl_ms": 0.0}
    file = tmp_path / "result.json"
    file.write_text(json.dumps(run), encoding="utf-8")
    argv = ["import", "results", file, "-o", tmp_path / "rates.csv", "--stage", "ctx", "--ctx", "TP8", "--mtp", "0"]
    argv += ["--gpu", "h200", "--engine", "vllm/0.24", "--real", "--workload", "1000/1"]
    done = CliRunner().invoke(main, [str(word) for word in argv])
    assert done.exit_code == 0, done.stderr
    assert "ctx,TP8,8,1000,1,8" in (tmp_path / "rates.csv").read_text(encoding="utf-8")
