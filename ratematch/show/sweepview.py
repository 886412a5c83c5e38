"""The live view of a running sweep, and its end."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ratematch.show.statusview import describe_progress

if TYPE_CHECKING:  # `show` draws what `run` hands it and starts nothing
    from ratematch.run.campaign import Campaign

MARKS = {
    "pending": "[dim]·[/]",
    "running": "[cyan]>[/]",
    "done": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "skipped": "[yellow]-[/]",
}
LINE_S = 10.0
SHOWN = 16


class SweepView:
    """On a terminal: a bar and the experiments around the running one. Elsewhere: a line now and then."""

    def __init__(self, console: Console):
        self._console = console
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loads"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._said: dict[str, str] = {}
        self._last_line = 0.0

    def __enter__(self) -> SweepView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, campaign: Campaign) -> None:
        """Show where the campaign is."""
        loads = sum(len(item.experiment.loads) for item in campaign.items)
        done = loads - sum(len(item.folder.missing()) for item in campaign.items)
        if self._console.is_terminal:
            self._bar.update(
                self._task, description=f"{campaign.sweep.name}: {campaign.stage}", total=loads, completed=done
            )
            self._live.update(Group(self._bar, _experiments(campaign)))
        else:
            self._say_changes(campaign, done, loads)

    def _say_changes(self, campaign: Campaign, done: int, loads: int) -> None:
        for item in campaign.items:
            why = item.error.splitlines()[0] if item.error else item.doing
            told = item.state + (f": {why}" if why else "")
            if self._said.get(item.folder.path.name) != told and (item.state != "pending" or why):
                self._said[item.folder.path.name] = told
                self._console.print(f"{item.experiment.label}: {escape(told)}", highlight=False, soft_wrap=True)
            if item.state == "running" and not why and time.monotonic() - self._last_line > LINE_S:
                self._last_line = time.monotonic()
                doing = describe_progress(item.folder.progress())
                self._console.print(f"  {done}/{loads} loads; {escape(doing)}", highlight=False, soft_wrap=True)

    def print_outcome(self, campaign: Campaign) -> None:
        """What became of the sweep, and what to type next."""
        done = sum(item.state == "done" for item in campaign.items)
        self._console.print(
            f"{campaign.sweep.name}: {done} of {len(campaign.items)} experiments done", highlight=False
        )
        for item in campaign.failed:
            self._console.print(f"[red]{item.state}[/] {item.experiment.label}", highlight=False)
            self._console.print(f"    {escape(item.error or '')}", highlight=False, soft_wrap=True)
        invalid, measured = campaign.invalid
        if invalid:
            told = f"{invalid} of {measured} loads are not valid; `ratematch pareto` says why for each"
            self._console.print(f"[yellow]{told}[/]", highlight=False)
        for note in campaign.notes:
            self._console.print(f"[yellow]{escape(note)}[/]", highlight=False, soft_wrap=True)
        if campaign.failed:
            self._console.print("run the same command again to measure what is missing", highlight=False)
        self._console.print(f"next: ratematch pareto {campaign.results.path}", highlight=False)


def _experiments(campaign: Campaign) -> Table:
    rows = Table.grid(padding=(0, 1))
    items = campaign.items
    current = next((index for index, item in enumerate(items) if item.state in ("running", "pending")), len(items))
    first = max(0, min(current - SHOWN // 2, len(items) - SHOWN))
    for item in items[first : first + SHOWN]:
        detail = ""
        if item.state == "running":
            detail = item.doing or describe_progress(item.folder.progress())
        elif item.error or item.doing:
            detail = (item.error or item.doing or "").splitlines()[0]
        rows.add_row(MARKS[item.state], escape(item.experiment.label), f"[dim]{escape(detail)}[/]")
    return rows


def outcome_to_json(campaign: Campaign) -> dict[str, Any]:
    """State and error of every experiment of the campaign."""
    return {
        "sweep": campaign.sweep.name,
        "results": str(campaign.results.path),
        "emulated": campaign.sweep.cluster.emulated or campaign.sweep.simulated,
        "simulated": campaign.sweep.simulated,
        "failed": len(campaign.failed),
        "loads": campaign.invalid[1],
        "loads_not_valid": campaign.invalid[0],
        "notes": list(campaign.notes),
        "experiments": [
            {
                "experiment": item.experiment.label,
                "stage": item.experiment.stage,
                "state": item.state,
                "error": item.error,
            }
            for item in campaign.items
        ],
    }
