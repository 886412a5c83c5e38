"""Reads AIConfigurator's CSV (``pareto.csv``, ``best_config_topn.csv``) as rows of a rate table.

Its figures are predicted by a model of the servers: they become tables for ``ratematch match``, marked in every row,
and never enter a store of measurements.

With encoder workers (``--enable-epd``) a row is a whole cell: ``(a)workers`` aggregated servers, or ``(p)workers``
and ``(d)workers``, with ``(e)workers`` encoders. Encoders are GPUs like others and are counted with the servers that
they feed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ratematch.errors import UserError
from ratematch.exchange.results.fields import MOST_COUNT, count, number, positive, text
from ratematch.match.table import TableRow
from ratematch.plan.parallelism import Parallelism

TOOL = "AIConfigurator"
DISAGG = ("(p)seq/s/worker", "(d)seq/s/worker", "(p)tp", "(d)tp")
AGG = ("tokens/s", "tokens/s/user", "tp")
MOST_GPUS = 100_000
APART = 0.05
"""Columns that say the same thing twice may differ by this share: they are rounded."""


def is_table(header: Sequence[str]) -> bool:
    """Is this one of AIConfigurator's tables, by its columns?"""
    return set(DISAGG) <= set(header) or {*AGG, "moe_tp", "bs"} <= set(header)


def read_line(row: Mapping[str, str], where: str) -> list[TableRow]:
    """The rates of one line, without numbers: a ctx row and a gen row, or an aggregated one.

    ``tok_s`` of a gen row is (d)seq/s/worker x OSL, so that matching divides it back to the same requests/s.

    Raises:
        UserError: not such a line, or its GPUs or rates contradict each other.
    """
    if set(DISAGG) <= set(row):
        encoders = _read_encoders(row, where)
        ctx_workers, gen_workers = (count(row, f"({role})workers", where, MOST_GPUS) or 1 for role in "pd")
        ctx, gen = _mapping(row, "(p)", where), _mapping(row, "(d)", where)
        parts = [f"{ctx_workers} x {ctx.label}", f"{gen_workers} x {gen.label}", *encoders.parts]
        _check(row, ctx_workers * ctx.gpus + gen_workers * gen.gpus + encoders.gpus, parts, where)
        return [_ctx(row, ctx, ctx_workers, encoders, where), _gen(row, gen, where)]
    return [_ifb(row, where)]


@dataclass(frozen=True)
class _Encoders:
    """Encoder workers of a cell, of ``mapping`` each."""

    workers: int
    mapping: Parallelism

    @property
    def gpus(self) -> int:
        return self.workers * self.mapping.gpus

    @property
    def parts(self) -> list[str]:
        return [f"{self.workers} x encoder {self.mapping.label}"] if self.workers else []


def _read_encoders(row: Mapping[str, str], where: str) -> _Encoders:
    workers = count(row, "(e)workers", where, MOST_GPUS) or 0
    tp, pp = (count(row, f"(e){key}", where, MOST_GPUS) for key in ("tp", "pp"))
    if workers and not tp:
        raise UserError(f"{where}: {workers} encoder workers and no (e)tp: of how many GPUs?")
    return _Encoders(workers, Parallelism(tp=tp or 1, pp=pp or 1))


def _need(row: Mapping[str, str], key: str, where: str) -> float:
    value = positive(row, key, where)
    if value is None:
        raise UserError(f"{where}: no {key}")
    return value


def _mapping(row: Mapping[str, str], prefix: str, where: str) -> Parallelism:
    """AIConfigurator's ranks: attention tp x dp, experts moe_tp x moe_ep, of the same GPUs, times pp (and cp)."""

    def ways(key: str) -> int:
        return count(row, f"{prefix}{key}", where, MOST_GPUS) or 1

    if not count(row, f"{prefix}tp", where, MOST_GPUS):
        raise UserError(f"{where}: no {prefix}tp")
    # TensorRT-LLM's attention DP runs on the tensor-parallel ranks: dp ways are a tp of as many ranks.
    mapping = Parallelism(
        tp=ways("tp") * ways("dp"), pp=ways("pp"), cp=ways("cp"), ep=ways("moe_ep"), attention_dp=ways("dp") > 1
    )
    if mapping.gpus > MOST_GPUS:
        raise UserError(f"{where}: {prefix}tp makes {mapping.gpus} GPUs")
    return mapping


