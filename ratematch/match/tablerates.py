"""Rows of a table as the configurations that matching takes: ctx and gen with their rates, aggregated servers.

``tok_s`` of a table is output tokens/s, and a request asks OSL of them: R_g = T / OSL (published tables count so).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ratematch.errors import Problem, TableError
from ratematch.match.curves import make_curve
from ratematch.match.matching import Ctx, Gen
from ratematch.match.noise import Noise, noise_of_mean, pool_noise
from ratematch.match.objective import per_gpu
from ratematch.match.options import CtxOption, CtxRow, GenOption, keep_capacities, own_limit_ms, read_ctx_row
from ratematch.match.packing import allocated_gpus
from ratematch.match.points import Point
from ratematch.match.question import Question
from ratematch.match.table import TableRow, describe_rows

NO_CTX = "no ctx row is within"


@dataclass(frozen=True)
class TableCtx:
    """A ctx configuration of a table, with its rows. ``capable``: those that may be its capacities."""

    option: CtxOption
    rows: tuple[TableRow, ...]
    capable: tuple[CtxRow, ...]

    @property
    def loads_known(self) -> bool:
        """Whether the table says how many prompts were in flight: else no TTFT is known."""
        return self.capable[0].latency_s is not None


@dataclass(frozen=True)
class TableGen:
    """A gen configuration of a table, with its rows by ascending concurrency."""

    option: GenOption
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class TableIfb:
    """An aggregated server of a table as a point over the GPUs that count; its TPOT may be derived."""

    row: TableRow
    point: Point


@dataclass(frozen=True)
class TableNoise:
    """Noise of the rates of a table. ``one_run``: pooled over all its repeats, ``None`` without any that differ."""

    one_run: Noise | None

    def of(self, row: TableRow) -> Noise | None:
        """Of the mean that ``row`` is."""
        return None if self.one_run is None else noise_of_mean(len(row.rows), self.one_run, [None])


def read_noise(rows: Iterable[TableRow]) -> TableNoise:
    """The noise that the repeats of a table show; a table has few, so that of all its roles is one."""
    pooled = pool_noise([row.spread for row in rows if row.spread])
    return TableNoise(pooled if pooled is not None and pooled.rel > 0 else None)


def read_ctx(
    rows: Sequence[TableRow], question: Question, noise: TableNoise, name: str, notes: list[str]
) -> list[TableCtx]:
    """The ctx configurations with a row within the TTFT limit.

    A configuration is known up to its row with most requests/s: more prompts in flight than there are overload.
    Prompts in flight are the concurrency, else requests/s x TTFT; where a row has neither, that one row counts alone.

    Raises:
        TableError: a TTFT limit is given, and rows without a TTFT cannot be held to it.
    """
    limit_ms = question.ttft_ms
    if limit_ms is not None and (unknown := [row.row for row in rows if row.ttft_ms is None]):
        where = f"{name}: {describe_rows(unknown)}"
        raise TableError([Problem(where, "no ttft_ms, so --ttft-ms cannot be judged", "fill it in")])
    options = []
    for group in _by_configuration(rows):
        own_ms = own_limit_ms(question.constraints, len({_prompts(row) for row in group}))
        allowed = [row for row in group if own_ms is None or (row.ttft_ms or 0) <= own_ms]
        if allowed:
            options.append(_read_ctx(group, allowed, noise))
    if rows and not options:
        notes.append(f"{NO_CTX} TTFT {limit_ms:g} ms")
    return options


def _read_ctx(group: Sequence[TableRow], allowed: Sequence[TableRow], noise: TableNoise) -> TableCtx:
    best = max(allowed, key=lambda row: row.rate)
    most = _prompts(best)
    if most is None or any(_prompts(row) is None for row in group):
        curve = make_curve([(1.0, best.rate)])
        capable = [CtxRow(best.rate, None, 0.0, noise.of(best))]
    else:
        curve = make_curve([(load, row.rate) for row in group if (load := _prompts(row) or 0) <= most])
        capable = [
            read_ctx_row(curve, load, (row.ttft_ms or 1000 * load / row.rate) / 1000, noise.of(row))
            for row in allowed
            if (load := _prompts(row) or 0) <= most
        ]
    option = CtxOption(_source(best), best.label, best.mtp, Ctx(best.gpus, curve, ()))
    return TableCtx(option, tuple(group), tuple(capable))


def _prompts(row: TableRow) -> float | None:
    """Prompts in flight of a ctx row."""
    if row.concurrency is not None or row.ttft_ms is None:
        return row.concurrency
    return row.rate * row.ttft_ms / 1000


def list_options(ctx: Iterable[TableCtx]) -> list[CtxOption]:
    """Every ctx configuration with all its rows that none of its own beats."""
    kept = (keep_capacities([(configuration.option, configuration.capable)]) for configuration in ctx)
    return [option for options in kept for option in options]


def keep_options(ctx: Iterable[TableCtx]) -> list[CtxOption]:
    """The ctx configurations that a front needs: :func:`ratematch.match.pairs.keep_capacities` of all of them."""
    return keep_capacities([(configuration.option, configuration.capable) for configuration in ctx])


def read_gen(
    rows: Sequence[TableRow], osl: int, noise: TableNoise, notes: list[str], piece_s: float = 0.0
) -> list[TableGen]:
    """Gen rows by configuration; a curve that falls, or has one point only, is said in ``notes``.

    ``piece_s``: what posting one of a row's ``kv_pieces`` takes of a gen server in service, s.
    """
    options = []
    for group in _by_configuration(_tell_apart(rows)):
        group.sort(key=lambda row: row.concurrency or 0)
        first = group[0]
        curve = make_curve([(row.concurrency or 0.0, row.rate) for row in group])
        falling = [b.row for a, b in pairwise(group) if b.rate < a.rate]
        if falling:
            notes.append(
                f"{describe_rows(falling)}: tok/s of gen {first.label} falls as concurrency grows; pooled to level"
            )
        if len(group) == 1:
            notes.append(
                f"{describe_rows(first.rows)}: one point only of gen {first.label}; what ctx limits cannot be read "
                "below it"
            )
        option = GenOption(
            source=_source(first),
            label=first.label,
            mtp=first.mtp,
            rates=Gen(first.gpus, curve, float(osl), (first.kv_pieces or 0) * piece_s),
            loads=curve.loads,
            tail=(1.0,) * len(curve.loads),
            noise=tuple(noise.of(row) for row in group),
            tokens_from_ctx=0,
        )
        options.append(TableGen(option, tuple(group)))
    return options


def _tell_apart(rows: Iterable[TableRow]) -> list[TableRow]:
    """gen rows whose label names their pieces where configurations differ in nothing else."""
    rows = list(rows)
    pieces: dict[tuple[str, int, int | None], set[int | None]] = {}
    for row in rows:
        pieces.setdefault((row.label, row.gpus, row.mtp), set()).add(row.kv_pieces)
    return [
        replace(row, label=f"{row.label} ({row.kv_pieces} pieces)")
        if len(pieces[row.label, row.gpus, row.mtp]) > 1
        else row
        for row in rows
    ]


def read_ifb(rows: Sequence[TableRow], question: Question, osl: int, notes: list[str]) -> list[TableIfb]:
    """Aggregated servers within the limits; what was derived, or left out, is said in ``notes``."""
    servers: list[TableIfb] = []
    numbers: dict[str, list[int]] = {"derived": [], "unjudged": [], "over": [], "large": []}
    for row in rows:
        assert row.concurrency is not None  # read_table() saw to it
        if question.objective == "tok_s_in_budget" and row.gpus > question.budget_gpus:
            numbers["large"] += row.rows
            continue
        if row.tpot_ms is None:
            numbers["derived"] += row.rows
        tpot_ms = row.tpot_ms or 1000 * row.concurrency / row.rate
        if question.ttft_ms is not None and row.ttft_ms is None:
            numbers["unjudged"] += row.rows
        elif _over(row.ttft_ms, question.ttft_ms) or _over(tpot_ms, question.tpot_ms):
            numbers["over"] += row.rows
        else:
            servers.append(TableIfb(row, _ifb_point(row, tpot_ms, question, osl)))
    for kind, text in (
        ("derived", "no tpot_ms, read as concurrency / tok_s, which counts TTFT into it"),
        ("unjudged", "no ttft_ms, so not judged by --ttft-ms and left out"),
        ("over", "ifb over a limit, not on the front"),
        ("large", f"ifb on more than the budget of {question.max_gpus} GPUs, not on the front"),
    ):
        if numbers[kind]:
            notes.append(f"{describe_rows(numbers[kind])}: {text}")
    return servers


def _over(value_ms: float | None, limit_ms: float | None) -> bool:
    return limit_ms is not None and (value_ms or 0) > limit_ms


def _ifb_point(row: TableRow, tpot_ms: float, question: Question, osl: int) -> Point:
    """An aggregated server over the GPUs that count. TTFT is 0 when the table does not say."""
    concurrency, ttft_ms = row.concurrency or 0.0, row.ttft_ms or 0.0
    req_s = row.rate / osl
    point = Point(
        kind="ifb",
        workload=f"OSL {osl}",
        label=row.label,
        ctx=0,
        gen=0,
        ctx_mapping=None,
        gen_mapping=row.label,
        mtp=row.mtp or 0,
        gpus=row.gpus,
        concurrency=concurrency,
        req_s=req_s,
        tok_s=row.rate,
        tok_s_user=1000 / tpot_ms,
        tok_s_gpu=row.rate / row.gpus,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        little=concurrency / (req_s * (ttft_ms + (osl - 1) * tpot_ms) / 1000) if row.ttft_ms else 1.0,
        osl=osl,
        sources=(_source(row),),
    )
    packing = question.packing
    return per_gpu(point, question, row.gpus if packing is None else allocated_gpus(row.gpus, packing))


def _by_configuration(rows: Iterable[TableRow]) -> list[list[TableRow]]:
    groups: dict[tuple[str, int, int | None], list[TableRow]] = {}
    for row in rows:
        groups.setdefault((row.label, row.gpus, row.mtp), []).append(row)
    return list(groups.values())


def _source(row: TableRow) -> str:
    return f"{row.role} {describe_rows(row.rows)}"
