"""What the controller asks of the file system in a turn: calls on a results folder of 2,000 experiments, by kind.

    python benchmarks/controller_io.py [EXPERIMENTS]

A turn needs where the GPU-hours went, what is measured and what of each experiment is missing; a search needs what is
measured twice. Printed are the calls for that, with everything read from the files each time, and from one snapshot:
the first, the next with nothing changed, and the next after one load was finished. Nearly all experiments are done;
one in 50 is under way, one in 50 has failed, one in 20 has not begun.
"""

from __future__ import annotations

import collections
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from ratematch.measure.loadrun import LoadRun, Simulation
from ratematch.measure.measurement import Measurement
from ratematch.measure.stats import Stats
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.workload import Workload
from ratematch.store import layout, snapshot
from ratematch.store.files import write_json
from ratematch.store.folder import Results
from ratematch.store.outcome import Outcome, to_json

LOADS = (4, 8, 16, 32)
CALLS = {"open": (io, "open"), "stat": (os, "stat"), "list": (os, "scandir"), "list ": (os, "listdir")}


def figures(tok_s: float) -> Measurement:
    latency = Stats(64, 20.0, 1.0, 18.0, 20.0, 21.0, 22.0, 23.0, 24.0)
    return Measurement(
        num_requests=64,
        num_ok=64,
        num_failed=0,
        window=None,
        ttft_ms=latency,
        tpot_ms=latency,
        itl_ms=latency,
        e2el_ms=latency,
        send_lag_ms=latency,
        tok_s_user=50.0,
        tok_s=tok_s,
        req_s=1.0,
        tok_s_run=tok_s,
        req_s_run=1.0,
        isl_mean=1024.0,
        osl_mean=256.0,
        in_flight=4.0,
        little=1.0,
        valid=True,
    )


def make_results(path: Path, count: int) -> Results:
    """``count`` simulated experiments of four loads each."""
    results, cluster = Results(path), Cluster("rack", "gb200", gpus_per_node=4, nodes=18, emulated=True)
    run = LoadRun("1", "gen_only_no_context", "simulated", simulation=Simulation(0.1))
    for number in range(count):
        group = ServerGroup("gen", Parallelism(tp=4, ep=4), max_batch_size=32, max_num_tokens=32 + number)
        experiment = Experiment(
            "gen",
            "deepseek-r1",
            "deepseek-r1",
            EngineRef(),
            "gb200",
            "rack",
            True,
            Deployment(gen=group),
            Workload(1024, 256),
            tuple(Concurrency(size, 8 * size) for size in LOADS),
            simulated=True,
        )
        folder = results.add(experiment, cluster)
        if number % 20 == 19:
            continue
        launch = folder.new_launch()
        under_way, failed = number % 50 == 0, number % 50 == 1
        for load in experiment.loads[: 2 if under_way or failed else None]:
            folder.load_folder(load).mkdir(exist_ok=True)
            folder.finish_load(load, run, figures(100.0 * load.concurrency))
        if under_way:
            continue
        outcome = Outcome(ok=True, measured=4, seconds=9.0, held_s=99.0, starting_s=60.0, gpus=4, simulated=True)
        if failed:
            outcome = replace(outcome, ok=False, error="boom", kind="ServerDied", measured=2)
        write_json(launch / layout.OUTCOME, to_json(outcome))
        if not failed:
            folder.mark_done()
    return results


@contextlib.contextmanager
def counted() -> Iterator[collections.Counter[str]]:
    """Counts calls to the file system."""
    counter: collections.Counter[str] = collections.Counter()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **named: Any) -> Any:
            counter[name.strip()] += 1
            return call(*arguments, **named)

        return count

    with contextlib.ExitStack() as patches:
        for name, (module, call) in CALLS.items():
            patches.enter_context(mock.patch.object(module, call, counting(name, getattr(module, call))))
        yield counter


def print_turn(name: str, turn: Callable[[], object]) -> None:
    with counted() as counter:
        begin = time.perf_counter()
        turn()
        seconds = time.perf_counter() - begin
    calls = ", ".join(f"{counter[kind]:>7,} {kind}" for kind in ("open", "stat", "list"))
    print(f"{name:<44} {calls}   {seconds:6.2f} s")


def read_everything(results: Results) -> None:
    results.account()
    for _ in range(2):
        results.measured()
    for folder in results.folders():
        folder.done()
        folder.missing()


def read_snapshot(results: Results, previous: snapshot.Snapshot | None = None) -> snapshot.Snapshot:
    taken = results.snapshot(previous)
    taken.account()
    for _ in range(2):
        taken.measured()
    for stored in taken.experiments:
        _ = stored.done, stored.missing
    return taken


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as made, mock.patch.object(os, "fsync"):
        results = make_results(Path(made), count)
        time.sleep(snapshot.YOUNG_NS / 1e9)
        print(f"{count:,} experiments")
        print_turn("files, as often as they are asked for", lambda: read_everything(results))
        print_turn("first snapshot", lambda: read_snapshot(results))
        taken = read_snapshot(results)
        print_turn("next snapshot, nothing changed", lambda: read_snapshot(results, taken))
        under_way = next(stored for stored in taken.experiments if stored.is_running)
        load = under_way.missing[0]
        under_way.folder.load_folder(load).mkdir()
        under_way.folder.finish_load(load, LoadRun("1"), figures(1.0))
        print_turn("next snapshot, one load finished", lambda: read_snapshot(results, taken))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
