"""The ``loads`` of a sweep file: what is written to a :class:`LoadPlan`, and what they need of the workloads."""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.plan.located import Located, Path
from ratematch.plan.sweep import LoadPlan
from ratematch.plan.sweepschema import LoadsIn, SweepIn, WorkloadIn


def read_loads(given: LoadsIn) -> LoadPlan:
    return LoadPlan(
        concurrency=tuple(given.concurrency or ()),
        req_s=tuple(given.req_s or ()),
        arrival=given.arrival,
        seconds=given.seconds,
        burstiness=given.burstiness,
        ramp_to=given.ramp_to or 0.0,
        max_in_flight=given.max_in_flight,
        replay=tuple(given.replay or ()),
        num_requests=given.num_requests or 0,
        **given.counts(),
    )


def check_loads(located: Located, parsed: SweepIn) -> None:
    """Every stage and every deployment written out names a load, and a trace to replay where it replays one."""
    for stage in ("ctx", "gen", "ifb"):
        plan = getattr(parsed, stage)
        if plan is not None:
            _check(located, (stage, "loads"), plan.loads, parsed.workloads)
    for index, each in enumerate(parsed.deployments):
        workloads = [each.workload] if each.workload else parsed.workloads
        _check(located, ("deployments", index, "loads"), each.loads, workloads)


def _check(located: Located, path: Path, loads: LoadsIn, workloads: Sequence[WorkloadIn]) -> None:
    if not loads.concurrency and not loads.req_s and not loads.replay:
        located.add(path, "names no load", "give concurrency: [1, 4, 16] or req_s: [0.5, 1]")
    if not loads.replay:
        return
    if not loads.num_requests:
        located.add((*path, "replay"), "says no number of requests", "give num_requests: how many of the trace")
    for workload in workloads:
        if not workload.file:
            what = f"replays a trace, and workload {workload.workload().label} names no file"
            located.add((*path, "replay"), what, "give the workload a file with timestamps")
