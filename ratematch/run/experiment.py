"""One experiment, alive: start its deployment, run every missing load against the same servers, stop them.

This is what a job does, and what ``ratematch run`` does by hand. It may be killed at any instant: a load counts when
its ``loadrun.json`` is there, and the next run measures only what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ratematch.catalog import load_model
from ratematch.engines import Engine, find_engine
from ratematch.errors import DiskFull, LoadAborted, PortInUse, RatematchError, RunError, ServerDied, UserError
from ratematch.loadgen.client import Target
from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import LoadResult, Progress
from ratematch.loadgen.recordfile import write_records
from ratematch.plan import cluster as clusters
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.plan.memory import format_bytes, total_params
from ratematch.plan.placement import Placement, count_ports, nodes_needed, place
from ratematch.plan.workload import make_requests
from ratematch.readout import measure_run
from ratematch.run import provenance
from ratematch.run.launch import Interrupted, Servers, Waiting, port_is_free, running
from ratematch.run.serverlogs import mark_logs, read_logs
from ratematch.run.timeliness import read_account, spent_between
from ratematch.store import ExperimentFolder, read_json, reserve, write_json

WATCH_S = 0.2
READY_FLOOR_S = 600.0
READ_B_S = 0.5e9
"""Weights read per second that a start-up deadline allows for: a busy shared file system, not a good one."""

RECORD_B = 512
TOKEN_B = 10
"""Bytes a request and a token chunk take in a records file, before compression: what is reserved on the disk."""


def run_experiment(path: str | Path) -> dict[str, Any]:
    """Measure every missing load of the experiment in ``path``; returns what became of it, as in ``outcome.json``.

    Raises:
        ResultsError: no experiment there. RunError: another process is measuring it.
    """
    folder = ExperimentFolder(Path(path))
    folder.read()
    with folder.lock(), _stop_on_signal() as stop:
        if not folder.missing():
            folder.mark_done()
            return {"ok": True, "measured": 0}
        launch = folder.new_launch()
        began = time.time()
        measured: list[str] = []
        outcome: dict[str, Any] = {"ok": True, "error": None, "interrupted": False}
        try:
            _measure(folder, launch, stop, measured)
            folder.mark_done()
        except Interrupted as error:
            outcome = {"ok": False, "error": str(error), "interrupted": True}
        except RatematchError as error:
            outcome = {"ok": False, "error": str(error), "kind": type(error).__name__, "interrupted": False}
        outcome |= {"measured": len(measured), "seconds": time.time() - began, "began": began}
        # With a full disk the outcome cannot be kept either; the job's own result still carries it.
        with contextlib.suppress(DiskFull):
            write_json(launch / "outcome.json", outcome)
        return outcome


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM, SIGINT and SIGHUP set, so that servers are always stopped in order.

    submitit's own SIGTERM handler only logs; a terminal's Ctrl-C would raise in the middle of an event loop.
    """
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _measure(folder: ExperimentFolder, launch: Path, stop: threading.Event, measured: list[str]) -> None:
    experiment = folder.read()
    cluster = clusters.from_json(read_json(folder.path / "cluster.json"))
    engine = find_engine(experiment.engine.name)
    placement = place_locally(experiment, cluster)
    plan = engine.plan_launch(experiment, placement, cluster, ready_s(experiment, cluster))
    if refused := engine.check_launch(plan, experiment):
        raise UserError("the engine would refuse its files: " + "; ".join(refused))
    write_json(launch / "placement.json", placement_to_json(placement))

    def show_waiting(waiting: Sequence[Waiting]) -> None:
        servers = [{"name": w.name, "why": w.why, "seconds": w.seconds, "last_line": w.last_line} for w in waiting]
        folder.write_progress({"phase": "starting", "waiting": servers, "time": time.time()})

    folder.write_progress({"phase": "starting", "waiting": [], "time": time.time()})
    with running(plan, launch, engine.diagnose, stop, show_waiting) as servers:
        found = provenance.collect(plan)
        write_json(launch / "provenance.json", found)
        _refuse_mixture(found, cluster)
        for number, load in enumerate(missing := folder.missing()):
            _run_load(folder, launch, servers, engine, experiment, load, stop, (number, len(missing)))
            measured.append(load.label)


def _refuse_mixture(found: dict[str, Any], cluster: Cluster) -> None:
    for name, server in found["servers"].items():
        if server["emulated"] != cluster.emulated:
            really = "the emulator" if server["emulated"] else "no emulator"
            raise RunError(
                f"{name} is {really}, and cluster profile {cluster.name} says "
                f"emulated: {str(cluster.emulated).lower()}; "
                "emulated and real figures never mix: correct `command` or `emulated` in the profile"
            )


def place_locally(experiment: Experiment, cluster: Cluster) -> Placement:
    """Put the deployment on this machine: each "node" is this host, on ports that are free now.

    Raises:
        PlacementError: it does not fit. PortInUse: port_base is given and not free, or nothing is.
    """
    deployment = experiment.deployment
    nodes = [f"local{index}" for index in range(nodes_needed(deployment, cluster.gpus_per_node))]
    addresses = dict.fromkeys(nodes, "127.0.0.1")
    return place(deployment, cluster, nodes, _port_base(cluster, count_ports(deployment)), addresses)


