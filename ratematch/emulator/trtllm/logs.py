"""Log lines as the engine prints them, on standard output."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime
from typing import TextIO

LEVELS = {"internal_error": 0, "error": 1, "warning": 2, "info": 3, "verbose": 4, "debug": 4, "trace": 5}
_LETTER = {"error": "E", "warning": "W", "info": "I", "debug": "D"}


@dataclass
class Log:
    """Writes lines in the engine's format; ``level`` is the least important level shown."""

    level: str = "info"
    stream: TextIO = field(default_factory=lambda: sys.stdout)

    def _write(self, level: str, text: str, rank: str = "") -> None:
        if LEVELS[level] <= LEVELS.get(self.level, 3):
            now = datetime.now().strftime("%m/%d/%Y-%H:%M:%S")
            self.stream.write(f"[{now}] [TRT-LLM] {rank}[{_LETTER[level]}] {text}\n")
            self.stream.flush()

    def error(self, text: str) -> None:
        self._write("error", text)

    def warning(self, text: str) -> None:
        self._write("warning", text)

    def info(self, text: str) -> None:
        self._write("info", text)

    def debug(self, text: str) -> None:
        self._write("debug", text)

    def rank0(self, text: str) -> None:
        """A line of executor rank 0, such as an iteration line."""
        self._write("info", text, "[RANK 0] ")

    def uvicorn(self, text: str) -> None:
        """A line of the HTTP server, which has its own format."""
        self.stream.write(f"INFO:     {text}\n")
        self.stream.flush()
