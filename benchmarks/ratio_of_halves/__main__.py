"""Ratios solved from servers simulated alone, beside the grid of whole deployments simulated.

    python -m benchmarks.ratio_of_halves [--only TEXT] [--jobs N] [-o docs/ratios.md]

All cases take some twenty minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from ratematch.plan.load import TtftOf

from .cases import CASES, Case
from .grid import TTFT_OF_CTX, Answer, Simulated, answer, questions, simulate_case
from .page import Asked, to_markdown, write_page

RULES: tuple[TtftOf, ...] = ("ctx", "deployment")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ratio_of_halves",
        description="Hold ratios that are solved from servers alone to the grid of whole deployments.",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name: gb200 fp4")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("-o", "--output", type=Path, help="put the tables into this page")
    args = parser.parse_args()
    cases = [case for case in CASES if args.only in case.label]
    if not cases:
        print(f"no case with {args.only!r} in its name", file=sys.stderr)
        return 2
    starts = [_simulate(cases, args.jobs, at_once) for at_once in (False, True)]
    sums = [
        Asked(at_once, times, ttft_of, _answers(done, times, ttft_of))
        for at_once, done in zip((False, True), starts, strict=True)
        for times in (None, *TTFT_OF_CTX)
        for ttft_of in (RULES if times else RULES[:1])
    ]
    text = to_markdown(starts[0], sums)
    if args.output:
        write_page(args.output, text, "python -m benchmarks.ratio_of_halves -o docs/ratios.md")
    print(text)
    return 0


def _simulate(cases: list[Case], jobs: int, at_once: bool) -> list[Simulated]:
    simulate = partial(simulate_case, at_once=at_once)
    if jobs == 1:
        return [simulate(case) for case in cases]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(simulate, cases))


def _answers(done: list[Simulated], ttft_of_ctx: float | None, ttft_of: TtftOf) -> list[Answer]:
    results = (answer(each, target, ttft_of) for each in done for target in questions(each, ttft_of_ctx))
    return [each for each in results if each is not None]


if __name__ == "__main__":
    raise SystemExit(main())
