"""Prometheus histograms as text: a sum, a count and the bucket that holds everything, enough for means."""

from __future__ import annotations


class Histogram:
    """The values observed under ``name``, which has their unit."""

    def __init__(self, name: str):
        self._name = name
        self._sum, self._count = 0.0, 0

    def observe(self, value: float) -> None:
        self._sum += value
        self._count += 1

    def lines(self, labels: str) -> list[str]:
        """Its samples, with ``labels`` written as in ``a="b",c="d"``."""
        return [
            f"# TYPE {self._name} histogram",
            f'{self._name}_bucket{{{labels},le="+Inf"}} {self._count}',
            f"{self._name}_sum{{{labels}}} {self._sum:.9g}",
            f"{self._name}_count{{{labels}}} {self._count}",
        ]
