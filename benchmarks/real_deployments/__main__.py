"""Simulation held to published measurements of real deployments.

    python -m benchmarks.real_deployments [--rows FILE] [--steps roofline|kernels] [--requests-per-slot N]
        [--only GROUP] [--jobs N] [-o docs/accuracy.md] [--plot docs/accuracy.png] [--write-spread]

All rows of the table, at ten requests a slot as the clients behind it sent, take some 20 s of one core; ten minutes
where no compiler is at hand for the loop of the simulation.
"""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path

from .compare import compare
from .page import plot, spread_file, to_terminal, write_page
from .simulated import REQUESTS_PER_SLOT
from .table import ROWS, read_rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_deployments",
        description="Hold the simulation to published measurements of real deployments.",
    )
    parser.add_argument("--rows", type=Path, default=ROWS, help="a CSV file with the columns of rows.csv")
    parser.add_argument("--steps", choices=("roofline", "kernels"), default="roofline", help="step-time model")
    parser.add_argument("--requests-per-slot", type=float, default=REQUESTS_PER_SLOT, help="length of each run")
    parser.add_argument(
        "--only", default="", metavar="GROUP", help="rows whose group has this in its name: gb200 fp4"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("-o", "--output", type=Path, help="put the tables into this page")
    parser.add_argument("--plot", type=Path, help="draw predicted against measured")
    parser.add_argument("--write-spread", action="store_true", help="write ratematch/data/accuracy.yaml")
    args = parser.parse_args()
    rows = [row for row in read_rows(args.rows) if args.only in row.group]
    if not rows:
        print(f"{args.rows}: no row of a group with {args.only!r} in its name", file=sys.stderr)
        return 2
    compared = compare(rows, args.steps, args.requests_per_slot, args.jobs)
    for each in compared:
        if each.error:
            print(f"line {each.row.line} ({each.row.group}): not simulated: {each.error}")
    print(to_terminal(compared))
    if args.output:
        said = [word for word in sys.argv[1:] if word not in ("--jobs", str(args.jobs))]
        write_page(args.output, compared, " ".join(["python -m benchmarks.real_deployments", *said]), args.steps)
    if args.plot:
        plot(args.plot, compared)
    if args.write_spread and args.steps == "roofline":  # what predictions carry are the intervals of the usual model
        Path(str(resources.files("ratematch.data").joinpath("accuracy.yaml"))).write_text(spread_file(compared))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
