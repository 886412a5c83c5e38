"""Figures of a stored load: its records judged with what the servers said of themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ratematch.measure.metrics import acceptance_length
from ratematch.measure.records import RequestRecord
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload
from ratematch.readout import measure_run
from tests.invented import GEN, experiment, records

ASKED = experiment(stage="gen", deployment=GEN, workload=Workload(64, 5))


def answers(decoded_per_iter: float | None) -> list[RequestRecord]:
    found = records(40)
    for record in found:
        record.decoded_per_iter = decoded_per_iter
    return found


def warnings(asked: Experiment, decoded_per_iter: float | None, run: dict[str, Any] | None = None) -> tuple[str, ...]:
    return measure_run(answers(decoded_per_iter), Concurrency(1, 40), asked, run or {}).warnings


def test_acceptance_is_tokens_over_iterations_not_a_mean_of_ratios() -> None:
    long, short = answers(3.0)[0], answers(1.0)[0]
    long.osl, short.osl = 30, 10
    assert acceptance_length([long, short]) == pytest.approx((30 + 10) / (30 / 3 + 10 / 1))
    assert acceptance_length(answers(None)) is None
    assert acceptance_length([]) is None


def test_acceptance_stands_with_the_figures() -> None:
    figures = measure_run(answers(1.8), Concurrency(1, 40), ASKED, {})
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
    on_time = {"emulator": {"gen-0": {"busy_s": 10.0, "late_s": 0.4, "lost_s": 0.0}}}
    late = {"emulator": {"gen-0": {"busy_s": 10.0, "late_s": 0.4, "lost_s": 0.2}}}
    assert measure_run(answers(1.8), Concurrency(1, 40), ASKED, on_time).valid
    figures = measure_run(answers(1.8), Concurrency(1, 40), ASKED, late)
    assert not figures.valid
    assert any("gen-0 ended its steps 0.60 s late in 10.00 s" in reason for reason in figures.reasons)
