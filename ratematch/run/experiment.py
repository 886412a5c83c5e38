"""One experiment, alive: start its deployment, run every missing load against the same servers, stop them.

This is what a job does, and what ``ratematch run`` does by hand. It may be killed at any instant: a load counts when
its ``loadrun.json`` is there, and the next run measures only what is missing.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ratematch.engines import find_engine
from ratematch.errors import DiskFull, PortInUse, RatematchError, RunError, ServerDied, UserError
from ratematch.inputs.catalog import model_of
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment, seed_of
from ratematch.plan.formats import format_bytes
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.memory import total_params
from ratematch.plan.placement import FIRST_PORT, Placement, count_ports, nodes_on, place, placement_to_json
from ratematch.plan.secret import secret_names
from ratematch.run import contracts, machines, provenance
from ratematch.run.followup import loads_while_open
from ratematch.run.launch import Interrupted, ThisMachine, end_leftovers, port_is_free, running
from ratematch.run.launches import Launch, launch_missing
from ratematch.run.live import Live
from ratematch.run.load import measure_load
from ratematch.run.machines import Allocation
from ratematch.run.reserve import POLL_S, Reserved, on_reserved, reserve
from ratematch.run.script import run_script
from ratematch.run.senders import NodeSenders
from ratematch.run.stopping import Stop, stop_on_signal
from ratematch.run.telemetry import Telemetry
from ratematch.run.warmup import warm_connections
from ratematch.run.watch import explain_failure
from ratematch.store import filelock, layout, private
from ratematch.store import outcome as outcomes
from ratematch.store.files import write_json, write_text
from ratematch.store.folder import ExperimentFolder
from ratematch.store.masking import mask, masking
from ratematch.store.outcome import Outcome
from ratematch.store.progress import Starting, Waiting
from ratematch.store.provenance import Provenance

JOB_BEGAN = "RATEMATCH_JOB_BEGAN"
"""In the environment of a driver: when its allocation began, in seconds since 1970."""

SIGNAL_LAG_S = 1.0
"""Between a server's death by a signal that went to the whole job and the same signal here, at most."""

LAST_PORT = 32000
"""Below the range from which the kernel picks ports for outgoing connections, which would come and go."""

READY_FLOOR_S = 600.0
READ_B_S = 0.5e9
"""Weights read per second that a start-up deadline allows for: a busy shared file system, not a good one."""


def run_experiment(
    path: str | Path, *, allocated: bool = False, nodes: Sequence[str] = (), sent: str | None = None
) -> dict[str, Any]:
    """:func:`measure_experiment`, with what became of it as plain JSON values.

    Jobs that wait in a queue were sent to call this by its name, and their result goes from one process to another:
    name, arguments and result stay as they are.
    """
    return outcomes.to_json(measure_experiment(path, allocated=allocated, nodes=nodes, sent=sent))


def measure_experiment(
    path: str | Path, *, allocated: bool = False, nodes: Sequence[str] = (), sent: str | None = None
) -> Outcome:
    """Measure every missing load of the experiment in ``path``; returns how its last launch ended, with the loads of
    all of them as ``measured``.

    ``allocated``: on the nodes of the Slurm allocation this runs in, or those of them in ``nodes``, else all on this
    machine. ``sent``: the name that this job was sent under. When ``job.json`` holds another by now, because two
    controllers had lost sight of each other, that one is to measure, and this does nothing.

    Raises:
        ResultsError: no experiment there. RunError: another process is measuring it.
    """
    folder = ExperimentFolder(Path(path))
    folder.read()
    # In this order: whoever reads in the lock whom to stop finds a process that hears it.
    with stop_on_signal() as stop, folder.lock():
        if sent is not None and not folder.is_sent_as(sent):
            return Outcome(ok=False, error="another job was sent for this since", interrupted=True)
        folder.forget_progress()
        # An allocation costs from its first second, not from ours.
        began = float(os.environ.get(JOB_BEGAN, 0)) if allocated else 0.0
        end_leftovers(folder.launch_folders())
        secrets = _find_secrets(folder)
        driver = _Driver(stop, nodes if allocated else None, began or time.time(), secrets)
        with masking(secrets.values()):
            outcome = launch_missing(folder, driver.run)
        if outcome.ok:
            private.forget_secrets(folder.path)
        return outcome


def _find_secrets(folder: ExperimentFolder) -> dict[str, str]:
    """Values of the secrets that servers need: as the sweep left them for its jobs, else from our own environment."""
    groups = folder.read().deployment.groups
    environments = (folder.cluster().environment, *(group.environment for group in groups))
    names = {name for environment in environments for name in secret_names(environment.items())}
    here = {name: value for name in names if (value := os.environ.get(name))}
    return {**here, **private.read_secrets(folder.path)}


