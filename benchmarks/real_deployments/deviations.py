"""How far real servers lie about predictions, and what of it they share: ``ratematch/data/deviations.yaml``.

    python -m benchmarks.real_deployments.deviations [--rows FILE] [--write]

The logarithm of measured over predicted speed of a load is taken as a sum of independent normal parts: what factors
on fixed times, memory, compute and links of its GPU type and format explain, an effect of its mapping family there,
its server's own deviation, and the load's. Loads of one server are not independent, nor are servers of one family.
The standard deviations of the parts are the likeliest ones for the Blackwell rows, each row predicted by values that
were fitted without its deployment, or by the defaults, where nothing is learnt. Estimated three times: of all
deployments, and of either half of them. Each has a weak prior, sigma exp(-sigma / scale), so that no part is
estimated as nothing for want of data (Chung et al. 2013, "A nondegenerate penalized likelihood estimator for
variance parameters"). Those of servers and loads are widened by what few deployments leave unknown of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np

from ratematch.engines.steptimes import PARTS
from ratematch.simulate.calibration import speed_slopes
from ratematch.simulate.deviations import SIZES, Deviations

from .bases import Base, Known, ctx_family, gen_family, group_of, kind_of, name_of, parts_of, tells_ctx
from .fit import BLACKWELL, halves, request_rate
from .learntfile import Vector
from .table import ROWS, Row, read_rows

TARGET = Path(str(resources.files("ratematch.data").joinpath("deviations.yaml")))
STATES: dict[str, Known] = {"learnt": "other deployments", "unlearnt": "nothing"}
SCALES = {"learnt": 0.02, "unlearnt": 0.3}
"""Of the priors of common parts, which are factors and families: the likeliest of a part that rows do not tell of.
Values learnt from other deployments hold what all of them share, so little is left of it."""
OWN_SCALE = 0.05
"""The same of servers and loads."""
LEAST, MOST = 0.002, 1.0
STEPS = (0.7, 0.35, 0.17, 0.08, 0.04, 0.02)
"""Of the logarithm of a standard deviation, in the search for the likeliest."""


@dataclass(frozen=True)
class Observed:
    """What a row says of one kind of its servers. ``log_speed``: of measured over predicted. ``slopes``: of the log
    of predicted speed over the logs of the four factors."""

    row: Row
    log_speed: float
    slopes: Vector
    family: str
    server: str

    @property
    def aggregated(self) -> bool:
        return self.row.ctx is None


def observe(row: Row, base: Base) -> list[Observed]:
    """The row's TPOT, and its request rate where context servers limit it."""
    one, where = kind_of(row), f"{name_of(row)} {row.isl}/{row.osl}"
    slopes = speed_slopes(partial(base.log_tpot_speed, row), one)
    log = -float(np.log(row.tpot_ms)) - base.log_tpot_speed(row, one)
    found = [Observed(row, log, slopes, gen_family(row), where)]
    if tells_ctx(row):
        slopes = speed_slopes(partial(base.log_ctx_rate, row), one)
        log = float(np.log(request_rate(row))) - base.log_ctx_rate(row, one)
        found.append(Observed(row, log, slopes, ctx_family(row), f"{where} ctx"))
    return found


def observe_all(rows: Sequence[Row], known: Known) -> list[Observed]:
    return [each for base, part in parts_of(rows, known) for row in part for each in observe(row, base)]


def estimate(observed: Sequence[Observed], state: str) -> Deviations:
    """The likeliest standard deviations; ``state``: one of ``STATES``."""
    logs = np.array([each.log_speed for each in observed])
    parts = _parts(observed)
    common = len(PARTS) + 1
    scales = np.array([SCALES[state]] * common + [OWN_SCALE] * (len(SIZES) - common))

    def cost(at: Vector) -> float:
        sds = np.exp(at)
        lower = np.linalg.cholesky(np.tensordot(sds**2, parts, 1))
        scaled = np.linalg.solve(lower, logs)
        return float(np.log(np.diag(lower)).sum() + 0.5 * scaled @ scaled - (at - sds / scales).sum())

    sds = np.exp(_lowest(cost, len(SIZES)))
    for aggregated, places in ((False, (-4, -3)), (True, (-2, -1))):
        servers = len({each.server for each in observed if each.aggregated == aggregated})
        # The next server is one of Student's t: a standard deviation of few servers is not well known itself.
        sds[list(places)] *= np.sqrt(servers / (servers - 2)) if servers > 2 else 2.0
    return Deviations(*map(float, sds))


