"""The simulation held to public measurements: a part of ``python -m benchmarks.real_deployments``, and its parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_deployments.compare import Compared, compare, interval, kendall_tau, sum_up
from benchmarks.real_deployments.fit import BLACKWELL, burst_ms, ctx_rate, generating, minimise, request_rate, tpot_ms
from benchmarks.real_deployments.page import BEGIN, END, write_page
from benchmarks.real_deployments.setup import aggregated_options, graphs_of_prompts, setup_of
from benchmarks.real_deployments.simulated import Simulated
from benchmarks.real_deployments.table import ROWS, read_rows
from ratematch.emulator.efficiency import efficiency_of
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.parallelism import parse_mapping

TABLE = {row.line: row for row in read_rows()}
CHEAP = (3, 5, 7, 11, 14, 17, 20, 25, 29, 32, 39, 41, 43, 48, 50, 53, 55, 58, 62, 65, 72, 75, 80)
"""Every group but H100's, both kinds, all three lengths, with and without drafts; a second or two together."""
PER_SLOT = 10


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    return compare([TABLE[line] for line in CHEAP], "roofline", PER_SLOT)


@pytest.mark.parametrize(
    ("figure", "median", "p90"), [("tok_s_gpu", 0.03, 0.10), ("tpot_ms", 0.035, 0.09), ("ttft_ms", 0.17, 0.33)]
)
def test_errors_on_public_rows_do_not_rise(compared, figure, median, p90):
    """Limits: what is reached today and a little room. Who makes the model better lowers them."""
    assert not [each.error for each in compared if each.error]
    found = sum_up(compared, figure)
    assert found.median <= median, found
    assert found.p90 <= p90, found


def test_steps_at_the_measured_number_in_flight_are_near():
    """All rows of Blackwell without a simulation: the values of efficiency.yaml are the fitted ones."""
    errors, model = [], load_model("deepseek-r1")
    for row in TABLE.values():
        if row.gpu in BLACKWELL:
            precision = {"fp4": "nvfp4"}.get(row.precision, row.precision)
            dp = parse_mapping(row.gen.mapping).attention_dp
            eff = efficiency_of(load_gpu(row.gpu), model, precision, setup_of(row).gen_backend, dp)
            errors.append(abs(tpot_ms(row, eff) / row.tpot_ms - 1))
    assert len(errors) == 79
    assert np.median(errors) < 0.042
    assert np.quantile(errors, 0.9) < 0.12


def test_fp8_on_eight_gpu_nodes_is_near():
    """Attention DP gathers all tokens there; DeepGEMM's rows are copied several times (line 35 was 11 % off)."""
    errors = {}
    for line in (35, 36, 37, 38, 39):
        row = TABLE[line]
        dp = parse_mapping(row.gen.mapping).attention_dp
        eff = efficiency_of(load_gpu(row.gpu), load_model("deepseek-r1"), "fp8", setup_of(row).gen_backend, dp)
        errors[line] = abs(tpot_ms(row, eff) / row.tpot_ms - 1)
    assert np.median(list(errors.values())) < 0.055, errors
    assert errors[35] < 0.085


def test_context_servers_keep_up_where_generation_was_full():
    """GB300 FP4, eleven DEP2 at 8k: they had the rate that filled three DEP4."""
    row = TABLE[71]
    eff = efficiency_of(load_gpu(row.gpu), load_model("deepseek-r1"), "nvfp4", setup_of(row).ctx_backend, True)
    assert row.ctx is not None
    assert generating(row) > 0.9 * (row.gen.max_batch_size or 0) * 4
    assert ctx_rate(row, row.ctx, eff) > request_rate(row)


def test_the_burst_at_the_start_says_how_fast_prompts_are():
    eff = efficiency_of(load_gpu("gb300"), load_model("deepseek-r1"), "fp8", "DEEPGEMM", True)
    row = TABLE[77]  # 8,192 prompts at once on one DEP4
    assert burst_ms(row, eff) == pytest.approx(row.ttft_p99_ms, rel=0.1)
    assert burst_ms(replace(row, concurrency=8193), eff) is None  # the last waits for a place in generation
    assert burst_ms(replace(row, ttft_ms=0.4 * (row.ttft_p99_ms or 0)), eff) is None  # others wait as long
    assert burst_ms(replace(row, ttft_p99_ms=None), eff) is None


def test_setup_follows_the_public_scripts():
    assert {setup_of(TABLE[line]).gen_backend for line in (2, 3, 8)} == {"CUTLASS"}  # FP4 and attention DP
    assert setup_of(TABLE[15]).gen_backend == "DEEPGEMM"  # FP8 in 2025
    assert setup_of(TABLE[17]).gen_backend == "TRTLLM"  # FP8 in 2026
    on_h200 = setup_of(replace(TABLE[36], gpu="h200"))
    assert (on_h200.ctx_backend, on_h200.gen_backend, on_h200.stream_interval) == ("CUTLASS", "CUTLASS", 100)
    assert setup_of(TABLE[31]).frontends == 5  # six nodes, one of them nginx's
    assert setup_of(TABLE[65]).frontends == 1
    assert setup_of(TABLE[44]).gen_mapping == "DP8"  # its recipe cuts each expert over the ranks
    assert setup_of(TABLE[44]).ctx_mapping == "DP4"
    assert setup_of(TABLE[36]).ctx_mapping == "DP8" and setup_of(TABLE[35]).ctx_mapping == "DEP8"
    assert {line for line in TABLE if setup_of(TABLE[line]).all_to_all} == {*range(57, 65), *range(73, 84)}


