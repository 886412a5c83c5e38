"""Power, clocks and utilisation of this machine's GPUs while a load runs, through NVML (``ratematch[gpu]``).

Without the package, a driver or a GPU nothing is sampled and a note says so only when somebody could have expected
it (the package is there). GPUs of other machines are seen through their DCGM exporter:
``--server-metrics http://node:9400/metrics`` (:mod:`ratematch.loadgen.servermetrics`).
"""

from __future__ import annotations

import contextlib
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from time import monotonic_ns
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from ratematch.measure.loadrun import GpuMeans, GpuSummary
from ratematch.store.rowlog import RowLog

PERIOD_S = 0.1


_FIGURES = tuple(column.name for column in fields(GpuMeans))

Sample = tuple[int, int, float, float, float]
"""Instant (ns), GPU, power (W), SM clock (MHz), utilisation (%)."""


_SCHEMA = pa.schema([("at_ns", pa.int64()), ("gpu", pa.int32()), *((name, pa.float64()) for name in _FIGURES)])


def open_nvml() -> Any:
    """The NVML module, initialised; ``None`` when the package is missing.

    Raises:
        RuntimeError: the package is there, and no driver or GPU.
    """
    try:
        import pynvml  # noqa: PLC0415 - optional
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        raise RuntimeError(f"no GPU is sampled: {problem}") from problem
    return pynvml


@dataclass
class GpuSampler:
    """A thread that samples every GPU ten times a second; used as a context around a load.

    ``nvml``: the NVML module, imported when ``None``; ``notes``: why nothing is sampled, where that may surprise.
    ``folder``: where older samples are kept, see :class:`ratematch.store.spill.Spill`.
    """

    nvml: Any = None
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._log = RowLog(_SCHEMA, self.folder)

    def __len__(self) -> int:
        return len(self._log)

    @property
    def samples(self) -> list[Sample]:
        """All of them, in memory: for a few."""
        return list(self._log)

    def __enter__(self) -> GpuSampler:
        if self.nvml is None:
            try:
                self.nvml = open_nvml()
            except RuntimeError as problem:
                self.notes.append(str(problem))
        if self.nvml is not None:
            handles = [self.nvml.nvmlDeviceGetHandleByIndex(k) for k in range(self.nvml.nvmlDeviceGetCount())]
            self._thread = threading.Thread(target=self._sample, args=(handles,), name="gpu sampler", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _sample(self, handles: list[Any]) -> None:
        nvml = self.nvml
        while not self._over.wait(PERIOD_S):
            for index, handle in enumerate(handles):
                values = []
                for read in (
                    lambda h=handle: nvml.nvmlDeviceGetPowerUsage(h) / 1e3,
                    lambda h=handle: float(nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM)),
                    lambda h=handle: float(nvml.nvmlDeviceGetUtilizationRates(h).gpu),
                ):
                    value = float("nan")
                    with contextlib.suppress(Exception):  # a value that this GPU does not report
                        value = read()
                    values.append(value)
                self._log.extend([(monotonic_ns(), index, *values)])

    def lines(self) -> Iterator[dict[str, float | None]]:
        """Everything that was sampled, for a file of one JSON object a line; ``None`` where a GPU reports nothing."""
        for at_ns, gpu, *values in self._log:
            reported = [None if np.isnan(value) else value for value in values]
            yield {"at_ns": at_ns, "gpu": gpu, **dict(zip(_FIGURES, reported, strict=True))}

    def summarise(self, start_ns: int, end_ns: int, tok_s: float | None) -> GpuSummary | None:
        """Means inside a span, and energy per output token = mean power of all GPUs / tok/s. ``None``: no samples."""
        inside: dict[int, array[float]] = {}
        for at_ns, index, *values in self._log:
            if start_ns <= at_ns <= end_ns:
                inside.setdefault(index, array("d")).extend(values)
        if not inside:
            return None
        gpus = {}
        for index, sampled in sorted(inside.items()):
            columns = np.array(sampled).reshape(-1, len(_FIGURES))
            means = [float(np.nanmean(column)) if not np.isnan(column).all() else None for column in columns.T]
            gpus[str(index)] = GpuMeans(*means)
        powers = [gpu.power_w for gpu in gpus.values() if gpu.power_w is not None]
        power = sum(powers) if powers else None
        return GpuSummary(gpus, power, power / tok_s if power is not None and tok_s else None)
