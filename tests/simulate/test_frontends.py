"""Several orchestrators side by side, and what a request takes around the engine's steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratematch.inputs.find import read_sweep
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.workload import Workload
from ratematch.simulate.delays import Delays, learnt_serving_time
from ratematch.simulate.load import simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline

SWEEPS = Path(__file__).parents[2] / "sweeps"
LOAD = Concurrency(4, 40, 0)


def service(frontends: int = 1, delays: Delays | None = None) -> tuple[Service, Workload]:
    sweep, _ = read_sweep(str(SWEEPS / "deepseek-r1.yaml"))
    ctx = ServerGroup("ctx", parse_mapping("DEP4"))
    gen = ServerGroup("gen", parse_mapping("TEP4"), 4, max_batch_size=1)
    workload = Workload(1024, 64)
    experiment = experiment_of(sweep, "e2e", Deployment(ctx=ctx, gen=gen), workload, (LOAD,))
    return Service(plan_simulation(experiment, sweep.cluster), Timeline(), delays, frontends), workload


def test_frontends_that_know_nothing_of_each_other_fill_busy_servers() -> None:
    """Four requests on four servers of one each: one orchestrator gives each server one of them, of five some get two
    while others stand idle (as measured behind srt-slurm's nginx: three and a half of five servers busy)."""
    took_s, given = {}, {}
    for frontends in (1, 5):
        running, workload = service(frontends)
        result = simulate_load(running, workload, LOAD, seed=1)
        took_s[frontends] = (result.end_ns - result.start_ns) / 1e9
        given[frontends] = [each.scheduler.num_completed for each in running.servers if "gen" in each.name]
    assert given[1] == [10] * 4
    assert sum(given[5]) == 40 and max(given[5]) <= 15
    assert took_s[5] > 1.15 * took_s[1]


def test_a_serving_time_delays_the_first_token_and_nothing_else():
    first = {}
    for serving_s in (0.0, 0.5):
        running, workload = service(delays=Delays(serving_s=serving_s))
        (record,) = simulate_load(running, workload, Concurrency(1, 1, 0), seed=1).records
        first[serving_s] = record
    late_ns = first[0.5].first_token_ns - first[0.0].first_token_ns
    assert late_ns == pytest.approx(0.5e9, rel=1e-6)
    assert first[0.5].last_token_ns - first[0.0].last_token_ns == pytest.approx(late_ns, rel=1e-6)


def test_the_environment_says_what_serving_takes(monkeypatch):
    monkeypatch.delenv("RATEMATCH_SIMULATED_SERVING", raising=False)
    assert Delays().serving_s == learnt_serving_time().value
    monkeypatch.setenv("RATEMATCH_SIMULATED_SERVING", "0s")
    assert Delays().serving_s == 0
    monkeypatch.setenv("RATEMATCH_SIMULATED_SERVING", "soon")
    with pytest.raises(ValueError, match="no duration"):
        Delays()
