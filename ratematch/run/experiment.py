"""One experiment, alive: start its deployment, run every missing load against the same servers, stop them.

This is what a job does, and what ``ratematch run`` does by hand. It may be killed at any instant: a load counts when
its ``loadrun.json`` is there, and the next run measures only what is missing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ratematch.engines import Engine, find_engine
from ratematch.engines.failures import root_cause
from ratematch.errors import RatematchError, RunError, ServerDied, UserError
from ratematch.inputs.catalog import model_of
from ratematch.inputs.localgpus import VISIBLE
from ratematch.plan.cluster import Cluster
from ratematch.plan.cores import core_share
from ratematch.plan.experiment import seed_of
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.placement import nodes_on, placement_to_json
from ratematch.plan.secret import secret_names
from ratematch.run import contracts, machines, provenance
from ratematch.run.conversing import join
from ratematch.run.followup import loads_while_open
from ratematch.run.launch import ThisMachine, end_leftovers, running
from ratematch.run.launches import Launch, launch_missing
from ratematch.run.live import Live
from ratematch.run.load import measure_load
from ratematch.run.machines import Allocation
from ratematch.run.neighbours import Stretch, processors, starts_beside
from ratematch.run.placing import as_served, place_allocated, place_locally, ready_s
from ratematch.run.preparation import Preparation
from ratematch.run.probes import port_is_free
from ratematch.run.reserve import POLL_S, Reserved, on_reserved, reserve, takes_gpus
from ratematch.run.script import run_script
from ratematch.run.senders import NodeSenders
from ratematch.run.startsigns import StartSigns
from ratematch.run.stopping import Interrupted, Stop, stop_on_signal
from ratematch.run.telemetry import Telemetry
from ratematch.run.visit import Visits
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
from ratematch.store.sharedservers import servers_of
from ratematch.store.uncollected import end_uncollected, freeze_loaded
from ratematch.store.withoutpandas import leave_pandas_out

JOB_BEGAN = "RATEMATCH_JOB_BEGAN"
"""In the environment of a driver: when its allocation began, in seconds since 1970."""

SIGNAL_LAG_S = 1.0
"""Between a server's death by a signal that went to the whole job and the same signal here, at most."""


def run_experiment(
    path: str | Path, *, allocated: bool = False, nodes: Sequence[str] = (), sent: str | None = None
) -> dict[str, Any]:
    """:func:`measure_experiment`, with what became of it as plain JSON values.

    Jobs that wait in a queue were sent to call this by its name, and their result goes from one process to another:
    name, arguments and result stay as they are.
    """
    return outcomes.to_json(measure_experiment(path, allocated=allocated, nodes=nodes, sent=sent))


def run_here(paths: Sequence[str], visible: str | None) -> dict[str, Any]:
    """:func:`run_experiment` of the first of ``paths``, whose servers then measure what is missing in the others.

    ``visible``: CUDA_VISIBLE_DEVICES as the controller has it. submitit empties it for jobs on this machine, and a
    server that has the whole of a machine takes whatever it is let see.
    """
    if visible is None:
        os.environ.pop(VISIBLE, None)
    else:
        os.environ[VISIBLE] = visible
    return outcomes.to_json(measure_experiment(paths[0], guests=[Path(path) for path in paths[1:]]))


