"""The table of measured rows: what was deployed, what was sent, what was measured.

``rows.csv``: DeepSeek-R1 served by TensorRT-LLM as measured in public (InferenceX dashboard, October 2025 to June
2026; medians over ``days`` of equal points), joined to the limits of the public recipe that each disaggregated point
names. Any CSV of this form is read: columns are looked up by name, and those not used here may be missing.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

ROWS = Path(__file__).with_name("rows.csv")


@dataclass(frozen=True, kw_only=True)
class Servers:
    """One role: its mapping, how many, and limits per attention-DP rank (``None``: not said)."""

    mapping: str
    instances: int
    max_batch_size: int | None
    max_num_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured point. ``ctx`` is ``None`` for aggregated serving, whose servers are ``gen``.

    ``tok_s_gpu``: output tokens/s over all GPUs; ``tpot_ms``: mean; ``ttft_ms``: see :meth:`ttft_as_given`. ``line``:
    in its file. ``first``: the day of the first measurement, ISO, empty where not said. ``records``: how many equal
    points the row was made of. ``source``: who measured it, with which recipe.
    """

    line: int
    gpu: str
    precision: str
    isl: int
    osl: int
    length_ratio: float
    ctx: Servers | None
    gen: Servers
    mtp: int
    kv_fraction: float | None
    transfer: str
    concurrency: int
    gpus: int
    tok_s_gpu: float
    tpot_ms: float
    ttft_ms: float
    first: str
    source: str
    records: int = 1
    ttft_p99_ms: float | None = None

    @property
    def kind(self) -> str:
        return "agg" if self.ctx is None else "disagg"

    @property
    def group(self) -> str:
        """What rows are grouped by in the report."""
        return f"{self.gpu} {self.precision} {self.kind}"

    @property
    def workload(self) -> str:
        """Rows of one workload can be ranked against each other."""
        return f"{self.gpu} {self.precision} {self.isl}/{self.osl}"

    @property
    def deployment(self) -> str:
        """Rows of one deployment differ in their concurrency only."""
        parts = [] if self.ctx is None else [f"{self.ctx.instances} x {self.ctx.mapping} ctx"]
        role = "gen" if self.ctx else "agg"
        mtp = f", MTP {self.mtp}" if self.mtp else ""
        return " + ".join([*parts, f"{self.gen.instances} x {self.gen.mapping} {role}"]) + mtp

    def ttft_as_given(self, mean_ms: float, median_ms: float) -> float:
        """What ``ttft_ms`` of this row is, in terms of its run's mean and median.

        A row of one record has the mean, one of three and more the median, and one of two what lies half-way
        between a mean and a median: so say Little's law and the rows' own 99th percentiles (docs/accuracy.md).
        """
        if self.records == 1:
            return mean_ms
        return median_ms if self.records > 2 else (mean_ms + median_ms) / 2

    @property
    def suspect(self) -> str:
        """Why a row may hold more than the engine, empty where nothing is known of it."""
        if self.gpu == "h100" and self.ctx is not None:
            return "TTFT of seconds with a few requests in flight: something other than the engine is in it"
        return ""


def read_rows(path: Path = ROWS) -> list[Row]:
    """The rows of ``path`` in their order.

    Raises:
        SystemExit: a row lacks a figure; one line says which.
    """
    with path.open(newline="") as file:
        return [_row(line, given, path) for line, given in enumerate(csv.DictReader(file), start=2)]


def _row(line: int, given: dict[str, str], path: Path) -> Row:
    try:
        return Row(
            line=line,
            gpu=given["gpu"],
            precision=given["precision"],
            isl=int(given["isl"]),
            osl=int(given["osl"]),
            length_ratio=float(given.get("length_ratio") or 1.0),
            ctx=_servers(given, "ctx") if given["kind"] == "disagg" else None,
            gen=_servers(given, "gen"),
            mtp=int(given.get("mtp") or 0),
            kv_fraction=float(given["kv_fraction"]) if given.get("kv_fraction") else None,
            transfer=given.get("transfer") or "UCX",
            concurrency=int(given["concurrency"]),
            gpus=int(given["gpus"]),
            tok_s_gpu=float(given["out_tok_s_gpu"]),
            tpot_ms=float(given["tpot_ms"]),
            ttft_ms=float(given["ttft_ms"]),
            first=given.get("first") or "",
            source=given.get("source") or "",
            records=int(given.get("days") or 1),
            ttft_p99_ms=float(given["ttft_p99_ms"]) if given.get("ttft_p99_ms") else None,
        )
    except (KeyError, ValueError) as error:
        raise SystemExit(
            f"{path}:{line}: {error}: give the columns of {ROWS.name}, whole numbers for counts"
        ) from None


def _servers(given: dict[str, str], role: str) -> Servers:
    batch, tokens = given.get(f"{role}_max_batch_size"), given.get(f"{role}_max_num_tokens")
    return Servers(
        mapping=given[role],
        instances=int(given[f"{role}_instances"] or 1),
        max_batch_size=int(batch) if batch else None,
        max_num_tokens=int(tokens) if tokens else None,
    )