@dataclass
class _Driver:
    """Runs launches one after the other. ``nodes``: of the allocation that it may use, none named = all; ``None`` =
    there is no allocation. ``since``: from when on the GPUs are held for the next launch. ``secrets``: of servers, by
    variable."""

    stop: Stop
    nodes: Sequence[str] | None
    since: float
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def run(self, launch: Launch) -> Outcome:
        """Start the servers once, measure the loads, stop the servers; what became of it, which is kept."""
        began = time.time()
        gpus = launch.experiment.deployment.gpus
        outcome = Outcome(ok=True)
        plan: LaunchPlan | None = None
        try:
            cluster = launch.folder.cluster()
            where = None if self.nodes is None else machines.current(cluster, self.nodes, self.secrets)
            gpus = len(where.nodes) * cluster.gpus_per_node if where else gpus
            with self._reserve(launch.experiment, cluster, where) as reserved:
                if reserved is not None:
                    began = self.since = time.time()  # what was waited for GPUs took none
                plan = _plan(launch, cluster, where, reserved)
                _measure(launch, cluster, plan, where or ThisMachine(cluster, self.secrets), self.stop)
        except RatematchError as error:
            outcome = _describe_end(error, self.stop, launch, plan)
        except Exception as error:  # a defect of ours: what is known of it must not stay in a log that nobody opens
            outcome = _describe_defect(error)
        now = time.time()
        if not launch.measured and not launch.starting_s:
            launch.starting_s = now - began
        job = None if self.nodes is None else filelock.own_job()
        outcome = replace(
            launch.spend(outcome), seconds=now - began, began=began, held_s=now - self.since, gpus=gpus, job=job
        )
        # With a full disk the outcome cannot be kept either; the job's own result still carries it.
        with contextlib.suppress(DiskFull):
            launch.folder.write_outcome(launch.path, outcome)
        self.since = time.time()
        return outcome

    def _reserve(
        self, experiment: Experiment, cluster: Cluster, where: Allocation | None
    ) -> contextlib.AbstractContextManager[Reserved | None]:
        """GPUs of this machine for the launch; nothing where a scheduler gives them, or none is used."""
        deployment = experiment.deployment
        if where is not None or cluster.emulated or nodes_on(deployment, cluster) > 1:
            return contextlib.nullcontext()
        sides: dict[str, int] = {}
        if find_engine(experiment.engine.name).spare_ports(deployment):
            groups = [group for group in deployment.groups if group.role != "agg"]
            sides = {group.role: group.instances * group.mapping.dp_ranks for group in groups}
        told: list[bool] = []

        def wait(held: Sequence[int]) -> bool:
            if not told:
                numbers = ", ".join(map(str, held))
                sys.stderr.write(f"waiting for {deployment.gpus} GPUs: other experiments hold GPU {numbers}\n")
                told.append(True)
            return self.stop.wait(POLL_S)

        def is_free(port: int) -> bool:
            return port_is_free("127.0.0.1", port)

        return reserve(deployment.gpus, cluster.gpus_per_node, sides, is_free, wait)


def _describe_end(error: RatematchError, stop: Stop, launch: Launch, plan: LaunchPlan | None) -> Outcome:
    """What ended a launch."""
    # Slurm's signals go to the servers too, which may be gone before one comes here.
    stopped = isinstance(error, Interrupted) or (isinstance(error, ServerDied) and stop.wait(SIGNAL_LAG_S))
    if stopped:
        return Outcome(ok=False, error=mask(str(error)), interrupted=True, signal=stop.signal)
    engine = find_engine(launch.experiment.engine.name)
    known = plan and explain_failure(engine, launch.experiment, plan, launch.path, error)
    return Outcome(
        ok=False,
        error=mask(str(error)),
        kind=type(error).__name__,
        cause=known.cause if known else None,
        remedy=known.remedy if known else None,
        reference=known.reference if known else None,
    )


def _describe_defect(error: Exception) -> Outcome:
    """What ended a launch that nobody foresaw; its traceback goes to the job's log."""
    sys.stderr.write(mask("".join(traceback.format_exception(error))))
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.lineno}"
    text = " ".join(str(error).split())
    return Outcome(
        ok=False,
        error=mask(f"unexpected {type(error).__name__}: {text} ({where}); the job's log has the rest"),
        kind=type(error).__name__,
    )


def _plan(launch: Launch, cluster: Cluster, where: Allocation | None, reserved: Reserved | None = None) -> LaunchPlan:
    """What is started and where, written to the launch's folder too."""
    experiment = launch.experiment
    engine = find_engine(experiment.engine.name)
    placement = place_locally(experiment, cluster) if where is None else place_allocated(experiment, cluster, where)
    if reserved is not None:
        placement = on_reserved(placement, reserved)
    plan = engine.plan_launch(experiment, placement, cluster, ready_s(experiment, cluster))
    contract = contracts.read(launch.folder, engine)
    if refused := engine.check_launch(plan, experiment, installed=contract):
        raise UserError("the engine would refuse its files: " + "; ".join(refused))
    write_json(launch.path / layout.PLACEMENT, placement_to_json(placement))
    write_text(launch.path / layout.RUN_SCRIPT, run_script(experiment, plan, cluster, allocated=where is not None))
    return plan