def _port_base(cluster: Cluster, count: int) -> int:
    if cluster.port_base is not None:
        return cluster.port_base
    # Below the range from which the kernel picks ports for outgoing connections, which would come and go.
    for _ in range(200):
        base = random.randrange(18000, 32000 - count)
        if all(port_is_free("127.0.0.1", base + offset) for offset in range(count)):
            return base
    raise PortInUse(f"found no {count} free ports in a row between 18000 and 32000")


def ready_s(experiment: Experiment, cluster: Cluster) -> float:
    """Seconds that servers may take to become ready: the profile's limit, else by the size of the weights."""
    if cluster.ready_minutes is not None:
        return cluster.ready_minutes * 60
    return READY_FLOOR_S + total_params(load_model(experiment.model)) * format_bytes("fp8") / READ_B_S


def _run_load(
    folder: ExperimentFolder,
    launch: Path,
    servers: Servers,
    engine: Engine,
    experiment: Experiment,
    load: Load,
    stop: threading.Event,
    place_in_ladder: tuple[int, int],
) -> None:
    number, total = place_in_ladder
    requests, warmup = requests_of(experiment, load)
    target = Target(servers.plan.endpoint, experiment.model_path, extra_body=engine.extra_body(experiment))

    def show(progress: Progress) -> None:
        folder.write_progress(
            {
                "phase": "measuring",
                "load": load.label,
                "load_number": number + 1,
                "loads": total,
                "time": time.time(),
                "part": progress.phase,
                "total": progress.total,
                "done": progress.done,
                "failed": progress.failed,
                "in_flight": progress.in_flight,
                "tok_s": progress.tokens / progress.elapsed_s if progress.elapsed_s > 0 else 0.0,
                "ttft_ms": progress.ttft_ms,
            }
        )

    at = folder.load_folder(load)
    size = sum(RECORD_B + TOKEN_B * request.osl for request in (*requests, *warmup))
    before = read_account(servers.plan) if experiment.emulated else {}
    marks = mark_logs(servers.plan, launch)
    with _watch(servers, stop) as (halt, died), reserve(at, size):
        result = drive(target, load, requests, warmup, seed=seed_of(experiment, load), stop=halt, on_progress=show)
    run = _describe_run(result, launch, experiment)
    if experiment.emulated:
        run["emulator"] = spent_between(before, read_account(servers.plan))
    run["log"] = read_logs(servers.plan, launch, marks, engine, experiment)
    if result.aborted is not None:
        _keep_partial(at, result, run)
        if died:
            raise ServerDied(f"during {load.label}: {died[0]}")
        if stop.is_set():
            raise Interrupted(f"stopped during {load.label}; loads before it are kept")
        raise LoadAborted(f"{load.label}: {result.aborted}")
    write_records(at / "warmup.parquet", result.warmup)
    write_records(at / "records.parquet", result.records)
    folder.finish_load(load, run, measure_run(result.records, load, experiment, run))


def requests_of(experiment: Experiment, load: Load) -> tuple[list[Any], list[Any]]:
    """The requests of ``load`` and its warm-up: reproducible, and no prompt shared between any two of them."""
    model = load_model(experiment.model)
    seed = seed_of(experiment, load)
    requests = make_requests(experiment.workload, load.num_requests, model.vocab, seed)
    warmup = make_requests(experiment.workload, load.warmup, model.vocab, seed + 1, first_seq=load.num_requests)
    return requests, warmup


def seed_of(experiment: Experiment, load: Load) -> int:
    digest = hashlib.sha256(f"{experiment.id} {load.label}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@contextlib.contextmanager
def _watch(servers: Servers, stop: threading.Event) -> Iterator[tuple[threading.Event, list[str]]]:
    """An event that ends the load when ``stop`` is set or a server dies, and the obituary if one did."""
    halt, over = threading.Event(), threading.Event()
    died: list[str] = []

    def look() -> None:
        while not over.wait(WATCH_S):
            try:
                servers.check()
            except ServerDied as error:
                died.append(str(error))
            if died or stop.is_set():
                halt.set()
                return

    thread = threading.Thread(target=look, name="watch servers", daemon=True)
    thread.start()
    try:
        yield halt, died
    finally:
        over.set()
        thread.join()


def _describe_run(result: LoadResult, launch: Path, experiment: Experiment) -> dict[str, Any]:
    health = result.health
    return {
        "launch": launch.name,
        "emulated": experiment.emulated,
        "start_ns": result.start_ns,
        "end_ns": result.end_ns,
        "wall_start_ns": result.wall_start_ns,
        "sent": sum(record.sent_ns is not None for record in result.records),
        "failed": sum(record.outcome != "ok" for record in result.records),
        "aborted": result.aborted,
        "client": {name: getattr(health, name) for name in health.__dataclass_fields__},
    }


def _keep_partial(at: Path, result: LoadResult, run: dict[str, Any]) -> None:
    """An unfinished load's records stay for a person to look at; the load itself will be measured again."""
    number = 1
    while (aside := at / f"partial-{number}").exists():
        number += 1
    aside.mkdir(parents=True)
    write_records(aside / "records.parquet", result.records)
    write_json(aside / "loadrun.json", run)


def placement_to_json(placement: Placement) -> dict[str, Any]:
    return {
        "instances": [
            {
                "name": instance.name,
                "host": instance.host,
                "port": instance.port,
                "places": [{"node": place.node, "gpus": list(place.gpus)} for place in instance.places],
            }
            for instance in placement.instances
        ],
        "orchestrator": placement.orchestrator_port
        and {"host": placement.orchestrator_host, "port": placement.orchestrator_port},
    }
