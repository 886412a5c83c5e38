"""Figures of a stored load: its records judged with what the servers said of themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.match.figures import collect_figures
from ratematch.match.options import read_gen_options
from ratematch.measure.loadrun import EmulatorTime, LoadRun, TelemetrySummary, Warming
from ratematch.measure.measured import Measured
from ratematch.measure.metrics import acceptance_length
from ratematch.measure.records import RequestRecord
from ratematch.measure.serverlog import LogSpan
from ratematch.measure.servermetrics import StageTimes
from ratematch.measure.serverside import measure_run
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Constraints
from ratematch.plan.workload import Workload
from tests.support.invented import GEN, PAIR, experiment, records

ASKED = experiment(stage="gen", deployment=GEN, workload=Workload(64, 5))


def answers(decoded_per_iter: float | None) -> list[RequestRecord]:
    found = records(40)
    for record in found:
        record.decoded_per_iter = decoded_per_iter
    return found


def warnings(asked: Experiment, decoded_per_iter: float | None, run: LoadRun | None = None) -> tuple[str, ...]:
    return measure_run(answers(decoded_per_iter), Concurrency(1, 40), asked, run or LoadRun()).warnings


def test_acceptance_is_tokens_over_iterations_not_a_mean_of_ratios() -> None:
    long, short = answers(3.0)[0], answers(1.0)[0]
    long.osl, short.osl = 30, 10
    assert acceptance_length([long, short]) == pytest.approx((30 + 10) / (30 / 3 + 10 / 1))
    assert acceptance_length(answers(None)) is None
    assert acceptance_length([]) is None


def test_acceptance_stands_with_the_figures() -> None:
    figures = measure_run(answers(1.8), Concurrency(1, 40), ASKED, LoadRun())
    assert figures.acceptance_length == pytest.approx(1.8)
    assert not any("iteration" in warning for warning in figures.warnings)


@pytest.mark.parametrize("measured", [1.0, 2.0])
def test_mtp_that_accepts_nothing_or_everything_is_doubted(measured: float) -> None:
    assert any(f"MTP 1 yields {measured:.2f} tokens an iteration" in w for w in warnings(ASKED, measured))


def test_mtp_without_a_count_is_told_and_no_mtp_is_not() -> None:
    assert any("does not tell how many drafts" in w for w in warnings(ASKED, None))
    assert GEN.gen is not None
    plain = replace(ASKED, deployment=replace(GEN, gen=replace(GEN.gen, mtp=0)))
    assert not any("MTP" in w for w in warnings(plain, None))


def test_an_emulator_that_fell_behind_is_not_believed() -> None:
    on_time = LoadRun(emulator={"gen-0": EmulatorTime(busy_s=10.0, late_s=0.4, lost_s=0.0)})
    late = LoadRun(emulator={"gen-0": EmulatorTime(busy_s=10.0, late_s=0.4, lost_s=0.2)})
    assert measure_run(answers(1.8), Concurrency(1, 40), ASKED, on_time).valid
    figures = measure_run(answers(1.8), Concurrency(1, 40), ASKED, late)
    assert not figures.valid
    assert any("gen-0 ended its steps 0.60 s late in 10.00 s" in reason for reason in figures.reasons)


@pytest.mark.parametrize(("expired", "valid"), [(0, True), (2, False)])
def test_answers_from_kv_caches_that_ctx_had_given_up_are_not_believed(expired: int, valid: bool) -> None:
    stages = StageTimes(10, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, kv_expired=expired)
    figures = measure_run(answers(1.8), Concurrency(1, 40), ASKED, LoadRun(stages=stages))
    assert figures.valid is valid
    assert any("ctx gave up 2 KV caches" in reason for reason in figures.reasons) is not valid


def drafts(acceptance: float | None, log: dict[str, LogSpan] | None = None) -> LoadRun:
    return LoadRun(telemetry=TelemetrySummary(acceptance_length=acceptance), log=log or {})


def test_drafts_counted_by_the_servers_come_before_what_answers_tell() -> None:
    """An answer's count holds the prompt's iteration, which drafts nothing."""
    figures = measure_run(answers(1.6), Concurrency(1, 40), ASKED, drafts(1.8))
    assert figures.acceptance_length == 1.8
    assert measure_run(answers(1.6), Concurrency(1, 40), ASKED, drafts(None)).acceptance_length == 1.6


def span(in_flight: int, step_ms: float) -> LogSpan:
    return LogSpan(step_ms, iterations=9, in_flight=in_flight, mean_step_ms=step_ms)


def test_log_and_client_stand_beside_each_other_and_a_difference_is_told() -> None:
    client = measure_run(answers(None), Concurrency(1, 40), ASKED, drafts(1.8)).tok_s
    assert client is not None
    same = {"gen-0": span(1, 1000 * 1.8 / client)}
    figures = measure_run(answers(None), Concurrency(1, 40), ASKED, drafts(1.8, same))
    assert figures.tok_s_log == pytest.approx(client)
    assert not any("the log says" in warning for warning in figures.warnings)
    double = drafts(1.8, {"gen-0": same["gen-0"], "gen-1": same["gen-0"]})
    figures = measure_run(answers(None), Concurrency(1, 40), ASKED, double)
    assert figures.tok_s_log == pytest.approx(2 * client)
    assert any(f"the log says {2 * client:.0f} tok/s" in w and "+100%" in w for w in figures.warnings)


def test_no_acceptance_no_tok_s_from_the_log() -> None:
    assert measure_run(answers(None), Concurrency(1, 40), ASKED, LoadRun(log={"gen-0": span(1, 9)})).tok_s_log is None


def test_gen_only_has_tpot_and_no_ttft() -> None:
    assert PAIR.gen is not None and PAIR.ctx is not None
    fed = replace(ASKED, deployment=PAIR)
    assert fed.mode == "gen_only"
    figures = measure_run(answers(1.8), Concurrency(1, 40), fed, LoadRun())
    assert figures.ttft_ms is None and figures.e2el_ms is None
    assert figures.tpot_ms is not None and figures.valid
    assert any("TTFT is not reported" in warning for warning in figures.warnings)
    rows, left_out = collect_figures([Measured(fed, Concurrency(1, 40), figures)], Constraints(ttft_ms=1.0))
    assert left_out == []
    (option,) = read_gen_options(rows)
    assert option.rates.gpus == PAIR.gen.mapping.gpus, "the context servers that only supply do not count"


def test_failed_connection_requests_are_told() -> None:
    run = LoadRun(connections=Warming(requests=32, failed=2, seconds=1.0, errors=("HTTP 500: boom",)))
    assert any("2 of 32 requests to open connections failed: HTTP 500: boom" in w for w in warnings(ASKED, 1.8, run))


def reported(**figures: float) -> LoadRun:
    window = {"ctx-0": figures, "gen-0": {"iterations": 10.0}}
    return LoadRun(telemetry=TelemetrySummary(window=window))


@pytest.mark.parametrize(("rate", "valid"), [(0.0, True), (0.004, True), (0.3, False)])
def test_prompts_that_a_context_server_found_in_its_cache_unasked_make_a_load_not_valid(
    rate: float, valid: bool
) -> None:
    asked = replace(ASKED, workload=Workload(64, 5))
    figures = measure_run(answers(1.8), Concurrency(1, 40), asked, reported(cache_hit_rate=rate, queued=50.0))
    assert figures.valid is valid
    assert any("ctx-0: its prefix cache answered 30.0%" in text for text in figures.reasons) is not valid
    assert not any("waited in the server" in text for text in figures.warnings), "a ctx queue is a part of TTFT"


def test_shared_prefixes_may_be_found() -> None:
    asked = replace(ASKED, workload=Workload(64, 5, prefix_share=0.5))
    assert measure_run(answers(1.8), Concurrency(1, 40), asked, reported(cache_hit_rate=0.3)).valid


def test_drafts_by_force_are_what_the_servers_count_or_the_load_is_not_valid() -> None:
    def judged(measured: float | None, forced: str = "1:1.75") -> tuple[tuple[str, ...], tuple[str, ...]]:
        asked = replace(ASKED, workload=replace(ASKED.workload, forced_acceptance=forced))
        figures = measure_run(answers(measured), Concurrency(1, 40), asked, LoadRun())
        return figures.reasons, figures.warnings

    assert not any("by force" in reason for reason in judged(1.73)[0])
    assert (
        "drafts were to be accepted by force, 1.75 tokens a step, and the servers count 1.60: this is not what"
        in (" ".join(judged(1.6)[0]))
    )
    assert not any("everything is accepted" in warning for warning in judged(2.0, "1:2")[1]), (
        "that is what was wanted"
    )
    assert any("does not tell how many drafts" in warning for warning in judged(None)[1])
