"""What a sweep on Slurm costs beside measuring, on the quickstart and the test cluster (root only; about 4 minutes).

    python benchmarks/slurm_overhead.py [RESULTS ...]

Without folders: starts a cluster of four nodes, runs the quickstart on it, stops it. Printed are GPU-seconds of each
job by what they went into, from its start in Slurm to the end of its driver:

* start: servers loading, until all answer and their connections are warm
* loads: requests on their way, from the first warm-up request to the last answer
* driver: the rest. The job's own start, imports, files, records, teardown.

With two folders the first is the sweep on Slurm and the second the same sweep on this machine, and the fronts of both
are compared: volume below each front, and every load's tok/s against its twin's.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ratematch.match.pareto import hypervolume
from ratematch.store.folder import ExperimentFolder, Results

ROOT = Path(__file__).parents[1]
CLUSTER = [sys.executable, str(ROOT / "slurm" / "testcluster.py")]


def run_on_test_cluster(into: Path) -> Path:
    """The quickstart, one job at a time: two would share this machine's processors, which is no driver's fault."""
    state = ["--state", str(into / "cluster")]
    subprocess.run([*CLUSTER, *state, "start"], check=True, stdout=subprocess.DEVNULL)
    try:
        told = ["--executor", "slurm", "--max-jobs", "1", "--set", "cluster=testcluster", "-o", str(into / "results")]
        conf = f"SLURM_CONF={into / 'cluster' / 'etc' / 'slurm.conf'}"
        command = [sys.executable, "-m", "ratematch", "sweep", str(ROOT / "sweeps" / "quickstart.yaml"), *told]
        subprocess.run(["env", conf, *command], check=True, cwd=ROOT)
    finally:
        subprocess.run([*CLUSTER, *state, "stop"], check=True)
    return into / "results"


def seconds_of(folder: ExperimentFolder) -> dict[str, float]:
    """Of the launches that ended: held, start, loads."""
    outcomes = folder.outcomes()
    loads = folder.loads()
    sent = 0.0
    for stored in loads:
        for name in ("warmup", "records"):
            table = pq.read_table(stored.folder / f"{name}.parquet", columns=["sent_ns", "last_token_ns"])
            first = [value for value in table["sent_ns"].to_pylist() if value is not None]
            last = [value for value in table["last_token_ns"].to_pylist() if value is not None]
            if first and last:
                sent += (max(last) - min(first)) / 1e9
    return {
        "held": sum(outcome.held_s for outcome in outcomes),
        "start": sum(outcome.starting_s for outcome in outcomes),
        "loads": sent,
        "gpus": max(outcome.gpus or 0 for outcome in outcomes),
        "launches": len(outcomes),
        "num_loads": len(loads),
    }


def print_overhead(results: Path) -> None:
    rows = [(folder.read().label, seconds_of(folder)) for folder in Results(results).folders()]
    print(f"{'experiment':<46} {'GPUs':>4} {'held s':>7} {'start s':>8} {'loads s':>8} {'driver s':>9}")
    driver = []
    for label, found in rows:
        rest = found["held"] - found["start"] - found["loads"]
        driver.append(rest / found["launches"])
        shown = (found["held"], found["start"], found["loads"])
        print(f"{label:<46} {found['gpus']:>4.0f} " + "{:>7.2f} {:>8.2f} {:>8.2f} ".format(*shown) + f"{rest:>9.2f}")
    held, busy = (
        sum(found["gpus"] * value(found) for _, found in rows)
        for value in (lambda found: found["held"], lambda found: found["start"] + found["loads"])
    )
    loads = sum(found["num_loads"] for _, found in rows)
    print(f"\ndriver, a start of servers: median {statistics.median(driver):.2f} s, most {max(driver):.2f} s")
    print(
        f"allocated GPU-time neither loading models nor measuring: {1 - busy / held:.1%} of {held / 3600:.3f} GPU-h"
    )
    per_load = held / loads
    print(f"(a load costs {per_load:.0f} GPU-seconds here; of real ones the same driver is a smaller share)")


def fronts_of(results: Path) -> dict[str, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ratematch", "pareto", str(results), "--json", "-o", folder]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    (workload,) = told["workloads"].values()
    return {kind: workload[kind] for kind in ("rate_matched", "end_to_end", "ifb")}


def print_same(ours: Path, other: Path) -> None:
    a, b = fronts_of(ours), fronts_of(other)
    print(f"\n{'front':<14} {'points':>9} {'volume, first / second':>23}")
    for kind in a:
        volumes = [hypervolume(sorted((p["tok_s_user"], p["tok_s_gpu"]) for p in side[kind])) for side in (a, b)]
        print(f"{kind:<14} {len(a[kind]):>4}/{len(b[kind]):<4} {volumes[0] / volumes[1]:>23.3f}")
    pairs = [
        {(m.experiment.label, m.load.label): m.measurement.tok_s for m in Results(r).measured()}
        for r in (ours, other)
    ]
    both = [key for key in pairs[0] if key in pairs[1] and pairs[0][key] and pairs[1][key]]
    logs = [math.log(pairs[0][key] / pairs[1][key]) for key in both]
    print(
        f"{len(both)} loads measured in both: tok/s ratio median {math.exp(statistics.median(logs)):.3f}, "
        f"typical difference {statistics.median(map(abs, logs)):.1%}, largest {max(map(abs, logs)):.1%}"
    )


def main(folders: list[Path]) -> None:
    if not folders:
        with tempfile.TemporaryDirectory() as scratch:
            print_overhead(run_on_test_cluster(Path(scratch)))
        return
    print_overhead(folders[0])
    if len(folders) > 1:
        print_same(*folders[:2])


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
