"""Variables of a Dynamo deployment's processes: how they find each other, and what a measurement needs."""

from __future__ import annotations

from collections.abc import Iterator

from ratematch.engines.dynamo.contract import has_flag, is_since
from ratematch.engines.dynamo.places import Place, Places
from ratematch.engines.dynamo.services import LOOPBACK
from ratematch.engines.dynamo.stack import Stack
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import START
from ratematch.plan.load import most_in_flight
from ratematch.plan.setting import Setting

Variables = tuple[tuple[str, str], ...]

NAMESPACE = f"ratematch-{START}"
"""Each start has its own: a worker that an earlier one left behind is never taken for one of ours."""

DISCOVERY_FOLDER = "discovery"
"""Below the launch folder, which is new at each start and which all nodes see."""

TRACE_FILES = "request-trace-*.jsonl"

LEAST_LIMIT = 10_000
"""Requests that a worker may hold: Dynamo's own pool where no limit is set."""

FLUSH_MS = 200
"""How long a record waits for others before it is written."""

TRACED_SINCE = "1.3"
"""The first line with request traces, by what its sources and documentation name."""

UNSET = (
    *("DYN_MIGRATION_LIMIT", "DYN_ROUTER_CONDITIONAL_DISAGG", "DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG"),
    *("DYN_ENDPOINT", "DYN_NAMESPACE_PREFIX", "DYN_TRTLLM_OVERRIDE_ENGINE_ARGS"),
    *("DYN_ACTIVE_DECODE_BLOCKS_THRESHOLD", "DYN_ACTIVE_PREFILL_TOKENS_THRESHOLD"),
)
"""What a login shell may hold of another deployment, and what would change which worker answers."""


def request_limit(experiment: Experiment) -> int:
    """Requests that one worker takes before it refuses: more than any load of the experiment can send to it."""
    return max(LEAST_LIMIT, 2 * (most_in_flight(experiment.loads, 1) or 0))


def shared(stack: Stack, places: Places) -> Variables:
    """What all processes of a deployment have alike."""
    # Every process would leave a file for SGLang's log in the temporary folder.
    variables = [("DYN_NAMESPACE", NAMESPACE), ("DYN_SKIP_SGLANG_LOG_FORMATTING", "1")]
    if stack.discovery == "file":
        variables.append(("DYN_FILE_KV", DISCOVERY_FOLDER))
    if places.etcd is not None:
        variables.append(("ETCD_ENDPOINTS", f"http://{places.etcd.host}:{places.etcd.port}"))
    if places.nats is not None:
        variables.append(("NATS_SERVER", f"nats://{places.nats.host}:{places.nats.port}"))
    return tuple(variables)


def past_proxies(places: Places) -> Variables:
    """A frontend fetches what it must know of a model from the workers' own ports: never through a site's proxy."""
    names = ",".join(dict.fromkeys(("localhost", LOOPBACK, *places.hosts)))
    return (("no_proxy", names), ("NO_PROXY", names))


def on_loopback(host: str) -> Variables:
    """Where servers are reached that share a machine: by default they name the address of its default route."""
    if host != LOOPBACK:
        return ()
    names = ("DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST")
    return tuple((name, host) for name in names)


def explain_measured(experiment: Experiment, stack: Stack) -> Iterator[Setting]:
    """Variables of workers that are set for a measurement's sake."""
    yield Setting("DYN_HEALTH_CHECK_ENABLED", "false", "canary requests would run among those that are measured")
    if has_flag("trtllm", stack.version, "engine-request-limit"):
        limit = request_limit(experiment)
        why = f"more than any load holds in flight, and {LEAST_LIMIT} at least: a refused request measures nothing"
        yield Setting("DYN_ENGINE_REQUEST_LIMIT", str(limit), why)


def measured(experiment: Experiment, stack: Stack) -> Variables:
    """The same as name and value."""
    return tuple((setting.key, str(setting.value)) for setting in explain_measured(experiment, stack))


def traced(stack: Stack, number: int) -> Variables:
    """A frontend's record of each request, in a file of its own; nothing where the release keeps none."""
    if not is_since(stack.version, TRACED_SINCE):
        return ()
    return (
        ("DYN_REQUEST_TRACE", "1"),
        ("DYN_REQUEST_TRACE_RECORDS", "request_end"),
        ("DYN_REQUEST_TRACE_SINKS", "file"),
        ("DYN_REQUEST_TRACE_FILE_PATH", TRACE_FILES.replace("*", str(number))),
        ("DYN_REQUEST_TRACE_FILE_FORMAT", "jsonl"),
        # Records of a load that ends at once are waited for, and none may be lost on the way to the file.
        ("DYN_REQUEST_TRACE_FILE_FLUSH_INTERVAL_MS", str(FLUSH_MS)),
        ("DYN_REQUEST_TRACE_CAPACITY", "65536"),
    )


def system_port(place: Place) -> Variables:
    """Where a worker reports: one port for each worker of a node."""
    return (("DYN_SYSTEM_PORT", str(place.port)),)
