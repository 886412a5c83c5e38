"""Step times of which more or less is known beforehand, for rows that none of it was learnt from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ratematch.emulator.efficiency import Efficiency, corrected
from ratematch.engines.steptimes import Correction
from ratematch.inputs.catalog import load_gpu
from ratematch.plan.precision import read_precision

from .fit import (
    _ctx_kernels,
    _gen_kernels,
    blackwell_values,
    ctx_rate,
    efficiency,
    fit,
    generation_full,
    prompts_wait,
    tpot_ms,
)
from .learntfile import Value, Vector
from .table import Row

FOLDS = 6
"""Parts of the deployments that are left out together, so that values are fitted six times only."""
Known = Literal["other deployments", "other GPU types and formats", "nothing"]
"""What values were learnt from before a calibration."""


@dataclass(frozen=True, eq=False)
class Base:
    """Learnt values: what is corrected. Each is equal to itself alone."""

    values: Sequence[Value]
    x: Vector

    def of(self, row: Row, backend: str, correction: Correction) -> Efficiency:
        return corrected(efficiency(self.values, self.x, row.precision, backend), correction)

    def log_tpot_speed(self, row: Row, correction: Correction) -> float:
        """Log of predicted tokens/s of a user, family effects left out."""
        return -math.log(tpot_ms(row, self.of(row, _gen_kernels(row), correction)))

    def log_ctx_rate(self, row: Row, correction: Correction) -> float:
        """Log of predicted requests/s of the context servers, family effects left out."""
        assert row.ctx is not None
        return math.log(ctx_rate(row, row.ctx, self.of(row, _ctx_kernels(row, row.ctx), correction)))


def kind_of(row: Row) -> Correction:
    """The correction of 1 for the row's GPU type and format."""
    return Correction(row.gpu, "deepseek-r1", read_precision(row.precision, load_gpu(row.gpu)))


def gen_family(row: Row) -> str:
    return f"gen {re.sub(r'[0-9]+', '', row.gen.mapping)}"


def ctx_family(row: Row) -> str:
    assert row.ctx is not None
    return f"ctx {re.sub(r'[0-9]+', '', row.ctx.mapping)}"


def tells_ctx(row: Row) -> bool:
    """Whether the row's request rate is what its context servers reach: requests wait for them, and not for room in
    generation."""
    return row.ctx is not None and not generation_full(row) and prompts_wait(row, row.ctx)


def name_of(row: Row) -> str:
    return f"{row.gpu} {row.precision} {row.deployment}"


def group_of(row: Row) -> str:
    return f"{row.gpu} {row.precision}"


def parts_of(rows: Sequence[Row], known: Known) -> Iterator[tuple[Base, list[Row]]]:
    """Rows to predict, and the step times that are corrected for them, which nothing of these rows is in."""
    values = blackwell_values()
    if known == "nothing":
        yield Base((), np.array([])), list(rows)
        return
    name = name_of if known == "other deployments" else group_of
    names = sorted({name(row) for row in rows})
    number = FOLDS if known == "other deployments" else len(names)
    for place in range(number):
        left_out = names[place::number]
        base = Base(values, fit([row for row in rows if name(row) not in left_out], values))
        yield base, [row for row in rows if name(row) in left_out]
