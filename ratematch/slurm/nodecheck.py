"""What one node is and does, looked at on the node itself. A script of its own: it imports nothing of ratematch.

Usage::

    python -I nodecheck.py facts                              cores, NUMA, GPUs' affinity, ... as one line of JSON
    python -I nodecheck.py node FOLDER PORT NODE,NODE,...     all of a node, into FOLDER/NODE.json

``node`` runs on all nodes at once: each listens on PORT, asks the first for the time and connects to the next. Tools
that are not there leave their values out (``None``); nothing here decides what is good.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

TOOL_S = 30.0
MEET_S = 40.0
"""How long nodes wait for each other: steps begin within seconds."""
ANSWER_S = 5.0
THANKS = b"thanks"
DISK_B = 128 << 20


@dataclass
class Facts:
    """Of a machine as the process sees it. ``numa``: CPUs of each NUMA node. ``gpu_numa``: of each GPU, -1 where the
    machine does not say. ``nics``: name and speed. ``hugepages``: reserved, by size. ``cgroup``: version."""

    cores: int = 0
    numa: dict[str, str] = field(default_factory=dict)
    gpu_numa: list[int] = field(default_factory=list)
    nics: list[str] = field(default_factory=list)
    clocksource: str | None = None
    hugepages: dict[str, int] = field(default_factory=dict)
    transparent_hugepages: str | None = None
    cgroup: int | None = None


@dataclass
class GpuReport:
    """As nvidia-smi says it. ``uncorrected``: ECC errors since boot. ``clock_mhz``: now, and the most."""

    index: int
    name: str
    memory_mib: float
    ecc: str
    uncorrected: int | None
    clock_mhz: float | None
    most_mhz: float | None


@dataclass
class Meeting:
    """With other nodes. ``refused``: why the port could not be had here. ``next_node``: that was connected to,
    ``why_not``: why it could not be. ``skew_s``: this clock minus that of the first node, known to
    +-``skew_error_s``."""

    refused: str | None = None
    next_node: str | None = None
    why_not: str | None = None
    skew_s: float | None = None
    skew_error_s: float | None = None


@dataclass
class NodeReport:
    """``gpus``: ``None`` without nvidia-smi. ``remap``: rows of GPU memory that are to be, or cannot be, replaced.
    ``nvlinks``: active links of each GPU. ``fabric``: state, cluster and clique of each GPU. ``imex``: the domain's
    state. ``disk_mb_s``: writing to the results folder, ``disk_error``: why not."""

    node: str
    facts: Facts
    gpus: list[GpuReport] | None = None
    remap: list[str] | None = None
    nvlinks: list[int] | None = None
    fabric: list[str] | None = None
    imex: str | None = None
    disk_mb_s: float | None = None
    disk_error: str | None = None
    meeting: Meeting = field(default_factory=Meeting)


def ask(*argv: str) -> str | None:
    """Output of a tool; ``None`` when it is not there, fails or takes too long."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=TOOL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read(path: str) -> str | None:
    """Text of a file of the kernel's, without the line's end; ``None`` where there is none."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def number(text: str) -> float | None:
    """``None`` for ``[N/A]`` and what else is no number."""
    try:
        return float(text)
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------------ the machine


def facts() -> Facts:
    """What a binding of processes needs to know."""
    numa = {
        folder.name[4:]: read(f"{folder}/cpulist") or ""
        for folder in sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))
    }
    huge = {
        folder.name.partition("-")[2]: int(read(f"{folder}/nr_hugepages") or 0)
        for folder in sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*"))
    }
    chosen = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled") or "")
    cgroup = (
        2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1 if Path("/sys/fs/cgroup").exists() else None
    )
    return Facts(
        cores=len(os.sched_getaffinity(0)),
        numa=numa,
        gpu_numa=gpu_numa(),
        nics=nics(),
        clocksource=read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        hugepages=huge,
        transparent_hugepages=chosen[1] if chosen else None,
        cgroup=cgroup,
    )


def gpu_numa() -> list[int]:
    listed = ask("nvidia-smi", "--query-gpu=pci.bus_id", "--format=csv,noheader") or ""
    found = []
    for line in listed.split():
        # nvidia-smi writes eight digits of the domain, the kernel four.
        domain, _, rest = line.lower().partition(":")
        found.append(int(read(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node") or -1))
    return found


def nics() -> list[str]:
    found = []
    for device in sorted(Path("/sys/class/infiniband").glob("*")):
        rate = read(f"{device}/ports/1/rate") or "unknown rate"
        found.append(f"{device.name} {rate.partition(' (')[0]}")
    for device in sorted(Path("/sys/class/net").glob("*")):
        speed = number(read(f"{device}/speed") or "")
        if device.name != "lo" and read(f"{device}/operstate") == "up":
            found.append(f"{device.name} {speed / 1000:g} Gb/sec" if speed and speed > 0 else device.name)
    return found


# --------------------------------------------------------------------------------------------------- its GPUs


def gpus() -> list[GpuReport] | None:
    keys = "index,name,memory.total,ecc.mode.current,ecc.errors.uncorrected.volatile.total,clocks.sm,clocks.max.sm"
    listed = ask("nvidia-smi", f"--query-gpu={keys}", "--format=csv,noheader,nounits")
    if listed is None:
        return None
    found = []
    for line in listed.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 7 and words[0].isdigit():
            errors = number(words[4])
            memory = number(words[2]) or 0.0
            uncorrected = None if errors is None else int(errors)
            found.append(
                GpuReport(int(words[0]), words[1], memory, words[3], uncorrected, number(words[5]), number(words[6]))
            )
    return found


def remap() -> list[str] | None:
    """``pending`` and ``failure`` of each GPU's row remapping, as ``No, No``."""
    keys = "remapped_rows.pending,remapped_rows.failure"
    listed = ask("nvidia-smi", f"--query-remapped-rows={keys}", "--format=csv,noheader")
    return None if listed is None else [line.strip() for line in listed.splitlines() if line.strip()]


