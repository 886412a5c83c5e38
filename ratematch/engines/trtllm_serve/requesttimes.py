"""Times request by request: where the servers of a launch hand them out, and what each of the three forms means.

``return_perf_metrics`` in a worker's file makes the engine keep them. From 1.3 on the same flag times every step on
the CPU and the GPU (with a synchronisation) and collects the lists of all requests, which costs throughput; so
measured loads run without it, and a load of its own, on servers started with it, collects the times. No header of a
request switches that on: ``X-TRTLLM-return-metrics`` only makes servers that have the times send them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ratematch.engines.engine import Json
from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve.render import worker_config
from ratematch.engines.trtllm_serve.reporting import reporting
from ratematch.engines.trtllm_serve.stages import TimedRequest
from ratematch.engines.trtllm_serve.stages import read_breakdown as read_joined
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.requesttimes import AskTimes, PhaseTimes, RequestTimes, TimesSources, mean_stages
from ratematch.plan.experiment import Experiment

TIMING, INSTANTS = "Server-Timing", "X-TRTLLM-Start-End-Time"
STEPS, CHUNKS = "X-TRTLLM-Step-Metrics", "X-TRTLLM-Ctx-Chunk-Metrics"

ASK = AskTimes(("X-TRTLLM-return-metrics", "1"), (TIMING, INSTANTS, STEPS, CHUNKS), "trtllm.perf_metrics")
ROUTE = "/perf_metrics"
CTX_ID = "ctx_request_id"

LONGEST_S = 1e12
"""Beyond it no clock of a server counts, and sums would overflow."""

COLLECTOR_OFF = (
    "return_perf_metrics is off: it slows each step; the breakdown load of the deployment collects the times "
    "(`breakdown` in the sweep file)"
)


def times_sources(experiment: Experiment) -> TimesSources:
    """Where the servers that are started for ``experiment`` hand out times, by their files and their version.

    Raises:
        ValueError: the version is not known.
    """
    configs = [worker_config(experiment, group) for group in experiment.deployment.groups]
    if not all(config.get("return_perf_metrics") for config in configs):
        return TimesSources(why_none=COLLECTOR_OFF)
    match reporting(experiment.engine.version).times:
        case "route":
            return TimesSources(route=ROUTE)
        case "either":
            return TimesSources(ask=ASK, route=ROUTE)
        case _:
            return TimesSources(files=_files(configs), ask=ASK)


def _files(configs: Sequence[Config]) -> str | None:
    """A pattern of the files that servers write; ``None`` where some write none, or into folders of no common one."""
    folders = [config.get("perf_metrics_output_dir") for config in configs]
    parents = {str(folder).rpartition("/")[0] for folder in folders}
    if not all(isinstance(folder, str) and folder for folder in folders) or len(parents) != 1:
        return None
    return f"{parents.pop() or '.'}/*/perf_metrics-*.jsonl"


# --------------------------------------------------------------------------------------------------- what records say


@dataclass(frozen=True)
class _Part:
    """What one record says of one request. ``ids``: under which it may be joined with others. ``role``: of the server
    that wrote it, ``disagg`` for the orchestrator."""

    ids: frozenset[tuple[str, str]]
    role: str
    times: RequestTimes


def read_breakdown(records: Sequence[Any], *, skip_first: int, skip_last: int) -> Breakdown | None:
    """Mean stages of the requests in ``records``, whatever source they are from, without those that arrived first
    (warm-up, ramp) and last (drain). ``None`` when fewer than two complete requests are left."""
    if any(isinstance(record, TimedRequest) for record in records):
        return read_joined(records, skip_first=skip_first, skip_last=skip_last)
    return mean_stages(read_times(records), skip_first=skip_first, skip_last=skip_last)


def read_times(records: Iterable[Json]) -> list[RequestTimes]:
    """One record a request, its parts joined.

    ``/perf_metrics`` of the orchestrator has both workers' records in one. So has its JSONL file, whose times of
    workers come over headers and may lack the KV transfer: the workers' own files fill that in, joined by
    ``disagg_request_id``, or by ``ctx_request_id`` where a record has no other. An answer's headers or event are of
    one request as they are. Where several requests share an id, they cannot be told apart and are left out.
    """
    every = [part for record in records for part in _parts(record)]
    whole = [part for part in every if part.role == "disagg" and part.times.stages() is not None]
    complete = {id_ for part in whole for id_ in part.ids}
    parts = [part for part in every if part.times.stages() is None and not part.ids & complete]
    joined = [_join(group) for group in _group(parts)]
    return [*(replace(part.times, id=_name(part.ids)) for part in whole), *(times for times in joined if times)]


def _group(parts: Iterable[_Part]) -> Iterable[Sequence[_Part]]:
    """The parts of each request. A context server counts its requests by itself, so its number joins a record to
    another only where no more than one request has it."""
    groups: dict[tuple[str, str], list[_Part]] = {}
    rest: list[tuple[tuple[str, str], _Part]] = []
    for part in parts:
        if own := [id_ for id_ in part.ids if id_[0] != CTX_ID]:
            groups.setdefault(own[0], []).append(part)
        else:
            rest.append((max(part.ids), part))
    homes: dict[tuple[str, str], list[list[_Part]]] = {}
    for group in groups.values():
        for id_ in {id_ for part in group for id_ in part.ids if id_[0] == CTX_ID}:
            homes.setdefault(id_, []).append(group)
    for id_, part in rest:
        known = homes.get(id_, [])
        if not known:
            groups.setdefault(id_, []).append(part)
        elif len(known) == 1:
            known[0].append(part)
    return groups.values()


def _join(group: Sequence[_Part]) -> RequestTimes | None:
    roles = [part.role for part in group]
    if len(set(roles)) < len(roles):
        return None
    parts = {part.role: part.times for part in group}
    # A worker's own record is whole; the orchestrator's copy of it need not be.
    ctx = gen = PhaseTimes()
    for role in ("ctx", "gen", "disagg"):
        if (one := parts.get(role)) is not None:
            ctx, gen = ctx.or_else(one.ctx), gen.or_else(one.gen)
    disagg = parts.get("disagg")
    arrival_s, router_s = (disagg.arrival_s, disagg.router_s) if disagg else (None, None)
    return RequestTimes(_name(id_ for part in group for id_ in part.ids), arrival_s, ctx, gen, router_s)


def _name(ids: Iterable[tuple[str, str]]) -> str:
    """The best of the ids of one request: ``disagg_request_id`` before ``ctx_request_id``."""
    return max(ids)[1]


def _parts(record: Json) -> Iterator[_Part]:
    """What a record of any form says; nothing where it is of none, or of a request that did not end well."""
    if record.get("status", "complete") != "complete":
        return
    if isinstance(record.get("times"), Mapping):
        yield _of_answer(record)
    elif isinstance(phases := record.get("phases"), Mapping):
        yield from _of_phases(record, phases)
    elif isinstance(record.get("gen_perf_metrics"), Mapping) or isinstance(record.get("ctx_perf_metrics"), Mapping):
        ctx, gen = _object(record, "ctx_perf_metrics"), _object(record, "gen_perf_metrics")
        ids = _ids(record, ctx, gen)
        arrival_s = _seconds(record.get("disagg_server_arrival_time"))
        times = RequestTimes("", arrival_s, _phase(_timing(ctx)), _phase(_timing(gen)))
        if ids:
            yield _Part(ids, "disagg", times)
    elif isinstance(record.get("perf_metrics"), Mapping) and (ids := _ids(record)):
        yield _of_worker(ids, str(record.get("server", "")), _timing(record))


def _of_worker(ids: frozenset[tuple[str, str]], server: str, timing: Mapping[str, Any]) -> _Part:
    """A worker's own record. Which kind of worker it is, its folder or name says; else a record with a transfer is of
    the server that it went to."""
    phase, nothing = _phase(timing), PhaseTimes()
    if server[:3] == "ctx" or (server[:3] != "gen" and phase.transfer_s is None):
        return _Part(ids, "ctx", RequestTimes("", None, phase, nothing))
    return _Part(ids, "gen", RequestTimes("", None, nothing, phase))


def _of_phases(record: Json, phases: Mapping[str, Any]) -> Iterator[_Part]:
    """The form with ``phases`` and ``schema_version`` 1, before records got the form of ``/perf_metrics`` again."""
    ctx, gen, disagg = _object(phases, "ctx"), _object(phases, "gen"), _object(phases, "disagg")
    ids = _ids(record, ctx, gen)
    if not ids:
        return
    if "server" in phases:
        yield _of_worker(ids, str(record.get("server", "")), _object(_object(phases, "server"), "timing_metrics"))
        return
    arrival = _object(disagg, "timing_metrics").get("server_arrival_time", disagg.get("arrival_time"))
    first, second = (_phase(_object(phase, "timing_metrics")) for phase in (ctx, gen))
    yield _Part(ids, "disagg", RequestTimes("", _seconds(arrival), first, second))


def _of_answer(record: Json) -> _Part:
    """Headers of an answer, or the event of a stream: durations in ms, instants in s, by phase. A value that stands
    there twice is the same both times."""
    sent = record["times"]
    lasted = _read_list(sent.get(TIMING), ";dur=")
    at = _read_list(sent.get(INSTANTS), ";ts=")

    def phase(name: str) -> PhaseTimes:
        arrival_s = at.get(f"{name}-start")

        def after(part: str) -> float | None:
            duration = lasted.get(f"{name}_{part}")
            return None if arrival_s is None or duration is None else arrival_s + duration / 1000

        transfer = lasted.get(f"{name}_kv_transfer")
        return PhaseTimes(
            arrival_s,
            after("queue"),
            after("ttft"),
            at.get(f"{name}-end"),
            None if transfer is None else transfer / 1000,
        )

    router = lasted.get("disagg_queue")
    times = RequestTimes(
        "", at.get("disagg-start"), phase("ctx"), phase("gen"), None if router is None else router / 1000
    )
    return _Part(frozenset({("answer", str(record.get("request")))}), "disagg", times)


def _read_list(text: object, separator: str) -> dict[str, float]:
    """``ctx_queue;dur=1.25, ctx_ttft;dur=8.5`` by name; what is no number is left out."""
    values: dict[str, float] = {}
    for item in text.split(",") if isinstance(text, str) else ():
        name, found, number = item.strip().partition(separator)
        try:
            value = float(number) if found else math.nan
        except ValueError:
            continue
        if abs(value) <= LONGEST_S * 1000:
            values.setdefault(name, value)
    return values


def _phase(timing: Mapping[str, Any]) -> PhaseTimes:
    start_s, end_s = _seconds(timing.get("kv_cache_transfer_start")), _seconds(timing.get("kv_cache_transfer_end"))
    return PhaseTimes(
        _seconds(timing.get("arrival_time")),
        _seconds(timing.get("first_scheduled_time")),
        _seconds(timing.get("first_token_time")),
        _seconds(timing.get("last_token_time")),
        None if start_s is None or end_s is None else end_s - start_s,
    )


def _seconds(value: object) -> float | None:
    """An instant; what did not happen is null, missing, or 0, a duration that nobody set."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < abs(value) <= LONGEST_S:
        return None
    return float(value)


def _ids(*records: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """What a record, and the workers' records in it, may be joined by."""
    return frozenset(
        (kind, str(value))
        for record in records
        for kind in ("disagg_request_id", CTX_ID)
        if isinstance(value := record.get(kind), (int, str)) and not isinstance(value, bool)
    )


def _timing(worker: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(_object(worker, "perf_metrics"), "timing_metrics")


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def trim_record(line: bytes) -> Json:
    """One line of a JSONL file without the lists of single steps, which are nearly all of it.

    Raises:
        msgspec.DecodeError (a ValueError): no JSON object.
    """
    record = msgspec.json.decode(line, type=dict[str, Any])
    parts = [record, _object(record, "ctx_perf_metrics"), _object(record, "gen_perf_metrics")]
    parts += [part for part in _object(record, "phases").values() if isinstance(part, Mapping)]
    for part in parts:
        if isinstance(part, dict):
            part.pop("time_breakdown_metrics", None)
            part.pop("metrics_headers", None)
    return record
