"""The keys that have servers keep the times of each request, with the reason for each value."""

from __future__ import annotations

from collections.abc import Iterator

from ratematch.engines.trtllm_serve.reporting import reporting
from ratematch.plan.deployment import Deployment, Role
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import only_breakdown
from ratematch.plan.setting import Setting

PERF_RECORDS = 10_000
"""Per-request timing records that servers keep until they are fetched."""

FOLDER = "perf_metrics"
"""Below the launch folder, which is the servers' working directory: a folder for each kind of server."""

KEPT = "records kept until they are fetched"


def breakdown_apart(version: str, deployment: Deployment) -> bool:
    """Are the times of requests collected by a load of its own? Not where a file says itself whether they are kept.

    Raises:
        ValueError: the version is not known.
    """
    given = [group.config is not None or "return_perf_metrics" in group.options for group in deployment.groups]
    return reporting(version).collector_costs and not any(given)


def times_of_worker(experiment: Experiment, role: Role) -> Iterator[Setting]:
    """The keys of a worker's file.

    Raises:
        ValueError: the version is not known.
    """
    how = reporting(experiment.engine.version)
    if how.collector_costs and not only_breakdown(experiment.loads):
        why = "it times each step on CPU and GPU from 1.3 on, which costs throughput; a breakdown load has servers"
        yield Setting("return_perf_metrics", False, f"{why} of its own")
        return
    yield Setting("return_perf_metrics", True, "per-request times of prefill, KV transfer and decode")
    if how.times == "answer":
        where = "a file a server, and no limit to its records; `/perf_metrics` is gone"
        yield Setting("perf_metrics_output_dir", f"{FOLDER}/{role}", where)
    else:
        yield Setting("perf_metrics_max_requests", PERF_RECORDS, KEPT)


def times_of_orchestrator(experiment: Experiment) -> Iterator[Setting]:
    """The keys of the orchestrator's file, which joins what workers report.

    Raises:
        ValueError: the version is not known.
    """
    how = reporting(experiment.engine.version)
    if how.collector_costs and not only_breakdown(experiment.loads):
        return
    if how.times != "answer":
        yield Setting("perf_metrics_max_requests", PERF_RECORDS, f"joined per-request times: {KEPT}")
    if how.times != "route":
        yield Setting("return_perf_metrics", True, "times come with the answers to requests that ask for them")
    if how.times == "answer":
        yield Setting("perf_metrics_output_dir", f"{FOLDER}/disagg", "joined per-request times, in a file")