def _parts(observed: Sequence[Observed]) -> Vector:
    """Covariance that each of ``SIZES`` gives at 1."""

    def same(key: Callable[[Observed], object]) -> Vector:
        keys = [key(each) for each in observed]
        return np.array([[float(one == other) for other in keys] for one in keys])

    slopes = np.array([each.slopes for each in observed])
    group = same(lambda each: group_of(each.row))
    aggregated = np.array([float(each.aggregated) for each in observed])
    apart, mixed = np.outer(1 - aggregated, 1 - aggregated), np.outer(aggregated, aggregated)
    server, load = same(lambda each: each.server), np.eye(len(observed))
    factors = [group * np.outer(slopes[:, place], slopes[:, place]) for place in range(len(PARTS))]
    family = group * same(lambda each: each.family)
    return np.array([*factors, family, server * apart, load * apart, server * mixed, load * mixed])


def _lowest(cost: Callable[[Vector], float], size: int) -> Vector:
    """Where ``cost`` is lowest, one coordinate after another, from 0.05 on; arguments are logarithms."""
    at = np.full(size, np.log(0.05))
    best = cost(at)
    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for place in range(size):
                for way in (step, -step):
                    tried = at.copy()
                    tried[place] = np.clip(tried[place] + way, np.log(LEAST), np.log(MOST))
                    if (value := cost(tried)) < best - 1e-6:
                        at, best, moved = tried, value, True
    return at


def crossed(observed: Sequence[Observed], state: str) -> dict[int, Deviations]:
    """By line of a row, what the half of the deployments that the row is not in says."""
    parts = halves(list({each.row.line: each.row for each in observed}.values()))
    lines = [{row.line for row in part} for part in parts]
    known = [estimate([each for each in observed if each.row.line in part], state) for part in lines]
    return {line: known[1 - place] for place, part in enumerate(lines) for line in part}


def to_yaml(states: Iterable[tuple[str, Known, Sequence[Observed]]]) -> str:
    """The file."""
    lines = [HEAD]
    for state, known, observed in states:
        whole, half = estimate(observed, state), set(crossed(observed, state).values())
        lines.append(f"{state}:  # values learnt from {known}: {len(observed)} figures of {_rows(observed)} rows")
        for name in SIZES:
            sds = [getattr(each, name) for each in (whole, *half)]
            lines.append(f"  {name}: {{value: {sds[0]:.2g}, between: [{min(sds):.2g}, {max(sds):.2g}]}}")
    return "\n".join(lines) + "\n"


HEAD = """\
# How far real servers lie about predictions: standard deviations of the logarithm of measured over predicted speed,
# by part. fixed, memory, compute, link: of factors for a GPU type, model and weight format; family: of a kind of
# mapping there; server: of one server; load: of one load of it; aggregated_*: the same of aggregated servers. learnt:
# where efficiency.yaml has values; unlearnt: where it has none. `value` is used; `between`: of fits on all
# deployments and on either half of them. Written by: python -m benchmarks.real_deployments.deviations --write\
"""


def _rows(observed: Sequence[Observed]) -> int:
    return len({each.row.line for each in observed})


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimate ratematch/data/deviations.yaml from measured rows.")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a table of measured rows")
    parser.add_argument("--write", action="store_true", help="write ratematch/data/deviations.yaml")
    args = parser.parse_args()
    rows = [row for row in read_rows(args.rows) if row.gpu in BLACKWELL]
    text = to_yaml((state, known, observe_all(rows, known)) for state, known in STATES.items())
    if args.write:
        TARGET.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
