"""Progress and figures of ``ratematch load``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ratematch.measure.measurement import Stats
from ratematch.plan.dataset.summary import LengthSpan, summary_to_json
from ratematch.plan.load import Concurrency, Load, Rate, Trace
from ratematch.show.console import table

if TYPE_CHECKING:
    from ratematch.loadgen.ladder import LadderStart, LoadRow
    from ratematch.loadgen.loadresult import Progress

COLUMNS = ["load", "ok", "held", "TTFT", "p99", "lag", "TPOT", "p99", "/user", "tok/s", "req/s"]
TITLE = "steady window; mean ms unless named; lag: intended to sent; held: in flight; /user: tok/s/user"


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
        tpot = f", TPOT {progress.tpot_ms:.1f} ms" if progress.tpot_ms is not None else ""
        tok_s = progress.tokens / progress.elapsed_s if progress.elapsed_s > 0 else 0.0
        rate = progress.done / progress.elapsed_s if progress.elapsed_s > 0 else 0.0
        of = f"/{progress.total}" if progress.total else ""
        line = (
            f"{load.label} {progress.phase}: {progress.done}{of} done, {progress.in_flight} in flight, "
            f"{rate:.1f} req/s, {tok_s:.0f} tok/s{ttft}{tpot}, {progress.failed} failed"
        )
        if self._console.is_terminal:
            self._live.update(Text(line))
        elif time.monotonic() - self._last > 5:
            self._last = time.monotonic()
            self._console.print(Text(line), soft_wrap=True)

    def print_start(self, start: LadderStart) -> None:
        """What is about to be sent: how a data set was understood, and the seed."""
        for line in (*describe_dataset(start), *_describe_kept(start), describe_seed(start)):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def print_rows(self, rows: Sequence[LoadRow], console: Console, start: LadderStart | None = None) -> None:
        """The table of figures, then what is wrong with any of them, and whether the client held what was asked."""
        if start is not None and not (console.is_terminal and self._console.is_terminal):
            for line in (*describe_dataset(start)[:1], *_describe_kept(start), describe_seed(start)):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        if any(row.emulated for row in rows):
            console.print("[bold yellow]EMULATED[/]: no GPU stands behind these figures", highlight=False)
        console.print(table(TITLE, COLUMNS, [_row(row) for row in rows]))
        for row in rows:
            m = row.measurement
            _print_sureness(row, console)
            notes = (*m.warnings, *row.notes)
            for word, style, lines in (("not valid", "red", m.reasons), ("note", "yellow", notes)):
                for line in lines:
                    console.print(Text.assemble((word, style), f" {row.load.label}: {line}"))
            if row.result.ended_early:
                console.print(Text(f"ended early {row.load.label}: {row.result.ended_early}"))
            if row.result.aborted:
                console.print(Text.assemble(("stopped", "red"), f" {row.load.label}: {row.result.aborted}"))
            if isinstance(row.load, Concurrency) and m.in_flight and m.in_flight < 0.95 * row.load.concurrency:
                held = f"held {m.in_flight:.0f} of {row.load.concurrency} requests in flight"
                console.print(Text.assemble((held, "bold red"), f" ({row.load.label})"))


def _print_sureness(row: LoadRow, console: Console) -> None:
    m = row.measurement
    widths = [
        f"{name} ±{width:.1%}"
        for name, width in (("tok/s", m.tok_s_ci), ("TTFT", m.ttft_ci), ("TPOT", m.tpot_ci))
        if width is not None
    ]
    parts = [f"95 % intervals {', '.join(widths)}"] if widths else []
    if m.goodput is not None and m.goodput_req_s is not None and m.good_share is not None:
        parts.append(f"goodput {m.goodput_req_s:.3g} req/s ({m.good_share:.0%} keep {m.goodput})")
    if row.gpus is not None and row.gpus.power_w is not None:
        parts.append(f"{row.gpus.power_w:.0f} W, {row.gpus.joules_per_output_token or 0:.3g} J per output token")
    if parts:
        console.print(Text(f"{row.load.label}: {'; '.join(parts)}"))


def _row(row: LoadRow) -> tuple[Any, ...]:
    m = row.measurement
    return (
        _short(row.load),
        f"{m.num_ok}+{m.num_failed}" if m.num_failed else str(m.num_ok),
        m.in_flight,
        _of(m.ttft_ms, "mean"),
        _of(m.ttft_ms, 99),
        _of(m.send_lag_ms, "mean"),
        _of(m.tpot_ms, "mean"),
        _of(m.tpot_ms, 99),
        m.tok_s_user,
        m.tok_s,
        m.req_s,
    )


def _short(load: Load) -> str:
    match load:
        case Concurrency():
            return f"c{load.concurrency}"
        case Rate():
            return f"{load.req_s:g}/s"
        case Trace():
            return f"x{load.speed:g}"


def _of(stats: Stats | None, percentile: float | str) -> float | None:
    return stats.at(percentile) if stats else None


def ladder_to_json(
    rows: Sequence[LoadRow], start: LadderStart | None = None, kept: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Every load with all its figures and the client's health; those that were measured before, first."""
    content: dict[str, Any] = {"emulated": any(row.emulated for row in rows) or any(row["emulated"] for row in kept)}
    if start is not None:
        content |= {"seed": start.seed, "dataset": summary_to_json(start.dataset) if start.dataset else None}
    return {**content, "loads": [*kept, *(row.to_json() for row in rows)]}