def test_setup_of_aggregated_rows_follows_the_scripts_of_their_day():
    tokens = {line: aggregated_options(TABLE[line])[0] for line in (5, 6, 16, 18, 26)}
    assert tokens == {5: 1152, 6: 8192, 16: 1152, 18: 8192, 26: 1152}
    fractions = {line: aggregated_options(TABLE[line])[1]["kv_cache_config"] for line in (5, 19, 24, 26)}
    assert [each["free_gpu_memory_fraction"] for each in fractions.values()] == [0.8, 0.7, 0.75, 0.75]
    gathering = {line for line in TABLE if "batch_wait_timeout_iters" in aggregated_options(TABLE[line])[1]}
    assert gathering == {18}  # FP8 in 2026, 1k in and out, 64 and more in flight
    assert {line for line in TABLE if graphs_of_prompts(TABLE[line])} == {3, 6, 18}
    drafting = replace(TABLE[17], mtp=3, concurrency=32)
    assert aggregated_options(drafting)[0] == 1216  # (1 + 3) x 32 + 1024 + 64
    assert graphs_of_prompts(drafting) and not graphs_of_prompts(replace(drafting, concurrency=4))


def test_ttft_is_compared_with_the_statistic_that_the_row_has():
    one, two, three = (replace(TABLE[2], records=records) for records in (1, 2, 3))
    assert [row.ttft_as_given(900.0, 300.0) for row in (one, two, three)] == [900.0, 600.0, 300.0]
    assert (TABLE[37].records, TABLE[77].records, TABLE[59].records) == (1, 2, 3)


def test_ttft_of_a_row_of_several_records_is_no_mean():
    """Ten requests a slot, four slots: the 99th of 40 is 0.39 of the second largest and 0.61 of the largest, so that
    the mean is at least 1 / 0.61 / 40 of it."""
    row = TABLE[62]
    assert row.concurrency == 4 and row.records == 3 and row.ttft_p99_ms
    assert row.ttft_ms < row.ttft_p99_ms / 0.61 / 40 / 3


def test_a_row_without_a_figure_is_refused_in_one_line(tmp_path: Path):
    lines = ROWS.read_text().splitlines()
    table = tmp_path / "mine.csv"
    table.write_text("\n".join([lines[0], lines[1].replace(",4,8,2025", ",four,8,2025", 1)]) + "\n")
    with pytest.raises(SystemExit, match=r"mine\.csv:2: .*'four'"):
        read_rows(table)


def test_further_columns_and_another_order_are_read(tmp_path: Path):
    names, first = (line.split(",") for line in ROWS.read_text().splitlines()[:2])
    table = tmp_path / "mine.csv"
    table.write_text(",".join(["note", *names[::-1]]) + "\n" + ",".join(["x", *first[::-1]]) + "\n")
    assert read_rows(table) == [TABLE[2]]


def test_a_row_that_cannot_run_is_named(tmp_path: Path):
    """One B200 holds no DeepSeek-R1."""
    text = ROWS.read_text().splitlines()
    table = tmp_path / "mine.csv"
    table.write_text("\n".join([text[0], text[1].replace("DEP4", "TP1").replace("fp4", "fp8")]) + "\n")
    (only,) = compare(read_rows(table), "roofline", 1)
    assert only.simulated is None
    assert "CUDA out of memory" in only.error
    assert not only.counts


def test_kendall_tau_counts_pairs():
    assert kendall_tau([(1, 10), (2, 20), (3, 30)]) == (3, 3)
    assert kendall_tau([(1, 10), (2, 30), (3, 20)]) == (1, 3)


def test_an_interval_leaves_out_what_it_must():
    ratios = [1.0] * 38 + [0.5, 2.0]
    assert interval(ratios) == pytest.approx((1.0, 1.0))  # 40 rows: two of 41 places on either side
    assert interval([0.8, 1.25]) == pytest.approx((0.8, 1.25))


def test_robust_least_squares_finds_a_line_beside_an_outlier():
    at = np.arange(10.0)
    seen = 0.3 * at - 0.1
    seen[4] += 5
    found = minimise(lambda x: x[0] * at + x[1] - seen, 2, np.full(2, 9.0))
    assert found == pytest.approx([0.3, -0.1], abs=0.01)


def test_tables_go_between_the_marks(tmp_path: Path, compared):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    suspect = Compared(TABLE[86], Simulated(1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 1.0))
    write_page(page, [*compared, suspect], "command")
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("| 86 | h100 fp8") == 1 and "suspect: TTFT of seconds" in text
    assert "| h100 fp8 disagg |" not in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="no place for the tables"):
        write_page(page, compared, "command")