def _check(row: Mapping[str, str], gpus: int, parts: Sequence[str], where: str) -> None:
    """GPUs are the sum of the servers', and rates agree with each other.

    Raises:
        UserError: they do not.
    """
    total = count(row, "num_total_gpus", where, MOST_GPUS)
    if total is not None and total != gpus:
        raise UserError(f"{where}: num_total_gpus is {total}, and {' + '.join(parts)} make {gpus}")
    osl = positive(row, "osl", where)
    tok_s, seq_s, per_gpu = (positive(row, key, where) for key in ("tokens/s", "seq/s", "tokens/s/gpu"))
    if tok_s and per_gpu and abs(per_gpu * gpus / tok_s - 1) > APART:
        raise UserError(f"{where}: tokens/s/gpu {per_gpu:g} x {gpus} GPUs are not tokens/s {tok_s:g}")
    # Some versions count OSL - 1 tokens a request.
    if tok_s and seq_s and osl and abs(seq_s * osl / tok_s - 1) > APART + 1 / osl:
        raise UserError(f"{where}: seq/s {seq_s:g} x OSL {osl:g} are not tokens/s {tok_s:g}")
    tpot, speed = positive(row, "tpot", where), positive(row, "tokens/s/user", where)
    if tpot and speed and abs(tpot * speed / 1000 - 1) > APART:
        raise UserError(f"{where}: tokens/s/user {speed:g} and tpot {tpot:g} ms contradict each other")


def _extra(row: Mapping[str, str], prefix: str, where: str) -> dict[str, str]:
    system = text(row, f"{prefix}system", where) or ""
    backend = (text(row, f"{prefix}{key}", where) for key in ("backend", "version"))
    return {
        "origin": TOOL,
        "predicted": "true",
        "model": text(row, "model", where) or "",
        "gpu": system.split("_")[0],
        "backend": " ".join(filter(None, backend)),
    }


def _length(row: Mapping[str, str], key: str, where: str) -> int | None:
    return count(row, key, where, MOST_COUNT) or None


def _ctx(row: Mapping[str, str], mapping: Parallelism, workers: int, encoders: _Encoders, where: str) -> TableRow:
    """One context worker. Encoders have no rate of their own in the table: with them, one row is the smallest unit of
    workers and encoders in the row's proportion, at the rate that the row's deployment is predicted to have."""
    label, gpus, req_s = mapping.label, mapping.gpus, _need(row, "(p)seq/s/worker", where)
    batch = _batch(row, "(p)", where)
    if encoders.workers:
        units = math.gcd(workers, encoders.workers)
        each, feeding = workers // units, encoders.workers // units
        label = f"{each}x{mapping.label}+{feeding}xencoder-{encoders.mapping.label}"
        gpus = each * mapping.gpus + feeding * encoders.mapping.gpus
        req_s = min(each * req_s, _need(row, "seq/s", where) / units)
        batch = None if batch is None else each * batch
    return TableRow(
        0,
        "ctx",
        label,
        gpus,
        isl=_length(row, "isl", where),
        concurrency=batch,
        req_s=req_s,
        ttft_ms=positive(row, "ttft", where),
        extra=_extra(row, "(p)", where),
    )


def _gen(row: Mapping[str, str], mapping: Parallelism, where: str) -> TableRow:
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
        tpot_ms=positive(row, "tpot", where),
        extra=_extra(row, "(d)", where),
    )


def _ifb(row: Mapping[str, str], where: str) -> TableRow:
    """One aggregated worker, or a cell of several with their encoders: its rates are those of the cell."""
    mapping, encoders = _mapping(row, "", where), _read_encoders(row, where)
    workers = count(row, "(a)workers", where, MOST_GPUS) or 1
    gpus = workers * mapping.gpus + encoders.gpus
    _check(row, gpus, [f"{workers} x {mapping.label}", *encoders.parts], where)
    label = mapping.label if workers == 1 else f"{workers}x{mapping.label}"
    if encoders.workers:
        label += f"+{encoders.workers}xencoder-{encoders.mapping.label}"
    return TableRow(
        0,
        "ifb",
        label,
        gpus,
        isl=_length(row, "isl", where),
        osl=_length(row, "osl", where),
        concurrency=_need(row, "concurrency", where),
        req_s=positive(row, "seq/s", where),
        tok_s=_need(row, "tokens/s", where),
        tpot_ms=positive(row, "tpot", where),
        ttft_ms=positive(row, "ttft", where),
        extra=_extra(row, "", where),
    )


def _batch(row: Mapping[str, str], prefix: str, where: str) -> float | None:
    """Requests of one worker: over all its attention-DP ranks."""
    whole = positive(row, f"{prefix}global_bs", where)
    if whole is not None:
        return whole
    per_rank = number(row, f"{prefix}bs", where)
    return None if not per_rank else per_rank * (number(row, f"{prefix}dp", where) or 1)
