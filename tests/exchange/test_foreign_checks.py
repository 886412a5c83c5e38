"""Figures of other tools that contradict each other, their load or their servers are on no front; right ones stay."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.analysis.analyze import analyze_inputs, read_inputs
from ratematch.cli import main
from ratematch.errors import UserError
from ratematch.exchange.results.detect import read_foreign
from ratematch.exchange.results.foreign import Hints, parse_servers
from ratematch.exchange.results.ingest import import_results
from ratematch.measure.measurement import Measurement
from ratematch.store.folder import Results

from .foreign_files import AIPERF_SUMMARY, INFERENCEX_DISAGG, aiperf_line
from .foreign_runs import AIC_CELL, AIC_CELL_HEAD, AIC_EPD, AIC_EPD_HEAD, AIC_PLAIN, inferencex_run, serving_run

GIVEN = Hints(
    model="deepseek-r1", gpu="h200", engine="vllm/0.24", agg=parse_servers("TP8"), mtp=0, emulated=False, osl=256
)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def call(*argv: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in argv], catch_exceptions=False)


def put(folder: Path, content: Any, given: Hints = GIVEN, name: str = "run.json") -> Measurement:
    """The figures of one result, as the store has them."""
    imported, skipped = import_results([write(folder / name, content)], given, folder / "in")
    assert len(imported) == 1, skipped
    (row,) = Results(folder / "in").measured()
    return row.measurement


def on_front(folder: Path) -> int:
    (workload,) = analyze_inputs(read_inputs(Results(folder / "in"))).workloads
    return len(workload.ifb)


# ------------------------------------------------------------------------------------------------- Little's law


@pytest.mark.parametrize(
    ("concurrency", "requests", "factor", "valid"),
    [
        (64, 640, 1.0, True),
        (64, 640, 0.97, True),
        (64, 640, 0.88, True),  # ten requests a slot: up to 15 % and the tail of the last ones are ramp and drain
        (64, 640, 0.73, False),
        (64, 640, 1.08, False),  # more in flight than there were slots
        (8, 1600, 0.90, False),  # two hundred a slot: nothing explains it
        (8, 1600, 0.955, True),
        (256, 300, 0.90, False),  # hardly more than one a slot: nothing is allowed for
        (256, 256, 1.0, True),
        (4096, 8188, 0.73, False),
        (16, 64, 0.76, True),  # four a slot: the end of such a run is long, and said
    ],
)
def test_whole_runs_obey_littles_law_as_far_as_their_ramp_and_drain_allow(
    tmp_path: Path, concurrency: int, requests: int, factor: float, valid: bool
) -> None:
    run = serving_run(concurrency, requests)
    run["duration"] /= factor
    run |= {key: run[key] * factor for key in ("request_throughput", "output_throughput")}
    figures = put(tmp_path, run)
    assert figures.valid == valid, figures.reasons
    assert figures.little == pytest.approx(1 / factor)
    texts = figures.reasons if not valid else figures.warnings
    assert any("Little's law" in text for text in texts) == (abs(factor - 1) > 0.05)
    assert on_front(tmp_path) == int(valid)


def test_without_e2el_the_law_is_read_from_ttft_and_tpot_or_itl(tmp_path: Path) -> None:
    run = {key: value for key, value in serving_run(32, 320).items() if "e2el" not in key}
    for name in "abc":
        (tmp_path / name).mkdir()
    assert put(tmp_path / "a", run).valid
    # Lengths that differ make the mean TPOT of requests larger than that of tokens; ITL is the latter.
    uneven = {**run, "mean_tpot_ms": run["mean_tpot_ms"] * 1.3, "median_tpot_ms": 17.0, "p99_tpot_ms": 30.0}
    assert put(tmp_path / "b", uneven).valid
    wrong = {**uneven, "mean_itl_ms": run["mean_itl_ms"] * 1.3, "median_itl_ms": 17.0, "p99_itl_ms": 30.0}
    figures = put(tmp_path / "c", wrong)
    assert not figures.valid and "Little's law is off by +2" in figures.reasons[0]


def test_an_open_loop_has_no_number_in_flight_to_be_held_to(tmp_path: Path) -> None:
    run = {**serving_run(8, 400), "request_rate": 2.0, "max_concurrency": 64}
    figures = put(tmp_path, run)
    assert figures.valid and figures.little is None
    assert any("at most 64 requests were in flight" in warning for warning in figures.warnings)
    (row,) = Results(tmp_path / "in").measured()
    assert "2" in row.load.label and "poisson" in row.load.label, "a rate, and not 64 in flight"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"output_tput_per_gpu": 600.0, "input_tput_per_gpu": None, "tput_per_gpu": 1200.0},
            "Little's law is off by",
        ),
        ({"mean_e2el": 21.0}, "tokens an answer, and osl is 1024"),
        ({"osl": 512}, "tokens an answer, and osl is 512"),
        ({"mean_intvty": 30.0}, "mean_intvty is 30 tok/s/user"),
        ({"mean_ttft": 0.0}, "TTFT is 0"),
        ({"median_ttft": 2.0}, "percentiles are out of order"),
    ],
)
def test_rows_of_inferencex_that_contradict_themselves_are_not_valid(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    figures = put(tmp_path, inferencex_run(**changes), Hints(emulated=False))
    assert not figures.valid and any(reason in text for text in figures.reasons), figures.reasons


PUBLIC = (
    # (conc, osl, output tok/s, TTFT ms, its p99, TPOT ms) of public InferenceX points of DeepSeek-R1: the six of 86
    # with the fewest in flight by rate and latency, and some of the others. Answers have 0.9 OSL tokens on average.
    (4, 8192, 844.8, 209.7, 19378.0, 3.948),
    (30, 1024, 1543.7, 3955.9, 14337.0, 12.714),
    (10, 1024, 1773.4, 620.8, 3706.4, 4.276),
    (6, 1024, 1084.2, 1575.0, 6106.7, 3.18),
    (564, 8192, 28071.2, 6252.0, 95067.0, 17.253),
    (333, 1024, 14575.2, 4488.7, 19460.0, 15.968),
    (1600, 1024, 58056.0, 2856.8, 23946.0, 23.291),
    (4, 8192, 456.9, 87.93, 313.07, 8.6408),
    (1, 1024, 129.0, 351.1, 583.6, 7.322),
)


@pytest.mark.parametrize("row", PUBLIC)
@pytest.mark.parametrize("form", ["benchmark_serving", "InferenceX"])
def test_what_was_measured_in_public_stays_valid(tmp_path: Path, row: tuple[float, ...], form: str) -> None:
    conc, asked, tok_s, ttft, ttft_p99, tpot = row
    osl, gpus = 0.9 * asked, 8
    e2el = ttft + (osl - 1) * tpot
    if form == "InferenceX":
        content = inferencex_run(
            int(conc), osl=asked, isl=1024, tput_per_gpu=3 * tok_s / gpus, input_tput_per_gpu=None
        )
        content |= {"output_tput_per_gpu": tok_s / gpus, "mean_e2el": e2el / 1000, "mean_intvty": 1000 / tpot}
        content |= {"mean_ttft": ttft / 1000, "median_ttft": None, "p99_ttft": ttft_p99 / 1000}
        content |= {"mean_tpot": tpot / 1000, "median_tpot": None, "p99_tpot": None}
        figures = put(tmp_path, content, Hints(emulated=False))
        assert figures.valid
        low = tok_s / osl * e2el / 1000 / conc < 0.95
        assert any("Little's law is off" in warning for warning in figures.warnings) == low
        return
    requests = 10 * int(conc)
    duration = requests * osl / tok_s
    content = {
        **{key: value for key, value in serving_run(int(conc), requests).items() if not key.endswith("_ms")},
        "duration": duration,
        "total_output_tokens": round(requests * osl),
        "request_throughput": requests / duration,
        "output_throughput": tok_s,
        **{"mean_ttft_ms": ttft, "p99_ttft_ms": ttft_p99, "mean_tpot_ms": tpot},
    }
    figures = put(tmp_path, content)
    assert figures.valid, figures.reasons


def test_right_rows_of_inferencex_stay(tmp_path: Path) -> None:
    for number, row in enumerate((inferencex_run(), inferencex_run(4), INFERENCEX_DISAGG)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert put(folder, row, Hints(emulated=False)).valid


# ---------------------------------------------------------------------------------------- zeros, order, totals


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mean_ttft_ms": 0.0, "median_ttft_ms": 0.0, "p99_ttft_ms": 0.0}, "TTFT is 0"),
        ({"median_ttft_ms": 0.0}, "the median of TTFT is 0 and its mean 200 ms"),
        ({"mean_tpot_ms": 0.0, "median_tpot_ms": 0.0, "p99_tpot_ms": 0.0}, "TPOT is 0"),
        ({"mean_itl_ms": 0.0, "median_itl_ms": 0.0, "p99_itl_ms": 0.0}, "ITL is 0"),
        ({"total_output_tokens": 0, "output_throughput": 0.0}, "0 output tokens in 80 answers"),
        ({"mean_e2el_ms": 0.0, "median_e2el_ms": 0.0, "p99_e2el_ms": 0.0}, "E2EL is 0"),
        ({"p99_ttft_ms": 100.0}, "percentiles are out of order"),
        ({"p90_tpot_ms": 100.0}, "percentiles are out of order"),
        ({"percentiles_e2el_ms": [[90.0, 9000.0], [99.0, 5000.0]]}, "percentiles are out of order"),
        ({"completed": 96, "failed": 0}, "96 answers to 80 requests"),
        ({"output_throughput": 900.0}, "900 output tokens/s x"),
        ({"duration": 20.0}, "requests/s x 20 s"),
        ({"mean_ttft_ms": 9000.0, "p99_ttft_ms": 9900.0}, "the first token came after the last"),
    ],
)
def test_figures_that_cannot_be_are_not_valid_and_the_reason_says_which(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    figures = put(tmp_path, {**serving_run(), **changes})
    assert not figures.valid and any(reason in text for text in figures.reasons), figures.reasons
    assert on_front(tmp_path) == 0
    given = ("--agg", "TP8", "--mtp", "0", "--gpu", "h200", "--real")
    table = call("import", "results", tmp_path / "run.json", "-o", tmp_path / "rates.csv", *given)
    assert table.exit_code == 1 and "left out: not valid" in table.stderr and reason in table.stderr


def test_zeros_that_say_nothing_was_to_be_measured_are_no_fault(tmp_path: Path) -> None:
    lumps = {**serving_run(), "median_itl_ms": 0.0, "mean_itl_ms": 27.0, "p99_itl_ms": 90.0}
    figures = put(tmp_path, lumps)
    assert figures.valid and figures.itl_ms is None, "half of the gaps are 0: several tokens a read"
    assert any("half of all ITL are 0" in warning for warning in figures.warnings)


@pytest.mark.parametrize("ttft", [0.0, 2000.0])
def test_a_request_of_aiperf_whose_first_token_cannot_be_is_no_full_answer(tmp_path: Path, ttft: float) -> None:
    lines = [aiperf_line(k) for k in range(60)]
    for line in lines[::10]:  # a placeholder, or after the last token
        line["metrics"]["time_to_first_token"]["value"] = ttft
    text = "".join(json.dumps(line) + "\n" for line in lines)
    given = Hints(**{**GIVEN.__dict__, "concurrency": 2})
    figures = put(tmp_path, text, given, "profile_export.jsonl")
    assert not figures.valid and figures.num_failed == 6
    assert figures.ttft_ms is not None and figures.ttft_ms.min == pytest.approx(100.0)


def test_an_aiperf_summary_is_held_to_the_same(tmp_path: Path) -> None:
    zero = {**AIPERF_SUMMARY, "time_to_first_token": {"unit": "ms", "avg": 0.0, "p50": 0.0, "p99": 0.0}}
    assert not put(tmp_path, zero).valid
    (tmp_path / "b").mkdir()
    off = {**AIPERF_SUMMARY, "benchmark_duration": {"unit": "sec", "avg": 50.0}}
    assert "requests/s x 50 s are 90, and 60 were counted" in put(tmp_path / "b", off).reasons[0]
    (tmp_path / "d").mkdir()
    slow = {**AIPERF_SUMMARY, "output_token_throughput_per_user": {"unit": "tokens/sec/user", "avg": 70.0}}
    assert "70 tok/s/user, and a TPOT of 10 ms makes 100 at least" in put(tmp_path / "d", slow).reasons
    (tmp_path / "c").mkdir()
    cut = put(tmp_path / "c", {**AIPERF_SUMMARY, "was_cancelled": True})
    assert cut.valid and "the run was cancelled before its end" in cut.warnings


# ------------------------------------------------------------------------------------------------ draft tokens


@pytest.mark.parametrize("key", ["spec_decode_acceptance_length", "accept_length", "avg_decoded_tokens_per_iter"])
def test_the_acceptance_of_every_client_is_read_and_no_drafts_beside_it_are_refused(tmp_path: Path, key: str) -> None:
    run = write(tmp_path / "run.json", {**serving_run(), key: 2.6})
    given = ("--agg", "TP8", "--gpu", "h200", "--model", "m", "--engine", "vllm/0.24", "--real")
    for mtp, says in (("0", "2.6 tokens a step, and --mtp 0 allows 1"), ("1", "--mtp 1 allows 2")):
        refused = call("import", "results", run, "--into", tmp_path / "in", *given, "--mtp", mtp)
        assert refused.exit_code == 1 and says in refused.stderr
        table = call("import", "results", run, "-o", tmp_path / "rates.csv", *given, "--mtp", mtp)
        assert table.exit_code == 1 and says in table.stderr
    assert call("import", "results", run, "--into", tmp_path / "in", *given, "--mtp", "3").exit_code == 0
    (row,) = Results(tmp_path / "in").measured()
    assert row.measurement.acceptance_length == 2.6 and row.experiment.deployment.mtp == 3


@pytest.mark.parametrize("acceptance", [None, 1.0, 1.02])
def test_an_acceptance_of_one_is_that_of_servers_without_drafts(tmp_path: Path, acceptance: float | None) -> None:
    assert put(tmp_path, {**serving_run(), "accept_length": acceptance}).valid


def test_drafts_of_which_none_was_accepted_are_drafts(tmp_path: Path) -> None:
    counted = {
        "spec_decode_acceptance_length": 1.0,
        "spec_decode_draft_tokens": 900,
        "spec_decode_accepted_tokens": 0,
    }
    file = write(tmp_path / "run.json", {**serving_run(), **counted})
    _, skipped = import_results([file], GIVEN, tmp_path / "in")
    assert "tokens were drafted, and --mtp 0 that none were" in skipped[0].why
    _, skipped = import_results([file], Hints(**{**GIVEN.__dict__, "mtp": None}), tmp_path / "in")
    assert "draft tokens (--mtp; there were some)" in skipped[0].why


def test_a_row_with_drafts_is_not_taken_without_them(tmp_path: Path) -> None:
    file = write(tmp_path / "row.json", inferencex_run(spec_decoding="mtp"))
    imported, skipped = import_results([file], Hints(emulated=False, mtp=0), tmp_path / "in")
    assert not imported and "tokens were drafted, and --mtp 0 that none were" in skipped[0].why


# -------------------------------------------------------------------------------------------------------- GPUs


def rates(folder: Path, *texts: str) -> tuple[list[dict[str, str]], str]:
    files = [write(folder / f"aic{number}.csv", text) for number, text in enumerate(texts)]
    result = call("import", "results", *files, "-o", folder / "rates.csv")
    assert result.exit_code == 0, result.stderr
    return list(csv.DictReader((folder / "rates.csv").read_text("utf-8").splitlines())), result.stderr


def test_encoders_of_an_aggregated_cell_are_gpus_like_others(tmp_path: Path) -> None:
    (row,), _ = rates(tmp_path, AIC_CELL_HEAD + AIC_CELL)
    assert (row["gpus"], row["tok_s"], row["concurrency"]) == ("14", "4000.0", "96.0")
    assert row["label"] == "3xTP4+2xencoder-TP1"
    assert call("match", tmp_path / "rates.csv").exit_code == 0


def test_encoders_before_prefill_and_decode_are_counted_with_the_prefill_they_feed(tmp_path: Path) -> None:
    (ctx, gen), _ = rates(tmp_path, AIC_EPD_HEAD + AIC_EPD)
    assert (ctx["label"], ctx["gpus"]) == ("2xTEP4+1xencoder-TP1", "9")
    assert 2 * int(ctx["gpus"]) + 3 * int(gen["gpus"]) == 42, "all GPUs of the deployment"
    assert float(ctx["req_s"]) == pytest.approx(30.0), "two units make the 60 requests/s of the row"
    assert call("match", tmp_path / "rates.csv", "--max-gpus", "48").exit_code == 0


def test_a_table_with_encoder_columns_and_no_encoders_is_as_before(tmp_path: Path) -> None:
    (row,), _ = rates(tmp_path, AIC_CELL_HEAD + AIC_PLAIN)
    assert (row["label"], row["gpus"]) == ("TP4", "4")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((",40,14,4,", ",40,13,4,"), "num_total_gpus is 13, and 3 x TP4 + 2 x encoder TP1 make 14"),
        ((",285.7,", ",1000,"), "tokens/s/gpu 1000 x 14 GPUs are not tokens/s 4000"),
        ((",40,14,", ",80,14,"), "tokens/s/user 80 and tpot 25 ms contradict each other"),
        ((",10,0.7143,", ",20,0.7143,"), "seq/s 20 x OSL 400 are not tokens/s 4000"),
        ((",3,2,1,1,8", ",3,2,,1,8"), "2 encoder workers and no (e)tp"),
    ],
)
def test_a_line_of_aiconfigurator_that_does_not_add_up_is_left_out_alone(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    rows, notes = rates(tmp_path, AIC_CELL_HEAD + AIC_CELL.replace(*change) + AIC_PLAIN)
    assert [row["label"] for row in rows] == ["TP4"] and f"row 2: left out: {reason}" in notes


def test_gpus_of_a_row_of_inferencex_are_those_of_its_servers(tmp_path: Path) -> None:
    for row, says in (
        (inferencex_run(num_gpus=16), "num_gpus is 16, and the layout makes 8"),
        ({**INFERENCEX_DISAGG, "num_prefill_gpu": 4}, "num_prefill_gpu is 4, and the layout makes 8"),
        (inferencex_run(tput_per_gpu=100.0), "tokens/s/GPU do not make 100 in all, on 8 GPUs"),
    ):
        with pytest.raises(UserError, match=says):
            read_foreign(write(tmp_path / "row.json", row))
    # Of several rows the others stay.
    loads, _ = read_foreign(write(tmp_path / "rows.json", [inferencex_run(num_gpus=16), inferencex_run(64)]))
    assert [bool(load.refused) for load in loads] == [True, False]
    imported, skipped = import_results([tmp_path / "rows.json"], Hints(emulated=False), tmp_path / "in")
    assert len(imported) == 1 and "num_gpus is 16" in skipped[0].why and "row 1" in skipped[0].source


def test_servers_that_are_given_have_the_gpus_of_the_row(tmp_path: Path) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (inferencex_run(), {"agg": parse_servers("TEP4")}, "the file has 8 GPUs, and --agg 4"),
        (INFERENCEX_DISAGG, {"ctx": parse_servers("1xTEP4")}, "the file has 8 prefill GPUs, and --ctx 4"),
        (INFERENCEX_DISAGG, {"gen": parse_servers("2xDEP8")}, "the file has 8 decode GPUs, and --gen 16"),
    ]
    for row, given, says in cases:
        file = write(tmp_path / "row.json", row)
        imported, skipped = import_results([file], Hints(emulated=False, **given), tmp_path / "in")
        assert not imported and says in skipped[0].why
    same = Hints(emulated=False, agg=parse_servers("TP8"))
    assert import_results([write(tmp_path / "row.json", inferencex_run())], same, tmp_path / "in")[0]


# ------------------------------------------------------------------------------------- servers that decode nothing


def test_a_context_server_has_no_tpot_and_matching_takes_its_row(tmp_path: Path) -> None:
    run = serving_run(8, 80, ttft_ms=1280.0, tpot_ms=0.0, osl=1)
    ctx = write(tmp_path / "ctx.json", run)
    common = ("--mtp", "0", "--gpu", "h200", "--engine", "vllm/0.24", "--real", "--stage")
    made = call("import", "results", ctx, "-o", tmp_path / "ctx.csv", *common, "ctx", "--ctx", "TP1")
    assert made.exit_code == 0, made.stderr
    (row,) = csv.DictReader((tmp_path / "ctx.csv").read_text("utf-8").splitlines())
    assert row["tpot_ms"] == "" and float(row["req_s"]) == pytest.approx(8 / 1.28)
    alone = call("match", tmp_path / "ctx.csv")
    assert alone.exit_code == 1 and "there are only ctx rows" in alone.stderr
    gen = [write(tmp_path / f"gen{c}.json", serving_run(c, 40 * c)) for c in (8, 16)]
    both = call("import", "results", *gen, "-o", tmp_path / "gen.csv", *common, "gen", "--gen", "TP2")
    assert both.exit_code == 0, both.stderr
    lines = (tmp_path / "gen.csv").read_text("utf-8").splitlines()[1:]
    write(tmp_path / "all.csv", (tmp_path / "ctx.csv").read_text("utf-8") + "\n".join(lines) + "\n")
    matched = call("match", tmp_path / "all.csv", "--max-gpus", "16")
    assert matched.exit_code == 0, matched.stderr


def test_records_of_a_context_server_have_no_tpot_either(tmp_path: Path) -> None:
    lines = [aiperf_line(k) for k in range(60)]
    for line in lines:
        line["metrics"] |= {
            "time_to_first_token": {"value": 1100.0, "unit": "ms"},
            "output_sequence_length": {"value": 1, "unit": "tokens"},
            "inter_chunk_latency": {"value": [], "unit": "ms"},
        }
    file = write(tmp_path / "profile_export.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    given = ("--mtp", "0", "--gpu", "h200", "--real", "--stage", "ctx", "--ctx", "TP1", "--concurrency", "2")
    made = call("import", "results", file, "-o", tmp_path / "ctx.csv", *given)
    assert made.exit_code == 0, made.stderr
    (row,) = csv.DictReader((tmp_path / "ctx.csv").read_text("utf-8").splitlines())
    assert row["tpot_ms"] == "" and float(row["ttft_ms"]) == pytest.approx(1100.0)


def test_a_row_that_matching_would_not_take_is_not_written(tmp_path: Path) -> None:
    run = write(tmp_path / "run.json", {**serving_run(None), "request_rate": 3.0})
    given = ("--agg", "TP8", "--mtp", "0", "--gpu", "h200", "--real")
    table = call("import", "results", run, "-o", tmp_path / "rates.csv", *given)
    assert table.exit_code == 1 and "left out: no concurrency" in table.stderr
    assert not (tmp_path / "rates.csv").exists()
