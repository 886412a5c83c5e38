"""What several senders left of one load, as one result on one clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ratematch.errors import UserError
from ratematch.loadgen.clocks import boot_id, wall_offset_ns
from ratematch.loadgen.loadresult import LoadResult
from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.columns import Columns, join, shifted
from ratematch.store.records import read_columns


@dataclass(frozen=True)
class SenderResult:
    """What one sender leaves beside its records, in ``result-<i>.json``.

    Instants are ns of the monotonic clock of the sender's machine, ``wall_start_ns`` is Unix time at ``start_ns``.
    ``boot``: tells machines apart; ``clock_ns``: wall clock minus monotonic clock there. ``notes``: on
    the cores of its machine.
    """

    start_ns: int
    end_ns: int
    wall_start_ns: int
    aborted: str | None
    health: ClientHealth
    boot: str
    clock_ns: int
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return max(1, self.end_ns - self.start_ns) / 1e9

    def shifted(self, shift_ns: int) -> SenderResult:
        """The same on a monotonic clock that shows ``shift_ns`` more."""
        return replace(self, start_ns=self.start_ns + shift_ns, end_ns=self.end_ns + shift_ns)


def read_result(path: Path) -> SenderResult:
    content = json.loads(path.read_text())
    return SenderResult(**{**content, "health": ClientHealth(**content["health"])})


def merge_results(folder: Path, label: str, present: Sequence[int], lost: Sequence[int]) -> LoadResult:
    """The result of the load called ``label`` from what the senders ``present`` left in ``folder``.

    Raises:
        UserError: there is none.
    """
    if not present:
        raise UserError(f"every sender of {label} ended without a result")
    here, clock_ns = boot_id(), wall_offset_ns()
    records: list[Columns] = []
    warmup: list[Columns] = []
    results: list[SenderResult] = []
    other_hosts = set()
    for index in present:
        result = read_result(folder / f"result-{index}.json")
        shift_ns = 0
        if result.boot != here:  # another machine: its monotonic clock counts from another instant
            other_hosts.add(result.boot)
            shift_ns = result.clock_ns - clock_ns
        results.append(result.shifted(shift_ns))
        for into, kind in ((records, "records"), (warmup, "warmup")):
            into.append(shifted(read_columns(folder / f"{kind}-{index}.parquet"), shift_ns))
    aborted = [result.aborted for result in results if result.aborted]
    aborted = [f"{len(lost)} of {len(present) + len(lost)} senders ended without a result"] if lost else aborted
    first = min(results, key=lambda result: result.start_ns)
    notes: tuple[str, ...] = ()
    if other_hosts:
        notes = (
            f"senders on {len(other_hosts)} other machines: their instants are as exact as the wall clocks agree",
        )
    measured = _in_order(records)
    return LoadResult(
        warmup=_in_order(warmup),
        records=measured,
        start_ns=first.start_ns,
        end_ns=max(result.end_ns for result in results),
        wall_start_ns=first.wall_start_ns,
        health=_merge_health(results, measured),
        aborted=aborted[0] if aborted else None,
        notes=(*notes, *dict.fromkeys(note for result in results for note in result.notes)),
    )


def _in_order(parts: Sequence[Columns]) -> Columns:
    together = join(parts)
    return together.take(np.argsort(together.ints("seq"), kind="stable"))


def _merge_health(results: Sequence[SenderResult], records: Columns) -> ClientHealth:
    senders = [result.health for result in results]
    seconds = [result.seconds for result in results]
    sent = records.known("sent_ns")
    lags_ms = (records.ints("sent_ns") - records.ints("intended_ns"))[sent] / 1e6
    longest = max(seconds)
    return ClientHealth(
        cpu_share=sum(health.cpu_share * own for health, own in zip(senders, seconds, strict=True)) / longest,
        loop_lag_p99_ms=max(health.loop_lag_p99_ms for health in senders),
        loop_lag_max_ms=max(health.loop_lag_max_ms for health in senders),
        max_in_flight=sum(health.max_in_flight for health in senders),
        mean_in_flight=sum(h.mean_in_flight * own for h, own in zip(senders, seconds, strict=True)) / longest,
        late_sends=sum(health.late_sends for health in senders),
        late_ms=senders[0].late_ms,
        send_lag_p99_ms=float(np.percentile(lags_ms, 99)) if len(lags_ms) else None,
        at_transport=all(health.at_transport for health in senders),
        event_loop=senders[0].event_loop,
        processes=len(senders),
        decode_cpu_s=sum(health.decode_cpu_s for health in senders),
        kernel_stamped=min(health.kernel_stamped for health in senders),
    )
