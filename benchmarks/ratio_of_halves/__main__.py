"""Ratios solved from servers simulated alone, beside the grid of whole deployments simulated.

    python -m benchmarks.ratio_of_halves [--only TEXT] [--jobs N] [-o docs/ratios.md]

All cases take some six minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .cases import CASES
from .grid import TTFT_OF_CTX, Answer, Simulated, answer, questions, simulate_case
from .page import to_markdown, write_page


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
    if args.jobs > 1:
        with ProcessPoolExecutor(args.jobs) as pool:
            done = list(pool.map(simulate_case, cases))
    else:
        done = [simulate_case(case) for case in cases]
    text = to_markdown(done, _answers(done, None), {times: _answers(done, times) for times in TTFT_OF_CTX})
    if args.output:
        write_page(args.output, text, "python -m benchmarks.ratio_of_halves -o docs/ratios.md")
    print(text)
    return 0


def _answers(done: list[Simulated], ttft_of_ctx: float | None) -> list[Answer]:
    results = (answer(each, target) for each in done for target in questions(each, ttft_of_ctx))
    return [each for each in results if each is not None]


if __name__ == "__main__":
    raise SystemExit(main())
