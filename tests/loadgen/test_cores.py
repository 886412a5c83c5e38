"""Cores that a load generator has to itself, chosen on machines of files and enforced on processes of this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratematch.errors import UserError
from ratematch.loadgen import cores
from ratematch.plan.cluster import Cluster, Slurm
from ratematch.plan.cores import CoreShare, core_share, read_share
from tests.support.processes import cpus_of

NODE = Cluster("rack", "gb200", 4, 2)


def machine(path: Path, numa: list[str], gpus: list[int], threads: int = 1) -> Path:
    """A /sys whose NUMA nodes have the CPUs ``numa`` and the ``gpus``; CPU c and c + half share a core with
    ``threads`` 2."""
    count = sum(len(cores.parse_cpus(text)) for text in numa)
    for number, text in enumerate(numa):
        (path / f"devices/system/node/node{number}").mkdir(parents=True)
        (path / f"devices/system/node/node{number}/cpulist").write_text(f"{text}\n")
    for cpu in range(count):
        topology = path / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        both = {cpu, cpu % (count // 2) + count // 2, cpu % (count // 2)} if threads == 2 else {cpu}
        (topology / "thread_siblings_list").write_text(f"{cores.format_cpus(both)}\n")
    for number, node in enumerate(gpus):
        device = path / f"bus/pci/devices/0000:{number:02x}:00.0"
        device.mkdir(parents=True)
        for name, text in (("vendor", "0x10de"), ("class", "0x030200"), ("numa_node", str(node))):
            (device / name).write_text(f"{text}\n")
    return path


def own(share: CoreShare, system: Path, allowed: str, online: int) -> cores.Division:
    found = cores.find_cores(cores.parse_cpus(allowed), system)
    return cores.divide(share, found, cores.find_gpus(system), online)


def test_a_grace_node_gives_the_last_cores_of_its_second_cpu(tmp_path: Path) -> None:
    share = core_share(NODE)
    assert share == CoreShare(9, 16)
    system = machine(tmp_path, ["0-71", "72-143", "", ""], [0, 0, 1, 1])
    division = own(share, system, "0-143", 144)
    assert (cores.format_cpus(division.own), division.note) == ("135-143", None)
    assert cores.format_cpus(division.rest) == "0-134"


def test_both_threads_of_a_core_go_together_and_the_socket_without_gpus_goes_first(tmp_path: Path) -> None:
    system = machine(tmp_path, ["0-7,16-23", "8-15,24-31"], [1, 1], threads=2)
    division = own(CoreShare(3, 4), system, "0-31", 32)
    assert cores.format_cpus(division.own) == "5-7,21-23" and division.note is None
    more = own(CoreShare(10, 4), system, "0-31", 32)
    assert cores.format_cpus(more.own) == "0-7,14-23,30-31", "then of the socket with them"
    assert not more.own & more.rest and more.own | more.rest == set(range(32))


@pytest.mark.parametrize(
    ("allowed", "given", "said"),
    [
        ("0-11", "8-11", "12 cores here, of which servers keep 8 (of 144 CPUs of this machine, 12 may be used): "),
        ("4-12", "12", "9 cores here"),
        ("0-7", "", "8 cores here, of which servers keep 8 (of 144 CPUs of this machine, 8 may be used): driver and"),
        ("0", "", "share the cores of the servers"),
    ],
)
def test_where_slurm_gave_few_the_generator_has_fewer_or_none_and_it_is_said_once(
    tmp_path: Path, allowed: str, given: str, said: str
) -> None:
    division = own(CoreShare(9, 8), machine(tmp_path, ["0-71", "72-143"], [0, 0, 1, 1]), allowed, 144)
    assert cores.format_cpus(division.own) == given
    assert division.note is not None and said in division.note and "\n" not in division.note
    assert division.own | division.rest == cores.parse_cpus(allowed)


def test_a_machine_that_says_nothing_of_itself_is_one_node_of_single_threads(tmp_path: Path) -> None:
    division = own(CoreShare(2, 1), tmp_path, "3,5,9", 10)
    assert division.own == {5, 9} and division.note is None and cores.find_gpus(tmp_path) == []


def test_what_a_profile_wants() -> None:
    assert core_share(Cluster("here", "gb200", 4, 1, emulated=True)) is None
    assert core_share(Cluster("here", "gb200", 4, 1, emulated=True, load_cores=2)) == CoreShare(2, 1)
    assert core_share(Cluster("here", "h200", 8, 1, load_cores=0)) is None
    assert core_share(Cluster("here", "h200", 8, 1, slurm=Slurm(senders=3))) == CoreShare(4, 32)
    assert read_share(CoreShare(4, 16).spell("RATEMATCH_RUN=a b")) == (CoreShare(4, 16), "RATEMATCH_RUN=a b")


def test_what_is_asked_for_in_the_environment_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cores.APART_ENV, "9 1000 RATEMATCH_RUN=none")
    with cores.keep_apart_as_asked() as notes:
        assert "share the cores" in notes[0] and cores.APART_ENV not in os.environ
    monkeypatch.setenv(cores.APART_ENV, "many")
    with pytest.raises(UserError, match="numbers of cores"), cores.keep_apart_as_asked():
        pass


SERVER = """\
import sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""

