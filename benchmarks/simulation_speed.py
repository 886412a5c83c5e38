"""How much faster than real time a deployment is simulated, in CPU seconds of one core, plain and compiled.

DeepSeek-R1 8192/256 on 72 GPUs of a GB200 rack (10 context servers of 4 GPUs, one generation server of 32), one
closed loop of 2,048 streams, without and with three drafts. The compiled loop is built first, and has to give the
same records. Exit code 1 when it does not, or when a load runs at less than 1,000 times real time compiled or 100
plain.

    python benchmarks/simulation_speed.py [--streams 2048] [--repeats 3]
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from statistics import median

from ratematch.inputs.find import read_sweep
from ratematch.loadgen.loadresult import LoadResult
from ratematch.measure.measurement import measure_load
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.workload import Workload
from ratematch.simulate.compiled.build import build, compiled_loop
from ratematch.simulate.load import PlainLoop, simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline

WANTED = {"compiled": 1000.0, "plain": 100.0}
WORKLOAD = Workload(8192, 256)


def simulate(streams: int, mtp: int, loop: str) -> tuple[float, LoadResult]:
    """Virtual seconds per CPU second, printed with what was simulated; and the records."""
    sweep, _ = read_sweep(str(Path(__file__).parent.parent / "sweeps" / "deepseek-r1.yaml"))
    deployment = Deployment(
        ctx=ServerGroup("ctx", parse_mapping("DEP4"), 10, mtp),
        gen=ServerGroup("gen", parse_mapping("DEP32"), 1, mtp, options={"stream_interval": 20}),
    )
    load = Concurrency(streams, 4 * streams, streams // 4)
    experiment = experiment_of(sweep, "e2e", deployment, WORKLOAD, (load,))
    service = Service(plan_simulation(experiment, sweep.cluster), Timeline())
    service.loop = compiled_loop(service) if loop == "compiled" else PlainLoop(service)
    if service.loop is None:
        raise SystemExit("the compiled loop is not used: is RATEMATCH_SIMULATION set?")
    gc.collect()
    began = time.process_time()
    result = simulate_load(service, WORKLOAD, load, seed=1)
    seconds = time.process_time() - began
    figures = measure_load(result.records, load, WORKLOAD)
    iterations = sum(server.scheduler.iter for server in service.servers)
    speed = service.timeline.now_s / seconds
    print(
        f"{deployment.label}, {loop}: {deployment.gpus} GPUs, {streams} streams, {figures.tok_s:.0f} tok/s: "
        f"{service.timeline.now_s:.0f} virtual s, {iterations} iterations, {len(result.records)} requests in "
        f"{seconds:.3f} s = {speed:.0f} x real time",
        flush=True,
    )
    return speed, result


def main() -> int:
    parser = argparse.ArgumentParser(description="virtual over CPU time, on one core")
    parser.add_argument("--streams", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    build()
    enough = True
    for mtp in (0, 3):
        speeds: dict[str, list[float]] = {loop: [] for loop in WANTED}
        records = []
        for _ in range(args.repeats):
            for loop, taken in speeds.items():
                speed, result = simulate(args.streams, mtp, loop)
                taken.append(speed)
                records.append(result.records)
        if any(each != records[0] for each in records):
            print("the records differ")
            enough = False
        enough &= all(median(taken) >= WANTED[loop] for loop, taken in speeds.items())
        print({loop: [round(speed) for speed in sorted(taken)] for loop, taken in speeds.items()})
    return 0 if enough else 1


if __name__ == "__main__":
    raise SystemExit(main())
