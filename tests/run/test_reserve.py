"""GPUs of this machine: never two launches on one, waited for where there are too few, let go however one ends."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.engines import find_engine
from ratematch.errors import PlacementError, RunError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import EngineRef
from ratematch.plan.placement import place
from ratematch.run.reserve import LOCKS, Reserved, held_gpus, on_reserved, reserve
from ratematch.run.stopping import Interrupted
from tests.support.invented import experiment, group


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCKS, str(tmp_path / "locks"))


def never(held: Sequence[int]) -> bool:
    raise AssertionError(f"waited for {held}")


def give_up(held: Sequence[int]) -> bool:
    return True


def test_each_launch_has_gpus_of_its_own_and_waits_where_there_are_too_few() -> None:
    with reserve(1, 2, never) as first:
        assert first.gpus == (0,)
        with reserve(1, 2, never) as second:
            assert second.gpus == (1,)
            assert held_gpus(2) == [0, 1]
            with pytest.raises(Interrupted, match="waiting for GPUs"), reserve(1, 2, give_up):
                pass
        waits: list[list[int]] = []

        def wait(held: Sequence[int]) -> bool:
            waits.append(list(held))
            return len(waits) > 1

        with pytest.raises(Interrupted), reserve(2, 2, wait):
            pass
        assert waits == [[0], [0]], "GPU 1 is not kept while it waits"
    with reserve(2, 2, never) as both:
        assert both.gpus == (0, 1)
    assert held_gpus(2) == []
    with pytest.raises(PlacementError, match="4 GPUs are needed, and this machine has 2"), reserve(4, 2, never):
        pass


HOLDS = """
import sys, time
from ratematch.run.reserve import reserve
with reserve(1, 1, lambda held: True):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_lets_its_gpus_go() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert held_gpus(1) == [0]
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with reserve(1, 1, never) as found:
        assert found.gpus == (0,)


def servers_of(
    deployment: Deployment, gpus: tuple[int, ...], taken: tuple[str, int] | None = None
) -> list[dict[str, str]]:
    """Variables of the vLLM servers of ``deployment`` on these GPUs, where somebody else listens at ``taken``."""
    cluster = Cluster("local", "h200", gpus_per_node=4, nodes=1)
    asked = experiment("e2e", deployment, emulated=False, model="qwen3-8b")
    asked = replace(asked, engine=EngineRef("vllm", "0.24"))
    placed = place(deployment, cluster, ["local0"], 18000, {"local0": "127.0.0.1"})
    placed = on_reserved(placed, Reserved(gpus), lambda host, port: (host, port) != taken)
    plan = find_engine("vllm").plan_launch(asked, placed, cluster, 60.0)
    return [dict(spec.env) for spec in plan.processes if spec.role != "orchestrator"]


SIDE = ("VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT")


def test_servers_see_the_gpus_that_are_held_and_have_one_side_port_alone_in_a_pair_and_beside_others() -> None:
    """The compile cache is looked up by the port; an address of its own for each GPU lets all have the same one."""
    ctx, gen = group("ctx", "TP1", max_batch_size=4), group("gen", "TP1", max_batch_size=4)
    pair = servers_of(Deployment(ctx=replace(ctx, instances=2), gen=gen), (1, 2, 3))
    assert sorted(env["CUDA_VISIBLE_DEVICES"] for env in pair) == ["1", "2", "3"]
    sides = {env["CUDA_VISIBLE_DEVICES"]: tuple(env[name] for name in SIDE) for env in pair}
    assert sorted(port for _, port in sides.values()) == ["5600", "5600", "5700"]
    assert {gpu: host for gpu, (host, _) in sides.items()} == {"1": "127.0.0.2", "2": "127.0.0.3", "3": "127.0.0.4"}
    (alone,) = servers_of(Deployment(gen=gen, warmed=True), (0,))
    assert tuple(alone[name] for name in SIDE) == ("127.0.0.1", "5700")


def test_side_ports_that_somebody_else_has_are_not_taken() -> None:
    gen = group("gen", "TP1", max_batch_size=4)
    (env,) = servers_of(Deployment(gen=gen, warmed=True), (0,), taken=("127.0.0.1", 5700))
    assert env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "18001", "the one after its own"


def test_without_locks_gpus_are_not_given_out_and_a_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with (
        pytest.raises(RunError, match=r"has no locks.*set RATEMATCH_LOCKS"),
        reserve(1, 2, lambda _: True),
    ):
        pass
