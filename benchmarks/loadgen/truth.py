"""The synthetic server as a process, and the log of what it really did."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Scenario:
    """``osl`` tokens a request at fixed distances; 0 ms: as fast as the reader takes them. ``only``: the clients that
    it is for; everybody when empty."""

    name: str
    about: str
    concurrency: int
    num_requests: int
    osl: int
    ttft_ms: float
    tpot_ms: float
    only: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return self.num_requests * self.osl


SCENARIOS = (
    Scenario("a", "64 streams, 20 ms a token", 64, 256, 128, 200, 20),
    Scenario("b", "512 streams, 20 ms a token", 512, 1536, 128, 200, 20),
    Scenario("c", "2,048 streams, 50 ms a token", 2048, 6144, 64, 200, 50),
    Scenario("d", "16 streams, flat out", 16, 64, 2048, 0, 0),
    # Light enough for AIPerf to hold: do both say the same?
    Scenario("e", "8 streams, 20 ms a token", 8, 32, 512, 200, 20, ("ratematch", "AIPerf")),
)
ISL = 1024


def build_server(folder: Path) -> Path:
    """Compile the server; raises CalledProcessError when there is no compiler that takes it."""
    binary = folder / "server"
    subprocess.run(["cc", "-O2", "-Wall", "-o", str(binary), str(HERE / "server.c")], check=True)
    return binary


@dataclass
class Server:
    """A running server; ``log`` is there once it has ended."""

    port: int
    log: Path
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serve(binary: Path, scenario: Scenario, log: Path) -> Iterator[Server]:
    process = subprocess.Popen(
        [str(binary), str(scenario.ttft_ms), str(scenario.tpot_ms), str(log)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield Server(int(process.stdout.readline()), log, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


@dataclass(frozen=True)
class Truth:
    """What the server did for the measured requests (the last that began, warm-up and probes left out).

    Instants in ns; ``first_any_ns``: the first byte of any request at all.
    """

    first_any_ns: float
    first_ns: Floats
    end_ns: Floats
    writes_ns: list[Floats]

    @property
    def ttft_ms(self) -> Floats:
        return np.array([w[0] for w in self.writes_ns]) / 1e6 - self.first_ns / 1e6

    @property
    def tpot_ms(self) -> Floats:
        return np.array([(w[-1] - w[0]) / (len(w) - 1) for w in self.writes_ns if len(w) > 1]) / 1e6

    @property
    def gaps_ms(self) -> Floats:
        return np.concatenate([np.diff(w) for w in self.writes_ns]) / 1e6

    @property
    def seconds(self) -> float:
        return float(self.end_ns.max() - self.first_ns.min()) / 1e9

    @property
    def held(self) -> float:
        """Mean requests in flight while the load was meant to be full: first request to the last one that began."""
        begin, end = self.first_ns.min(), self.first_ns.max()
        inside = np.minimum(self.end_ns, end) - np.maximum(self.first_ns, begin)
        return float(np.maximum(inside, 0).sum() / max(1.0, end - begin))

    @property
    def tok_s(self) -> float:
        return sum(len(w) for w in self.writes_ns) / self.seconds


def read_truth(log: Path, num_requests: int, osl: int) -> Truth:
    rows = [np.array(line.split(), dtype=np.float64) for line in log.read_text().splitlines()]
    if not rows:
        raise ValueError("the server completed no request")
    rows.sort(key=lambda row: row[1])
    measured = [row for row in rows if len(row) == osl + 4][-num_requests:]
    return Truth(
        first_any_ns=float(rows[0][1]),
        first_ns=np.array([row[1] for row in measured]),
        end_ns=np.array([row[3] for row in measured]),
        writes_ns=[row[4:] for row in measured],
    )
