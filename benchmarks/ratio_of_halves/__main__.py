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
from .grid import APART, NEARER, TTFT_OF_CTX, Simulated, answer, questions, simulate_case
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
    text = to_markdown(starts[0], ask(*starts))
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


def ask(spread: list[Simulated], at_once: list[Simulated]) -> list[Asked]:
    """Every question of every case, by how its deployments started, loads of the halves, limit, and its rule."""
    asked = []
    for done, together, nearer in ((spread, False, False), (spread, False, True), (at_once, True, False)):
        for times in (None, *TTFT_OF_CTX):
            for ttft_of in RULES if times else RULES[:1]:
                results = (answer(each, to, ttft_of, nearer=nearer) for each in done for to in questions(each, times))
                answers = [each for each in results if each is not None]
                asked.append(Asked(together, NEARER if nearer else APART, times, ttft_of, answers))
    return asked


if __name__ == "__main__":
    raise SystemExit(main())