def _measure(
    launch: Launch, cluster: Cluster, plan: LaunchPlan, machine: Allocation | ThisMachine, stop: Stop
) -> None:
    """Start the servers of ``plan``, measure the loads against them and whatever is asked for meanwhile."""
    folder, experiment, loads = launch.folder, launch.experiment, launch.loads
    engine = find_engine(experiment.engine.name)

    def show_waiting(waiting: Sequence[Waiting]) -> None:
        folder.write_progress(Starting(time.time(), tuple(waiting)))

    show_waiting(())
    begin = time.monotonic()
    threading.Thread(target=_import_ahead, name="import ahead", daemon=True).start()
    listener = Telemetry(plan, engine.routes, engine.iteration_reader, folder=launch.path)
    starting = running(plan, launch.path, engine.diagnose, stop, show_waiting, machine, engine.has_given_up)
    with starting as servers, listener as telemetry:
        software = provenance.collect(plan, launch.path, engine)
        software = replace(software, contract=contracts.reference(folder))
        folder.write_provenance(launch.path, software)
        contracts.compare(folder, software)
        for note in software.notes:
            sys.stderr.write(f"note: {note}\n")
        _refuse_mixture(software, cluster)
        stall_s = None if cluster.stall_minutes is None else cluster.stall_minutes * 60
        senders = NodeSenders(machine, launch.path) if isinstance(machine, Allocation) else None
        live = Live(folder, launch.path, servers, engine, experiment, telemetry, stop, stall_s, senders=senders)
        vocab = model_of(experiment).vocab
        opened = warm_connections(live.target, experiment, vocab, seed_of(experiment, loads[0]) + 2, stop)
        live = replace(live, connections=opened)
        launch.starting_s = time.monotonic() - begin
        for number, load in enumerate(loads_while_open(folder, loads, stop)):
            begin = time.monotonic()
            measure_load(live, load, number, max(number + 1, len(loads)))
            launch.measuring_s += time.monotonic() - begin
            launch.measured += 1


def _import_ahead() -> None:
    """Have ready what pyarrow imports at its first conversion, if it is there: half a second in which GPUs would wait
    after the first load, and which costs nothing while the servers are loading."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pandas")


def _refuse_mixture(software: Provenance, cluster: Cluster) -> None:
    for name, server in software.servers.items():
        if name == "orchestrator" and server.version is None:
            continue  # a router of somebody else's, which reports nothing of itself
        if server.emulated != cluster.emulated:
            really = "the emulator" if server.emulated else "no emulator"
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
    nodes = [f"local{index}" for index in range(nodes_on(deployment, cluster))]
    addresses = dict.fromkeys(nodes, "127.0.0.1")
    return place(deployment, cluster, nodes, _port_base(cluster, _all_ports(experiment)), addresses)


def place_allocated(experiment: Experiment, cluster: Cluster, where: Allocation) -> Placement:
    """Put the deployment on the nodes of an allocation, which are reached by their names.

    Ports differ from job to job and from experiment to experiment, so that a server that an earlier one could not end
    is never taken for ours.

    Raises:
        PlacementError: it does not fit.
    """
    spread = zlib.crc32(f"{where.job_id} {experiment.id}".encode()) % (
        LAST_PORT - FIRST_PORT - _all_ports(experiment)
    )
    return place(experiment.deployment, cluster, where.nodes, cluster.port_base or FIRST_PORT + spread)


def _all_ports(experiment: Experiment) -> int:
    """Ports that a deployment takes, one after another."""
    engine = find_engine(experiment.engine.name)
    return count_ports(experiment.deployment) + engine.spare_ports(experiment.deployment)


def _port_base(cluster: Cluster, count: int) -> int:
    if cluster.port_base is not None:
        return cluster.port_base
    for _ in range(200):
        base = random.randrange(FIRST_PORT, LAST_PORT - count)
        if all(port_is_free("127.0.0.1", base + offset) for offset in range(count)):
            return base
    raise PortInUse(f"found no {count} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


def ready_s(experiment: Experiment, cluster: Cluster) -> float:
    """Seconds that servers may take to become ready: the profile's limit, else by the size of the weights."""
    if cluster.ready_minutes is not None:
        return cluster.ready_minutes * 60
    return READY_FLOOR_S + total_params(model_of(experiment)) * format_bytes("fp8") / READ_B_S
