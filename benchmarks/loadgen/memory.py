"""What a load keeps of each request while it runs, and what its end needs.

    python benchmarks/loadgen/memory.py                          200,000 short requests (a few minutes)
    python benchmarks/loadgen/memory.py --requests 50000 --osl 64

One process sends to the C server of this folder, as fast as that answers. Growth is resident memory over requests,
from a quarter of the load on (buffers are full by then) to its last answer; the peak is of the whole process, after
the figures were computed and the records written. Send lag and CPU say whether keeping them cost the load anything.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from itertools import islice
from pathlib import Path

from truth import Scenario, build_server, serve

from ratematch.loadgen import LoadControl, Progress, Target, drive, write_records
from ratematch.loadgen.prompts import PromptSource
from ratematch.measure.measurement import measure_load
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--osl", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--curve", action="store_true", help="print resident MB over requests")
    chosen = parser.parse_args()
    seen: list[tuple[int, float]] = []

    def note(progress: Progress) -> None:
        seen.append((progress.done, resident_mb()))

    workload = Workload(16, chosen.osl)
    load = Concurrency(chosen.concurrency, chosen.requests)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = build_server(folder)
        with serve(server, Scenario("m", "", chosen.concurrency, 0, chosen.osl, 0, 0), folder / "log") as at:
            requests = islice(PromptSource(workload, 32_000, 1).endless(), chosen.requests)
            control = LoadControl(on_progress=note, progress_s=0.2)
            result = drive(Target(at.url, "m"), load, requests, control=control)
        ended_mb = resident_mb()
        begin_s = time.monotonic()
        figures = measure_load(result.records, load, workload, client=result.health)
        measured_s, measured_mb = time.monotonic() - begin_s, peak_mb()
        write_records(folder / "records.parquet", result.records)
    sent, seconds = len(result.records), (result.end_ns - result.start_ns) / 1e9
    warm = [(done, mb) for done, mb in seen if done >= sent / 4]
    (first, begin_mb), (last, end_mb) = warm[0], warm[-1]
    health = result.health
    if chosen.curve:
        print(" ".join(f"{done}:{mb:.0f}" for done, mb in seen[:: max(1, len(seen) // 40)]))
    print(f"{sent} requests of {chosen.osl} chunks, {figures.num_ok} ok, {sent / seconds:.0f}/s")
    print(f"growth while it ran: {(end_mb - begin_mb) / (last - first) * 1e6:.0f} bytes a request ({end_mb:.0f} MB)")
    print(f"after its end {ended_mb:.0f} MB, peak with figures {measured_mb:.0f} MB, and file {peak_mb():.0f} MB")
    print(f"figures took {measured_s:.1f} s; decoding after the load {health.decode_cpu_s:.1f} s")
    lag = f"{health.send_lag_p99_ms:.3f} ms" if health.send_lag_p99_ms is not None else "-"
    loop = f"{health.loop_lag_p99_ms:.2f} ms, at most {health.loop_lag_max_ms:.2f} ms"
    print(f"send lag p99 {lag}; timers late p99 {loop}; CPU {health.cpu_share:.2f} of a core")


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
