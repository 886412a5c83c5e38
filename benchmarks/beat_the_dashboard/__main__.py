"""The best deployment at each published tok/s/user, from simulation alone, beside the best published.

    python -m benchmarks.beat_the_dashboard [--rows FILE] [--only GROUP] [--jobs N] [--requests-per-slot N]
        [-o docs/dashboard.md]

All groups take some four minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.ratio_of_halves.page import write_page
from benchmarks.real_deployments.compare import compare
from benchmarks.real_deployments.simulated import REQUESTS_PER_SLOT
from benchmarks.real_deployments.table import ROWS, read_rows

from .choose import Answer, Promising, answers, pick_published, promising
from .group import Group, groups_of
from .page import to_markdown
from .search import Search


def search_group(group: Group, requests_per_slot: float) -> tuple[Search, list[Answer], list[Promising]]:
    """Everything of one group."""
    search = Search(group, requests_per_slot)
    search.forecast()
    answered = answers(search)
    return search, answered, promising(search, answered)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beat_the_dashboard",
        description="Choose deployments from simulation alone and hold them to the best that were published.",
    )
    parser.add_argument("--rows", type=Path, default=ROWS, help="a CSV file with the columns of rows.csv")
    parser.add_argument("--only", default="", metavar="GROUP", help="groups with this in their name: gb200 fp4")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--requests-per-slot", type=float, default=REQUESTS_PER_SLOT, help="length of each run")
    parser.add_argument("-o", "--output", type=Path, help="put the tables into this page")
    args = parser.parse_args()
    groups, left_out = groups_of(read_rows(args.rows))
    groups = [group for group in groups if args.only in group.name]
    if not groups:
        print(f"{args.rows}: no group with {args.only!r} in its name", file=sys.stderr)
        return 2
    run = partial(search_group, requests_per_slot=args.requests_per_slot)
    if args.jobs > 1:
        with ProcessPoolExecutor(args.jobs) as pool:
            done = list(pool.map(run, groups))
    else:
        done = [run(group) for group in groups]
    compared = compare([row for group in groups for row in group.rows], "roofline", args.requests_per_slot, args.jobs)
    picked = [each for group in groups for each in pick_published(compared, group)]
    text = to_markdown(done, picked, [row for row in left_out if args.only in row.workload])
    if args.output:
        write_page(args.output, text, "python -m benchmarks.beat_the_dashboard -o docs/dashboard.md")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
