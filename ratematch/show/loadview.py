"""Progress and figures of ``ratematch load``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from ratematch.measure.measurement import Stats, to_json
from ratematch.plan.experiment import load_to_json
from ratematch.plan.load import Concurrency, Load
from ratematch.show.console import table

if TYPE_CHECKING:
    from ratematch.loadgen.loadresult import Progress
    from ratematch.loadrun import LoadRow

COLUMNS = [
    "load",
    "ok",
    "failed",
    "in flight",
    "TTFT ms",
    "p99",
    "TPOT ms",
    "p99",
    "tok/s/user",
    "tok/s",
    "req/s",
]


class LoadView:
    """A line that moves on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._last = 0.0

    def __enter__(self) -> LoadView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, load: Load, progress: Progress) -> None:
        ttft = f", TTFT {progress.ttft_ms:.0f} ms" if progress.ttft_ms is not None else ""
        rate = progress.done / progress.elapsed_s if progress.elapsed_s > 0 else 0.0
        line = (
            f"{load.label} {progress.phase}: {progress.done}/{progress.total} done, {progress.in_flight} in flight, "
            f"{rate:.1f} req/s{ttft}, {progress.failed} failed"
        )
        if self._console.is_terminal:
            self._live.update(Text(line))
        elif time.monotonic() - self._last > 5:
            self._last = time.monotonic()
            self._console.print(line, highlight=False, soft_wrap=True)

    def print_rows(self, rows: Sequence[LoadRow], console: Console) -> None:
        """The table of figures, then what is wrong with any of them, and whether the client held what was asked."""
        console.print(table("steady window; latencies are means unless named", COLUMNS, [_row(row) for row in rows]))
        for row in rows:
            m = row.measurement
            for word, style, lines in (("not valid", "red", m.reasons), ("note", "yellow", m.warnings)):
                for line in lines:
                    console.print(f"[{style}]{word}[/] {row.load.label}: {escape(line)}", highlight=False)
            if row.result.aborted:
                console.print(f"[red]stopped[/] {row.load.label}: {escape(row.result.aborted)}", highlight=False)
            if isinstance(row.load, Concurrency) and m.in_flight and m.in_flight < 0.95 * row.load.concurrency:
                held = f"held {m.in_flight:.0f} of {row.load.concurrency} requests in flight"
                console.print(f"[bold red]{held}[/] ({row.load.label})", highlight=False)


def _row(row: LoadRow) -> tuple[Any, ...]:
    m = row.measurement
    return (
        row.load.label,
        m.num_ok,
        m.num_failed,
        m.in_flight,
        _of(m.ttft_ms, "mean"),
        _of(m.ttft_ms, 99),
        _of(m.tpot_ms, "mean"),
        _of(m.tpot_ms, 99),
        m.tok_s_user,
        m.tok_s,
        m.req_s,
    )


def _of(stats: Stats | None, percentile: float | str) -> float | None:
    return stats.at(percentile) if stats else None


def ladder_to_json(rows: Sequence[LoadRow]) -> dict[str, Any]:
    """Every load with all its figures and the client's health."""
    return {
        "loads": [
            {
                "load": load_to_json(row.load),
                "aborted": row.result.aborted,
                "client": {name: getattr(row.result.health, name) for name in row.result.health.__dataclass_fields__},
                **to_json(row.measurement),
            }
            for row in rows
        ]
    }