def kept_rows(start: LadderStart) -> list[dict[str, Any]]:
    """The figures of rungs that were measured before, as their folders hold them."""
    return [json.loads((folder / "measurement.json").read_text()) for folder in start.kept]


def describe_seed(start: LadderStart) -> str:
    """The seed, and how to have the same requests again."""
    if not start.drawn:
        return f"seed {start.seed}"
    whose = (
        "of this folder, which is gone on with"
        if start.resumed
        else f"drawn for this run; --seed {start.seed} repeats it"
    )
    return f"seed {start.seed} ({whose})"


def describe_dataset(start: LadderStart) -> list[str]:
    """One line on how a data set was understood, and one for each note."""
    dataset = start.dataset
    if dataset is None:
        return []
    parts = [f"{dataset.format}, {dataset.prompts} prompts, {start.api}"]
    parts += [f"ISL {_span(dataset.isl, dataset.prompts)}"] if dataset.isl else []
    parts += [f"{_span(dataset.characters, dataset.prompts)} characters a prompt"] if dataset.characters else []
    parts += [f"OSL {_span(dataset.osl, dataset.prompts)}" if dataset.osl else "OSL as --osl says"]
    parts += [f"{dataset.shared:.1%} of the prompts shared with earlier ones"]
    parts += [f"{dataset.sessions} sessions"] if dataset.sessions else []
    parts += [f"{dataset.block} tokens a hash_id"] if dataset.block else []
    if dataset.duration_s is not None:
        parts.append(f"{_duration(dataset.duration_s)} long")
    parts += [f"times in {dataset.time_unit}"] if dataset.time_unit else []
    return [f"data set: {'; '.join(parts)}", *(f"data set: note: {note}" for note in dataset.notes)]


def _describe_kept(start: LadderStart) -> list[str]:
    return [f"measured before and kept: {', '.join(map(str, start.kept))}"] if start.kept else []


def _span(span: LengthSpan, prompts: int) -> str:
    """Least, mean and greatest, and of how many where not all say so."""
    return f"{span.least} to {span.most} (mean {span.mean:.5g})" + (
        f" in {span.number}" if span.number < prompts else ""
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.4g} s"
        if seconds < 600
        else f"{seconds / 60:.4g} min"
        if seconds < 36000
        else f"{seconds / 3600:.4g} h"
    )