def nvlinks() -> list[int] | None:
    listed = ask("nvidia-smi", "nvlink", "--status")
    if listed is None:
        return None
    parts = re.split(r"^GPU \d+:", listed, flags=re.MULTILINE)[1:]
    return [len(re.findall(r"Link \d+: [\d.]+ GB/s", part)) for part in parts]


def fabric() -> list[str] | None:
    """``Completed Success <cluster>.<clique>`` of each GPU of an NVLink fabric; ``None`` where there is none."""
    listed = ask("nvidia-smi", "-q") or ""
    found = []
    for part in re.findall(r"^ +Fabric\n((?: {8,}.*\n)+)", listed, re.MULTILINE):
        said = dict(re.findall(r"^\s*(\w+)\s*: *(.*?)\s*$", part, re.MULTILINE))
        if said.get("State", "N/A") != "N/A":
            where = f"{said.get('ClusterUUID', '?')}.{said.get('CliqueId', '?')}"
            found.append(f"{said['State']} {said.get('Status', '?')} {where}")
    return found or None


def imex() -> str | None:
    match = re.search(r"Domain State:\s*(\w+)", ask("nvidia-imex-ctl", "-N") or "")
    return match[1] if match else None


# ---------------------------------------------------------------------------------------- disk and neighbours


def write_speed(folder: Path, size_b: int = DISK_B) -> float:
    """MB/s of one file that is written and synced.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / f"disk-{socket.gethostname()}-{os.getpid()}"
    block = os.urandom(1 << 20)
    try:
        begin = time.monotonic()
        with path.open("wb") as file:
            for _ in range(max(1, size_b >> 20)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return size_b / 1e6 / (time.monotonic() - begin)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def meet(own: str, names: list[str], port: int, address: str = "", seconds: float = MEET_S) -> Meeting:
    """Listen for the others, ask the first for its time, connect to the next. ``address``: to listen on."""
    at = names.index(own)
    first, following, before = names[0], names[(at + 1) % len(names)], names[at - 1]
    awaited = {f"next {before}", *(f"time {name}" for name in names if at == 0)}
    try:
        listener = socket.create_server((address, port), backlog=len(names) + 8)
    except OSError as error:
        return Meeting(refused=f"port {port}: {error.strerror}")
    deadline = time.monotonic() + seconds
    everybody = threading.Event()
    with listener:
        threading.Thread(target=_listen, args=(listener, awaited, everybody), daemon=True).start()
        said, skew_s, error_s = Meeting(next_node=following), None, None
        for greeting in ("look", "look", f"time {own}"):  # the first node stays until all have asked their last
            asked = _ask_time(first, port, greeting, deadline)
            if isinstance(asked, tuple) and (error_s is None or asked[1] < error_s):
                skew_s, error_s = asked
        said.skew_s, said.skew_error_s = skew_s, error_s
        reached = _ask_time(following, port, f"next {own}", deadline)
        said.why_not = reached if isinstance(reached, str) else None
        everybody.wait(max(0.0, deadline - time.monotonic()))
    return said


def _listen(listener: socket.socket, awaited: set[str], everybody: threading.Event) -> None:
    """Answer whoever connects, each in a thread of its own: one that hangs holds nobody up."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, awaited, everybody), daemon=True).start()


def _answer(connection: socket.socket, awaited: set[str], everybody: threading.Event) -> None:
    """Tell the time. Who asked is no longer awaited when it has said that the answer came: else it will ask again."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(ANSWER_S)
        greeting = connection.recv(512).decode(errors="replace").strip()
        connection.sendall(repr(time.time()).encode())
        if connection.recv(len(THANKS)) == THANKS:
            awaited.discard(greeting)
        if not awaited:
            everybody.set()


def _ask_time(name: str, port: int, greeting: str, deadline: float) -> tuple[float, float] | str:
    """This clock minus that of ``name`` and what it may be wrong by, seconds; else why it cannot be asked."""
    while True:
        try:
            with socket.create_connection((name, port), timeout=ANSWER_S) as connection:
                begin = time.time()
                connection.sendall(greeting.encode())
                theirs = float(connection.recv(64))
                end = time.time()
                connection.sendall(THANKS)
                return (begin + end) / 2 - theirs, (end - begin) / 2
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                return str(error) or type(error).__name__
            time.sleep(0.2)


def check_node(folder: Path, port: int, names: list[str]) -> NodeReport:
    """All that is looked at on a node."""
    own = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    meeting = meet(own, names, port) if own in names else Meeting(refused=f"{own} is not among {','.join(names)}")
    report = NodeReport(own, facts(), gpus(), remap(), nvlinks(), fabric(), imex(), meeting=meeting)
    try:
        report.disk_mb_s = write_speed(folder)
    except OSError as error:
        report.disk_error = error.strerror or str(error)
    return report


def write(folder: Path, name: str, report: NodeReport) -> None:
    """Aside and renamed: whoever reads it reads all of it."""
    aside = folder / f".{name}-{os.getpid()}"
    aside.write_text(json.dumps(dataclasses.asdict(report)))
    aside.replace(folder / name)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["facts"]:
            sys.stdout.write(json.dumps(dataclasses.asdict(facts())) + "\n")
        case ["node", folder, port, names]:
            report = check_node(Path(folder), int(port), names.split(","))
            write(Path(folder), f"{report.node}.json", report)
        case _:
            sys.exit(f"unknown arguments {arguments}; see the beginning of {__file__}")


if __name__ == "__main__":
    main(sys.argv[1:])
