"""What an image has, and how its GPUs work together. A script of its own, run by the image's Python.

Usage::

    python3 -c TEXT image FOLDER               what is there, into FOLDER/NODE.image.json
    python3 -c TEXT allreduce ADDRESS PORT     one task of an all-reduce over all tasks of its step

What is not there is left out; nothing here decides what is good.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BACKENDS = ("nixl", "mooncake", "torch", "mpi4py", "tensorrt_llm", "vllm")
PROGRAMS = ("ucx_info", "all_reduce_perf", "nvidia-smi")
LOAD_S = 3.0
SIZE_B = 64 << 20
"""Of the all-reduce: large enough for bandwidth to count, and soon done by MPI too."""


@dataclass
class ImageReport:
    """Inside the image. ``began``: by this node's clock. ``backends``: Python packages and programs that are there.
    ``load_mhz``: clock of each GPU under a short load, ``None`` where nothing there makes one."""

    node: str
    began: float
    backends: list[str]
    load_mhz: list[float] | None = None


def check_image() -> ImageReport:
    """What the image has, and its GPUs' clocks under a load that torch makes, where it is there."""
    began = time.time()
    packages = [name for name in BACKENDS if importlib.util.find_spec(name) is not None]
    programs = [name for name in PROGRAMS if shutil.which(name)]
    own = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    return ImageReport(own, began, [*packages, *programs], load_clocks() if "torch" in packages else None)


def load_clocks() -> list[float] | None:
    """SM clocks, MHz, while all GPUs multiply matrices; ``None`` without CUDA or nvidia-smi."""
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available() or not shutil.which("nvidia-smi"):
        return None
    matrices = [
        torch.ones(4096, 4096, device=f"cuda:{at}", dtype=torch.bfloat16) for at in range(torch.cuda.device_count())
    ]
    end, clocks = time.monotonic() + LOAD_S, ""
    while time.monotonic() < end:
        for matrix in matrices:
            for _ in range(50):
                torch.mm(matrix, matrix)
        clocks = _ask_clocks() or clocks
        torch.cuda.synchronize()
    return [float(word) for word in clocks.split() if word.replace(".", "", 1).isdigit()] or None


def _ask_clocks() -> str:
    argv = ("nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits")
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def all_reduce(address: str, port: int) -> str:
    """One task of an all-reduce: bandwidth of the bus (GB/s, as nccl-tests define it) by the rank 0, empty of the
    others. By NCCL where torch has it, else by MPI on the hosts, else ``none``."""
    rank, size = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_NTASKS", 1))
    if importlib.util.find_spec("torch") is not None:
        torch, group = importlib.import_module("torch"), importlib.import_module("torch.distributed")
        if torch.cuda.is_available() and group.is_nccl_available():
            torch.cuda.set_device(int(os.environ.get("SLURM_LOCALID", 0)) % torch.cuda.device_count())
            group.init_process_group("nccl", init_method=f"tcp://{address}:{port}", rank=rank, world_size=size)
            data = torch.ones(SIZE_B // 4, device="cuda")
            seconds = _time(lambda: group.all_reduce(data), torch.cuda.synchronize)
            group.destroy_process_group()
            return _bus(rank, size, SIZE_B, seconds, "NCCL")
    if importlib.util.find_spec("mpi4py") is not None:
        mpi = importlib.import_module("mpi4py.MPI")
        if (ranks := mpi.COMM_WORLD.Get_size()) != size:
            return f"MPI has {ranks} ranks of {size} tasks" if rank == 0 else ""
        data, into = bytearray(SIZE_B), bytearray(SIZE_B)
        seconds = _time(
            lambda: mpi.COMM_WORLD.Allreduce([data, mpi.DOUBLE], [into, mpi.DOUBLE]), mpi.COMM_WORLD.Barrier
        )
        return _bus(rank, size, SIZE_B, seconds, "MPI")
    return "none" if rank == 0 else ""


def _time(once: Callable[[], object], settle: Callable[[], object]) -> float:
    for _ in range(3):
        once()
    settle()
    begin = time.monotonic()
    for _ in range(10):
        once()
    settle()
    return (time.monotonic() - begin) / 10


def _bus(rank: int, size: int, size_b: int, seconds: float, by: str) -> str:
    return f"{2 * (size - 1) / size * size_b / seconds / 1e9:.2f} GB/s by {by}" if rank == 0 else ""


def main(arguments: list[str]) -> None:
    match arguments:
        case ["image", folder]:
            report = check_image()
            aside = Path(folder) / f".{report.node}-{os.getpid()}"
            aside.write_text(json.dumps(dataclasses.asdict(report)))
            aside.replace(Path(folder) / f"{report.node}.image.json")
        case ["allreduce", address, port]:
            if said := all_reduce(address, int(port)):
                sys.stdout.write(f"all-reduce: {said}\n")
        case _:
            sys.exit(f"unknown arguments {arguments}")


if __name__ == "__main__":
    main(sys.argv[1:])
