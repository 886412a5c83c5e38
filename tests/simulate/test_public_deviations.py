"""Parts of what real deployments deviate by: recovered where they are known, and wide enough for the public rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.real_deployments.bases import Base, gen_family, group_of, kind_of, name_of
from benchmarks.real_deployments.calibrated import held_out
from benchmarks.real_deployments.deviations import Observed, estimate, to_yaml
from benchmarks.real_deployments.fit import BLACKWELL, blackwell_values
from benchmarks.real_deployments.protocols import PROTOCOLS, own_constants
from benchmarks.real_deployments.table import Row, read_rows
from ratematch.emulator.efficiency import Efficiency, efficiency_of, learnt_for
from ratematch.engines.steptimes import Correction
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.parallelism import parse_mapping
from ratematch.simulate.calibration import nothing_measured
from ratematch.simulate.deviations import Deviations, deviations_for

ROWS = [row for row in read_rows() if row.gpu in BLACKWELL]
TRUTH = Deviations(0.15, 0.05, 0.05, 0.05, 0.12, 0.03, 0.02, 0.12, 0.05)


def invented(seed: int) -> list[Observed]:
    """Six groups of four families of three servers with two loads each, half of them aggregated."""
    rng, observed = np.random.default_rng(seed), []
    for group in range(6):
        factors = rng.normal(0, [TRUTH.fixed, TRUTH.memory, TRUTH.compute, TRUTH.link])
        for family in range(4):
            of_family = rng.normal(0, TRUTH.family)
            for server in range(3):
                aggregated = family < 2
                row = replace(ROWS[0], line=len(observed), gpu=f"gpu{group}", ctx=None if aggregated else ROWS[0].gen)
                own = rng.normal(0, TRUTH.aggregated_server if aggregated else TRUTH.server)
                for _ in range(2):
                    slopes = rng.dirichlet(np.ones(4)) * [-1, 1, 1, 1]
                    load = rng.normal(0, TRUTH.aggregated_load if aggregated else TRUTH.load)
                    log = float(slopes @ factors + of_family + own + load)
                    observed.append(Observed(row, log, slopes, f"gen {family}", f"{group} {family} {server}"))
    return observed


def test_parts_are_told_apart():
    found = estimate(invented(1), "unlearnt")
    assert found.server < found.aggregated_server and found.load < found.aggregated_load
    for name in ("family", "server", "load", "aggregated_server", "aggregated_load"):
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=0.4), name
    assert 0.05 < found.fixed < 0.4


def base_of(row: Row) -> Base:
    """The shipped values."""

    class Shipped(Base):
        def of(self, row: Row, backend: str, correction: Correction) -> Efficiency:
            gpu, dp = load_gpu(row.gpu), not backend.endswith("_TP")
            return efficiency_of(
                gpu, load_model("deepseek-r1"), kind_of(row).precision, backend.removesuffix("_TP"), dp
            )

    return Shipped(blackwell_values(), np.zeros(len(blackwell_values())))


def test_public_rows_lie_in_the_intervals_of_predictions():
    """Rows that the values were fitted on: at least as many as 95 % intervals should hold."""
    inside = []
    for row in ROWS:
        learnt = learnt_for(row.gpu, True, kind_of(row).precision, "", parse_mapping(row.gen.mapping).attention_dp)
        outcome = held_out(row, base_of(row), nothing_measured(kind_of(row), deviations_for([learnt])))
        assert outcome.before == outcome.after and outcome.within < math.log(1.6)
        inside.append(abs(outcome.after) < outcome.within)
    assert np.mean(inside) > 0.92


def test_no_protocol_shows_a_row_itself():
    base, rng = Base((), np.array([])), np.random.default_rng(0)
    for row in ROWS:
        own = f"{name_of(row)} {row.isl}/{row.osl}"
        for name, draw in PROTOCOLS.items():
            points = draw(row, ROWS, base, rng)
            assert f"line {row.line} TPOT" not in [point.name for point in points]
            servers = {point.server.removesuffix(" ctx") for point in points}
            assert servers <= {own} if name == "its own other loads" else own not in servers
            assert name.startswith(("all", "its")) or len(points) <= 3
            if name == "three of those most like it":
                assert {point.family for point in points if point.family.startswith("gen")} <= {gen_family(row)}


def test_constants_with_hindsight_leave_what_differs_within_their_groups():
    logs = [(row, 0.1 if group_of(row) == "gb200 fp4" else 0.0) for row in ROWS]
    left = dict(own_constants(logs))
    assert left["each GPU type and format"] == 0 == left["each mapping family of a GPU type and format"]


def test_the_file_has_every_part_with_its_range():
    text = to_yaml([("learnt", "other deployments", invented(2)[:48])])
    lines = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    assert len(lines) == 9 and all("value: " in line and "between: [" in line for line in lines)
