"""A whole sweep on a real Slurm, and what a person does to it meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import sys
from pathlib import Path

import pytest

from ratematch.store.folder import Results
from ratematch.store.records import read_records
from tests.slurm.cluster import LOOK_S, PROFILE, SWEEP, Site, TestCluster
from tests.support.processes import cpus_of, name_of, wait_until
from tests.support.sites import analyse, check_fronts

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

WHOLE = """\
name: mini
about: Every stage, with generation instances over two nodes.
model: deepseek-r1
cluster: four
workloads:
  - {isl: 256, osl: 12}
budget: {max_gpus: 16}
ctx:
  axes: {mapping: DEP4}
  loads: {concurrency: [1, 4], min_requests: 24, requests_per_slot: 6}
gen:
  axes: {mapping: DEP8, mtp: [0]}
  loads: {concurrency: [1, 4, 8], min_requests: 12, requests_per_slot: 6}
ifb:
  axes: {mapping: TEP4}
  loads: {concurrency: [1, 4, 8], min_requests: 12, requests_per_slot: 6}
e2e:
  deployments: 1
  loads: {around: [0.5, 1.0], min_requests: 24, requests_per_slot: 6}
"""


@pytest.fixture
def site(site: Site) -> Site:
    site.set_sweep(WHOLE)
    return site


def rates(results: Path) -> dict[tuple[str, str], float]:
    """Requests/s of every load of ctx, gen and IFB; those of an end-to-end run depend on what was measured before."""
    return {
        (folder.read().label, stored.load.label): stored.measurement.req_s or 0.0
        for folder in Results(results).folders()
        if folder.read().stage != "e2e"
        for stored in folder.loads()
    }


def test_from_a_sweep_file_to_both_fronts_with_several_jobs_at_once(site: Site, cluster: TestCluster) -> None:
    controller = site.sweep()
    wait_until(
        lambda: len(cluster.jobs()) == 3 or controller.poll() is not None, "three jobs at once", every_s=LOOK_S
    )
    assert controller.wait(180) == 0, site.said()
    fronts = analyse(site.path)["workloads"]["256/12"]
    check_fronts(fronts, site.path / "results" / "mini")

    placements = [json.loads(file.read_text()) for file in (site.path / "results").glob("**/placement.json")]
    instances = [instance for placement in placements for instance in placement["instances"]]
    assert any(len(instance["places"]) == 2 for instance in instances), "an instance over two nodes"
    assert {instance["host"] for instance in instances} <= {"node1", "node2", "node3", "node4"}
    wait_until(lambda: not cluster.jobs() and not site.processes(), "all processes to end", 30, every_s=LOOK_S)

    # Where the jobs ran changes nothing: the same sweep in virtual time, which no machine disturbs. What real servers
    # take beside their steps, emulated ones do not.
    code, _, err = site.run("sweep", "mini.yaml", "--executor", "simulate", RATEMATCH_SIMULATED_SERVING="0s")
    assert code == 0, err
    here, there = (rates(site.path / "results" / name) for name in ("mini", "mini-simulated"))
    assert len(here) == 8 and here.keys() == there.keys()
    for load, req_s in here.items():
        assert 0.5 < req_s / there[load] < 2, (load, here, there)

    before = site.measured()
    assert site.sweep_to_end() == 0, site.said()
    assert site.measured() == before, "a finished sweep sends no job"

    code, out, err = site.read("status", "results/mini", "--json")
    status = json.loads(out)
    assert status["states"] == {"done": 4}
    spent = status["gpu_hours_of"]
    assert spent["measuring"] > 0 and spent["starting"] > 0
    assert sum(spent.values()) == pytest.approx(status["gpu_hours"])
    assert 0 < status["overhead"] < 1


def test_detached_watched_and_cancelled(site: Site, cluster: TestCluster) -> None:
    code, out, err = site.run("sweep", "mini.yaml", "--executor", "slurm", "--detach", "--max-jobs", "1")
    assert code == 0, err
    assert "ratematch cancel" in out
    wait_until(lambda: len(site.measured()) >= 1, "a first load")
    code, out, err = site.read("sweep", "mini.yaml", "--executor", "slurm")
    assert code == 2 and "another `ratematch sweep`" in err
    code, out, err = site.read("logs", "ctx1xDEP4", "--role", "ctx", "--index", "0")
    assert code == 0 and "[TRT-LLM]" in out, out + err
    code, out, err = site.read("cancel", "results/mini")
    assert code == 0 and "controller" in out
    wait_until(lambda: not cluster.jobs() and not site.processes(), "everything to end", 30, every_s=LOOK_S)
    code, out, err = site.read("cancel", "results/mini")
    assert out == "nothing runs there\n"


def test_a_waiting_job_says_why(site: Site, cluster: TestCluster) -> None:
    blocker = cluster.tell(
        "sbatch", "--parsable", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 60"
    )
    try:
        controller = site.sweep()
        wait_until(lambda: "(Resources)" in site.said() or "(Priority)" in site.said(), "the reason", 30)
        code, out, _ = site.read("status", "results/mini", "--json")
        rows = json.loads(out)["experiments"]
        assert code == 0 and any(row["state"] == "queued" and "pending" in row["job"] for row in rows)
        controller.terminate()
        assert controller.wait(60) == 130, site.said()
    finally:
        cluster.tell("scancel", blocker.strip())
    wait_until(lambda: not cluster.jobs(), "an empty queue", 30, every_s=LOOK_S)


def test_no_more_than_the_gpu_hours_that_were_given(site: Site, cluster: TestCluster) -> None:
    assert site.sweep_to_end("--max-jobs", "1", "--max-gpu-hours", "0.006") == 2, site.said()
    assert "GPU-hours are spent and the budget is 0.006" in site.said()
    wait_until(lambda: not cluster.jobs() and not site.processes(), "everything to end", 30, every_s=LOOK_S)


def test_an_unknown_partition_is_one_line_before_anything_is_sent(site: Site, cluster: TestCluster) -> None:
    code, out, err = site.read("sweep", "mini.yaml", "--executor", "slurm", SBATCH_PARTITION="nowhere")
    assert code == 1
    assert err.startswith("ratematch: Slurm refuses the job: ") and "partition" in err and err.count("\n") == 1
    assert out == "" and cluster.jobs() == [] and not (site.path / "results").exists()


def test_no_slurm_here_is_one_line(site: Site) -> None:
    here = os.environ["PATH"].split(":")
    path = ":".join(folder for folder in here if not (Path(folder) / "sbatch").exists())
    site.set_profile(PROFILE + "slurm: {partition: main}\n")
    for executor in (("--executor", "slurm"), ()):
        code, out, err = site.read("sweep", "mini.yaml", *executor, PATH=path)
        assert code == 1
        assert err.startswith("ratematch: sbatch is not on PATH") and err.count("\n") == 1
        assert out == "" and not (site.path / "results").exists()


def test_a_profile_with_a_slurm_part_sends_jobs_where_nobody_says_it(site: Site, cluster: TestCluster) -> None:
    site.set_profile(PROFILE + "slurm: {partition: main}\n")
    site.set_sweep(SWEEP.replace("concurrency: [1, 2, 3, 4]", "concurrency: 1"))
    code, _, err = site.run("sweep", "mini.yaml")
    assert code in (0, 3), err  # 3: so few requests are no steady load on a busy machine
    assert err.startswith(
        "executor slurm: servers run in Slurm jobs, by cluster profile four (--executor overrides it)\n"
    )
    assert list(site.path.glob("results/mini/*/job/*/*submission.sh"))
    site.check_whole(1)


def test_in_an_allocation_that_we_already_hold(site: Site, cluster: TestCluster) -> None:
    site.set_sweep(WHOLE[: WHOLE.index("e2e:")].replace("max_gpus: 16", "max_gpus: 8"))
    code, _, err = site.read("sweep", "mini.yaml", "--executor", "allocation")
    assert code == 1 and "not inside a Slurm allocation" in err

    command = [sys.executable, "-m", "ratematch", "sweep", "mini.yaml", "--executor", "allocation"]
    output = site.path / "batch.log"
    environment = f"--export=ALL,RATEMATCH_TEST_SITE={site.path}"
    asked = ["--nodes=3", "--gpus-per-node=4", "--exclusive", f"--output={output}", f"--chdir={site.path}"]
    cluster.tell("sbatch", *asked, environment, f"--wrap={shlex.join(command)}")
    wait_until(lambda: not cluster.jobs(), "the batch job to end", 120, every_s=LOOK_S)
    said = output.read_text()
    assert "experiments done" in said and "failed" not in said, said
    placements = [json.loads(file.read_text()) for file in (site.path / "results").glob("**/placement.json")]
    assert any(len(instance["places"]) == 2 for placement in placements for instance in placement["instances"])
    assert beside_each_other(site), "what fits runs at the same time"
    assert not site.processes()


def beside_each_other(site: Site) -> bool:
    """Did launches of different experiments overlap in time? Each time they did, they were on different nodes."""
    spans = []
    for file in (site.path / "results").glob("**/launch/*/outcome.json"):
        outcome, placement = json.loads(file.read_text()), json.loads((file.parent / "placement.json").read_text())
        nodes = {place["node"] for instance in placement["instances"] for place in instance["places"]}
        spans.append((outcome["began"], outcome["began"] + outcome["seconds"], nodes))
    pairs = [(a, b) for a, b in itertools.combinations(spans, 2) if a[0] < b[1] and b[0] < a[1]]
    assert all(not a[2] & b[2] for a, b in pairs), "no node is shared"
    return bool(pairs)


def test_packed_into_one_allocation(site: Site, cluster: TestCluster) -> None:
    controller = site.sweep("--pack", "4")
    wait_until(lambda: cluster.jobs() or controller.poll() is not None, "a job", every_s=LOOK_S)
    assert len(cluster.jobs()) == 1, "three experiments, one job"
    assert controller.wait(180) == 0, site.said()
    assert all(folder.done() for folder in site.folders()) and len(site.folders()) == 4
    assert beside_each_other(site)
    ports = [
        instance["port"]
        for file in (site.path / "results").glob("**/placement.json")
        for instance in json.loads(file.read_text())["instances"]
    ]
    assert len(ports) == len(set(ports)), "no port is anybody else's"
    code, out, err = site.read("logs", "ctx1xDEP4-mtp0-", "--role", "driver")
    assert code == 0 and "driver_log.out" in err, out + err
    packs = [json.loads(file.read_text()) for file in (site.path / "results").glob("mini/packs/*/idle.json")]
    status = json.loads(site.read("status", "results/mini", "--json")[1])
    idle_gpu_s = sum(start["idle_gpu_s"] for pack in packs for start in pack)
    assert idle_gpu_s > 0 and status["gpu_hours_of"]["idle"] >= idle_gpu_s / 3600, "who pays is told"


def test_a_load_that_is_sent_from_two_nodes(site: Site, cluster: TestCluster) -> None:
    site.set_profile(PROFILE + "load_cores: 1\nslurm: {senders: 1}\n")
    wide = SWEEP.replace("osl: 16", "osl: 4").replace("[1, 2, 3, 4], min_requests: 8", "[1100], min_requests: 1100")
    site.set_sweep(wide.replace("requests_per_slot: 4", "requests_per_slot: 1"))
    controller = site.sweep()
    seen: set[Path] = set()
    apart: set[Path] = set()

    def look() -> bool:
        servers = cpus_of(pid for pid in site.processes("ratematch.emulator") if name_of(pid) != "srun")
        for pid in site.processes("ratematch.loadgen.shards"):
            with contextlib.suppress(OSError):
                if name_of(pid) != "srun":
                    node = Path(f"/proc/{pid}/ns/net").readlink()
                    seen.add(node)
                    if (own := cpus_of([pid])) and servers and not own & servers:
                        apart.add(node)
        return controller.poll() is not None

    wait_until(look, "the sweep", 120)
    # 3: a thousand streams on two processors may be too much to be trusted, and are all there nevertheless.
    assert controller.returncode in (0, 3), site.said()
    assert len(seen) == 2, "each on a node of its own"
    assert apart == seen, "and on a core there that no server uses"
    (folder,) = site.folders()
    (load,) = folder.loads()
    assert load.run.client and load.run.client.processes == 2
    records = read_records(load.folder / "records.parquet")
    assert sorted(record.seq for record in records) == list(range(1100))
    assert {record.outcome for record in records} == {"ok"}
    assert not list(folder.path.glob("launch/*/senders")), "their scratch files are gone"


def test_cancelling_one_of_a_pack_leaves_its_neighbours(site: Site, cluster: TestCluster) -> None:
    site.set_sweep(WHOLE[: WHOLE.index("e2e:")])
    controller = site.sweep("--pack", "4")
    wait_until(lambda: any(folder.held() for folder in site.folders()), "a pack under way", 60)
    code, out, err = site.read("cancel", "results/mini", "gen1xDEP8")
    assert code == 0 and "job" in out, out + err
    assert controller.wait(120) == 2, site.said()
    assert "was cancelled" in site.said()
    states = {folder.read().stage: folder.done() for folder in site.folders()}
    assert states == {"ctx": True, "gen": False, "ifb": True}
    assert site.sweep_to_end("--pack", "4") == 0, site.said()
    wait_until(lambda: not cluster.jobs() and not site.processes(), "everything to end", 30, every_s=LOOK_S)
