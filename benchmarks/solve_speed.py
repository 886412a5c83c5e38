"""How long the full DeepSeek-R1 space takes to solve, on one core: 10 ctx configurations x 40 gen configurations of
12 concurrencies (480 gen rows) x every whole (x, y) of 72 GPUs, then the front again for 100 bootstrap draws.

    python benchmarks/solve_speed.py [--draws 100] [--limit-s 1] [--bootstrap-limit-s 10]

Prints seconds and the number of joint points; exits 1 over a limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

# Before numpy starts its threads: the limit is for one core.
os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np

from ratematch.match.bootstrap import NoisyProblem, draw_factors, draw_fronts
from ratematch.match.curves import make_curve
from ratematch.match.matching import Ctx, Gen
from ratematch.match.noise import Noise
from ratematch.match.solver import MatchProblem, front_indices, solve_rows

GPUS = 72
OSL = 1024
LOADS = [2.0**k for k in range(12)]


def make_space(seed: int = 0) -> list[MatchProblem]:
    """All pairs of invented curves; every instance has 4 GPUs, which gives the most cells (153)."""
    rng = np.random.default_rng(seed)
    ctx = [
        Ctx(4, make_curve([(1.0, rate / 2), (8.0, rate)]), (rate,))
        for rate in (float(r) for r in rng.uniform(2, 8, 10))
    ]
    gen = []
    for single, half in zip(rng.uniform(50, 200, 40), rng.uniform(20, 400, 40), strict=True):
        points = [(load, float(single * load / (1 + load / half))) for load in LOADS]
        gen.append(Gen(4, make_curve(points), OSL - 1.0))
    return [MatchProblem(c, g) for c in ctx for g in gen]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--draws", type=int, default=100)
    options.add_argument("--limit-s", type=float, default=1.0)
    options.add_argument("--bootstrap-limit-s", type=float, default=10.0)
    asked = options.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    problems = make_space()
    cells = len({(x, y) for y in range(1, 18) for x in range(1, 19 - y)})
    joint = len(problems) * len(LOADS) * cells
    start = time.process_time()
    rows = solve_rows(problems, max_gpus=GPUS)
    front = front_indices(rows.tok_s_user, rows.score(OSL, "per_used_gpu"))
    once = time.process_time() - start
    print(f"{joint} joint points, {rows.size} distinct rows, front of {front.size}: {once:.2f} s")

    start = time.process_time()
    noise = Noise(0.02, 20)
    noisy = [NoisyProblem(problem, (noise,), (noise,) * len(LOADS)) for problem in problems]
    draws = draw_fronts(problems, draw_factors(noisy, draws=asked.draws, seed=1), max_gpus=GPUS, osl=OSL)
    again = time.process_time() - start
    print(f"{len(draws)} bootstrap draws of the front: {again:.2f} s")
    sys.exit(once > asked.limit_s or again > asked.bootstrap_limit_s)


if __name__ == "__main__":
    main()
