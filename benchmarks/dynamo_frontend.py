#!/usr/bin/env python3
"""What does NVIDIA Dynamo's real frontend add to a server: CPU, TTFT, and up to how many streams?

The same emulated engine with the same file answers the same loads twice: asked directly (``trtllm-serve``, emulated)
and as a worker behind ``dynamo.frontend``. Loads of both are taken in turns, so what the machine does meanwhile hits
both; differences and ratios are of runs next to each other. CPU is that of the frontend's process, from /proc.

A right answer: throughput the same within a few per cent as long as the frontend has a processor to itself, an added
TTFT of a few milliseconds, CPU that grows with chunks rather than with streams. Where the ratio of tok/s falls, the
frontend (or, with a worker that says "late", this machine) is what is measured.

    make dynamo
    .venv/bin/python benchmarks/dynamo_frontend.py [--streams 64,512,2048] [--rounds 2] [--interval 20]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

MODEL = "deepseek-r1"
ENGINE = {
    "tensor_parallel_size": 8,
    "moe_expert_parallel_size": 8,
    "enable_attention_dp": True,
    "max_batch_size": 512,
    "max_num_tokens": 8192,
    "max_seq_len": 4096,
    "kv_cache_config": {"enable_block_reuse": False},
}
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """One that Dynamo takes for a system port: it reads 16 bits with a sign."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Processor seconds of a process so far, its threads included."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def get(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        return str(answer.read().decode())


def samples(text: str) -> dict[str, float]:
    """Sums over labels of Prometheus samples."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            with contextlib.suppress(ValueError):
                sums[name.partition("{")[0]] = sums.get(name.partition("{")[0], 0.0) + float(value)
    return sums


@contextlib.contextmanager
def deployment(folder: Path, interval: int) -> Iterator[tuple[dict[str, str], dict[str, subprocess.Popen[bytes]]]]:
    """Addresses of the server asked directly and of the frontend; processes by name."""
    config = folder / "engine.yaml"
    config.write_text(json.dumps({**ENGINE, "stream_interval": interval}))
    direct, front, system = free_port(), free_port(), free_port()
    hosts = ("DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST")
    environment = {
        **os.environ,
        **dict.fromkeys(hosts, "127.0.0.1"),
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(folder / "discovery"),
        "DYN_EVENT_PLANE": "zmq",
        "DYN_SKIP_SGLANG_LOG_FORMATTING": "1",
        "DYN_SYSTEM_PORT": str(system),
        "HF_HUB_OFFLINE": "1",
        "RATEMATCH_EMULATED_LOAD_S": "0",
    }
    python = sys.executable
    worker = [python, "-m", "ratematch.emulator", "dynamo-worker", "dynamo.trtllm", "--model", MODEL]
    commands = {
        "direct": [python, "-m", "ratematch.emulator", MODEL, "--port", str(direct), "--config", str(config)],
        "frontend": [python, "-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(front)],
        "worker": [*worker, "--served-model-name", MODEL, "--extra-engine-args", str(config)],
    }
    versions = {"direct": {"RATEMATCH_EMULATED_VERSION": "1.3.0rc29"}, "frontend": {"DYN_SYSTEM_PORT": "-1"}}
    processes = {}
    for name, command in commands.items():
        with (folder / f"{name}.log").open("wb") as log:
            processes[name] = subprocess.Popen(
                command, env=environment | versions.get(name, {}), stdout=log, stderr=log, cwd=folder
            )
    urls = {"direct": f"http://127.0.0.1:{direct}", "frontend": f"http://127.0.0.1:{front}"}
    try:
        wait_ready(urls, processes, folder)
        yield urls | {"system": f"http://127.0.0.1:{system}"}, processes
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for process in processes.values():
            process.wait(60)


def wait_ready(urls: dict[str, str], processes: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + 120
    waiting = dict(urls)
    while waiting:
        for name, url in list(waiting.items()):
            with contextlib.suppress(OSError):
                if MODEL in get(f"{url}/v1/models"):
                    del waiting[name]
        dead = [name for name, process in processes.items() if process.poll() is not None]
        if dead or time.monotonic() > deadline:
            sys.exit(
                "\n".join(f"{name} is not ready:\n{(folder / f'{name}.log').read_text()[-2000:]}" for name in dead)
            )
        time.sleep(0.2)


def load(url: str, streams: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The measurement of one load."""
    command = [sys.executable, "-m", "ratematch", "load", url, "--model", MODEL, "--concurrency", str(streams)]
    command += ["--isl", str(arguments.isl), "--osl", str(arguments.osl), "--seed", "1", "-o", str(folder)]
    # Slots begin one after the other: TTFT is that of requests which come one by one, not of a burst.
    command += ["--stagger", str(arguments.stagger)]
    command += ["--num-requests", str(max(128, arguments.lives * streams)), "--vocab-size", "100000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = list(folder.glob("**/measurement.json"))
    if len(files) != 1:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    row: dict[str, Any] = json.loads(files[0].read_text())
    return row


def mean(row: dict[str, Any], name: str) -> float:
    return float(row[name]["mean"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="64,512,2048", help="Concurrencies.")
    parser.add_argument("--rounds", type=int, default=2, help="Pairs of each.")
    parser.add_argument("--interval", type=int, default=20, help="stream_interval: tokens a chunk.")
    parser.add_argument("--isl", type=int, default=128)
    parser.add_argument("--osl", type=int, default=128)
    parser.add_argument("--stagger", type=float, default=3.0, help="Seconds in which all slots begin.")
    parser.add_argument("--lives", type=int, default=3, help="Requests a stream.")
    arguments = parser.parse_args()
    print(f"EMULATED engine; {os.cpu_count()} processors; ISL {arguments.isl}, OSL {arguments.osl}, ", end="")
    print(f"a chunk each {arguments.interval} tokens; mean of {arguments.rounds} pairs")
    print("streams  tok/s direct  ratio  TTFT ms  +ms  TPOT ms  ratio  ", end="")
    print("frontend: cores  ms/request  loop ms  worker: cores  late")
    with tempfile.TemporaryDirectory() as name, deployment(Path(name), arguments.interval) as (urls, processes):
        for streams in map(int, arguments.streams.split(",")):
            report(streams, arguments, urls, processes, Path(name))


def report(
    streams: int,
    arguments: argparse.Namespace,
    urls: dict[str, str],
    processes: dict[str, subprocess.Popen[bytes]],
    folder: Path,
) -> None:
    pairs, cores, request_ms, delays, late, worker_cores = [], [], [], [], [], []
    for number in range(arguments.rounds):
        rows = {}
        for side in ("direct", "frontend") if number % 2 else ("frontend", "direct"):
            before, cpu, begin = (
                samples(get(urls["frontend"] + "/metrics")),
                cpu_s(processes["frontend"]),
                time.time(),
            )
            worked, worker_cpu = samples(get(urls["system"] + "/metrics")), cpu_s(processes["worker"])
            rows[side] = load(urls[side], streams, arguments, folder / f"{streams}-{number}-{side}")
            if side == "frontend":
                spent = cpu_s(processes["frontend"]) - cpu
                after = samples(get(urls["frontend"] + "/metrics"))
                grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
                busy = samples(get(urls["system"] + "/metrics"))
                seconds = time.time() - begin
                cores.append(spent / seconds)
                worker_cores.append((cpu_s(processes["worker"]) - worker_cpu) / seconds)
                tokens = grown.get("dynamo_frontend_output_tokens_total", 0.0)
                request_ms.append(1e3 * spent * arguments.osl / max(1.0, tokens))
                loop = "dynamo_frontend_event_loop_delay_seconds"
                delays.append(1e3 * grown.get(f"{loop}_sum", 0.0) / max(1.0, grown.get(f"{loop}_count", 0.0)))
                share = "ratematch_emulated_late_s", "ratematch_emulated_busy_s"
                late.append((busy[share[0]] - worked[share[0]]) / max(1e-9, busy[share[1]] - worked[share[1]]))
        pairs.append((rows["direct"], rows["frontend"]))
    speed = median(front["tok_s"] / plain["tok_s"] for plain, front in pairs)
    added = median(mean(front, "ttft_ms") - mean(plain, "ttft_ms") for plain, front in pairs)
    slower = median(mean(front, "tpot_ms") / mean(plain, "tpot_ms") for plain, front in pairs)
    plain = pairs[0][0]
    print(
        f"{streams:7d} {plain['tok_s']:13.0f} {speed:6.3f} {mean(plain, 'ttft_ms'):8.0f} {added:4.0f} "
        f"{mean(plain, 'tpot_ms'):8.1f} {slower:6.3f} {median(cores):16.2f} {median(request_ms):11.1f} "
        f"{median(delays):8.1f} {median(worker_cores):14.2f} {100 * median(late):4.1f} %",
        flush=True,
    )


if __name__ == "__main__":
    main()
