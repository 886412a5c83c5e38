"""Do two checkouts do the same? Everything that a reorganisation must leave alone, asked of both and compared.

    python benchmarks/compare_checkouts.py OLD NEW [--expected FILE] [--cache DIR] [--python PATH]

Compared are, for the sweep files, tables and ``results/sample`` of OLD: ``plan --json`` and all files of ``render``;
``pareto``, ``report``, ``status``, ``compare``, ``match``, ``export`` and ``import`` with the data that they write;
whole sweeps in virtual time (experiment ids, seeds, search decisions, the results format, every record); the verbs,
options and help of the command line; the names, calls and frames of ``import ratematch as rm``. Also compared are the
sweep files and the format of ``results/sample`` that each checkout has itself.

Of the code only ``python -m ratematch`` and the public names are used, so modules may move. What is not the same from
run to run is replaced first; ``checkouts/collect.py`` says what and how.

Prints one line for each difference (place: old -> new) and what was compared; exits 1 when a difference is not named
in ``--expected`` (lines of ``PLACE -- REASON``, with ``*`` for anything), 2 when no comparison could be made.

With ``--cache``, answers of a checkout without uncommitted changes are kept by its commit, OLD's commit, the
interpreter with its packages, and these scripts.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checkouts.collect import Checkout, Collection, open_checkout
from checkouts.differences import Comparison, Difference, Expected, compare_folders, read_expected
from checkouts.jobs import Job, make_jobs

SCRIPTS = Path(__file__).parent / "checkouts"
ASK_PACKAGES = """\
import sys
from importlib.metadata import distributions
print(sys.version, sorted({(each.name, each.version) for each in distributions()}))
"""


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that folders are removed
    try:
        expected = read_expected(options.expected) if options.expected else ()
        old, new = open_checkout(options.old), open_checkout(options.new)
        with tempfile.TemporaryDirectory(prefix="compare-") as name:
            folders = collect_both(old, new, options, Path(name))
            return report(compare_folders(*folders), expected, options.most)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"compare_checkouts: {error}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD", help="checkout as it was")
    parser.add_argument("new", type=Path, metavar="NEW", help="checkout as it is")
    parser.add_argument("--expected", type=Path, metavar="FILE", help="differences that are meant, with reasons")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep answers of clean checkouts here")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter with the packages")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at once (2)")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="differences of one file to print (10)")
    return parser.parse_args(argv)


def collect_both(old: Checkout, new: Checkout, options: argparse.Namespace, scratch: Path) -> tuple[Path, Path]:
    """Folders with the answers of both; those that the cache has are not asked again."""
    python: Path = options.python.absolute()
    wanted: dict[Path, Collection] = {}
    folders = []
    packages = digest_packages(python)
    for name, code in (("old", old), ("new", new)):
        folder = scratch / name
        if options.cache and code.commit and old.commit:
            folder = options.cache.absolute() / f"{code.commit[:12]}-on-{old.commit[:12]}-{packages}"
            folder.parent.mkdir(parents=True, exist_ok=True)
        elif options.cache:
            log(f"{name}: {code.path} or OLD has uncommitted changes or no git; not taken from the cache")
        folders.append(folder)
        if folder.exists():
            log(f"{name}: {code.path}, collected before")
        elif folder not in wanted:
            wanted[folder] = Collection(code, old, python)
            wanted[folder].check()
    began = time.monotonic()
    try:
        for folder, each in wanted.items():
            run_all(each, make_jobs(each.site), options.jobs)
            each.finish(folder)  # at once: what comes after may be stopped
    finally:
        for each in wanted.values():
            each.close()
    if wanted:
        log(f"collected in {time.monotonic() - began:.0f} s")
    return folders[0], folders[1]


def digest_packages(python: Path) -> str:
    """Short name of an interpreter, its packages and these scripts: answers of others are not the same answers."""
    told = subprocess.run([str(python), "-c", ASK_PACKAGES], capture_output=True, text=True, check=True).stdout
    files = [path for path in sorted(SCRIPTS.rglob("*")) if path.suffix in (".py", ".yaml", ".csv")]
    scripts = b"".join(path.read_bytes() for path in files)
    return hashlib.sha256(f"{python} {told}".encode() + scripts).hexdigest()[:12]


def run_all(collection: Collection, jobs: Sequence[Job], processes: int) -> None:
    """All jobs, so many at once; those that have not begun are dropped when we are stopped."""
    over = 0
    lock = threading.Lock()

    def run(job: Job) -> None:
        nonlocal over
        began = time.monotonic()
        failed = "" if collection.run(job) else ", a command FAILED"
        with lock:
            over += 1
            seconds = time.monotonic() - began
            log(f"[{over}/{len(jobs)}] {collection.code.path.name}: {job.name}, {seconds:.1f} s{failed}")

    pool = ThreadPoolExecutor(processes)
    try:
        list(pool.map(run, jobs))
    finally:
        pool.shutdown(cancel_futures=True)


def report(comparison: Comparison, expected: Sequence[Expected], most: int) -> int:
    """Print all of it; exit code 1 when a difference is not expected."""
    meant: dict[Expected, list[Difference]] = {each: [] for each in expected}
    others: dict[str, list[Difference]] = {}
    for difference in comparison.differences:
        reason = next((each for each in expected if each.covers(difference)), None)
        if reason:
            meant[reason].append(difference)
        else:
            others.setdefault(difference.file, []).append(difference)
    for reason, found in meant.items():
        print(f"expected, {len(found)}: {reason.pattern} ({reason.reason})")
        print_some([f"  {each}" for each in found], most)
    for found in others.values():
        print_some([str(each) for each in found], most)
    print("compared (files, values):")
    for section, (files, values) in sorted(comparison.compared.items()):
        print(f"  {section:10} {files:6,} {values:10,}")
    files, values = (sum(each[k] for each in comparison.compared.values()) for k in (0, 1))
    number = sum(map(len, others.values()))
    named = f", {sum(map(len, meant.values()))} expected" if expected else ""
    print(f"{files:,} files, {values:,} values: {number or 'no'} difference{'s' * (number > 1)}{named}")
    return 1 if number else 0


def print_some(lines: Sequence[str], most: int) -> None:
    for line in lines[:most]:
        print(line)
    if len(lines) > most:
        print(f"  ... and {len(lines) - most} more of these (--most shows them)")


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
