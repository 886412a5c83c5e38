"""The compiled loop against the plain one: the same records, clocks and counters, to the bit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.emulator.admission import EngineFailure
from ratematch.emulator.iteration import AttentionDpBalance, PromptGathering
from ratematch.emulator.scheduler import Scheduler
from ratematch.emulator.steptime import ConstantStepTime
from ratematch.emulator.trtllm.routers import KvCacheAware, LoadBalancing
from ratematch.errors import RunError, UserError
from ratematch.inputs.find import read_sweep
from ratematch.loadgen.loadresult import LoadResult
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.workload import Workload
from ratematch.simulate.compiled import build as building
from ratematch.simulate.compiled.bindings import CompiledLoop, why_not_compiled
from ratematch.simulate.load import PlainLoop, simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline

SWEEP = read_sweep(str(Path(__file__).parents[2] / "sweeps" / "deepseek-r1.yaml"))[0]
WORKLOAD = Workload(600, 40, osl_ratio=0.3, isl_ratio=0.5)
LOAD = Concurrency(24, 60, 10)


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory) -> Iterator[None]:
    """Built once for these tests. Optional, and CI has a compiler."""
    if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
        pytest.skip("needs a C compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("RATEMATCH_SIMULATION", raising=False)
        building.build()
        yield


def plan_of(workload: Workload = WORKLOAD, load: Load = LOAD, **groups: ServerGroup) -> LaunchPlan:
    stage = "e2e" if len(groups) > 1 else {"ctx": "ctx", "gen": "gen", "agg": "ifb"}[next(iter(groups))]
    experiment = experiment_of(SWEEP, stage, Deployment(**groups), workload, (load,))
    return plan_simulation(experiment, SWEEP.cluster)


def group(role: str, mapping: str, instances: int = 1, mtp: int = 0, **options: object) -> ServerGroup:
    return ServerGroup(role, parse_mapping(mapping), instances, mtp, options=options)


PLANS = {
    "split": lambda: plan_of(ctx=group("ctx", "DEP4", 2), gen=group("gen", "DEP8", 1, stream_interval=7)),
    "drafts": lambda: plan_of(ctx=group("ctx", "TEP4", 3, 3), gen=group("gen", "DEP4", 2, 3)),
    "gen": lambda: plan_of(gen=group("gen", "DEP8", 1, 2)),
    "ctx": lambda: plan_of(Workload(600, 1, isl_ratio=0.5), ctx=group("ctx", "DEP4", 1, 1)),
    "agg": lambda: plan_of(agg=group("agg", "DEP4", 1, 1, stream_interval=3)),
    "whole": lambda: plan_of(agg=group("agg", "TEP4", 1, 1, stream_interval=3)),
}


@cache
def planned(name: str) -> LaunchPlan:
    """Not when this file is read: planning a simulation builds what runs it."""
    return PLANS[name]()


def serve(
    name: str,
    *,
    fast: bool,
    timeout_s: float | None = None,
    constant: bool = False,
    frontends: int = 1,
    **changes: object,
) -> Service:
    """A service whose schedulers have other limits than its files give them."""
    service = Service(planned(name), Timeline(), frontends=frontends)
    for worker in service.workers.values():
        scheduler = worker.server.scheduler
        limits = {key: value for key, value in changes.items() if key != "gen_gate"}
        if "gen_gate" in changes and worker.server.name.startswith("gen"):
            limits["fill_gate"] = changes["gen_gate"]
        step_time = ConstantStepTime(4e-3) if constant else worker.emulation.step_time
        worker.server.scheduler = Scheduler(replace(scheduler.config, **limits), step_time, seed=3)
        worker.emulation = replace(worker.emulation, scheduler=worker.server.scheduler, step_time=step_time)
        if timeout_s is not None:
            worker.settings = replace(worker.settings, transfer_timeout_s=timeout_s)
    return use(service, fast)


def use(service: Service, fast: bool) -> Service:
    service.loop = building.compiled_loop(service) if fast else PlainLoop(service)
    assert service.loop is not None
    return service


def counters(service: Service) -> list[tuple[float, ...]]:
    return [
        (
            server.scheduler.iter,
            server.scheduler.num_completed,
            server.scheduler.num_cancelled,
            server.scheduler.accepted_tokens,
            server.scheduler.draft_tokens,
            server.busy_s,
        )
        for server in service.servers
    ]


def both(services: tuple[Service, Service], workload: Workload, *loads: Load) -> list[LoadResult]:
    """The same loads, one after another, on a plain and a compiled service; the results, which are equal."""
    results = []
    for seed, load in enumerate(loads):
        plain, compiled = (simulate_load(service, workload, load, seed) for service in services)
        assert compiled.records == plain.records
        assert compiled.warmup == plain.warmup
        assert (compiled.start_ns, compiled.end_ns, compiled.health) == (plain.start_ns, plain.end_ns, plain.health)
        assert counters(services[1]) == counters(services[0])
        assert services[1].timeline.now_s == services[0].timeline.now_s
        assert services[1].acceptance == services[0].acceptance
        results.append(plain)
    return results


def pair(name: str, **changes: object) -> tuple[Service, Service]:
    return serve(name, fast=False, **changes), serve(name, fast=True, **changes)


LOADS = st.one_of(
    st.builds(
        Concurrency,
        st.integers(1, 40),
        st.integers(1, 60),
        st.integers(0, 20),
        seconds=st.sampled_from([0.0, 0.0, 0.5]),
        stagger_s=st.sampled_from([0.0, 0.2]),
    ),
    st.builds(
        Rate, st.floats(20, 400), st.integers(1, 60), warmup=st.integers(0, 5), max_in_flight=st.sampled_from([0, 8])
    ),
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "max_batch_size": st.sampled_from([1, 3, 64]),
        "kv_tokens": st.sampled_from([700, 2_000]),
        "balance": st.sampled_from([AttentionDpBalance(6, 1), AttentionDpBalance(50, 10)]),
        "gathering": st.sampled_from([PromptGathering(5, 0.8), PromptGathering(40, 0.3)]),
        "max_num_tokens": st.sampled_from([600, 1_300]),
        "chunked_prefill": st.just(True),
        "chunk_unit": st.just(64),
        "forced_acceptance": st.sampled_from([0.0, 1.4]),
        "overlap": st.just(False),
        "timeout_s": st.sampled_from([0.001, 0.05]),
        "constant": st.just(True),
        "frontends": st.sampled_from([2, 5]),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PLANS)), CHANGES, st.lists(LOADS, min_size=1, max_size=2))
def test_any_load_gives_the_same_records_as_the_plain_loop(name, changes, loads):
    if changes.get("forced_acceptance", 0.0) > 1 and name != "drafts":
        changes = {**changes, "forced_acceptance": 0.5}
    both(pair(name, **changes), Workload(600, 1, isl_ratio=0.5) if name == "ctx" else WORKLOAD, *loads)


def test_what_cannot_run_is_refused_in_the_same_words():
    direct, split = pair("agg", max_seq_len=500), pair("split", max_seq_len=500)
    (result,) = both(direct, Workload(600, 40, isl_ratio=0.5), LOAD)
    assert {record.status for record in result.records} == {200, 400}
    (result,) = both(split, Workload(600, 40, isl_ratio=0.5), LOAD)
    errors = {record.error for record in result.records if record.error}
    assert all(error.startswith("HTTP 500: ") for error in errors)
    assert {"Internal server error" in error for error in errors} == {True, False}


def test_kv_caches_that_are_held_no_longer_end_their_requests_in_the_same_words():
    (result,) = both(pair("split", max_batch_size=1, timeout_s=0.01), WORKLOAD, LOAD)
    assert any("no longer held" in (record.error or "") for record in result.records)
    assert any(record.outcome == "ok" for record in result.records)


@pytest.mark.parametrize("use_tokens", [False, True])
def test_routers_that_balance_loads_choose_the_same_servers(use_tokens):
    services = pair("drafts")
    for service in services:
        service.fronts[0].routers = {"context": LoadBalancing(3, use_tokens), "generation": LoadBalancing(2)}
        service.orchestrator = replace(
            service.orchestrator, ctx=replace(service.orchestrator.ctx, router="load_balancing")
        )
    use(services[1], True)
    both(services, WORKLOAD, LOAD, LOAD)


def test_short_prompts_may_stay_on_the_generation_servers():
    services = pair("split")
    for service in services:
        service.orchestrator = replace(service.orchestrator, max_local_prefill=450)
    use(services[1], True)
    both(services, WORKLOAD, LOAD)


def test_a_fill_gate_opens_at_the_same_instant_or_fails_in_the_same_words():
    both(pair("gen", gen_gate=20), WORKLOAD, Concurrency(20, 20))
    messages = []
    for service in pair("gen", gen_gate=20, kv_tokens=700):
        with pytest.raises(EngineFailure) as failure:
            simulate_load(service, WORKLOAD, Concurrency(20, 20), 1)
        messages.append(str(failure.value))
    assert messages[0] == messages[1]
    for service in pair("gen", gen_gate=2_000):  # beyond all slots: it waits for ever, without a word
        with pytest.raises(RunError, match="4 requests would never be answered"):
            simulate_load(service, WORKLOAD, Concurrency(4, 4), 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_step_time_ends_the_load(error):
    class Broken:
        def seconds(self, batch: object, overlap: bool = True) -> float:
            raise error("broken")

    service = serve("split", fast=False)
    for worker in service.workers.values():
        worker.emulation = replace(worker.emulation, step_time=Broken())
    use(service, True)
    with pytest.raises(error, match="broken"):
        simulate_load(service, WORKLOAD, LOAD, 1)


def test_where_the_plain_loop_is_needed_it_is_used(monkeypatch):
    service = serve("split", fast=False)
    service.fronts[0].routers = {"context": KvCacheAware(2), "generation": KvCacheAware(1)}
    assert why_not_compiled(service) == "the router KvCacheAware"
    service.loop = None
    simulate_load(service, WORKLOAD, Concurrency(2, 2), 1)
    assert isinstance(service.loop, PlainLoop)
    service = serve("split", fast=False)
    service.loop = None
    simulate_load(service, WORKLOAD, Concurrency(2, 2), 1)
    assert isinstance(service.loop, CompiledLoop)
    monkeypatch.setenv("RATEMATCH_SIMULATION", "plain")
    assert building.compiled_loop(serve("split", fast=False)) is None


def test_the_first_simulation_that_is_planned_builds_it_unless_it_is_not_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried = []
    monkeypatch.setattr(building, "build", lambda: tried.append(building.library_file()))
    monkeypatch.setenv("RATEMATCH_SIMULATION", "plain")
    plan_of(gen=group("gen", "DEP8"))
    assert tried == []
    monkeypatch.delenv("RATEMATCH_SIMULATION")
    plan_of(gen=group("gen", "DEP8"))
    plan_of(gen=group("gen", "DEP8"))
    assert tried == [building.library_file()]


def test_a_library_that_others_may_have_written_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert building.find_library() is None  # not built
    file = building.library_file()
    file.parent.mkdir(parents=True, mode=0o700)
    file.write_bytes(b"no library")
    file.chmod(0o666)
    assert building.find_library() is None
    with pytest.raises(UserError, match="others may write there"):
        file.parent.chmod(0o777)
        building.build()
    file.parent.chmod(0o700)
    file.chmod(0o600)
    assert building.find_library() is None  # no library of this machine
    monkeypatch.setenv("XDG_CACHE_HOME", "elsewhere")
    assert building.library_file().is_absolute()


def test_without_a_compiler_building_says_what_is_needed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(tmp_path / "nothing-here"))
    with pytest.raises(UserError, match=r"cannot be run: a C compiler is needed, or \$CC"):
        building.build()
    monkeypatch.setenv("CC", "false")
    assert building.main() == 1
    assert capsys.readouterr().err.startswith("false -O2 ")
    assert [path.name for path in building.library_file().parent.iterdir()] == []
