"""How long the readers of a results folder take where it is large: 2,000 experiments with 7,000 loads.

    python benchmarks/large_folder.py [--copies 105] [--keep FOLDER]

The folder is made from ``results/sample``: every experiment again and again, with another ``max_num_tokens`` (so it
is another experiment) and figures a few per cent apart. Each verb runs in a process of its own, twice: the second
time with what the first has kept in the folder. Printed: seconds, peak memory of the process, and the size of the
report page.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

from ratematch.measure.measurement import Measurement
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.store import layout
from ratematch.store.files import write_json
from ratematch.store.folder import Results
from ratematch.store.outcome import Outcome, to_json
from ratematch.store.storedload import StoredLoad

SAMPLE = Path(__file__).parents[1] / "results" / "sample"
NOT_COPIED = {layout.LOADRUN, layout.MEASUREMENT}
PEAK = "import resource, sys; sys.stderr.write(f'peak {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}')"
LOAD_RESULTS = "import ratematch as rm, sys; print(len(rm.load_results(sys.argv[1]).loads))"
VERBS: dict[str, list[str]] = {
    "status": ["-m", "ratematch", "status", "{folder}"],
    "load_results": ["-c", LOAD_RESULTS, "{folder}"],
    "pareto": ["-m", "ratematch", "pareto", "{folder}", "-o", "{output}", "--json"],
    "report": ["-m", "ratematch", "report", "{folder}", "-o", "{output}/report.html"],
    "verify": ["-m", "ratematch", "verify", "{folder}"],
}


def make_folder(path: Path, copies: int) -> Results:
    """``copies`` of every experiment of the sample, in ``path``."""
    results, rng = Results(path), random.Random(7)
    sample = Results(SAMPLE)
    for name in (layout.LIMITS, layout.SWEEP):
        shutil.copy(SAMPLE / name, path / name)
    with mock.patch.object(os, "fsync"):
        for number in range(copies):
            for stored in sample.now().experiments:
                deployment = _vary(stored.experiment.deployment, number)
                experiment = replace(stored.experiment, deployment=deployment)
                folder = results.add(experiment, stored.folder.cluster())
                launch = folder.new_launch()
                shutil.copy(stored.folder.path / "launch" / "1" / layout.PROVENANCE, launch)
                factor = rng.uniform(0.97, 1.03)
                for load in stored.loads:
                    _copy(load, folder.load_folder(load.load))
                    folder.finish_load(load.load, load.run, _scale(load, factor))
                write_json(launch / layout.OUTCOME, to_json(Outcome(ok=True, held_s=60.0, starting_s=20.0)))
                folder.mark_done()
    return results


def _vary(deployment: Deployment, number: int) -> Deployment:
    def vary(group: ServerGroup | None) -> ServerGroup | None:
        return group and replace(group, max_num_tokens=(group.max_num_tokens or 8192) + number)

    return replace(deployment, ctx=vary(deployment.ctx), gen=vary(deployment.gen), agg=vary(deployment.agg))


def _copy(load: StoredLoad, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for file in load.folder.iterdir():
        if file.name not in NOT_COPIED:
            shutil.copy(file, place)


def _scale(load: StoredLoad, factor: float) -> Measurement:
    figures = load.measurement
    return replace(
        figures,
        tok_s=figures.tok_s * factor if figures.tok_s else None,
        req_s=figures.req_s * factor if figures.req_s else None,
        in_flight=figures.in_flight * factor if figures.in_flight else None,
    )


def measure(argv: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of one process."""
    wrapped = f"import subprocess, sys; code = subprocess.call(sys.argv[1:]); {PEAK}; sys.exit(code)"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", wrapped, *argv], capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return seconds, int(done.stderr.rpartition("peak ")[2]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=105, help="of the 19 experiments with 67 loads of the sample")
    parser.add_argument("--keep", type=Path, help="make it here, or use what is there, and leave it")
    parser.add_argument("--only", help="one verb")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch) / "large"
        if not folder.exists():
            folder.mkdir(parents=True)
            make_folder(folder, options.copies)
        stored = Results(folder).now()
        print(f"{len(stored.experiments)} experiments, {len(stored.loads)} loads")
        print(f"{'verb':<14} {'first':>8} {'MB':>6} {'again':>8} {'MB':>6}")
        output = Path(scratch) / "output"
        for verb, argv in VERBS.items():
            if options.only in (None, verb):
                words = [sys.executable, *(word.format(folder=folder, output=output) for word in argv)]
                first, again = measure(words), measure(words)
                print(f"{verb:<14} {first[0]:7.1f}s {first[1]:6.0f} {again[0]:7.1f}s {again[1]:6.0f}", flush=True)
        page = output / "report.html"
        if page.exists():
            print(f"report.html: {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
