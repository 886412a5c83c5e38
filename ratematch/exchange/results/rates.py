"""Loads of other tools as rows of a table of rates for ``ratematch match``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ratematch.errors import UserError
from ratematch.exchange.results.convert import measure
from ratematch.exchange.results.detect import read_files
from ratematch.exchange.results.foreign import ForeignLoad, ForeignRole, Hints, Servers, lay_over
from ratematch.exchange.results.loadchecks import list_contradictions, list_findings
from ratematch.match.table import COLUMNS, TableRow, check_row
from ratematch.measure.measurement import Measurement

EXTRA = ("origin", "predicted", "emulated", "model", "gpu", "backend")
"""Further columns of such a table, in this order; ``ratematch match`` keeps them."""
FIRST_ROW = 2
"""Rows are numbered as in spreadsheets: the header is row 1."""


def import_rates(paths: Sequence[Path], given: Hints, role: ForeignRole | None) -> tuple[list[TableRow], list[str]]:
    """Rows of a rate table from ``paths``, and notes on what was left out. ``given`` replaces what the files say.

    ``role``: of servers measured alone; aggregated servers are ``ifb`` by themselves.

    Raises:
        UserError: the only file is of no known tool, or nothing in them fits a table of rates.
    """
    table: list[TableRow] = []
    notes: list[str] = []
    for _, loads, rows in read_files(paths):
        table += rows
        for load in loads:
            hints = lay_over(load.hints, given)
            rate, findings = _rate(load, hints, role)
            if isinstance(rate, str):
                notes.append(f"{load.where}: left out: {rate}")
            else:
                table.append(rate)
                notes += [f"{load.where}: {finding}" for finding in findings]
            notes += [f"{load.where}: not in the file: {name}" for name in load.missing]
    if not table:
        raise UserError("no row for a rate table: " + ("; ".join(notes) or "the files hold none"))
    return [replace(row, row=place) for place, row in enumerate(table, FIRST_ROW)], notes


def _rate(load: ForeignLoad, hints: Hints, role: ForeignRole | None) -> tuple[TableRow | str, tuple[str, ...]]:
    """One load as a row that has no number yet, or why it is none; and what a person should know of it."""
    if load.refused:
        return load.refused, ()
    if contradictions := list_contradictions(load, hints, role):
        return "; ".join(contradictions), ()
    servers, own = hints.agg, role or ("ifb" if hints.agg else None)
    if own in ("ctx", "gen"):
        servers = hints.ctx if own == "ctx" else hints.gen
    if servers is None and role is None and (load.gen_gpus or (hints.ctx and hints.gen)):
        return "a disaggregated deployment is no row of a table of rates: import it with --into", ()
    if servers is None or own is None:
        return "which servers? say --stage ctx, gen or ifb with --ctx, --gen or --agg", ()
    if load.figures is None and not (hints.concurrency or hints.request_rate):
        return "at which load? say --concurrency or --request-rate", ()
    figures = measure(load, hints)
    if not figures.valid:
        return "not valid: " + "; ".join(figures.reasons), ()
    row = _make_row(load, hints, servers, own, figures)
    if problems := check_row(row):
        return "; ".join(problems), ()
    return row, list_findings(figures)


def _make_row(load: ForeignLoad, hints: Hints, servers: Servers, own: ForeignRole, figures: Measurement) -> TableRow:
    """The rates of one of the servers. A TPOT of 0, of servers that decode nothing, is none."""
    one = servers.instances
    return TableRow(
        0,
        own,
        servers.label,
        servers.mapping.gpus,
        isl=None if hints.isl is None else round(hints.isl),
        osl=None if hints.osl is None else round(hints.osl),
        concurrency=None if hints.concurrency is None else hints.concurrency / one,
        req_s=None if figures.req_s is None else figures.req_s / one,
        tok_s=None if figures.tok_s is None or own == "ctx" else figures.tok_s / one,
        tpot_ms=(figures.tpot_ms.mean or None) if figures.tpot_ms else None,
        ttft_ms=figures.ttft_ms.mean if figures.ttft_ms else None,
        mtp=hints.mtp,
        extra={
            "origin": load.tool,
            "predicted": "false",
            "emulated": "" if hints.emulated is None else str(hints.emulated).lower(),
            "model": hints.model or "",
            "gpu": hints.gpu or "",
        },
    )


def rates_to_rows(rates: Iterable[TableRow]) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """(columns, rows) of the table: the known ones first, then what is kept beside them."""
    listed = list(rates)
    extra = [name for name in EXTRA if any(name in rate.extra for rate in listed)]
    rows = [
        {name: _cell(getattr(rate, name)) for name in COLUMNS} | {name: rate.extra.get(name, "") for name in extra}
        for rate in listed
    ]
    return (*COLUMNS, *extra), rows


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
