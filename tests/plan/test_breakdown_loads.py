"""Loads that are run for nothing but where the time of their requests goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.engines import find_engine
from ratematch.errors import SweepError
from ratematch.inputs.find import read_sweep
from ratematch.plan.budget import estimate
from ratematch.plan.expansion import expand_written_out
from ratematch.plan.experiment import from_json, load_from_json, load_to_json, merge_loads, to_json
from ratematch.plan.load import Concurrency, Load, Rate, Trace, breakdown_loads, only_breakdown, pressure_of
from ratematch.plan.sweep import Sweep
from tests.support.invented import GEN, PAIR, experiment

LOADS: tuple[Load, ...] = (
    Concurrency(8, 64, 2, 0),
    Concurrency(8, 64, 2, 1),
    Concurrency(2, 6, 1),
    Concurrency(16, 400, 4, 0, 30.0, 1.0, 0.02),
    Rate(2.0, 240, warmup=1, target_ci=0.05),
    Rate(2.0, 240, end_req_s=4.0),
    Trace(1000, 2.0),
)


def test_a_breakdown_load_is_short_and_has_the_pressure_of_its_load() -> None:
    short = breakdown_loads(LOADS)
    assert [load.num_requests for load in short] == [64, 6, 128, 60, 240, 250]
    assert {pressure_of(load) for load in short} == {pressure_of(load) for load in LOADS}
    assert all(load.breakdown and load.repeat == 0 and load.label.endswith("-breakdown") for load in short)
    assert only_breakdown(short) and not only_breakdown(LOADS) and not only_breakdown(())
    assert not only_breakdown((*LOADS, *short))
    assert len({load.label for load in (*LOADS, *short)}) == len(LOADS) + len(short)


@pytest.mark.parametrize("load", [*LOADS, *breakdown_loads(LOADS)], ids=lambda load: load.label)
def test_a_load_comes_back_and_without_a_breakdown_is_as_it_was(load: Load) -> None:
    content = load_to_json(load)
    assert load_from_json(content) == load
    assert ("breakdown" in content) == load.breakdown


def test_breakdown_loads_are_launched_last_and_change_no_id() -> None:
    plain, short = LOADS[:2], breakdown_loads(LOADS[:2])
    both = experiment("e2e", PAIR, loads=(*short, *plain), version="main")
    assert [part.loads for part in both.launches()] == [plain, short]
    assert both.id == replace(both, loads=plain).id
    assert [part.loads for part in replace(both, loads=short).launches()] == [short]
    assert len(replace(both, loads=plain).launches()) == 1
    assert from_json(to_json(both)) == both
    assert merge_loads([both, replace(both, loads=plain)])[0].loads == both.loads


SWEEP = """\
name: s
about: Breakdowns.
model: deepseek-r1
cluster: laptop
engine: {{version: "{version}"}}
workloads: [{{isl: 256, osl: 16}}]
ctx:
  axes: {{mapping: DEP4}}
  loads: {{concurrency: [1, 2]}}
gen:
  axes: {{mapping: TEP4}}
  loads: {{concurrency: [1, 2]}}
e2e: {{deployments: 2, loads: {{around: [1.0]}}{more}}}
deployments:
  - ctx: {{mapping: DEP4}}
    gen: {{mapping: TEP4{options}}}
    loads: {{concurrency: [4, 8], repeats: 2}}
  - agg: {{mapping: TEP4}}
    loads: {{concurrency: [4]}}
"""


@pytest.fixture
def read(tmp_path: Path) -> object:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "laptop.yaml").write_text(
        "name: laptop\ngpu: gb200\ngpus_per_node: 4\nnodes: 4\nemulated: true\n"
    )

    def read_text(version: str, more: str = "", options: str = "", extra: str = "") -> Sweep:
        file = tmp_path / "s.yaml"
        file.write_text(SWEEP.format(version=version, more=more, options=options) + extra)
        return read_sweep(str(file), ())[0]

    return read_text


@pytest.mark.parametrize(("version", "apart"), [("1.2", False), ("1.3", True), ("main", True)])
def test_written_out_deployments_get_them_where_their_engine_is_slower_for_it(
    read: object, version: str, apart: bool
) -> None:
    sweep: Sweep = read(version)  # type: ignore[operator]
    pair, alone = expand_written_out(sweep)
    assert [load.breakdown for load in pair.loads] == [False] * 4 + [True] * (2 if apart else 0)
    assert not any(load.breakdown for load in alone.loads)
    assert sweep.may_need_breakdown == apart and sweep.e2e is not None and sweep.e2e.breakdown
    simulated = replace(sweep, simulated=True)
    assert not any(load.breakdown for one in expand_written_out(simulated) for load in one.loads)
    off: Sweep = read(version, ", breakdown: false")  # type: ignore[operator]
    costs = [estimate(one, []).stages[-1] for one in (sweep, off)]
    assert (costs[0].minutes > costs[1].minutes, costs[0].loads > costs[1].loads) == (apart, apart)


def test_who_sets_the_collector_gets_no_loads_for_it(read: object) -> None:
    given: Sweep = read("main", options=", options: {return_perf_metrics: false}")  # type: ignore[operator]
    assert not any(load.breakdown for one in expand_written_out(given) for load in one.loads)
    assert find_engine("trtllm-serve").facts.breakdown_apart("main", GEN)


def test_aggregated_servers_have_nothing_to_break_down(read: object) -> None:
    with pytest.raises(SweepError, match=r"deployments\[1\].breakdown.*aggregated|aggregated"):
        read("main", extra="    breakdown: true\n")  # type: ignore[operator]
