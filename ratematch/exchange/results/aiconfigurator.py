"""Reads AIConfigurator's CSV (``pareto.csv``, ``best_config_topn.csv``) as rows of a rate table.

Its figures are predicted by a model of the servers: they become tables for ``ratematch match``, marked in every row,
and never enter a store of measurements.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace

from ratematch.errors import UserError
from ratematch.exchange.results.foreign import number
from ratematch.match.table import TableRow
from ratematch.plan.parallelism import Parallelism

DISAGG = ("(p)seq/s/worker", "(d)seq/s/worker", "(p)tp", "(d)tp")
AGG = ("tokens/s", "tokens/s/user", "tp")


def is_table(header: list[str]) -> bool:
    """Is this one of AIConfigurator's tables, by its columns?"""
    return set(DISAGG) <= set(header) or {*AGG, "moe_tp", "bs"} <= set(header)


def read_rates(text: str, file: str) -> list[TableRow]:
    """The rows of a table, each distinct server once, numbered anew from 2 (the header is row 1).

    A disaggregated row gives a ctx row ((p)seq/s/worker) and a gen row; ``tok_s`` of the latter is (d)seq/s/worker x
    OSL, so that matching divides it back to the same requests/s.

    Raises:
        UserError: not such a table, or a row that is none.
    """
    reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
    header = [name.strip() for name in reader.fieldnames or []]
    if not is_table(header):
        raise UserError(f"{file}: no columns of AIConfigurator: {', '.join(DISAGG)}, or {', '.join(AGG)}")
    disagg = set(DISAGG) <= set(header)
    rates: list[TableRow] = []
    for place, cells in enumerate(reader, 2):
        row = {(key or "").strip(): value for key, value in cells.items() if isinstance(value, str)}
        where = f"{file}: row {place}"
        rates += [_ctx(row, where), _gen(row, where)] if disagg else [_ifb(row, where)]
    if not rates:
        raise UserError(f"{file}: no row below the header")
    distinct = {repr(rate): rate for rate in rates}
    return [replace(rate, row=place) for place, rate in enumerate(distinct.values(), 2)]


def _need(row: Mapping[str, str], key: str, where: str) -> float:
    value = number(row, key, where)
    if value is None:
        raise UserError(f"{where}: no {key}")
    return value


def _mapping(row: Mapping[str, str], prefix: str, where: str) -> Parallelism:
    """AIConfigurator's ranks: attention tp x dp, experts moe_tp x moe_ep, of the same GPUs, times pp (and cp)."""
    tp, dp = int(_need(row, f"{prefix}tp", where)), int(number(row, f"{prefix}dp", where) or 1)
    pp, cp = int(number(row, f"{prefix}pp", where) or 1), int(number(row, f"{prefix}cp", where) or 1)
    ep = int(number(row, f"{prefix}moe_ep", where) or 1)
    # TensorRT-LLM's attention DP runs on the tensor-parallel ranks: dp ways are a tp of as many ranks.
    return Parallelism(tp=tp * dp, pp=pp, cp=cp, ep=ep, attention_dp=dp > 1)


def _extra(row: Mapping[str, str], prefix: str) -> dict[str, str]:
    system = row.get(f"{prefix}system", "")
    return {
        "origin": "AIConfigurator",
        "predicted": "true",
        "model": row.get("model", ""),
        "gpu": system.split("_")[0],
        "backend": " ".join(filter(None, (row.get(f"{prefix}backend", ""), row.get(f"{prefix}version", "")))),
    }


def _length(row: Mapping[str, str], key: str, where: str) -> int | None:
    value = number(row, key, where)
    return None if value is None else int(value)


def _ctx(row: Mapping[str, str], where: str) -> TableRow:
    mapping = _mapping(row, "(p)", where)
    return TableRow(
        0,
        "ctx",
        mapping.label,
        mapping.gpus,
        isl=_length(row, "isl", where),
        concurrency=_batch(row, "(p)", where),
        req_s=_need(row, "(p)seq/s/worker", where),
        ttft_ms=number(row, "ttft", where),
        extra=_extra(row, "(p)"),
    )


def _gen(row: Mapping[str, str], where: str) -> TableRow:
    mapping = _mapping(row, "(d)", where)
    osl, batch = int(_need(row, "osl", where)), _batch(row, "(d)", where)
    if batch is None:
        raise UserError(f"{where}: no (d)global_bs and no (d)bs: at which concurrency?")
    return TableRow(
        0,
        "gen",
        mapping.label,
        mapping.gpus,
        isl=_length(row, "isl", where),
        osl=osl,
        concurrency=batch,
        tok_s=_need(row, "(d)seq/s/worker", where) * osl,
        tpot_ms=number(row, "tpot", where),
        extra=_extra(row, "(d)"),
    )


def _ifb(row: Mapping[str, str], where: str) -> TableRow:
    mapping = _mapping(row, "", where)
    return TableRow(
        0,
        "ifb",
        mapping.label,
        mapping.gpus,
        isl=_length(row, "isl", where),
        osl=_length(row, "osl", where),
        concurrency=_need(row, "concurrency", where),
        req_s=number(row, "seq/s", where),
        tok_s=_need(row, "tokens/s", where),
        tpot_ms=number(row, "tpot", where),
        ttft_ms=number(row, "ttft", where),
        extra=_extra(row, ""),
    )


def _batch(row: Mapping[str, str], prefix: str, where: str) -> float | None:
    """Requests of one worker: over all its attention-DP ranks."""
    whole = number(row, f"{prefix}global_bs", where)
    if whole is not None:
        return whole
    per_rank = number(row, f"{prefix}bs", where)
    return None if per_rank is None else per_rank * (number(row, f"{prefix}dp", where) or 1)
