"""Measured loads and their requests as flat rows: one row a thing, one column a figure, units in the names.

An undefined figure is ``None`` or NaN. Rows of loads and of requests both have their ``origin``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ratematch.measure import metrics
from ratematch.measure.measured import Measured
from ratematch.measure.records import RequestRecord
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.store import layout
from ratematch.store.damage import Damage, readable
from ratematch.store.folder import Results, StoredLoad

STATS = ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "send_lag_ms")
RATES = ("tok_s_user", "tok_s", "req_s", "tok_s_run", "req_s_run", "isl_mean", "osl_mean", "in_flight", "little")


def find_records(results: Results) -> dict[tuple[str, Load], StoredLoad]:
    """Loads with records by (experiment id, load); those without any (imported figures) are not in it."""
    return {
        (experiment.experiment.id, stored.load): stored
        for experiment in results.now().experiments
        for stored in experiment.loads
        if stored.has(layout.RECORDS)
    }


def request_rows(results: Results, measured: Sequence[Measured], damaged: list[Damage]) -> Iterator[dict[str, Any]]:
    """One row a request of every load in ``measured`` that has records, failed ones too: latencies in ms, ``counted``
    when it ended in the steady window.

    Records that cannot be used are left out; ``damaged`` has them.
    """
    loads = find_records(results)
    for row in measured:
        stored = loads.get((row.experiment.id, row.load))
        records = readable(stored.records, damaged) if stored is not None else None
        if records is not None:
            yield from _request_rows(row, records)


def load_row(row: Measured) -> dict[str, Any]:
    """A measured load: the load itself, rates, latencies (mean, p50, p99 in ms), verdict."""
    experiment, figures = row.experiment, row.measurement
    columns: dict[str, Any] = {
        "stage": experiment.stage,
        "workload": experiment.workload.label,
        "deployment": experiment.deployment.label,
        "mtp": experiment.deployment.mtp,
        "gpus": experiment.deployment.gpus,
        "load": row.load.label,
        "concurrency": row.load.concurrency if isinstance(row.load, Concurrency) else None,
        "request_rate": row.load.req_s if isinstance(row.load, Rate) else None,
        "valid": figures.valid,
        "reasons": "; ".join(figures.reasons),
        "warnings": "; ".join(figures.warnings),
        "num_requests": figures.num_requests,
        "num_failed": figures.num_failed,
        **{name: getattr(figures, name) for name in RATES},
        "tok_s_gpu": figures.tok_s / experiment.deployment.gpus if figures.tok_s else None,
        "acceptance_length": figures.acceptance_length,
    }
    for name in STATS:
        stats = getattr(figures, name)
        for which in ("mean", "p50", "p99"):
            columns[f"{name.removesuffix('_ms')}_{which}_ms"] = getattr(stats, which) if stats else None
    return columns | {"emulated": experiment.emulated, "origin": experiment.origin, "experiment": experiment.id}


def _request_rows(row: Measured, records: Sequence[RequestRecord]) -> list[dict[str, Any]]:
    since: metrics.Since = "sent" if isinstance(row.load, Concurrency) else "intended"
    window = row.measurement.window
    columns = {
        "ttft_ms": metrics.ttft_ms(records, since),
        "tpot_ms": metrics.tpot_ms(records),
        "e2el_ms": metrics.e2el_ms(records, since),
        "send_lag_ms": metrics.send_lag_ms(records),
    }
    return [
        {
            "stage": row.experiment.stage,
            "deployment": row.experiment.deployment.label,
            "load": row.load.label,
            "seq": record.seq,
            "outcome": record.outcome,
            "isl": record.isl,
            "osl": record.osl,
            **{name: float(values[k]) for name, values in columns.items()},
            "counted": metrics.is_complete(record)
            and window is not None
            and record.end_ns is not None
            and window.start_ns < record.end_ns <= window.end_ns,
            "emulated": row.experiment.emulated,
            "origin": row.experiment.origin,
        }
        for k, record in enumerate(records)
    ]