def measure_experiment(
    path: str | Path,
    *,
    allocated: bool = False,
    nodes: Sequence[str] = (),
    sent: str | None = None,
    guests: Sequence[Path] = (),
) -> Outcome:
    """Measure every missing load of the experiment in ``path``; returns how its last launch ended, with the loads of
    all of them as ``measured``.

    ``guests``: folders of experiments that its servers serve too (:func:`ratematch.run.sharing.share_servers`), which
    are measured before the servers end.

    ``allocated``: on the nodes of the Slurm allocation this runs in, or those of them in ``nodes``, else all on this
    machine. ``sent``: the name that this job was sent under. When ``job.json`` holds another by now, because two
    controllers had lost sight of each other, that one is to measure, and this does nothing.

    Raises:
        ResultsError: no experiment there. RunError: another process is measuring it.
    """
    folder = ExperimentFolder(Path(path))
    folder.read()
    leave_pandas_out()
    end_uncollected()
    freeze_loaded()
    # In this order: whoever reads in the lock whom to stop finds a process that hears it.
    with stop_on_signal() as stop, folder.lock():
        if sent is not None and not folder.is_sent_as(sent):
            return Outcome(ok=False, error="another job was sent for this since", interrupted=True)
        folder.forget_progress()
        # An allocation costs from its first second, not from ours.
        began = float(os.environ.get(JOB_BEGAN, 0)) if allocated else 0.0
        end_leftovers([*folder.launch_folders(), *map(servers_of, folder.launch_folders())])
        secrets = _find_secrets(folder)
        others = tuple(map(ExperimentFolder, guests))
        driver = _Driver(stop, nodes if allocated else None, began or time.time(), secrets, others)
        with masking(secrets.values()), driver.preparation.ending():
            outcome = launch_missing(folder, driver.run)
        if outcome.ok:
            for measured in (folder, *others):
                private.forget_secrets(measured.path)
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
    variable. ``guests``: experiments that its servers serve too. ``preparation``: what its nodes were given."""

    stop: Stop
    nodes: Sequence[str] | None
    since: float
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    guests: tuple[ExperimentFolder, ...] = ()
    preparation: Preparation = field(default_factory=Preparation)

    def run(self, launch: Launch) -> Outcome:
        """Start the servers once, measure the loads and those of the guests, stop the servers; what became of the
        launch, which is kept. How its guests ended stands in their folders."""
        job = None if self.nodes is None else filelock.own_job()
        visits = Visits(launch, self.since, launch.experiment.deployment.gpus, job)
        outcome = Outcome(ok=True)
        plan: LaunchPlan | None = None
        try:
            cluster = launch.folder.cluster()
            where = None if self.nodes is None else machines.current(cluster, self.nodes, self.secrets)
            visits.gpus = len(where.nodes) * cluster.gpus_per_node if where else visits.gpus
            with self._reserve(launch, cluster, where) as reserved:
                if reserved is not None:
                    visits.began = visits.since = time.time()  # what was waited for GPUs took none
                where = self.preparation.prepare(launch, cluster, where, self.stop)
                plan = _plan(launch, cluster, where, reserved)
                machine = where or ThisMachine(cluster, self.secrets, reserved.locks if reserved else ())
                servers = _Servers(plan, cluster, machine, reserved, self.preparation.note)
                _measure(visits, self.guests, servers, self.stop)
        except RatematchError as error:
            outcome = _describe_end(error, self.stop, visits, plan)
        except Exception as error:  # a defect of ours: what is known of it must not stay in a log that nobody opens
            outcome = _describe_defect(error)
        outcome = visits.end(outcome)
        self.since = time.time()
        self.preparation.last = launch, outcome
        return outcome

    def _reserve(
        self, launch: Launch, cluster: Cluster, where: Allocation | None
    ) -> contextlib.AbstractContextManager[Reserved | None]:
        """GPUs of this machine for the launch; nothing where a scheduler gives them, or none is used."""
        deployment = launch.experiment.deployment
        if where is not None or not takes_gpus(cluster) or nodes_on(deployment, cluster) > 1:
            return contextlib.nullcontext()
        began = time.time()

        def wait(held: Sequence[int]) -> bool:
            why = f"other experiments hold GPU {', '.join(map(str, held))}"
            _show_waiting_for(launch, f"{deployment.gpus} GPUs", why, time.time() - began)
            return self.stop.wait(POLL_S)

        beside, _ = starts_beside(cluster, processors())
        return reserve(deployment.gpus, cluster.gpus_per_node, wait, beside=beside)


def _show_waiting_for(launch: Launch, what: str, why: str, seconds: float) -> None:
    now = time.time()
    launch.folder.write_progress(Starting(now, (Waiting(what, why, seconds, ""),)))


def _take_turn(
    phase: Literal["starting", "measuring"], launch: Launch, reserved: Reserved | None, stop: Stop
) -> None:
    """Begin a phase, after what others on this machine do that does not go with it."""
    if reserved is None or reserved.presence is None:
        return
    began, name = time.time(), "start" if phase == "starting" else "measure"

    def wait(others: Sequence[Stretch]) -> bool:
        why = ", ".join(f"{other.label} is {other.phase}" for other in others) + " on this machine"
        _show_waiting_for(launch, f"its turn to {name}", why, time.time() - began)
        return stop.wait(POLL_S)

    reserved.presence.take_turn(phase, launch.experiment.label, wait)


def _describe_end(error: RatematchError, stop: Stop, visits: Visits, plan: LaunchPlan | None) -> Outcome:
    """What ended a launch."""
    # Slurm's signals go to the servers too, which may be gone before one comes here.
    stopped = isinstance(error, Interrupted) or (isinstance(error, ServerDied) and stop.wait(SIGNAL_LAG_S))
    if stopped:
        return Outcome(ok=False, error=mask(str(error)), interrupted=True, signal=stop.signal)
    experiment = visits.launch.experiment
    engine = find_engine(experiment.engine.key)
    known = plan and explain_failure(engine, experiment, plan, visits.logs, error)
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
    experiment = as_served(launch.experiment, cluster)
    engine = find_engine(experiment.engine.key)
    placement = place_locally(experiment, cluster) if where is None else place_allocated(experiment, cluster, where)
    if reserved is not None:
        placement = on_reserved(placement, reserved, port_is_free)
    plan = engine.plan_launch(experiment, placement, cluster, ready_s(experiment, cluster))
    contract = contracts.read(launch.folder, engine)
    if refused := engine.check_launch(plan, experiment, installed=contract):
        raise UserError("the engine would refuse its files: " + "; ".join(refused))
    write_json(launch.path / layout.PLACEMENT, placement_to_json(placement))
    write_text(
        launch.path / layout.RUN_SCRIPT, run_script(launch.experiment, plan, cluster, allocated=where is not None)
    )
    return plan


@dataclass(frozen=True)
class _Servers:
    """What is started where."""

    plan: LaunchPlan
    cluster: Cluster
    machine: Allocation | ThisMachine
    reserved: Reserved | None
    note: str = ""


def _measure(visits: Visits, guests: Sequence[ExperimentFolder], what: _Servers, stop: Stop) -> None:
    """Start the servers, measure the loads against them and whatever is asked for meanwhile; then those of the
    ``guests``."""
    launch, plan, cluster, machine = visits.launch, what.plan, what.cluster, what.machine
    folder, experiment, loads = launch.folder, as_served(launch.experiment, cluster), launch.loads
    engine = find_engine(experiment.engine.key)

    def show_waiting(waiting: Sequence[Waiting]) -> None:
        folder.write_progress(Starting(time.time(), tuple(waiting)))

    _take_turn("starting", launch, what.reserved, stop)
    show_waiting(())
    begin = time.monotonic()
    listener = Telemetry(plan, engine.routes, engine.iteration_reader, folder=launch.path)
    signs = StartSigns(engine.has_given_up, partial(root_cause, known=engine.known_failures))
    starting = running(plan, launch.path, engine.diagnose, stop, show_waiting, machine, signs)
    with starting as servers, listener as telemetry:
        join(servers, engine, experiment, stop, show_waiting)
        software = _collect_provenance(launch, plan, engine, what)
        stall_s = None if cluster.stall_minutes is None else cluster.stall_minutes * 60
        cores = core_share(cluster)
        senders = None
        if isinstance(machine, Allocation):
            senders = NodeSenders(machine, launch.path, cores.spell(servers.known_by) if cores else None)
        presence = what.reserved.presence if what.reserved else None
        live = Live(
            folder,
            launch.path,
            servers,
            engine,
            experiment,
            telemetry,
            stop,
            stall_s,
            senders=senders,
            presence=presence,
            cores=cores,
        )
        vocab = model_of(experiment).vocab
        opened = warm_connections(live.target, experiment, vocab, seed_of(experiment, loads[0]) + 2, stop)
        live = replace(live, connections=opened)
        launch.starting_s = launch.preparing_s + time.monotonic() - begin
        _take_turn("measuring", launch, what.reserved, stop)
        _measure_loads(launch, live)
        for guest in guests:
            if (visit := visits.next(guest)) is not None:
                _keep_origin(visit, launch, software)
                if presence is not None:
                    presence.enter("measuring", visit.experiment.label)
                visited = as_served(visit.experiment, cluster)
                _measure_loads(visit, replace(live, folder=guest, launch=visit.path, experiment=visited))


def _measure_loads(launch: Launch, live: Live) -> None:
    """The loads of one launch, and whatever is asked for meanwhile."""
    for number, load in enumerate(loads_while_open(launch.folder, launch.loads, live.stop)):
        begin = time.monotonic()
        measure_load(live, load, number, max(number + 1, len(launch.loads)))
        launch.measuring_s += time.monotonic() - begin
        launch.measured += 1


def _collect_provenance(launch: Launch, plan: LaunchPlan, engine: Engine, what: _Servers) -> Provenance:
    """Where the figures of the launch come from, which is kept and checked."""
    software = provenance.collect(plan, launch.path, engine)
    notes = (*software.notes, what.note) if what.note else software.notes
    software = replace(software, contract=contracts.reference(launch.folder), notes=notes)
    if what.reserved and len(what.reserved.gpus) < what.cluster.gpus_per_node:
        beside, why = starts_beside(what.cluster, processors())
        rule = "may start while these are measured" if beside else "do not start while these are measured"
        software = replace(software, host_rule=f"servers on other GPUs of this machine {rule} ({why})")
    launch.folder.write_provenance(launch.path, software)
    contracts.compare(launch.folder, software)
    for note in software.notes:
        sys.stderr.write(f"note: {note}\n")
    _refuse_mixture(software, what.cluster)
    return software


def _keep_origin(visit: Launch, host: Launch, software: Provenance) -> None:
    """Of a launch on servers that were started for another experiment: where they are, and how to start them."""
    note = f"measured on the servers that were started for {host.experiment.label} ({host.folder.path.name})"
    software = replace(software, contract=contracts.reference(visit.folder), notes=(*software.notes, note))
    visit.folder.write_provenance(visit.path, software)
    write_text(visit.path / layout.PLACEMENT, (host.path / layout.PLACEMENT).read_text(encoding="utf-8"))


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
