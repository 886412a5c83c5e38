"""``python -m tests.fuzz``: long searches, seed after seed; ``make fuzz`` calls it.

Prints a line of counts for each seed of each kind, and every failure with the first input that did it. Exit code 1
where there was one.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.kinds import load_kinds
from tests.fuzz.search import search

MOST_MEMORY = 4 << 30


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    kinds = load_kinds()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kinds", default=",".join(kinds), help="of %(default)s, with commas between")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from --first")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=10_000, help="of each seed of each kind")
    parser.add_argument("--minutes", type=float, default=60, help="in all; what is left of them is shared evenly")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    names = given.kinds.split(",")
    turns = [(kinds[name], seed) for seed in range(given.first, given.first + given.seeds) for name in names]
    until, failed = time.monotonic() + 60 * given.minutes, 0
    for number, (kind, seed) in enumerate(turns):
        began = time.process_time()
        share = (until - time.monotonic()) / (len(turns) - number)
        with tempfile.TemporaryDirectory(prefix="ratematch-fuzz-") as folder:
            found = search(kind, seed, Path(folder), inputs=given.inputs, seconds=share)
        line = {"kind": kind.name, "seed": seed, "inputs": found.tried, **found.endings}
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        write(json.dumps(line | {"cpu_s": round(time.process_time() - began, 1), "peak_mb": peak_mb}))
        for what, first in found.failures.items():
            failed += 1
            write(f"FAILURE {kind.name} {what}\n    {first}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
