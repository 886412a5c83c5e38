"""Which measured points a calibration is given: of other deployments, or of the deployment's own other loads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ratematch.plan.parallelism import parse_mapping
from ratematch.simulate.calibration import CalibrationPoint

from .bases import Base, ctx_family, gen_family, group_of, name_of, tells_ctx
from .fit import generating, request_rate
from .table import Row

Draw = Callable[[Row, Sequence[Row], Base, np.random.Generator], list[CalibrationPoint]]
"""Points for the row, of all rows; none where they have none of that kind."""


def tpot_point(row: Row, base: Base) -> CalibrationPoint:
    return CalibrationPoint(
        f"line {row.line} TPOT",
        _server(row),
        gen_family(row),
        lambda c: -math.log(row.tpot_ms) - base.log_tpot_speed(row, c),
    )


def ctx_point(row: Row, base: Base) -> CalibrationPoint:
    return CalibrationPoint(
        f"line {row.line} ctx",
        f"{_server(row)} ctx",
        ctx_family(row),
        lambda c: math.log(request_rate(row)) - base.log_ctx_rate(row, c),
    )


def points_of(rows: Sequence[Row], base: Base) -> list[CalibrationPoint]:
    """All that ``rows`` say."""
    return [tpot_point(row, base) for row in rows] + [ctx_point(row, base) for row in rows if tells_ctx(row)]


def any_three(row: Row, rows: Sequence[Row], base: Base, rng: np.random.Generator) -> list[CalibrationPoint]:
    """Of other disaggregated deployments of the GPU type and format, drawn at random: a ctx rate where one is there,
    a TPOT of the emptier and of the fuller half."""
    others = _others(row, rows)
    ordered = sorted(others, key=_each_rank)
    halves = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    return _one_ctx(others, base, rng) + [
        tpot_point(half[int(rng.integers(len(half)))], base) for half in halves if half
    ]


def like_three(row: Row, rows: Sequence[Row], base: Base, rng: np.random.Generator) -> list[CalibrationPoint]:
    """A ctx rate as above, and the TPOT of the two most like it of its own mapping family: first the same mapping,
    with drafts or without as it is, of the same lengths, as full."""
    family = [each for each in _others(row, rows) if gen_family(each) == gen_family(row)]
    if not family:
        return []
    nearest = sorted(family, key=lambda each: _unlike(row, each))[:2]
    return _one_ctx(_others(row, rows), base, rng) + [tpot_point(each, base) for each in nearest]


def all_others(row: Row, rows: Sequence[Row], base: Base, rng: np.random.Generator) -> list[CalibrationPoint]:
    """Everything that other disaggregated deployments of the GPU type and format say."""
    return points_of(_others(row, rows), base)


def own_loads(row: Row, rows: Sequence[Row], base: Base, rng: np.random.Generator) -> list[CalibrationPoint]:
    """The other loads of the same deployment with the same lengths: one or two are there."""
    return points_of([each for each in rows if _server(each) == _server(row) and each is not row], base)


PROTOCOLS: dict[str, Draw] = {
    "three of any other deployments": any_three,
    "three of those most like it": like_three,
    "all of other deployments": all_others,
    "its own other loads": own_loads,
}
DRAWN = {"three of any other deployments"}
"""Protocols with chance in them beyond the ctx point."""


def _others(row: Row, rows: Sequence[Row]) -> list[Row]:
    return [
        each
        for each in rows
        if group_of(each) == group_of(row) and name_of(each) != name_of(row) and each.ctx is not None
    ]


def _one_ctx(rows: Sequence[Row], base: Base, rng: np.random.Generator) -> list[CalibrationPoint]:
    telling = [each for each in rows if tells_ctx(each)]
    return [ctx_point(telling[int(rng.integers(len(telling)))], base)] if telling else []


def _unlike(row: Row, other: Row) -> tuple[bool, bool, bool, float]:
    lengths = (row.isl, row.osl) != (other.isl, other.osl)
    filled = abs(math.log(_each_rank(row) / _each_rank(other)))
    return row.gen.mapping != other.gen.mapping, bool(row.mtp) != bool(other.mtp), lengths, filled


def _server(row: Row) -> str:
    return f"{name_of(row)} {row.isl}/{row.osl}"


def _each_rank(row: Row) -> float:
    return generating(row) / parse_mapping(row.gen.mapping).dp_ranks


def own_constants(logs: Sequence[tuple[Row, float]]) -> Iterator[tuple[str, float]]:
    """What is left (median) of errors (logs of rows) after the best constant with hindsight, by what it is for."""
    keys: dict[str, Callable[[Row], object]] = {
        "all rows": lambda row: "",
        "each GPU type and format": group_of,
        "each mapping family of a GPU type and format": lambda row: (group_of(row), gen_family(row)),
    }
    for name, key in keys.items():
        left = []
        for row, log in logs:
            middle = float(np.median([other for each, other in logs if key(each) == key(row)]))
            left.append(abs(math.expm1(log - middle)))
        yield name, float(np.median(left))
