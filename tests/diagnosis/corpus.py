"""The corpus: logs that were written for these tests, and the cause that each of them shows (``index.tsv``).

The sets: ``first`` was written before the patterns, ``second`` after them, ``healthy`` has servers with nothing
wrong, ``fresh``, ``fresh-2`` and ``fresh-3`` are other wordings that were tried once on finished patterns
(``docs/diagnosis.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
HEALTHY = "-"


@dataclass(frozen=True)
class Sample:
    """A log; ``cause``: the name of what it shows, ``HEALTHY`` for a server with nothing wrong."""

    name: str
    engine: str
    cause: str
    origin: str

    @property
    def text(self) -> str:
        return (FOLDER / "logs" / f"{self.name}.log").read_text(encoding="utf-8")


def read_corpus() -> list[Sample]:
    lines = (FOLDER / "index.tsv").read_text(encoding="utf-8").splitlines()
    return [Sample(*line.split("\t")) for line in lines if not line.startswith("#")]


def corpus_lines() -> list[str]:
    return [line for sample in read_corpus() for line in sample.text.splitlines()]
