"""How much faster than real time a deployment is simulated, on one core.

DeepSeek-R1 8192/256 on 72 GPUs of a GB200 rack (10 context servers of 4 GPUs, one generation server of 32), one
closed loop of 2,048 streams, without and with three drafts. Exit code 1 when either load runs at less than 100 times
real time.

    python benchmarks/simulation_speed.py [--streams 2048]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ratematch.inputs.find import read_sweep
from ratematch.measure.measurement import measure_load
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.expansion import experiment_of
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.workload import Workload
from ratematch.simulate.load import simulate_load
from ratematch.simulate.plan import plan_simulation
from ratematch.simulate.service import Service
from ratematch.simulate.timeline import Timeline

WANTED = 100.0
WORKLOAD = Workload(8192, 256)


def measure_speed(streams: int, mtp: int) -> float:
    """Virtual seconds per second of this machine, printed with what was simulated."""
    sweep, _ = read_sweep(str(Path(__file__).parent.parent / "sweeps" / "deepseek-r1.yaml"))
    deployment = Deployment(
        ctx=ServerGroup("ctx", parse_mapping("DEP4"), 10, mtp),
        gen=ServerGroup("gen", parse_mapping("DEP32"), 1, mtp, options={"stream_interval": 20}),
    )
    load = Concurrency(streams, 4 * streams, streams // 4)
    experiment = experiment_of(sweep, "e2e", deployment, WORKLOAD, (load,))
    service = Service(plan_simulation(experiment, sweep.cluster), Timeline())
    began = time.perf_counter()
    result = simulate_load(service, WORKLOAD, load, seed=1)
    seconds = time.perf_counter() - began
    figures = measure_load(result.records, load, WORKLOAD)
    iterations = sum(server.scheduler.iter for server in service.servers)
    speed = service.timeline.now_s / seconds
    print(
        f"{deployment.label}: {deployment.gpus} GPUs, {streams} streams, {figures.tok_s:.0f} tok/s: "
        f"{service.timeline.now_s:.0f} virtual s, {iterations} iterations, {len(result.records)} requests in "
        f"{seconds:.2f} s = {speed:.0f} x real time"
    )
    return speed


def main() -> int:
    parser = argparse.ArgumentParser(description="virtual over real time, on one core")
    parser.add_argument("--streams", type=int, default=2048)
    streams = parser.parse_args().streams
    speeds = [measure_speed(streams, mtp) for mtp in (0, 3)]
    return 0 if min(speeds) >= WANTED else 1


if __name__ == "__main__":
    raise SystemExit(main())
