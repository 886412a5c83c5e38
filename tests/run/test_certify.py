"""Nodes are looked at before money is spent on them. The vendor's tools are stand-ins here, in the forms that theirs
have (those of an H200 were seen); tests/slurm has four real nodes."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.campaign import doctor
from ratematch.campaign.nodes import bad_nodes, certified_file, excluded_nodes, remember_certified
from ratematch.errors import RunError, UserError
from ratematch.plan.cluster import Cluster, Container, Slurm
from ratematch.slurm import certify, imagecheck, nodecheck, verdicts
from ratematch.slurm.certify import Examined, job_script, read_reduced
from ratematch.slurm.imagecheck import ImageReport
from ratematch.slurm.nodecheck import Facts, GpuReport, Meeting, NodeReport
from ratematch.store.folder import Results
from tests.ports import free_port
from tests.run.test_site import stand_in
from tests.support.sites import read

RACK = Cluster("rack", "gb200", gpus_per_node=2, nodes=4, slurm=Slurm(partition="batch"))
MEMORY_B = 192e9

NVIDIA_SMI = """\
case "$*" in
  *memory.total*)
    printf '%s\\n' '0, NVIDIA GB200, 189471, Enabled, 0, 345, 2062' '1, NVIDIA GB200, 189471, Enabled, 3, 345, 2062';;
  *pci.bus_id*) printf '00000000:FF:06.0\\n';;
  *remapped*) printf 'No, No\\nYes, No\\n';;
  "nvlink --status")
    printf 'GPU 0: NVIDIA GB200 (UUID: GPU-1)\\n\\t Link 0: 50 GB/s\\n\\t Link 1: 50 GB/s\\n'
    printf 'GPU 1: NVIDIA GB200 (UUID: GPU-2)\\n\\t Link 0: 50 GB/s\\n\\t Link 1: <inactive>\\n';;
  -q) cat <<'END'
    GPU Fabric GUID                       : 0x1
    Fabric
        State                             : Completed
        Status                            : Success
        CliqueId                          : 32766
        ClusterUUID                       : 50000000-0000-0000-0000-000000000004
        Health
            Bandwidth                     : Full
    Processes                             : None
    Fabric
        State                             : In Progress
        Status                            : N/A
        CliqueId                          : 0
        ClusterUUID                       : 0
END
  ;;
