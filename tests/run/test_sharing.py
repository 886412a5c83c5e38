"""Which experiments one start of servers measures, and when they had better be started apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ratematch.campaign.jobs.here import left_alone
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload
from ratematch.run.sharing import share_servers
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.sharedservers import servers_of, write_servers
from tests.support.invented import GEN, experiment, group

CLUSTER = Cluster("local", "h200", gpus_per_node=4, nodes=1)
ALONE = Deployment(gen=group("gen", "TP1", max_batch_size=8, max_num_tokens=64), warmed=True)


def gen(osl: int, deployment: Deployment = ALONE, concurrency: int = 4) -> Experiment:
    asked = experiment("gen", deployment, Workload(256, osl), (Concurrency(concurrency, 16, 1),), model="qwen3-8b")
    return replace(asked, engine=EngineRef("vllm", "0.24"), emulated=False)


def add(path: Path, *asked: Experiment, cluster: Cluster = CLUSTER) -> list[ExperimentFolder]:
    return [Results(path).add(each, cluster) for each in asked]


def test_the_longest_output_length_serves_the_others_and_starts_first(tmp_path: Path) -> None:
    short, long, medium = add(tmp_path, gen(16), gen(64), gen(32))
    together = share_servers(short, (long, medium))
    assert together[0] is long and {folder.path for folder in together} == {short.path, long.path, medium.path}


def test_other_servers_are_not_shared(tmp_path: Path) -> None:
    other_block = Deployment(gen=replace(ALONE.groups[0], options={"block_size": 128}), warmed=True)
    given_length = Deployment(gen=replace(ALONE.groups[0], options={"max_model_len": 300}), warmed=True)
    first, *others = add(tmp_path, gen(16), gen(64, other_block), gen(32, concurrency=64), gen(40, given_length))
    # The deployment has a limit of its own, so more in flight are no other servers.
    assert {folder.path for folder in share_servers(first, others)} == {first.path, others[1].path}
    (elsewhere,) = add(tmp_path / "b", gen(64), cluster=replace(CLUSTER, environment={"A": "b"}))
    assert share_servers(first, [elsewhere]) == (first,)


def test_servers_of_an_engine_that_plans_for_a_length_are_shared_only_where_they_are_the_same(tmp_path: Path) -> None:
    asked = [experiment("gen", GEN, Workload(64, osl)) for osl in (8, 16)]
    first, other = add(tmp_path, *asked, cluster=replace(CLUSTER, emulated=True))
    assert share_servers(first, [other]) == (first,)


def test_what_is_measured_or_being_measured_is_left_out(tmp_path: Path) -> None:
    first, done, held = add(tmp_path, gen(16), gen(32), gen(64))
    for load in done.read().loads:
        done.load_folder(load).mkdir(parents=True)
        (done.load_folder(load) / "loadrun.json").write_text("{}")
    with held.lock():
        assert share_servers(first, (done, held)) == (first,)


def test_gpus_that_would_stand_idle_are_started_on_instead(tmp_path: Path) -> None:
    one, two, three = add(tmp_path, gen(16), gen(32), gen(64))
    together = (three, one)
    assert left_alone(together, [one, three], left=1), "nothing else would use the GPU"
    assert not left_alone(together, [one, two, three], left=1)
    assert not left_alone(together, [one, three], left=0) and not left_alone((one,), [], left=4)


def test_the_servers_of_a_guest_are_those_of_its_host(tmp_path: Path) -> None:
    one, two = add(tmp_path, gen(16), gen(32))
    host, guest = one.new_launch(), two.new_launch()
    write_servers(guest, host)
    assert servers_of(guest) == host and servers_of(host) == host
