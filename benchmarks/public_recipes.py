"""How many published recipes come back from an import key for key, and every exception with its reason.

    python benchmarks/public_recipes.py CHECKOUT... [--table FILE]

CHECKOUT: folders with recipes of srt-slurm, such as a clone of https://github.com/NVIDIA/srt-slurm. Every
TensorRT-LLM recipe in them is imported, rendered and compared with itself; a recipe is *whole* when the workers'
files, arguments and environment, the frontends' number, arguments and environment, the planes, and etcd, NATS and
nginx are the recipe's own; *changed* when something is left out or set otherwise, which is named; *refused* when it
cannot be read.
"""

from __future__ import annotations

import argparse
import collections
import csv
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ratematch.errors import UserError
from ratematch.exchange.recipes.choices import Choices
from ratematch.exchange.recipes.convert import Imported, import_recipes

GIVEN = Choices(workload=(8192, 1024), concurrency=(16,))
"""For recipes whose load is another program's: it is not what is compared."""

OF_DYNAMO = ("frontend", "dynamo", "infra", "services", "backend.publish", "engine.publish")
"""Beginnings of keys that a Dynamo deployment has a place for."""


@dataclass
class Outcome:
    """What became of one recipe file. ``reasons``: why it is not whole; ``assumed``: of versions;
    ``refused``: what ``ratematch plan`` refuses of it all the same."""

    file: str
    engine: str
    state: str
    reasons: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def find_recipes(folder: Path) -> list[Path]:
    """Files that look like recipes with TensorRT-LLM behind them."""
    files = sorted(path for path in folder.rglob("*.y*ml") if ".git" not in path.parts)
    texts = ((path, path.read_text(encoding="utf-8", errors="replace")) for path in files)
    pattern = re.compile(r"^\s*(?:type|engine):\s*[\"']?trtllm\b", re.MULTILINE)
    return [path for path, text in texts if pattern.search(text) and re.search(r"^\s*resources:", text, re.MULTILINE)]


def judge(path: Path, shown: str) -> Outcome:
    """Import one file and say what became of it."""
    try:
        imported = import_recipes([str(path)], GIVEN)
    except UserError as error:
        problems = getattr(error, "problems", None)
        reasons = [problem.what for problem in problems] if problems else [str(error)]
        return Outcome(shown, "", "refused", reasons)
    engine = engine_of(imported)
    reasons = [_plain(note) for note in imported.notes if "changed: " in note]
    for part in imported.unsupported:
        key = part.where.rpartition(": ")[2]
        if key.startswith(OF_DYNAMO) and not key.startswith(("frontend.nginx_container", "frontend.orchestrator")):
            reasons.append(f"no counterpart: {key} ({part.why})")
    assumed = [_plain(note) for note in imported.notes if " is assumed" in note]
    refused = [why.partition(": ")[2] for why in imported.refused]
    return Outcome(shown, engine, "changed" if reasons else "whole", reasons, assumed, refused)


def engine_of(imported: Imported) -> str:
    """``dynamo 1.1.1`` or ``trtllm-serve 1.2``, as the sweep file says."""
    text = imported.text
    named = re.search(r"^engine: \{name: ([\w-]+), version: '?([^'}]+)'?\}", text, re.MULTILINE)
    if named is None:
        named = re.search(r"^engine:\n  name: ([\w-]+)[^\n]*\n  version: '?([^'\s]+)'?", text, re.MULTILINE)
    return f"{named[1]} {named[2]}" if named else "?"


def _plain(note: str) -> str:
    """A note without the recipe's own name in front."""
    return note[note.index("changed: ") :] if "changed: " in note else note


def print_table(outcomes: dict[str, list[Outcome]]) -> None:
    width = max(len(name) for name in outcomes)
    print(f"{'checkout':{width}}  recipes  whole  changed  refused  release assumed  refused by plan")
    for name, rows in outcomes.items():
        states = collections.Counter(row.state for row in rows)
        assumed = sum(any(note.startswith("Dynamo") for note in row.assumed) for row in rows)
        by_plan = sum(bool(row.refused) for row in rows)
        counts = (len(rows), states["whole"], states["changed"], states["refused"])
        print(
            f"{name:{width}}  {counts[0]:7}  {counts[1]:5}  {counts[2]:7}  {counts[3]:7}  {assumed:15}  {by_plan:15}"
        )
    print("\nengines:")
    for engine, count in sorted(
        collections.Counter(row.engine for rows in outcomes.values() for row in rows).items()
    ):
        print(f"  {count:4} {engine or '(refused)'}")
    every = [row for rows in outcomes.values() for row in rows]
    print_reasons("exceptions", [(row.file, row.reasons) for row in every])
    print_reasons("refused by plan", [(row.file, row.refused) for row in every])


def print_reasons(title: str, rows: list[tuple[str, list[str]]]) -> None:
    """Each reason once, with how many files have it; numbers in it count as alike."""
    reasons: dict[str, list[str]] = {}
    for file, found in rows:
        for reason in dict.fromkeys(re.sub(r"\d[\d.,]*", "N", each) for each in found):
            reasons.setdefault(reason, []).append(file)
    print(f"\n{title}:" if reasons else f"\n{title}: none")
    for reason, files in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print(f"  {len(files):4} {reason}  (first: {files[0]})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Path)
    parser.add_argument("--table", type=Path, help="also write a row for every recipe as CSV")
    given = parser.parse_args()
    outcomes = {
        checkout.name: [judge(path, str(path.relative_to(checkout))) for path in find_recipes(checkout)]
        for checkout in given.checkouts
    }
    if not any(outcomes.values()):
        print("no TensorRT-LLM recipes there", file=sys.stderr)
        return 1
    print_table(outcomes)
    if given.table is not None:
        with given.table.open("w", encoding="utf-8", newline="") as out:
            table = csv.writer(out)
            table.writerow(["checkout", "file", "engine", "state", "reasons", "assumed"])
            for name, rows in outcomes.items():
                for row in rows:
                    table.writerow(
                        [name, row.file, row.engine, row.state, "; ".join(row.reasons), "; ".join(row.assumed)]
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
