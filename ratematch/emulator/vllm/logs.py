"""Log lines as vLLM prints them, on standard output, and what a server writes that dies while it loads."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from datetime import datetime
from typing import TextIO

CORE_FAILED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
"""Last line of a server whose engine could not start, after the cause."""

START_FAILURES = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 12.00 GiB. GPU 0 has a total capacity of "
    "79.11 GiB of which 3.20 GiB is free.",
    "nccl": "torch.distributed.DistBackendError: NCCL error: invalid usage. Duplicate GPU detected : rank 1 and rank "
    "0 both on CUDA device 1000",
    "ucx": "RuntimeError: NIXL is not available",
}
"""Cause in the log of a server that dies while loading, by the name of the injected failure."""


@dataclass
class Log:
    """Writes lines in vLLM's form: the process that speaks, level, time and the place in its source."""

    process: str = "APIServer"
    stream: TextIO = field(default_factory=lambda: sys.stdout)

    def _write(self, level: str, text: str, process: str = "") -> None:
        now = datetime.now().strftime("%m-%d %H:%M:%S")
        head = f"({process or self.process} pid={os.getpid()}) {level} {now} [emulator.py:1] "
        self.stream.write("".join(f"{head}{line}\n" for line in text.splitlines() or [""]))
        self.stream.flush()

    def error(self, text: str) -> None:
        self._write("ERROR", text)

    def warning(self, text: str) -> None:
        self._write("WARNING", text)

    def info(self, text: str) -> None:
        self._write("INFO", text)

    def core(self, text: str, level: str = "INFO") -> None:
        """A line of the process that schedules."""
        self._write(level, text, "EngineCore")

    def bare(self, text: str) -> None:
        """Lines without a head, such as the last words of a traceback."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def uvicorn(self, text: str) -> None:
        """A line of the HTTP server, which has its own format."""
        self.bare(f"INFO:     {text}")