esac"""


def gpu(index: int = 0, **other: object) -> GpuReport:
    return replace(GpuReport(index, "NVIDIA GB200", 189471.0, "Enabled", 0, 345.0, 2062.0), **other)  # type: ignore[arg-type]


def node(name: str, **other: object) -> NodeReport:
    fabric = ["Completed Success u.1"] * 2
    good = NodeReport(name, Facts(72), [gpu(0), gpu(1)], ["No, No"] * 2, [18, 18], fabric, "UP", 900.0)
    good.meeting = Meeting(skew_s=0.001, skew_error_s=0.0001)
    return replace(good, **other)  # type: ignore[arg-type]


def examined(*hosts: NodeReport, **other: object) -> Examined:
    names = tuple(host.node for host in hosts)
    images = {name: ImageReport(name, 1010.0, ["nixl", "torch"], [1980.0, 1980.0]) for name in names}
    known = Examined(names, {host.node: host for host in hosts}, images, 1000.0, "700.00 GB/s by NCCL", 0, "")
    return replace(known, **other)  # type: ignore[arg-type]


def test_the_vendors_tools_are_read_in_their_own_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "nvidia-smi", NVIDIA_SMI)
    stand_in(tmp_path, "nvidia-imex-ctl", "echo 'Domain State: DEGRADED'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    first, second = nodecheck.gpus() or []
    assert (first.name, first.memory_mib, first.ecc, first.uncorrected) == ("NVIDIA GB200", 189471.0, "Enabled", 0)
    assert second.uncorrected == 3 and second.most_mhz == 2062.0
    assert nodecheck.remap() == ["No, No", "Yes, No"]
    assert nodecheck.nvlinks() == [2, 1]
    domain = "50000000-0000-0000-0000-000000000004.32766"
    assert nodecheck.fabric() == [f"Completed Success {domain}", "In Progress N/A 0.0"]
    assert nodecheck.imex() == "DEGRADED" and nodecheck.gpu_numa() == [-1]
    stand_in(tmp_path, "nvidia-smi", "echo '0, NVIDIA H200, [N/A], [N/A], [N/A], [N/A], [N/A]'")
    (odd,) = nodecheck.gpus() or []
    assert (odd.memory_mib, odd.uncorrected, odd.clock_mhz) == (0.0, None, None)
    assert nodecheck.fabric() is None


def test_what_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert (
        nodecheck.gpus() is nodecheck.remap() is nodecheck.nvlinks() is nodecheck.fabric() is nodecheck.imex() is None
    )
    facts = nodecheck.facts()
    assert facts.cores > 0 and facts.cgroup in (1, 2) and facts.gpu_numa == []
    blind = node("a", gpus=None, remap=None, nvlinks=None, fabric=None, imex=None)
    job = examined(blind, images={}, reduced=None, reduce_code=None)
    (verdict,) = verdicts.judge_nodes(job, RACK, MEMORY_B)
    assert verdict.problems == ("nvidia-smi is not there, or fails",)
    assert {verdict.gpus, verdict.ecc, verdict.clock, verdict.nvlink, verdict.image} == {verdicts.NOT_LOOKED}
    (emulated,) = verdicts.judge_nodes(job, replace(RACK, emulated=True), MEMORY_B)
    assert emulated.ok
    together = {finding.name: finding for finding in verdicts.judge_together(job, RACK)}
    assert all(verdicts.NOT_LOOKED in together[name].found for name in ("NVLink domains", "IMEX", "all-reduce"))
    assert not together["back-ends"].ok, "nothing could be run where servers will be"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus": [gpu(0)]}, "1 GPUs, the profile says 2"),
        ({"gpus": [gpu(0), gpu(1, memory_mib=94735.0)]}, "GPU 1 (NVIDIA GB200) has 93 GiB, gb200 has more"),
        ({"gpus": [gpu(0), gpu(1, uncorrected=3)]}, "GPU 1 has 3 uncorrected ECC errors"),
        ({"remap": ["No, No", "No, Yes"]}, "GPU 1: replacing rows of its memory failed"),
        ({"remap": ["Yes, No", "No, No"]}, "GPU 0 waits for a reset"),
        ({"nvlinks": [18, 17]}, "GPU 1 has 17 of 18 NVLinks"),
        ({"fabric": ["Completed Success u.1", "In Progress N/A u.1"]}, "GPU 1: NVLink fabric is In Progress N/A"),
        ({"disk_error": "No space left on device", "disk_mb_s": None}, "the results folder: No space left"),
        ({"meeting": Meeting(refused="port 18000: Address already in use")}, "port 18000: Address already in use"),
        ({"gpus": None}, "nvidia-smi is not there"),
    ],
)
def test_a_bad_node_is_named_with_the_reason_and_no_other(wrong: dict[str, object], said: str) -> None:
    job = examined(node("a"), node("b", **wrong), node("c"))
    good, bad, other = verdicts.judge_nodes(job, RACK, MEMORY_B)
    assert good.ok and other.ok, (good.problems, other.problems)
    assert len(bad.problems) == 1 and said in bad.problems[0]


def test_a_node_that_is_slow_silent_or_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    job = examined(node("a", meeting=Meeting(next_node="b", why_not="timed out")), node("b"), node("c"))
    job.images["c"].load_mhz = [1980.0, 1200.0]
    job = replace(job, nodes=(*job.nodes, "d"))
    a, b, c, d = verdicts.judge_nodes(job, RACK, MEMORY_B)
    assert a.ok and b.problems == ("a cannot reach it (timed out)",)
    assert c.problems == ("GPU 1 runs at 1200 MHz under load, others at 1980",)
    assert d.problems == ("it wrote no answer into the results folder",)
    assert (b.image, b.disk, b.nvlink) == ("10 s", "900 MB/s", "18 links, domain u.1")


def test_what_concerns_all_nodes_is_said_once() -> None:
    other = node(
        "b", fabric=["Completed Success u.2"] * 2, imex="DEGRADED", meeting=Meeting(skew_s=-0.4, skew_error_s=0.001)
    )
    job = examined(node("a"), other, reduced=None, reduce_code=124, errors="x\nNCCL error: timeout\n")
    job.images["b"].backends.remove("nixl")
    found = {finding.name: (finding.ok, finding.found) for finding in verdicts.judge_together(job, RACK)}
    assert found["NVLink domains"] == (True, "domain u.1: a; domain u.2: b")
    assert found["IMEX"] == (False, "domain is b DEGRADED")
    assert found["clocks of nodes"][0] is False and "b is off" in found["clocks of nodes"][1]
    assert found["back-ends"] == (False, "python3 on the nodes has torch; not everywhere: nixl")
    assert found["all-reduce"] == (False, "failed (no end within 300 s): NCCL error: timeout")
    good = {finding.name: finding.ok for finding in verdicts.judge_together(examined(node("a"), node("b")), RACK)}
    assert all(good.values()), good


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("# Avg bus bandwidth    : 688.213 \n", "688.21 GB/s by all_reduce_perf"),
        ("# Avg bus bandwidth : 0\n# Avg bus bandwidth : 0\n", None),
        ("all-reduce: 12.30 GB/s by MPI\n", "12.30 GB/s by MPI"),
        ("all-reduce: MPI has 1 ranks of 8 tasks\n", "MPI has 1 ranks of 8 tasks"),
        ("all-reduce: none\n", None),
        ("", None),
    ],
)
def test_an_all_reduce_says_what_it_reached(output: str, said: str | None) -> None:
    assert read_reduced(output) == said


def in_threads(names: list[str], each: Callable[[str], Meeting]) -> dict[str, Meeting]:
    found: dict[str, Meeting] = {}
    threads = [threading.Thread(target=lambda name=name: found.update({name: each(name)})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_nodes_meet_and_compare_their_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    names, port = ["127.0.0.11", "127.0.0.12", "127.0.0.13"], free_port()
    found = in_threads(names, lambda name: nodecheck.meet(name, names, port, address=name))
    assert [found[name].next_node for name in names] == [*names[1:], names[0]]
    for meeting in found.values():
        assert meeting.refused is None and meeting.why_not is None
        assert meeting.skew_s is not None and meeting.skew_error_s is not None
        assert abs(meeting.skew_s) <= meeting.skew_error_s + 0.01, "one clock"


def test_a_port_that_is_taken_and_a_neighbour_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = nodecheck.meet("127.0.0.1", ["127.0.0.1"], taken.getsockname()[1], "127.0.0.1")
    assert refused.refused and "Address already in use" in refused.refused
    port, alone = free_port(), ["127.0.0.11", "127.0.0.12"]
    meeting = nodecheck.meet(alone[0], alone, port, address=alone[0], seconds=0.4)
    assert meeting.why_not == "[Errno 111] Connection refused" or "refused" in str(meeting.why_not)


def test_the_steps_are_those_of_servers(tmp_path: Path) -> None:
    held = replace(RACK, container=Container("/a.sqsh"), slurm=Slurm(mpi="pmix", prologue="/site/env.sh"))
    text = job_script(replace(held, environment={"UCX_TLS": "rc"}), 4, tmp_path)
    assert text.startswith(". /site/env.sh\n")
    host, image, reduced = [line for line in text.splitlines() if line.startswith("timeout ")]
    assert "--nodes=4 --ntasks=4" in host and "--container-image" not in host and sys.executable in host
    assert "--container-image=/a.sqsh" in text and "UCX_TLS=rc" in text
    assert image.startswith("timeout 600 srun") and "--ntasks=8 --ntasks-per-node=2" in reduced
    alone = job_script(replace(RACK, gpus_per_node=1), 1, tmp_path)
    assert "allreduce" not in [line.split("--job-name=certify-")[-1][:9] for line in alone.splitlines()]


def test_bad_nodes_are_remembered_until_they_are_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = Results(tmp_path / "results")
    assert bad_nodes("rack") == {} and excluded_nodes(results, "rack") == {}
    remember_certified("rack", {"n2": "1 GPUs", "n3": "slow"}, ["n1"])
    remember_certified("rack/2", {"m1": "x"}, [])
    assert excluded_nodes(results, "rack") == {"n2": "1 GPUs", "n3": "slow"} and excluded_nodes(results) == {}
    remember_certified("rack", {"n4": "ECC"}, ["n2"])
    assert bad_nodes("rack") == {"n3": "slow", "n4": "ECC"} and bad_nodes("rack/2") == {"m1": "x"}
    file = certified_file("rack")
    assert file is not None
    file.write_text("[]")
    assert bad_nodes("rack") == {}, "what cannot be read keeps nobody out"


PROFILE = """\
name: rack
gpu: gb200
gpus_per_node: 2
nodes: 4
slurm: {partition: batch, mpi: null}
"""


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A login node whose salloc and srun run what they are given here, as the one node of this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue"):
        stand_in(folder, name, "exit 0")
    here = socket.gethostname()
    stand_in(folder, "scontrol", f"echo {here}")
    passing = 'while [[ $1 == --* ]]; do shift; done\nexec "$@"'
    stand_in(folder, "salloc", f"export SLURM_JOB_NODELIST={here} SLURMD_NODENAME={here}\n{passing}")
    stand_in(folder, "srun", passing)
    stand_in(folder, "nvidia-smi", NVIDIA_SMI)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "rack.yaml").write_text(PROFILE.replace("nodes: 4", f"port_base: {free_port()}\nnodes: 4"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_table_and_a_bad_node_kept_out(rack: Path) -> None:
    code, out, err = read(rack, "doctor", "--cluster", "rack.yaml", "--certify", "--nodes", "1", "--json")
    assert code == 1, err
    told = json.loads(out)
    (only,) = told["nodes"]
    assert not only["ok"] and "GPU 1 has 3 uncorrected ECC errors" in only["problems"]
    assert "MB/s" in only["disk"] and only["network"].startswith("clock ")
    assert list(bad_nodes("rack")) == [socket.gethostname()] and told["kept"] == str(certified_file("rack"))
    assert not list(rack.glob(".ratematch-certify*"))
    code, out, _ = read(rack, "doctor", "--cluster", "rack.yaml", "--certify", "--nodes", "1")
    assert code == 1 and "BAD" in out and "stay out of further jobs" in out


def test_a_check_that_finds_no_node_is_one_line_and_nobody_is_kept_out(rack: Path) -> None:
    stand_in(rack / "bin", "salloc", 'echo "salloc: error: Job submit/allocate failed: Invalid account" >&2; exit 1')
    with pytest.raises(UserError, match="Invalid account"):
        doctor.certify("rack.yaml", 2)
    assert bad_nodes("rack") == {}
    with pytest.raises(UserError, match="--nodes 5: cluster profile rack has nodes: 4"):
        doctor.certify("rack.yaml", 5)
    with pytest.raises(RunError, match="no mount of a container"):
        certify.examine_nodes(replace(RACK, container=Container("a#b")), 1, rack / "a:b")
    code, _, err = read(rack, "doctor", "--certify")
    assert code == 1 and "--cluster" in err
    code, _, err = read(rack, "doctor", "--cluster", "rack.yaml", "--nodes", "2")
    assert code == 1 and "--certify" in err


def test_what_the_image_has(monkeypatch: pytest.MonkeyPatch) -> None:
    report = imagecheck.check_image()
    assert report.began > 0 and set(report.backends) <= {*imagecheck.BACKENDS, *imagecheck.PROGRAMS}
    monkeypatch.setattr(imagecheck.importlib.util, "find_spec", lambda name: None)
    assert imagecheck.all_reduce("127.0.0.1", 1) == "none"
