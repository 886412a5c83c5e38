"""GPUs of this machine: never two launches on one, waited for where there are too few, let go however one ends."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ratematch.engines import find_engine
from ratematch.errors import PlacementError, RunError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import EngineRef
from ratematch.plan.placement import place
from ratematch.run.launch import Interrupted
from ratematch.run.reserve import LOCKS, Reserved, held_gpus, on_reserved, reserve
from tests.support.invented import experiment, group


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCKS, str(tmp_path / "locks"))


def never(held: Sequence[int]) -> bool:
    raise AssertionError(f"waited for {held}")


def give_up(held: Sequence[int]) -> bool:
    return True


def everything(port: int) -> bool:
    return True


def test_each_launch_has_gpus_of_its_own_and_waits_where_there_are_too_few() -> None:
    with reserve(1, 2, {"ctx": 1}, everything, never) as first:
        assert first == Reserved((0,), {"ctx": 5600})
        with reserve(1, 2, {"ctx": 1, "gen": 1}, everything, never) as second:
            assert second == Reserved((1,), {}), "a side port of it is held"
            assert held_gpus(2) == [0, 1]
            with pytest.raises(Interrupted, match="waiting for GPUs"), reserve(1, 2, {}, everything, give_up):
                pass
        waits: list[list[int]] = []

        def wait(held: Sequence[int]) -> bool:
            waits.append(list(held))
            return len(waits) > 1

        with pytest.raises(Interrupted), reserve(2, 2, {}, everything, wait):
            pass
        assert waits == [[0], [0]], "GPU 1 is not kept while it waits"
    with reserve(2, 2, {"gen": 2}, everything, never) as both:
        assert both == Reserved((0, 1), {"gen": 5700})
    assert held_gpus(2) == []
    with (
        pytest.raises(PlacementError, match="4 GPUs are needed, and this machine has 2"),
        reserve(4, 2, {}, everything, never),
    ):
        pass


def test_ports_that_somebody_else_has_are_not_taken() -> None:
    with reserve(1, 1, {"ctx": 2}, lambda port: port != 5601, never) as found:
        assert found.side_ports == {}


HOLDS = """
import sys, time
from ratematch.run.reserve import reserve
with reserve(1, 1, {}, lambda port: True, lambda held: True):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_lets_its_gpus_go() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert held_gpus(1) == [0]
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with reserve(1, 1, {}, everything, never) as found:
        assert found.gpus == (0,)


def test_servers_see_the_gpus_that_are_held_and_a_gen_server_has_one_port_alone_and_in_a_pair() -> None:
    cluster = Cluster("local", "h200", gpus_per_node=4, nodes=1)
    ctx, gen = group("ctx", "TP1", max_batch_size=4), group("gen", "TP1", max_batch_size=4)
    ports = []
    for deployment, gpus in ((Deployment(ctx=ctx, gen=gen), (2, 3)), (Deployment(gen=gen, warmed=True), (1,))):
        asked = experiment("e2e", deployment, emulated=False, model="qwen3-8b")
        asked = type(asked)(**{**vars(asked), "engine": EngineRef("vllm", "0.24")})
        placed = place(deployment, cluster, ["local0"], 18000, {"local0": "127.0.0.1"})
        placed = on_reserved(placed, Reserved(gpus, {"ctx": 5600, "gen": 5700}))
        plan = find_engine("vllm").plan_launch(asked, placed, cluster, 60.0)
        servers = {spec.role: dict(spec.env) for spec in plan.processes if spec.role != "orchestrator"}
        assert sorted(env["CUDA_VISIBLE_DEVICES"] for env in servers.values()) == [str(gpu) for gpu in gpus]
        ports.append({role: env["VLLM_NIXL_SIDE_CHANNEL_PORT"] for role, env in servers.items()})
    assert ports == [{"ctx": "5600", "gen": "5700"}, {"gen": "5700"}]


def test_without_locks_gpus_are_not_given_out_and_a_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with (
        pytest.raises(RunError, match=r"has no locks.*set RATEMATCH_LOCKS"),
        reserve(1, 2, {}, lambda _: True, lambda _: True),
    ):
        pass