MARK = f"RATEMATCH_RUN={os.getpid()}-cores"
"""Of this process alone: others may run these tests beside it."""


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """A process of two threads with the mark of a start."""
    name, _, value = MARK.partition("=")
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, name: value},
    )
    assert process.stdout is not None and process.stdin is not None and process.stdout.readline() == b"up\n"
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture
def two_cores() -> frozenset[int]:
    """CPUs of this process, which are of two cores at least."""
    allowed = os.sched_getaffinity(0)
    assert len(cores.find_cores(allowed)) > 1, "one core cannot be divided: these tests need a machine of two"
    return frozenset(allowed)


def test_real_processes_are_kept_apart_while_a_load_runs(
    server: subprocess.Popen[bytes], two_cores: frozenset[int]
) -> None:
    count = len(cores.find_cores(two_cores))
    with cores.keep_apart(CoreShare(1, count - 1), MARK) as notes:
        here, there = cpus_of([os.getpid()]), cpus_of([server.pid])
        child = subprocess.run(
            [sys.executable, "-I", "-c", "import os; print(*os.sched_getaffinity(0))"],
            capture_output=True,
            check=True,
        )
        assert frozenset(map(int, child.stdout.split())) == here, "senders are where the driver is"
    assert notes == () and here and there and not here & there and here | there == two_cores
    assert len(list(cores.threads_of([server.pid]))) == 2
    assert cpus_of([os.getpid()]) == two_cores, "the driver may start servers anywhere again"
    assert cpus_of([server.pid]) == there


def test_a_rank_that_its_engine_bound_there_stays_and_it_is_said(
    server: subprocess.Popen[bytes], two_cores: frozenset[int]
) -> None:
    last = cores.divide(CoreShare(1, 1), cores.find_cores(two_cores), cores.find_gpus(), len(two_cores)).own
    for thread in cores.threads_of([server.pid]):
        os.sched_setaffinity(thread, last)
    with cores.keep_apart(CoreShare(1, 1), MARK) as notes:
        assert cpus_of([server.pid]) == last
    assert notes == ("2 threads of servers are bound to cores of the load generator: they share them",)


def test_nothing_is_done_where_cores_are_shared(server: subprocess.Popen[bytes]) -> None:
    before = cpus_of([server.pid]), cpus_of([os.getpid()])
    for share in (None, CoreShare(1, 100_000)):
        with cores.keep_apart(share, MARK) as notes:
            assert (cpus_of([server.pid]), cpus_of([os.getpid()])) == before
        assert bool(notes) == (share is not None)
