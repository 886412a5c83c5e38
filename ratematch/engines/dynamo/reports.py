"""What a Dynamo deployment reports of itself: metrics of frontends and workers, and a record of each request.

A frontend has ``/metrics`` on its own port, a worker on its system port; an engine that publishes passes its own
samples on there. Iterations of TensorRT-LLM are in the worker's log only.

The request trace (a JSON line a request in the frontend's file) is the only account of single requests by server. It
sees them from the frontend: what it calls prefill is queue and prefill of the prefill worker, and the way there; the
KV transfer is its estimate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ratematch.engines import othernames
from ratematch.engines.dynamo.contract import is_since
from ratematch.engines.dynamo.environment import FLUSH_MS, TRACE_FILES, TRACED_SINCE
from ratematch.engines.dynamo.stack import stack_of
from ratematch.engines.engine import Json
from ratematch.engines.trtllm_serve import metrics as trtllm
from ratematch.engines.vllm import metrics as vllm
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.metricnames import common_figures
from ratematch.measure.requesttimes import TimesSources
from ratematch.measure.servermetrics import Routes, Samples
from ratematch.plan.experiment import Experiment

TRTLLM_ROUTES = Routes(iterations=None, prometheus="/metrics", judged=True)
VLLM_ROUTES = Routes(iterations="/metrics", prometheus="/metrics", judged=True)

MS = 1e-3


def read_trtllm_figures(samples: Samples) -> dict[str, float]:
    """The figures that all servers have in common, in the samples of a frontend or a TensorRT-LLM worker."""
    return common_figures(samples, othernames.DYNAMO) | trtllm.read_figures(samples)


def read_vllm_figures(samples: Samples) -> dict[str, float]:
    """The same of a vLLM worker."""
    return common_figures(samples, othernames.DYNAMO) | vllm.read_figures(samples)


# ------------------------------------------------------------------------------------------------ request trace


class Worker(msgspec.Struct):
    """Which workers answered."""

    prefill_worker_id: int | None = None
    decode_worker_id: int | None = None


class TracedRequest(msgspec.Struct):
    """What is looked at of a record; times in milliseconds."""

    request_id: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    request_received_ms: float | None = None
    prefill_wait_time_ms: float | None = None
    prefill_time_ms: float | None = None
    ttft_ms: float | None = None
    total_time_ms: float | None = None
    kv_transfer_estimated_latency_ms: float | None = None
    worker: Worker | None = None


class _Event(msgspec.Struct):
    request: dict[str, object]
    event_type: str = ""


class _Line(msgspec.Struct):
    event: _Event


BULKY = ("replay", "payload")
"""Parts of a record that grow with its prompt and say nothing of time."""


def times_sources(experiment: Experiment) -> TimesSources:
    """The traces of all frontends; nowhere in releases that keep none."""
    version = stack_of(experiment.engine).version
    if not is_since(version, TRACED_SINCE):
        return TimesSources(why_none=f"Dynamo {version} keeps no trace of requests; {TRACED_SINCE} does")
    return TimesSources(files=TRACE_FILES, lag_s=2 * FLUSH_MS / 1000)


def trim_record(line: bytes) -> Json:
    """The record of a finished request, without its parts that grow with the prompt.

    Raises:
        ValueError: the line is no record of a request.
    """
    request = msgspec.json.decode(line, type=_Line).event.request
    if not isinstance(request.get("request_id"), str):
        raise ValueError("a trace line without a request")
    return {name: value for name, value in request.items() if name not in BULKY}


def read_breakdown(records: Sequence[Json | TracedRequest], *, skip_first: int, skip_last: int) -> Breakdown | None:
    """Mean stages as the frontend sees them, without the requests that arrived first and last: the ctx queue is
    within prefill, the gen queue within decode. ``None`` when fewer than two complete records are left."""
    stages = sorted(found for record in records if (found := _stages(record)) is not None)
    kept = stages[skip_first : len(stages) - skip_last]
    if len(kept) < 2:
        return None
    columns = list(zip(*kept, strict=True))[1:]
    dispatch, prefill, transfer, decode = (sum(column) / len(kept) for column in columns)
    return Breakdown(len(kept), dispatch, 0.0, prefill, transfer, 0.0, decode)


def _stages(record: Json | TracedRequest) -> tuple[float, float, float, float, float] | None:
    """(arrival, dispatch, prefill, KV transfer, decode), seconds; ``None`` for a request without a prefill worker."""
    if not isinstance(record, TracedRequest):
        try:
            record = msgspec.convert(record, TracedRequest)
        except msgspec.ValidationError:
            return None
    arrival, waited, prefill = record.request_received_ms, record.prefill_wait_time_ms, record.prefill_time_ms
    first, total = record.ttft_ms, record.total_time_ms
    worker = record.worker
    if worker is None or worker.prefill_worker_id is None or worker.prefill_worker_id == worker.decode_worker_id:
        return None
    if arrival is None or waited is None or prefill is None or first is None or total is None:
        return None
    transfer = record.kv_transfer_estimated_latency_ms or 0.0
    decode = max(0.0, total - waited - prefill - transfer)
    return arrival * MS, waited * MS, prefill * MS, transfer * MS, decode * MS


# ------------------------------------------------------------------------------------------------ logs

_LINE = re.compile(r"dynamo_(?:runtime|llm|kv_router)::|\bdynamo\.(?:frontend|trtllm|vllm)\b|\bDynamo\b")


def is_dynamo_log(text: str) -> bool:
    """Is this a log of one of Dynamo's processes?"""
    return _LINE.search(text) is not None
