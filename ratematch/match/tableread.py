"""Rows of a table to the configurations that matching takes: ctx, gen, their pairs, and aggregated servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ratematch.errors import Problem as TableProblem
from ratematch.errors import TableError
from ratematch.match.curves import Curve, make_curve
from ratematch.match.matching import Ctx, Gen
from ratematch.match.table import Asked, IfbRow, TableRow, say_rows

NO_CTX = "no ctx row is within"


@dataclass(frozen=True)
class CtxRows:
    """A ctx configuration at its best row.

    ``loaded``: requests/s over the prompts in flight, ``None`` when the table does not say how many were.
    """

    row: TableRow
    rates: Ctx[float]
    loaded: Curve[float] | None


@dataclass(frozen=True)
class GenRows:
    """A gen configuration: its rows by ascending concurrency, and their curve."""

    label: str
    mtp: int | None
    rows: tuple[TableRow, ...]
    rates: Gen[float]


Pairs = Sequence[tuple[CtxRows, GenRows]]
"""What is solved: a gen configuration with a ctx configuration that may feed it."""


def read_ctx(rows: Sequence[TableRow], asked: Asked, name: str, notes: list[str]) -> list[CtxRows]:
    """Of each ctx configuration the row with most requests/s within the TTFT limit."""
    if asked.ttft_ms is not None:
        unknown = [row.row for row in rows if row.ttft_ms is None]
        if unknown:
            where = f"{name}: {say_rows(unknown)}"
            raise TableError([TableProblem(where, "no ttft_ms, so --ttft-ms cannot be judged", "fill it in")])
    allowed = [row for row in rows if asked.ttft_ms is None or (row.ttft_ms or 0) <= asked.ttft_ms]
    if rows and not allowed:
        notes.append(f"{NO_CTX} TTFT {asked.ttft_ms:g} ms")
    best: dict[tuple[str, int, int | None], TableRow] = {}
    for row in allowed:
        key = (row.label, row.gpus, row.mtp)
        if key not in best or row.rate > best[key].rate:
            best[key] = row
    return [
        CtxRows(row, Ctx(row.gpus, make_curve([(1.0, row.rate)]), (row.rate,)), _read_loaded(rows, row))
        for row in best.values()
    ]


def _read_loaded(rows: Sequence[TableRow], best: TableRow) -> Curve[float] | None:
    """The curve of a ctx configuration up to its best row. In flight: the concurrency, else requests/s x TTFT."""
    points = [
        (row.concurrency or row.rate * (row.ttft_ms or 0) / 1000, row.rate)
        for row in rows
        if (row.label, row.gpus, row.mtp) == (best.label, best.gpus, best.mtp)
    ]
    highest = next(load for load, rate in points if rate == best.rate)
    if not all(load for load, _ in points):
        return None
    return make_curve([(load, rate) for load, rate in points if load <= highest])


def read_gen(rows: Sequence[TableRow], osl: int, notes: list[str]) -> list[GenRows]:
    """Gen rows by configuration; a curve that falls, or has one point only, is told in ``notes``."""
    groups: dict[tuple[str, int, int | None], list[TableRow]] = {}
    for row in rows:
        groups.setdefault((row.label, row.gpus, row.mtp), []).append(row)
    found = []
    for (label, gpus, mtp), group in groups.items():
        group.sort(key=lambda row: row.concurrency or 0)
        curve = make_curve([(row.concurrency or 0.0, row.rate) for row in group])
        falling = [b.row for a, b in pairwise(group) if b.rate < a.rate]
        if falling:
            notes.append(f"{say_rows(falling)}: tok/s of gen {label} falls as concurrency grows; pooled to level")
        if len(group) == 1:
            notes.append(
                f"{say_rows(group[0].rows)}: one point only of gen {label}; what ctx limits cannot be read below it"
            )
        found.append(GenRows(label, mtp, tuple(group), Gen(gpus, curve, float(osl))))
    return found


def read_ifb(rows: Sequence[TableRow], asked: Asked, notes: list[str]) -> list[IfbRow]:
    """Aggregated servers within the limits; what was derived, or left out, is told in ``notes``."""
    found: list[IfbRow] = []
    derived: list[int] = []
    unjudged: list[int] = []
    over: list[int] = []
    large: list[int] = []
    for row in rows:
        assert row.concurrency is not None
        if asked.objective == "tok_s_in_budget" and row.gpus > asked.max_gpus:
            large += row.rows
            continue
        if row.tpot_ms is None:
            derived += row.rows
        tpot_ms = row.tpot_ms or 1000 * row.concurrency / row.rate
        if asked.ttft_ms is not None and row.ttft_ms is None:
            unjudged += row.rows
            continue
        if (asked.ttft_ms is not None and (row.ttft_ms or 0) > asked.ttft_ms) or (
            asked.tpot_ms is not None and tpot_ms > asked.tpot_ms
        ):
            over += row.rows
            continue
        found.append(
            IfbRow(
                label=row.label,
                mtp=row.mtp,
                gpus=row.gpus,
                concurrency=row.concurrency,
                tpot_ms=tpot_ms,
                ttft_ms=row.ttft_ms,
                tok_s_user=1000 / tpot_ms,
                tok_s=row.rate,
                tok_s_gpu=row.rate / row.gpus,
                extra=row.extra,
            )
        )
    if derived:
        notes.append(f"{say_rows(derived)}: no tpot_ms, read as concurrency / tok_s, which counts TTFT into it")
    if unjudged:
        notes.append(f"{say_rows(unjudged)}: no ttft_ms, so not judged by --ttft-ms and left out")
    if over:
        notes.append(f"{say_rows(over)}: ifb over a limit, not on the front")
    if large:
        notes.append(f"{say_rows(large)}: ifb on more than the budget of {asked.max_gpus} GPUs, not on the front")
    return found


def pair_up(ctx: Sequence[CtxRows], gen: Sequence[GenRows], notes: list[str]) -> list[tuple[CtxRows, GenRows]]:
    """Gen configurations with the ctx rows of their MTP; where there is none, with those of the nearest, and said."""
    pairs: list[tuple[CtxRows, GenRows]] = []
    assumed: dict[tuple[int, int], list[int]] = {}
    for g in gen:
        same = [c for c in ctx if c.row.mtp is None or g.mtp is None or c.row.mtp == g.mtp]
        if not same and ctx:
            nearest = min((abs((c.row.mtp or 0) - (g.mtp or 0)), c.row.mtp or 0) for c in ctx)[1]
            same = [c for c in ctx if (c.row.mtp or 0) == nearest]
            assumed.setdefault((nearest, g.mtp or 0), []).extend(number for row in g.rows for number in row.rows)
        pairs += [(c, g) for c in same]
    for (nearest, mtp), numbers in assumed.items():
        notes.append(f"{say_rows(numbers)}: no ctx row with mtp={mtp}; matched with mtp={nearest}, which is faster")
    return pairs
