"""What several senders left of one load, as one result on one clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ratematch.errors import UserError
from ratematch.loadgen.clocks import boot_id, wall_offset_ns
from ratematch.loadgen.loadresult import LoadResult
from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.records import RequestRecord
from ratematch.store.records import read_records

_INSTANTS = ("intended_ns", "sent_ns", "first_token_ns", "last_token_ns", "end_ns")


def merge_results(folder: Path, label: str, present: Sequence[int], lost: Sequence[int]) -> LoadResult:
    """The result of the load called ``label`` from what the senders ``present`` left in ``folder``.

    Raises:
        UserError: there is none.
    """
    if not present:
        raise UserError(f"every sender of {label} ended without a result")
    here, clock_ns = boot_id(), wall_offset_ns()
    records: list[RequestRecord] = []
    warmup: list[RequestRecord] = []
    results: list[dict[str, Any]] = []
    other_hosts = set()
    for index in present:
        result = json.loads((folder / f"result-{index}.json").read_text())
        shift_ns = 0
        if result["boot"] != here:  # another machine: its monotonic clock counts from another instant
            other_hosts.add(result["boot"])
            shift_ns = result["clock_ns"] - clock_ns
        for name in ("start_ns", "end_ns"):
            result[name] += shift_ns
        results.append(result)
        for into, kind in ((records, "records"), (warmup, "warmup")):
            into += [_shift(each, shift_ns) for each in read_records(folder / f"{kind}-{index}.parquet")]
    for some in (records, warmup):
        some.sort(key=lambda record: record.seq)
    aborted = [result["aborted"] for result in results if result["aborted"]]
    aborted = [f"{len(lost)} of {len(present) + len(lost)} senders ended without a result"] if lost else aborted
    first = min(results, key=lambda result: int(result["start_ns"]))
    notes: tuple[str, ...] = ()
    if other_hosts:
        notes = (
            f"senders on {len(other_hosts)} other machines: their instants are as exact as the wall clocks agree",
        )
    return LoadResult(
        warmup=warmup,
        records=records,
        start_ns=first["start_ns"],
        end_ns=max(result["end_ns"] for result in results),
        wall_start_ns=first["wall_start_ns"],
        health=_merge_health(results, records),
        aborted=aborted[0] if aborted else None,
        notes=notes,
    )


def _merge_health(results: Sequence[dict[str, Any]], records: Sequence[RequestRecord]) -> ClientHealth:
    each = [ClientHealth(**result["health"]) for result in results]
    seconds = [max(1, result["end_ns"] - result["start_ns"]) / 1e9 for result in results]
    lags_ms = [(r.sent_ns - r.intended_ns) / 1e6 for r in records if r.sent_ns is not None]
    longest = max(seconds)
    return ClientHealth(
        cpu_share=sum(health.cpu_share * own for health, own in zip(each, seconds, strict=True)) / longest,
        loop_lag_p99_ms=max(health.loop_lag_p99_ms for health in each),
        loop_lag_max_ms=max(health.loop_lag_max_ms for health in each),
        max_in_flight=sum(health.max_in_flight for health in each),
        mean_in_flight=sum(h.mean_in_flight * own for h, own in zip(each, seconds, strict=True)) / longest,
        late_sends=sum(health.late_sends for health in each),
        late_ms=each[0].late_ms,
        send_lag_p99_ms=float(np.percentile(lags_ms, 99)) if lags_ms else None,
        at_transport=all(health.at_transport for health in each),
        event_loop=each[0].event_loop,
        processes=len(each),
        decode_cpu_s=sum(health.decode_cpu_s for health in each),
        kernel_stamped=min(health.kernel_stamped for health in each),
    )


def _shift(record: RequestRecord, shift_ns: int) -> RequestRecord:
    if not shift_ns:
        return record
    moved = {name: value + shift_ns for name in _INSTANTS if (value := getattr(record, name)) is not None}
    return replace(record, **moved, chunk_ns=[instant + shift_ns for instant in record.chunk_ns])
